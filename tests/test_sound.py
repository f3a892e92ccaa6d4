"""Recordings: what becomes of files and samples, what is heard again, and whole runs on made tones."""

import dataclasses
import io
import itertools
import json
import math
import re
import wave

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_vae import audio, config, data, evaluation, metrics, records, report
from keras_vae.errors import Refusal, Unreadable
from keras_vae.modalities import sound
from keras_vae.modalities.sound import Sound
from keras_vae.noise import Seed
from keras_vae.sources import files, tones
from keras_vae.tasks import Denoise, Inpaint

soundfile = pytest.importorskip("soundfile", reason="the extra `audio` is not installed")
RATE, LENGTH = 8000, 2048
SPECTROGRAM, WAVEFORM = Sound(LENGTH, RATE), Sound(LENGTH, RATE, "waveform")


def sines(*frequencies: float, rate: int = RATE, seconds: float = LENGTH / RATE, loud: float = 0.5) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return np.stack([loud * np.sin(2 * np.pi * frequency * time) for frequency in frequencies]).astype("float32")


def read(**options):
    return data.load(config.Data(**options), lambda *_: None)


def refused(call) -> Refusal:
    with pytest.raises(Refusal) as caught:
        call()
    return caught.value


# ---- samples and what they are seen as


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100])
def test_what_was_transformed_comes_back(rate):
    raw = np.random.default_rng(0).normal(size=(2, 32 * sound.hop(rate))).astype("float32")
    spectra = sound.spectrum(raw, rate)
    assert spectra.shape == (2, 32, sound.window(rate) // 2 + 1)
    np.testing.assert_allclose(sound.waveform(spectra, rate, raw.shape[1]), raw, atol=2e-6)


def test_a_sine_at_full_scale_is_one_at_its_band_and_twenty_decibels_less_is_a_quarter_less():
    bands = [SPECTROGRAM.encode(sines(1000.0, loud=loud)).numpy()[0, 8:24, :, 0] for loud in (0.9, 0.09)]
    assert 0.95 < bands[0].max() < 1.0
    np.testing.assert_allclose(bands[0].max(axis=1) - bands[1].max(axis=1), 0.25, atol=1e-3)
    heights = sound.bands(RATE)
    centres = 700.0 * (10.0 ** (np.linspace(0.0, 2595.0 * math.log10(1.0 + 4000.0 / 700.0), heights + 2)[1:-1] / 2595.0) - 1.0)
    assert abs(centres[bands[0].mean(axis=0).argmax()] - 1000.0) < 100.0


def test_silence_is_zero_and_stays_silent():
    x = SPECTROGRAM.encode(np.zeros((1, LENGTH), "float32"))
    assert not x.numpy().any() and not SPECTROGRAM.decode(x).numpy().any()


def test_a_waveform_is_its_samples_both_ways():
    raw = sines(300.0, 700.0)
    assert np.array_equal(WAVEFORM.encode(raw)[..., 0], raw) and np.array_equal(WAVEFORM.decode(WAVEFORM.encode(raw)), raw)
    assert np.abs(WAVEFORM.decode(3.0 * WAVEFORM.encode(raw))).max() == 1.0


def test_a_spectrogram_is_heard_again():
    """Within two dB of it on average, for each kind of tone, and better than with the phases it started from."""
    raw = tones.find("", None, None).records["test"][:24]
    x = SPECTROGRAM.encode(raw)
    heard = SPECTROGRAM.encode(SPECTROGRAM.decode(x)).numpy()
    assert np.abs(heard - x).mean() * sound.REACH < 2.0
    assert np.array_equal(SPECTROGRAM.decode(x), SPECTROGRAM.decode(x))


def test_phases_are_found_that_fit_the_magnitudes():
    noise = 0.05 * np.random.default_rng(0).normal(size=(2, LENGTH)).astype("float32")
    magnitude = tf.abs(sound.spectrum(sines(440.0, 1234.0) + noise, RATE))
    again = tf.abs(sound.spectrum(sound.heard(magnitude, RATE, LENGTH), RATE))
    assert 20.0 * math.log10(np.linalg.norm(again - magnitude) / np.linalg.norm(magnitude)) < -15.0


def test_si_sdr_is_the_ratio_whatever_the_loudness():
    x = sines(440.0)
    apart = np.random.default_rng(0).normal(size=x.shape)
    apart -= (apart * x).sum() / np.square(x).sum() * x
    apart *= np.linalg.norm(x) / np.linalg.norm(apart) * 10.0 ** (-7.0 / 20.0)  # 7 dB below, and at right angles
    for scale in (1.0, 0.3):
        parts = metrics.moments(tf.constant(scale * (x + apart), tf.float32), x, tf.ones_like(x))
        assert metrics.fidelity("si_sdr", *map(np.asarray, parts)) == pytest.approx(7.0, abs=1e-3)
    silent = [np.asarray(part) for part in metrics.moments(x, tf.zeros_like(x), tf.ones_like(x))]
    assert metrics.fidelity("si_sdr", *silent) is None


@pytest.mark.parametrize("level", [0.1, 10.0 ** (-5.0 / 20.0)])
def test_noise_is_so_far_below_each_recording(level):
    raw = np.concatenate([sines(440.0, loud=0.02), sines(900.0, loud=0.2)])
    x = WAVEFORM.encode(raw)
    noise = Denoise(level=level).batch(WAVEFORM, x, None, Seed.of(0))["condition"] - x
    ratios = tf.reduce_mean(tf.square(x), (1, 2)) / tf.reduce_mean(tf.square(noise), (1, 2))
    np.testing.assert_allclose(10.0 * np.log10(ratios), -20.0 * math.log10(level), atol=0.3)


def test_a_stretch_of_time_is_missing_and_stands_as_silence():
    x = WAVEFORM.encode(sines(440.0, 700.0))
    batch = Inpaint(share=0.25).batch(WAVEFORM, x, None, Seed.of(3))
    for row, missing in zip(batch["condition"].numpy(), batch["mask"].numpy()[..., 0], strict=True):
        assert missing.sum() == LENGTH // 4 and np.abs(np.diff(missing)).sum() <= 2.0
        assert not row[missing == 1.0].any() and (row[missing == 0.0, 1] == 1.0).all()
    start = Inpaint().start(batch["condition"])
    assert np.array_equal(tf.where(batch["mask"] > 0, 0.0, x), start)


def test_wav_files_hold_what_was_written():
    raw = sines(440.0, 880.0)
    with wave.open(io.BytesIO(SPECTROGRAM.write(raw))) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE, 1, 2)
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(2, -1) / (2**15 - 1)
    np.testing.assert_allclose(samples[:, :LENGTH], raw, atol=2e-5)
    assert samples.shape[1] == LENGTH + RATE // 4 and not samples[:, LENGTH:].any()


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (np.zeros((2, 100), "float32"), "2048"),
        (np.full((1, LENGTH), 1.5, "float32"), "-1 to 1"),
        (np.full((1, LENGTH), np.nan, "float32"), "-1 to 1"),
        (np.zeros((1, LENGTH), "int32"), "int16"),
        (np.zeros((0, LENGTH), "float32"), "shape"),
    ],
)
def test_records_from_outside_are_checked(raw, said):
    refusal = refused(lambda: WAVEFORM.check(raw, "here"))
    assert refusal.kind == "data" and said in str(refusal)


def test_whole_samples_are_those_of_16_bits():
    assert WAVEFORM.check(np.full((1, LENGTH), -(2**15), np.int16), "here")[0, 0] == -1.0


@pytest.mark.parametrize("length", [LENGTH + 1, 0, 0.5])
def test_a_length_is_whole_hops(length):
    with pytest.raises(ValueError, match="whole number"):
        Sound(length, RATE)


# ---- folders of recordings


@pytest.fixture
def folder(tmp_path):
    """Ten recordings of two classes."""
    for number in range(10):
        place = tmp_path / ("low" if number % 2 else "high")
        place.mkdir(exist_ok=True)
        soundfile.write(place / f"{number}.wav", sines(300.0 + 50.0 * number)[0], RATE)
    return tmp_path


def test_a_folder_of_recordings_is_a_data_set(folder):
    found = read(source=f"folder:{folder}")
    assert found.modality == SPECTROGRAM and found.classes == ("high", "low")
    raw = np.concatenate([found.train[:], found.validation[:], found.test[:]])
    assert raw.shape == (10, LENGTH) and raw.dtype == np.float32
    expected = {round(float(np.abs(np.fft.rfft(row)).argmax())) for row in sines(*(300.0 + 50.0 * n for n in range(10)))}
    assert {round(float(np.abs(np.fft.rfft(row)).argmax())) for row in raw} == expected


def test_options_of_recordings_are_kept(folder):
    found = read(source=f"folder:{folder}", rate=4000, seconds=0.1, view="waveform")
    assert found.modality == Sound(416, 4000, "waveform")  # the next whole hop of 32
    assert read(source=f"folder:{folder}").decided == {"rate": 8000, "seconds": 0.256}


def test_a_long_recording_is_cut_into_records_of_one_split(tmp_path):
    for number in range(6):
        soundfile.write(tmp_path / f"{number}.wav", sines(200.0 + 100.0 * number, seconds=3.0 * LENGTH / RATE + 0.01)[0], RATE)
    found = read(source=f"folder:{tmp_path}", seconds=LENGTH / RATE)
    assert [len(getattr(found, split)) for split in ("train", "validation", "test")] == [12, 3, 3]
    tops = {split: set(np.abs(np.fft.rfft(getattr(found, split)[:])).argmax(axis=1)) for split in ("train", "validation", "test")}
    assert all(not tops[a] & tops[b] for a, b in itertools.combinations(tops, 2))
    assert "of 6 files several, which share a split" in dict(found.notes)["cut"]


def test_of_pictures_and_recordings_the_kind_with_more_is_taken(folder):
    from PIL import Image

    Image.new("L", (8, 8)).save(folder / "cover.png")
    found = read(source=f"folder:{folder}")
    assert found.modality == SPECTROGRAM and dict(found.notes)["ignored"].startswith("1 files")


def test_D23_another_rate_is_resampled(tmp_path):
    """Other sample rate: resampled to the one that most have, without a shift in pitch"""
    for number in range(6):
        rate = 16000 if number == 5 else RATE
        soundfile.write(tmp_path / f"{number}.wav", sines(1000.0 + number, rate=rate)[0], rate)
    found = read(source=f"folder:{tmp_path}")
    raw = np.concatenate([found.train[:], found.validation[:], found.test[:]])
    assert (np.abs(np.abs(np.fft.rfft(raw)).argmax(axis=1) * RATE / LENGTH - 1000.0) < 10.0).all()
    assert ("converted", "1: to 8,000 Hz; --data.rate sets another") in found.notes


def test_D23_stereo_becomes_the_mean(tmp_path):
    """Stereo: the mean of the channels, said on the card"""
    for number in range(4):
        left, right = sines(400.0 + number, 900.0)
        soundfile.write(tmp_path / f"{number}.wav", np.stack([left, right], axis=1), RATE, subtype="FLOAT")
    found = read(source=f"folder:{tmp_path}", view="waveform")
    raw = np.concatenate([found.train[:], found.validation[:], found.test[:]])
    means = np.stack([sines(400.0 + number, 900.0).mean(axis=0) for number in range(4)])
    assert np.abs(raw[:, None] - means[None]).max(axis=2).min(axis=1).max() < 1e-6
    assert ("converted", "4: several channels, to their mean") in found.notes


def test_D23_clipped_recordings_are_said(folder):
    """Clipped: read as it is, with a warning; beyond full scale it is cut"""
    soundfile.write(folder / "low" / "loud.wav", np.clip(sines(440.0, loud=3.0)[0], -1.0, 1.0), RATE)
    soundfile.write(folder / "low" / "beyond.wav", sines(440.0, loud=2.0)[0], RATE, subtype="FLOAT")
    found = read(source=f"folder:{folder}")
    warnings = [text for label, text in found.notes if label == "warning"]
    assert len(warnings) == 2 and "beyond full scale" in warnings[0] and "clipped" in warnings[1]
    assert max(np.abs(getattr(found, split)[:]).max() for split in ("train", "validation", "test")) == 1.0


def spoiled(kind: str, path):
    """A file that is no recording, of a kind."""
    if kind == "zero length":
        soundfile.write(path, np.zeros(0, "float32"), RATE)
    elif kind == "NaN":
        soundfile.write(path, np.full(100, np.nan, "float32"), RATE, subtype="FLOAT")
    elif kind == "wrong header":
        path.write_bytes(b"RIFF????WAVEjunk" + bytes(100))
    elif kind == "empty file":
        path.write_bytes(b"")
    else:
        soundfile.write(path, sines(440.0, rate=16000)[0], 16000, format="MP3")


KINDS = ("zero length", "NaN", "wrong header", "empty file", "MP3 named .wav")


@pytest.mark.parametrize("kind", KINDS)
def test_D23_what_is_no_recording_is_refused_by_name(kind, folder):
    """Zero length, NaN, wrong header, empty, MP3 named .wav: refused with the file and the reason, or left out and listed"""
    spoiled(kind, folder / "low" / "bad.wav")
    refusal = refused(lambda: read(source=f"folder:{folder}"))
    assert refusal.kind == "data" and refusal.where.endswith("bad.wav") and refusal.why and "skip" in refusal.fix
    found = read(source=f"folder:{folder}", on_bad_record="skip")
    assert [record["name"] for record in found.bad] == ["low/bad.wav"]
    assert sum(len(getattr(found, split)) for split in ("train", "validation", "test")) == 10


def test_the_missing_extra_is_named(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    refusal = refused(lambda: read(source=f"folder:{folder}"))
    assert refusal.kind == "environment" and refusal.fix == "pip install -e '.[audio]'"


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"source": "digits", "rate": 8000}, "data.rate"),
        ({"source": "digits", "view": "waveform"}, "data.view"),
        ({"source": "tones", "binarize": "dynamic"}, "data.binarize"),
        ({"source": "tones", "augment": "Flip()"}, "data.augment"),
        ({"source": "tones", "drop": "a"}, "data.drop"),
        ({"source": "tones", "rate": 16000}, "data.rate"),
        ({"source": "tones", "seconds": 0.1}, "data.seconds"),
    ],
)
def test_options_of_other_records_are_refused(options, where):
    refusal = refused(lambda: read(**options))
    assert refusal.kind == "usage" and refusal.where == where


def test_a_restoration_needs_the_phases():
    tone = read(source="tones")
    assert tone.for_task("denoise").modality.waves and tone.for_task("generate").modality.shape == (32, 64, 1)
    refusal = refused(lambda: read(source="tones", view="spectrogram").for_task("denoise"))
    assert refusal.where == "data.view" and "waveform" in refusal.fix
    refusal = refused(lambda: tone.for_task("super-resolution").task.condition_shape(WAVEFORM))
    assert "images" in str(refusal)


def test_the_same_samples_in_two_files_share_a_split(tmp_path):
    """As WAV and as FLAC: equal records never stand on both sides."""
    draws = np.random.default_rng(0)
    for number in range(12):
        raw = (draws.uniform(-0.5, 0.5, LENGTH) * 2**15).astype(np.int16)
        for ending in ("wav", "flac"):
            soundfile.write(tmp_path / f"{number}.{ending}", raw, RATE, subtype="PCM_16")
    found = read(source=f"folder:{tmp_path}")
    splits = {split: {row.tobytes() for row in getattr(found, split)[:]} for split in ("train", "validation", "test")}
    assert sum(map(len, splits.values())) == 12 and all(not splits[a] & splits[b] for a, b in itertools.combinations(splits, 2))


def test_long_files_are_cut_whether_they_were_looked_at_or_not(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "CHECKED", 2)
    for number in range(6):
        soundfile.write(tmp_path / f"{number}.wav", sines(200.0 + number, seconds=4.0 * LENGTH / RATE)[0], RATE)
    found = read(source=f"folder:{tmp_path}", seconds=LENGTH / RATE)
    assert sum(len(getattr(found, split)) for split in ("train", "validation", "test")) == 24
    assert "duplicates" not in dict(found.notes)


def test_a_file_that_goes_bad_is_one_bad_file_whatever_was_cut_from_it(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "KEPT", 0)
    for number in range(12):
        soundfile.write(tmp_path / f"{number}.wav", sines(200.0 + number, seconds=30.0 * LENGTH / RATE)[0], RATE)
    found = read(source=f"folder:{tmp_path}", seconds=LENGTH / RATE, on_bad_record="skip")
    for path in tmp_path.glob("*.wav"):
        if path.stem == "3":
            path.write_bytes(b"gone")
    raw = np.concatenate([getattr(found, split)[:] for split in ("train", "validation", "test")])
    assert len(raw) == 360 and len(found.bad) == 1 and found.bad[0]["name"] == "3.wav"


def test_one_long_recording_is_said_to_be_in_all_splits(tmp_path):
    soundfile.write(tmp_path / "long.wav", sines(300.0, seconds=8.0 * LENGTH / RATE)[0], RATE)
    notes = read(source=f"folder:{tmp_path}", seconds=LENGTH / RATE).notes
    assert any("all are of 1 recordings" in text for _, text in notes) and any(
        "recordings that are also in train" in text for _, text in notes
    )


@pytest.mark.parametrize(("of", "to"), [(8000, 48000), (44100, 16000), (16000, 8000)])
def test_parts_that_are_resampled_join_without_a_click(of, to, tmp_path):
    """Part by part it is what it is as a whole, and a sine stays one at the borders."""
    time = np.arange(2 * of) / of
    soundfile.write(tmp_path / "sine.wav", (0.5 * np.sin(2 * np.pi * 50.0 * time)).astype("float32"), of, subtype="FLOAT")
    parts = np.concatenate([audio.read(tmp_path / "sine.wav", to, start, to // 4) for start in range(0, 2 * to, to // 4)])
    inside = slice(to // 10, -to // 10)
    np.testing.assert_allclose(parts[inside], 0.5 * np.sin(2 * np.pi * 50.0 * np.arange(2 * to) / to)[inside], atol=2e-3)


def test_a_file_cut_after_the_look_is_not_silence(tmp_path):
    soundfile.write(tmp_path / "short.wav", sines(440.0)[0], RATE)
    with pytest.raises(Unreadable, match="shorter"):
        audio.read(tmp_path / "short.wav", RATE, 2 * LENGTH, LENGTH)


def test_a_rate_that_nobody_hears_is_refused_before_training(tmp_path):
    for number in range(4):
        soundfile.write(tmp_path / f"{number}.wav", sines(50.0 + number, rate=500)[0], 500)
    refusal = refused(lambda: read(source=f"folder:{tmp_path}"))
    assert refusal.kind == "data" and "500 Hz" in refusal.what and refusal.fix.startswith("--data.rate")


@pytest.mark.parametrize("rate", [1000, 2000, 4000, 8000, 16000, 44100, 48000])
def test_sines_fit_in_at_every_rate_and_are_heard_as_loud(rate):
    kind = Sound(32 * sound.hop(rate), rate)
    assert (sound.filters(rate).numpy().sum(axis=0) > 0.0).all()
    for share in (0.05, 0.2, 0.45):
        raw = sines(share * rate, rate=rate, seconds=kind.length / rate, loud=1.0)[:, : kind.length]
        x = kind.encode(raw).numpy()
        again = kind.decode(x).numpy()[:, kind.length // 4 : 3 * kind.length // 4]
        assert 0.93 < x[0, 8:24].max() < 1.0 and abs(10.0 * math.log10(2.0 * np.square(again).mean())) < 2.0


def test_sdr_of_silence_is_zero_and_high_ratios_are_right():
    x = sines(440.0, seconds=8.0)
    parts = [np.asarray(part) for part in metrics.moments(tf.zeros_like(x), x, tf.ones_like(x))]
    assert metrics.fidelity("sdr", *parts) == pytest.approx(0.0) and metrics.fidelity("si_sdr", *parts) == pytest.approx(-120.0)
    apart = np.random.default_rng(0).normal(size=x.shape)
    apart *= np.linalg.norm(x) / np.linalg.norm(apart) * 10.0 ** (-70.0 / 20.0)
    parts = [np.asarray(part) for part in metrics.moments(tf.constant(x + apart, tf.float32), x, tf.ones_like(x))]
    assert metrics.fidelity("si_sdr", *parts) == pytest.approx(70.0, abs=0.3) == metrics.fidelity("sdr", *parts)


def test_a_part_of_a_file_is_read_at_its_place(tmp_path):
    ramp = np.linspace(-0.9, 0.9, 5000).astype("float32")
    soundfile.write(tmp_path / "ramp.wav", ramp, RATE, subtype="FLOAT")
    np.testing.assert_array_equal(audio.read(tmp_path / "ramp.wav", RATE, 1000, 2000), ramp[1000:3000])
    assert not audio.read(tmp_path / "ramp.wav", RATE, 4500, 1000)[500:].any()
    with pytest.raises(Unreadable, match="no samples"):
        soundfile.write(tmp_path / "empty.wav", ramp[:0], RATE)
        audio.read(tmp_path / "empty.wav", RATE, 0, 100)


# ---- runs


SMALL = ("--model.encoder", "Conv(widths=(8, 16), features=32)", "--model.decoder", "Conv(widths=(16, 8), features=32)")
FEW = ("--training.steps", "30", "--evaluation.samples", "2", "--devices.jit", "off")


# ---- arrays of waveforms, and pairs


def save(place, **named) -> str:
    np.savez(place / "waves.npz", **named)
    return f"npz:{place / 'waves.npz'}"


@pytest.mark.parametrize("kind", ["float32", "float64", "int16", "channel"])
def test_an_array_with_a_rate_is_of_recordings(kind, tmp_path):
    raw = sines(*np.linspace(100.0, 900.0, 30))
    raw = np.round(raw * 2**15).astype("int16") if kind == "int16" else raw[..., None] if kind == "channel" else raw.astype(kind)
    found = read(source=save(tmp_path, x=raw, y=np.arange(30) % 3), rate=RATE)
    assert isinstance(found.modality, Sound) and (found.modality.rate, found.modality.length) == (RATE, LENGTH)
    assert len(found.train) + len(found.validation) + len(found.test) == 30 and found.decided == {"rate": RATE, "seconds": LENGTH / RATE}
    waves = np.concatenate([found.train, found.validation, found.test])
    order = np.argsort(np.abs(np.fft.rfft(waves)).argmax(axis=1), kind="stable")
    assert waves.dtype == np.float32 and np.allclose(waves[order], sines(*np.linspace(100.0, 900.0, 30)), atol=1e-4)
    labels = np.concatenate([found.labels[split] for split in ("train", "validation", "test")])
    assert np.array_equal(labels[order], np.arange(30) % 3)


@pytest.mark.parametrize("on_disk", [False, True])
def test_long_waveforms_of_an_array_become_several_records_of_one_split(on_disk, tmp_path):
    raw = sines(*np.linspace(100.0, 900.0, 30), seconds=3.3 * LENGTH / RATE)
    if on_disk:
        np.save(tmp_path / "x.npy", raw)
    source = f"npy:{tmp_path / 'x.npy'}" if on_disk else save(tmp_path, x=raw)
    found = read(source=source, rate=RATE, seconds=LENGTH / RATE)
    splits = [np.asarray(found.train[:]), found.validation[:], found.test[:]]
    assert sum(map(len, splits)) == 90 and all(len(split) % 3 == 0 for split in splits)
    expected = {bytes(piece) for row in raw for piece in row[: 3 * LENGTH].reshape(3, LENGTH)}
    assert {bytes(piece) for split in splits for piece in split} == expected
    of = [{next(row for row, wave in enumerate(raw) if bytes(piece) in bytes(wave)) for piece in split} for split in splits]
    assert not of[0] & of[1] and not of[0] & of[2] and not of[1] & of[2]
    assert any("of each 3, which share a split; the last 0.077 seconds are left out" in text for _, text in found.notes)


def test_short_waveforms_of_an_array_end_in_silence(tmp_path):
    raw = sines(*np.linspace(100.0, 900.0, 30), seconds=0.9 * LENGTH / RATE)
    found = read(source=save(tmp_path, x=raw), rate=RATE)
    assert found.modality.length == LENGTH and not np.asarray(found.train[:])[:, raw.shape[1] :].any()
    np.save(tmp_path / "asked.npy", np.tile(raw, (1, 2)))
    asked = data.read(tmp_path / "asked.npy", found.modality, config.Data())
    assert asked.shape == (60, LENGTH) and np.array_equal(asked[0], np.tile(raw, (1, 2))[0, :LENGTH]) and not asked[1, -300:].any()


@pytest.mark.parametrize(
    ("raw", "options", "said"),
    [
        (4.0 * sines(300.0, 400.0, 500.0), {}, "(?s)not within -1 and 1.*its value at"),
        (np.zeros((4, 8, 8), "float32"), {}, "one channel"),
        (np.zeros((4, 2048), "uint8"), {}, "one channel|uint8"),
        (np.full((4, 2048), np.nan, "float32"), {}, "not within -1 and 1"),
    ],
)
def test_what_is_no_waveform_is_refused(raw, options, said, tmp_path):
    refusal = refused(lambda: read(source=save(tmp_path, x=raw), rate=RATE, **options))
    assert refusal.kind == ("usage" if "one channel" in said else "data") and re.search(said, str(refusal)), str(refusal)


def test_a_sample_beyond_full_scale_is_a_bad_record(tmp_path):
    raw = sines(*np.linspace(100.0, 900.0, 30))
    raw[7, 5], raw[11, 3] = 1.0001, np.nan
    source = save(tmp_path, x=raw, y=np.arange(30))
    refusal = refused(lambda: read(source=source, rate=RATE))
    assert "record 7 is not within -1 and 1" in str(refusal) and "its value at [5] is 1.0001" in str(refusal)
    found = read(source=source, rate=RATE, on_bad_record="skip")
    labels = np.concatenate([found.labels[split] for split in ("train", "validation", "test")])
    assert sorted(labels) == [number for number in range(30) if number not in (7, 11)] and len(found.bad) == 2


@pytest.mark.parametrize("kind", [">i2", "<i2"])
def test_whole_samples_may_be_of_either_byte_order(kind, tmp_path):
    raw = sines(*np.linspace(100.0, 900.0, 30))
    np.save(tmp_path / "x.npy", np.round(raw * 2**15).astype(kind))
    found = read(source=f"npy:{tmp_path / 'x.npy'}", rate=RATE)
    assert np.abs(np.asarray(found.train[:])).max() == pytest.approx(0.5, abs=0.01)
    assert np.array_equal(data.read(tmp_path / "x.npy", found.modality, config.Data()), np.round(raw * 2**15) / 2**15)


def test_pieces_share_a_split_also_where_there_are_too_many_to_compare(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "SURVEYED", 2**10)
    raw = sines(*np.linspace(100.0, 900.0, 60), seconds=4 * LENGTH / RATE)
    np.save(tmp_path / "x.npy", raw)
    found = read(source=f"npy:{tmp_path / 'x.npy'}", rate=RATE, seconds=LENGTH / RATE)
    of = [{next(row for row, wave in enumerate(raw) if bytes(piece) in bytes(wave)) for piece in found_[:]}
          for found_ in (found.train, found.validation, found.test)]  # fmt: skip
    assert not of[0] & of[1] and not of[0] & of[2] and not of[1] & of[2] and len(set.union(*of)) == 60


def test_noisy_versions_of_a_recording_share_its_split(tmp_path):
    """Also where there are few recordings of many versions."""
    clean = np.repeat(sines(*np.linspace(100.0, 900.0, 8)), 10, axis=0)
    for name, waves in (("x", clean), ("given", clean + 0.01 * np.random.default_rng(0).normal(size=clean.shape).astype("float32"))):
        np.save(tmp_path / f"{name}.npy", waves)
    found = read(source=f"npy:{tmp_path / 'x.npy'}", given=f"npy:{tmp_path / 'given.npy'}", rate=RATE).for_task("denoise")
    of = [{bytes(x) for x in found.batch(split)["x"].numpy()} for split in ("train", "validation", "test")]
    assert not of[0] & of[1] and not of[0] & of[2] and not of[1] & of[2]


def test_files_beside_each_other_are_of_one_length(tmp_path):
    for kind, samples in (("clean", 2 * LENGTH), ("noisy", 2 * LENGTH - 1)):
        (tmp_path / kind).mkdir()
        for number in range(6):
            soundfile.write(tmp_path / kind / f"{number}.wav", sines(200.0 + 50 * number, seconds=samples / RATE)[0], RATE)
    options = {"source": f"folder:{tmp_path / 'clean'}", "given": f"folder:{tmp_path / 'noisy'}", "seconds": LENGTH / RATE}
    assert "the two files are not of one length" in str(refused(lambda: read(**options)))


def test_an_array_of_recordings_without_a_rate_is_told_of_it(tmp_path):
    assert "--data.rate HZ" in str(refused(lambda: read(source=save(tmp_path, x=sines(*range(300, 330))), seconds=0.1)))


def pairs_of(place, count: int = 30, seconds: float = LENGTH / RATE, rates=(RATE, RATE)) -> tuple[dict, np.ndarray]:
    """Folders of recordings and of noisy ones, by the same names."""
    frequencies, random = np.linspace(200.0, 3000.0, count), np.random.default_rng(0)
    for kind, rate in zip(("clean", "noisy"), rates, strict=True):
        (place / kind).mkdir()
        for number, wave_ in enumerate(sines(*frequencies, rate=rate, seconds=seconds)):
            noisy = wave_ + (kind == "noisy") * 0.05 * random.normal(size=wave_.shape)
            soundfile.write(place / kind / f"{number:03}.{'wav' if kind == 'clean' else 'flac'}", noisy, rate)
    return {"source": f"folder:{place / 'clean'}", "given": f"folder:{place / 'noisy'}"}, frequencies


@pytest.mark.parametrize(
    ("seconds", "rates"), [(LENGTH / RATE, (RATE, RATE)), (3.3 * LENGTH / RATE, (RATE, RATE)), (LENGTH / RATE, (RATE, 16000))]
)
def test_recordings_lie_beside_those_of_their_name(seconds, rates, tmp_path):
    options, _ = pairs_of(tmp_path, seconds=seconds, rates=rates)
    found = read(**options, seconds=LENGTH / RATE).for_task("denoise")
    assert found.modality.waves and found.modality.beside.waves and found.modality.raw_shape == (LENGTH,)
    total = 0
    for split in ("train", "validation", "test"):
        batch = found.batch(split)
        x, noisy = np.asarray(batch["x"]), np.asarray(batch["condition"])
        assert x.shape == noisy.shape == (len(getattr(found, split)), LENGTH, 1)
        assert (10.0 * np.log10(np.square(x).mean((1, 2)) / np.square(x - noisy).mean((1, 2))) > 15.0).all()
        assert np.abs(x - noisy).max() > 0.05, "the condition is the noisy one"
        total += len(x)
    assert total == 30 * max(1, int(seconds * RATE) // LENGTH)
    again = Sound.of(json.loads(json.dumps(dataclasses.asdict(found.modality))))
    assert again == found.modality


def test_recordings_beside_pictures_are_refused(folder, tmp_path):
    (tmp_path / "pictures").mkdir()
    for number in range(10):
        Image.fromarray(np.full((8, 8), number, "uint8")).save(tmp_path / "pictures" / f"{number}.png")
    refusal = refused(lambda: read(source=f"folder:{tmp_path / 'pictures'}", given=f"folder:{folder / 'low'}"))
    assert refusal.kind == "usage" and "one kind" in str(refusal)
    refusal = refused(lambda: read(**pairs_of(tmp_path)[0]).for_task("inpaint"))
    assert refusal.kind == "usage" and "denoise and segment" in str(refusal)


@pytest.mark.slow
def test_a_run_on_pairs_of_recordings_answers_recordings(python, train_py, tmp_path):
    options, _ = pairs_of(tmp_path, 60)
    words = [word for name, value in options.items() for word in (f"--data.{name}", value)]
    small = [word for kind in ("encoder", "decoder") for word in (f"--model.{kind}", "Conv(widths=(4, 4, 4, 4), features=8)")]
    limits = ["--training.steps", "40", "--evaluation.samples", "2", "--data.batch-size", "8"]
    done = python(train_py, *words, "--task", "denoise", *small, *limits, "--name", "pairs", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = python("-m", "keras_vae", "answer", "pairs", "--input", tmp_path / "noisy", "--count", "5", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "saved_models" / "pairs" / "report.json").read_text())
    assert report["task"]["given_si_sdr"] > 15.0 and report["serving"]["largest_difference"] < 1e-4


@pytest.fixture(scope="module")
def runs(python, train_py, tmp_path_factory):
    """A run on tones that makes new ones, and one that takes noise away."""
    place = tmp_path_factory.mktemp("runs")
    for name, more in {"plain": (), "denoised": ("--task", "denoise")}.items():
        done = python(train_py, "--data.source", "tones", "--name", name, *more, *SMALL, *FEW, cwd=place)
        assert done.returncode == 0, done.stderr + done.stdout
    return place


def test_a_run_on_recordings_ends_with_everything(runs):
    folder = runs / "saved_models" / "plain"
    found = json.loads((folder / "report.json").read_text())
    assert found["test"]["bits_per_dim"] is None and found["test"]["elbo"] > found["references"]["per_pixel_log_likelihood"]
    for name in ("samples.wav", "reconstructions.wav"):
        with wave.open(str(folder / "pictures" / name)) as file:
            assert file.getframerate() == RATE and file.getnframes() >= 16 * LENGTH
    page = (folder / "report.html").read_text()
    assert page.count("<audio") == 2 and "media-src data:" in page


def test_the_savedmodel_takes_raw_samples(runs):
    folder = runs / "saved_models" / "denoised"
    model = tf.saved_model.load(str(folder / "serving" / "1"))
    given = tf.constant(sines(440.0, 700.0))
    raw = model.signatures["sample_raw"](given=given, seed=tf.constant(0, tf.int64), temperature=tf.constant(0.0))["raw"]
    assert raw.shape == (2, LENGTH) and np.abs(raw).max() <= 1.0
    with pytest.raises(tf.errors.InvalidArgumentError, match="-1 and 1"):
        model.signatures["sample_raw"](given=2.0 + given, seed=tf.constant(0, tf.int64), temperature=tf.constant(0.0))


def test_the_savedmodel_takes_and_gives_wav_files(runs):
    model = tf.saved_model.load(str(runs / "saved_models" / "denoised" / "serving" / "1"))
    raw = sines(440.0, 700.0)
    files = [WAVEFORM.write(row[None]) for row in raw]  # with a quarter of a second of silence after
    read = model.signatures["from_wav"](wav=tf.constant(files))["raw"]
    np.testing.assert_allclose(read, raw, atol=1e-4)
    with wave.open(io.BytesIO(model.signatures["to_wav"](raw=read)["wav"].numpy()[1])) as file:
        assert (file.getframerate(), file.getnchannels(), file.getnframes()) == (RATE, 1, LENGTH)
        np.testing.assert_allclose(np.frombuffer(file.readframes(LENGTH), "<i2") / 2**15, raw[1], atol=1e-4)
    other = Sound(LENGTH, 4000).write(raw[:1])
    with pytest.raises(tf.errors.InvalidArgumentError, match="8000 samples a second"):
        model.signatures["from_wav"](wav=tf.constant([other]))
    assert model.signatures["from_wav"](wav=tf.constant([], tf.string))["raw"].shape == (0, LENGTH)


def test_figures_of_a_restoration_are_in_decibels(runs):
    folder = runs / "saved_models" / "denoised"
    found = json.loads((folder / "report.json").read_text())
    assert found["task"]["given_si_sdr"] == pytest.approx(-20.0 * math.log10(0.2), abs=0.5)
    assert any("answers" in row[0] for row in report.rows(found)) and (folder / "pictures" / "answers.wav").is_file()


@pytest.mark.parametrize(
    ("verb", "name", "options"),
    [("sample", "plain", ["--count", "3"]), ("reconstruct", "plain", []), ("answer", "denoised", [])],
)
def test_verbs_write_recordings(verb, name, options, runs, python, tmp_path):
    if verb != "sample":
        soundfile.write(tmp_path / "given.wav", sines(440.0, rate=16000, seconds=2.5 * LENGTH / RATE)[0], 16000)
        options = [*options, "--input", str(tmp_path / "given.wav")]
    done = python("-m", "keras_vae", verb, name, *options, "--output", str(tmp_path / "out"), cwd=runs)
    assert done.returncode == 0, done.stderr + done.stdout
    (written,) = (tmp_path / "out").glob("*.wav")
    with wave.open(str(written)) as file:
        assert file.getframerate() == RATE
        frames = file.getnframes()
    (written,) = (tmp_path / "out").glob("*.npy")
    assert np.load(written).shape == (3, LENGTH)  # of 2.5 lengths: none is left out
    assert verb != "answer" or frames == 3 * LENGTH + RATE // 4  # in one piece


def test_what_a_network_answers_is_told_as_it_is(tmp_path):
    """A model that gives back what it is given is as near as that."""
    dataset = read(source="tones").for_task("denoise")

    class Echo:
        condition_shape = event_shape = footprint = dataset.modality.shape

        def sample(self, rows, seed, temperature, condition):
            return condition

    figures = evaluation.Evaluator(Echo(), dataset, jit=False).answer("test")
    assert figures["si_sdr"] == pytest.approx(figures["given_si_sdr"]) and set(figures) == {"si_sdr", "given_si_sdr"}


def test_a_turned_phase_is_no_difference_but_another_sound_is():
    raw = sines(440.0)
    assert SPECTROGRAM.difference(-raw, raw) == 0.0 and SPECTROGRAM.difference(sines(700.0), raw) > 1e-2
    assert WAVEFORM.difference(-raw, raw) > 0.5
