"""Tasks on spoken digits (Free Spoken Digit Dataset, 8 kHz): what is restored or asked for, beside filters of the field.

    KERAS_VAE_DATA=DIR python benchmarks/tasks/sounds.py WHAT [--seeds 3]      WHAT: denoise, conditional, page

DIR/fsdd/recordings.tar.gz holds DIGIT_SPEAKER_NUMBER.wav. denoise: of the six speakers one is for validation and two, others with each
seed, for the test, at white noise of 5 dB; SI-SDR over all test recordings, dB, of the answers at temperature 0, of the noisy ones, and of
spectral subtraction (Boll 1979) and a Wiener filter (decision-directed; Ephraim and Malah 1984), both told the variance of the noise.
conditional: the share of samples at temperature 1 that a convolutional network, trained on spectrograms of the real recordings alone,
takes for their digit, and the share of real test recordings. Results are kept in sounds.jsonl beside this file; what is there is not run
again.
"""

import os
import tarfile
import tempfile
from pathlib import Path

import numpy as np
from training import main, means, train

RESULTS = Path(__file__).with_suffix(".jsonl")
SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
LEVEL = 10.0 ** (-5.0 / 20.0)  # of noise 5 dB below the recording
WINDOW, HOP = 256, 64
WIDTHS = (16, 32, 32, 64, 64, 128)
NETWORKS = {f"model.{part}": f"Conv(widths={WIDTHS[::turn]}, normalization='group')" for part, turn in (("encoder", 1), ("decoder", -1))}


def arranged(folder: Path, seed: int | None = None) -> str:
    """The recordings in folders of split and digit: two speakers for the test and one for validation, others with each seed; or, without,
    all speakers in all splits, of each digit the first five recordings for the test and the next five for validation."""
    with tarfile.open(Path(os.environ["KERAS_VAE_DATA"]) / "fsdd" / "recordings.tar.gz") as file:
        file.extractall(folder, filter="data")
    apart = np.roll(SPEAKERS, -2 * (seed or 0)).tolist()
    held = {apart[0]: "test", apart[1]: "test", apart[2]: "val"}
    for path in sorted(folder.glob("recordings/*.wav")):
        digit, speaker, number = path.stem.split("_")
        split = {0: "test", 1: "val"}.get(int(number) // 5, "train") if seed is None else held.get(speaker, "train")
        place = folder / "data" / split / digit
        place.mkdir(parents=True, exist_ok=True)
        path.rename(place / path.name)
    return f"folder:{folder / 'data'}"


def subtraction(noisy, variance):
    """|X| less the usual magnitude of the noise, at least a tenth of it, with the phases of X."""
    from scipy.signal import istft, stft

    _, _, spectra = stft(noisy, nperseg=WINDOW, noverlap=WINDOW - HOP)
    usual = np.sqrt(np.pi / 4.0 * variance * power_of_noise())
    magnitude = np.maximum(np.abs(spectra) - usual, 0.1 * np.abs(spectra))
    return istft(magnitude * np.exp(1j * np.angle(spectra)), nperseg=WINDOW, noverlap=WINDOW - HOP)[1][: len(noisy)]


def wiener(noisy, variance, smooth: float = 0.98):
    """xi / (1 + xi) X, xi the ratio of signal to noise that is followed from frame to frame."""
    from scipy.signal import istft, stft

    _, _, spectra = stft(noisy, nperseg=WINDOW, noverlap=WINDOW - HOP)
    ratios, before = np.abs(spectra) ** 2 / (variance * power_of_noise()), 0.0
    for frame in range(spectra.shape[1]):
        prior = smooth * before + (1.0 - smooth) * np.maximum(ratios[:, frame] - 1.0, 0.0)
        gain = prior / (1.0 + prior)
        spectra[:, frame] *= gain
        before = gain**2 * ratios[:, frame]
    return istft(spectra, nperseg=WINDOW, noverlap=WINDOW - HOP)[1][: len(noisy)]


def power_of_noise() -> float:
    """E |STFT|^2 of white noise of variance 1, as scipy scales it."""
    from scipy.signal import get_window

    window = get_window("hann", WINDOW)
    return float(np.square(window).sum() / window.sum() ** 2)


def denoise(name: str, seed: int) -> dict:
    from keras_vae import metrics
    from keras_vae.noise import Seed
    from keras_vae.tasks import Denoise

    with tempfile.TemporaryDirectory() as folder:
        source = arranged(Path(folder), seed)
        task = f"Denoise(level=({LEVEL / 2}, {2 * LEVEL}))"
        vae, dataset = train({"data.source": source, "task": task, "seed": seed, "data.batch_size": 32, "training.steps": 2000, **NETWORKS})
        x = np.asarray(dataset.modality.encode(dataset.test[:]))
    noisy = np.asarray(Denoise(level=LEVEL).batch(dataset.modality, x, None, Seed.of(0).fold("spoilt"))["condition"])
    answers = np.concatenate([vae.sample(len(part), 0, 0.0, condition=part) for part in np.array_split(noisy, 8)])
    variances = (LEVEL * np.sqrt(np.square(x).mean(axis=(1, 2)))) ** 2
    found = {"ours": answers, "noisy": noisy}
    for label, filtered in (("spectral subtraction", subtraction), ("Wiener", wiener)):
        found[label] = np.stack([filtered(row[:, 0], variance) for row, variance in zip(noisy, variances, strict=True)])[..., None]
    ones = np.ones_like(x)
    return {
        label: metrics.fidelity("si_sdr", *(np.asarray(value) for value in metrics.moments(made.astype("float32"), x, ones)))
        for label, made in found.items()
    }


def conditional(name: str, seed: int) -> dict:
    import keras

    with tempfile.TemporaryDirectory() as folder:
        options = {"data.source": arranged(Path(folder)), "data.seconds": 0.512, "task": "conditional", "seed": seed}
        vae, dataset = train({**options, "training.steps": 4000, "model.objective": "ELBO(beta=3.0)", "model.posterior": "Normal(size=32)"})
        x = {split: np.asarray(dataset.modality.encode(getattr(dataset, split)[:])) for split in ("train", "test")}
    keras.utils.set_random_seed(seed)
    layers = [keras.layers.Conv2D(32, 3, activation="relu"), keras.layers.MaxPooling2D(), keras.layers.Conv2D(64, 3, activation="relu")]
    layers += [keras.layers.MaxPooling2D(), keras.layers.Flatten(), keras.layers.Dropout(0.5), keras.layers.Dense(10)]
    judge = keras.Sequential(layers)
    judge.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    judge.fit(x["train"], dataset.labels["train"], batch_size=64, epochs=10, verbose=0)
    label = np.arange(1000) % 10
    made = np.concatenate([vae.sample(250, seed=part, condition=np.eye(10, dtype="float32")[label[:250]]) for part in range(4)])
    heard = np.concatenate([dataset.modality.encode(dataset.modality.decode(part)) for part in np.array_split(made, 4)])  # as one hears it
    return {
        "samples": float((judge.predict(heard, verbose=0).argmax(axis=1) == np.concatenate([label[:250]] * 4)).mean()),
        "real test recordings": float(judge.evaluate(x["test"], dataset.labels["test"], verbose=0)[1]),
    }


if __name__ == "__main__":
    main(__doc__, RESULTS, {"denoise": denoise, "conditional": conditional}, lambda what: ["digits"], means, 3)
