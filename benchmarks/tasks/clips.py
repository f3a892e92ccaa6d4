"""Tasks on clips of moving digits (`moving:digits`; images and ways of the test clips are never seen in training), beside simple answers.

    python benchmarks/tasks/clips.py WHAT [--seeds 3]      WHAT: denoise, gaps, next, page

Peak signal-to-noise ratios, dB, over all test clips, of gaps and next over what is missing; the answer of ours is the one at temperature 0.
denoise: Gaussian noise of LEVEL. gaps: a quarter of the frames, one by one; the nearest frame that is seen, linear interpolation between
those around. next: the second half; the last frame that is seen. Each beside as many principal components of the training clips as the
latent has numbers, their posterior mean given what is seen. Results are kept in clips.jsonl beside this file; what is there is not run
again.
"""

from pathlib import Path

import numpy as np
from training import main, means, train

RESULTS = Path(__file__).with_suffix(".jsonl")
LEVEL = 0.3
CLIPS = {"data.source": "moving:digits", "data.frames": 8, "data.batch_size": 32, "training.steps": 800}
CLIPS |= {"model.posterior": "Normal(size=32)", "model.encoder": "Conv(widths=(16, 32, 64), normalization='group')"}
CLIPS |= {"model.decoder": "Conv(widths=(64, 32, 16), normalization='group')"}
TASKS = {
    "denoise": f"Denoise(level={LEVEL})",
    "gaps": "Inpaint(share=0.25, missing='frames')",
    "next": "Inpaint(share=0.5, missing='end')",
}


def psnr(answer, x, missing) -> float:
    return float(-10.0 * np.log10(np.square(np.clip(answer, 0.0, 1.0) - x)[missing > 0.0].mean()))


def components(train_x, given, seen, size: int, variance: float = 0.0) -> np.ndarray:
    """The posterior mean of x [N, ...] under probabilistic PCA of so many components, given what is `seen` (1, else 0), with that noise."""
    from sklearn.decomposition import PCA

    flat, shape = train_x.reshape(len(train_x), -1), given.shape
    pca = PCA(size, random_state=0).fit(flat)
    weights, rest = (
        pca.components_.T * np.sqrt(np.maximum(pca.explained_variance_ - pca.noise_variance_, 0.0)),
        pca.noise_variance_ + variance,
    )
    made = []
    for row, known in zip(given.reshape(len(given), -1), seen.reshape(len(seen), -1) > 0.0, strict=True):
        within = weights[known]
        code = np.linalg.solve(within.T @ within + rest * np.eye(size), within.T @ (row - pca.mean_)[known])
        made.append(pca.mean_ + weights @ code)
    return np.stack(made).reshape(shape)


def nearest(x, seen) -> np.ndarray:
    """Each missing frame as the nearest that is seen; of two the one before."""
    filled = x.copy()
    for clip, times in zip(filled, seen, strict=True):
        known = np.flatnonzero(times)
        for time in np.flatnonzero(times == 0.0):
            clip[time] = clip[known[np.abs(known - time).argmin()]] if len(known) else 0.5
    return filled


def linear(x, seen) -> np.ndarray:
    """Each pixel of a missing frame on the line between those of the frames around it."""
    filled = x.copy()
    for clip, times in zip(filled, seen, strict=True):
        known, frames = np.flatnonzero(times), clip.reshape(len(clip), -1)
        for pixel in frames.T if len(known) else ():
            pixel[:] = np.interp(np.arange(len(clip)), known, pixel[known])
    return filled


def measured(what: str, seed: int) -> dict:
    from keras_vae.noise import Seed

    vae, dataset = train({**CLIPS, "task": TASKS[what], "seed": seed})
    modality, task = dataset.modality, dataset.task
    x, train_x = (np.asarray(modality.encode(part[:])) for part in (dataset.test, dataset.train))
    batch = task.batch(modality, x, None, Seed.of(0).fold("spoilt"))
    condition, missing = np.asarray(batch["condition"]), np.asarray(batch.get("mask", np.ones_like(x)))
    parts = np.array_split(condition, 6)
    made = np.concatenate(
        [
            np.asarray(
                task.joined(task.asked(np.zeros((len(part), *x.shape[1:]), "float32"), part), vae.sample(len(part), 0, 0.0, condition=part))
            )
            for part in parts
        ]
    )
    size = vae.posterior.event_shape[0]
    if what == "denoise":
        found = {"ours": made, "noisy": condition, "PCA": components(train_x, condition, missing, size, LEVEL**2)}
    else:
        seen = 1.0 - missing.reshape(*missing.shape[:2], -1)[..., 0]
        found = {"ours": made, "nearest frame": nearest(x, seen), "PCA": components(train_x, x, 1.0 - missing, size)}
        found |= {"linear": linear(x, seen)} if what == "gaps" else {}
    return {label: psnr(answer, x, missing) for label, answer in found.items()}


MEASURES = {what: lambda name, seed, what=what: measured(what, seed) for what in TASKS}

if __name__ == "__main__":
    main(__doc__, RESULTS, MEASURES, lambda what: ["moving digits"], means, 3)
