"""Clips: what becomes of files and frames, how they move, and a whole run on made ones."""

import io
import itertools
import json
import math
from fractions import Fraction

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageSequence

from keras_vae import augmentations, blocks, config, data, page, video
from keras_vae.errors import Refusal, Unreadable
from keras_vae.modalities.images import Images
from keras_vae.modalities.video import Video
from keras_vae.networks import encoders
from keras_vae.noise import Seed
from keras_vae.records import SPLITS
from keras_vae.sources import clips
from keras_vae.tasks import Denoise, Inpaint, SuperResolution
from keras_vae.vae import VAE

av = pytest.importorskip("av", reason="the extra `video` is not installed")
CLIP = Video((4, 16, 16, 1))


def ramp(frames: int, side: int = 32, start: int = 0) -> np.ndarray:
    """Grey frames, each as bright as its number says: 8 levels apart."""
    return np.repeat(start + 8 * np.arange(frames, dtype=np.uint8), side * side).reshape(frames, side, side)


def write(path, frames: np.ndarray, fps=10, times=None, codec: str = "mpeg4", options=None) -> None:
    """A video file of frames [T, H, W] or [T, H, W, 3]; `times`: when each is shown, in ticks of 1 / fps seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options=options or {})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.bit_rate = "yuv420p", 10**7
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame if frame.ndim == 3 else np.repeat(frame[..., None], 3, -1), "rgb24")
            picture.pts = number if times is None else times[number]
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def brightness(raw: np.ndarray, step: float = 8.0) -> list[int]:
    """Of each frame, in steps of so many levels."""
    return np.round(raw.reshape(*raw.shape[:-3], -1).mean(axis=-1) / step).astype(int).tolist()


def still(image) -> np.ndarray:
    """Fits nothing."""
    return np.asarray(image.convert("L"))[..., None]


def frames_of(path, fps: float, start: int, count: int, step: float = 8.0) -> list[int]:
    header = video.header(path)
    return brightness(video.read(path, header, header.shown(fps, start, count), still), step)


def read(**options):
    return data.load(config.Data(**options), lambda *_: None)


def refused(call) -> Refusal:
    with pytest.raises(Refusal) as caught:
        call()
    return caught.value


def everything(dataset) -> np.ndarray:
    return np.concatenate([getattr(dataset, split)[:] for split in SPLITS])


# ---- files and frames


RATES = [10, 12, 24, 25, 30, 50, Fraction(24000, 1001), Fraction(30000, 1001), Fraction(60000, 1001)]


@pytest.mark.parametrize("between", ["0", "2"])
@pytest.mark.parametrize("ending", ["mp4", "avi", "mkv", "mov", "mpg"])
@pytest.mark.parametrize("rate", RATES)
def test_frames_come_from_their_place(rate, ending, between, tmp_path):
    """Whatever the rate, the container, and whether frames are coded out of their order."""
    if ending == "mpg" and rate in (10, 12):
        pytest.skip("MPEG-1 knows no such rate")
    codec = "mpeg1video" if ending == "mpg" else "mpeg4"
    place = tmp_path / f"long.{ending}"
    write(
        place, np.concatenate([3 * ramp(10)] * 10)[:96], fps=rate, codec=codec, options={"bf": between, "g": "12"}
    )  # ten shades, far apart: codecs are not exact
    header = video.header(place)
    assert header.count(float(rate)) == 96 and header.fps == pytest.approx(float(rate), rel=1e-3)
    for start in (0, 5, 66, 80):
        assert frames_of(place, header.fps, start, 16, 24.0) == [number % 10 for number in range(start, start + 16)]


@pytest.mark.parametrize(("fps", "expected"), [(5.0, [0, 2, 4, 6]), (20.0, [0, 0, 1, 1]), (2.5, [0, 4, 8, 12])])
def test_another_rate_takes_the_frame_that_is_shown(fps, expected, tmp_path):
    write(tmp_path / "ramp.mp4", ramp(16))
    assert frames_of(tmp_path / "ramp.mp4", fps, 0, 4) == expected


def test_D24_a_varying_rate_plays_as_fast_as_it_did(tmp_path):
    """Variable frame rate: each frame is the one that was shown at its time"""
    write(tmp_path / "ramp.mkv", ramp(5), times=[0, 1, 4, 5, 9])
    assert frames_of(tmp_path / "ramp.mkv", 10.0, 0, 10) == [0, 1, 1, 1, 2, 3, 3, 3, 3, 4]


def test_files_of_one_rate_have_one_rate_and_all_their_frames(tmp_path):
    for number in range(6):
        write(tmp_path / f"{number}.{'mkv' if number % 2 else 'mp4'}", ramp(32, start=number), fps=Fraction(30000, 1001))
    found = read(source=f"folder:{tmp_path}")
    assert found.modality.shape == (16, 32, 32, 1) and len(everything(found)) == 12 and "converted" not in dict(found.notes)


def test_a_gif_moves(tmp_path):
    frames = [Image.fromarray(frame) for frame in ramp(6)]
    frames[0].save(tmp_path / "ramp.gif", save_all=True, append_images=frames[1:], duration=100)
    assert video.moves(tmp_path / "ramp.gif") and frames_of(tmp_path / "ramp.gif", 10.0, 2, 4) == [2, 3, 4, 5]


@pytest.fixture
def folder(tmp_path):
    """Ten videos of two classes."""
    for number in range(10):
        place = tmp_path / ("low" if number % 2 else "high")
        place.mkdir(exist_ok=True)
        write(place / f"{number}.mp4", ramp(6, start=10 * number))
    return tmp_path


def test_a_folder_of_videos_is_a_data_set(folder):
    found = read(source=f"folder:{folder}")
    assert found.modality == Video((6, 32, 32, 1), fps=10.0) and found.classes == ("high", "low")
    assert found.decided == {"resize": None, "grey": True, "fps": 10.0, "frames": 6}
    starts = sorted(float(clip[0].mean()) for clip in everything(found))
    np.testing.assert_allclose(starts, 10.0 * np.arange(10), atol=2.0)


def test_options_of_videos_are_kept(folder):
    found = read(source=f"folder:{folder}", frames=3, fps=5, resize=16, grey=False, dequantize=True)
    assert found.modality == Video((3, 16, 16, 3), dequantize=True, fps=5.0) and len(everything(found)) == 10
    assert len(everything(read(source=f"folder:{folder}", frames=3))) == 20


def test_clips_of_one_video_share_a_split(tmp_path):
    for number in range(6):
        write(tmp_path / f"{number}.mp4", ramp(13, start=20 * number))
    found = read(source=f"folder:{tmp_path}", frames=4)
    assert [len(getattr(found, split)) for split in SPLITS] == [12, 3, 3]
    starts = {split: {round(float(clip[0].mean()) - 32 * (at % 3)) for at, clip in enumerate(getattr(found, split)[:])} for split in SPLITS}
    assert all(not starts[a] & starts[b] for a, b in itertools.combinations(starts, 2))
    assert "of 6 files several, which share a split" in dict(found.notes)["cut"]


def test_a_folder_of_gifs_that_move_holds_clips(tmp_path):
    for number in range(4):
        frames = [Image.fromarray(frame) for frame in ramp(5, start=number)]
        frames[0].save(tmp_path / f"{number}.gif", save_all=True, append_images=frames[1:], duration=50)
    assert read(source=f"folder:{tmp_path}").modality == Video((5, 32, 32, 1), fps=20.0)
    Image.fromarray(ramp(1)[0]).save(tmp_path / "still.png")
    assert read(source=f"folder:{tmp_path}").modality == Images((32, 32, 1))


def test_D24_sizes_and_rates_of_several_kinds_become_one(tmp_path):
    """Variable size and rate: scaled to cover one size and brought to the rate that most have, said on the card"""
    for number in range(5):
        write(tmp_path / f"{number}.mp4", ramp(8, side=32 if number else 64, start=number), fps=10 if number else 20)
    found = read(source=f"folder:{tmp_path}", frames=4)
    assert found.modality == Video((4, 32, 32, 1), fps=10.0) and len(everything(found)) == 9
    notes = dict(found.notes)
    assert "32x32 to 64x64: scaled to cover 32 x 32" in notes["sizes"] and notes["converted"].startswith("1: to 10 frames a second")


def test_large_videos_are_made_smaller_unless_a_size_is_given(tmp_path):
    for number in range(3):
        write(tmp_path / f"{number}.mp4", ramp(4, side=96, start=number))
    assert read(source=f"folder:{tmp_path}").modality.shape == (4, 64, 64, 1)
    assert read(source=f"folder:{tmp_path}", resize=96).modality.shape == (4, 96, 96, 1)


def spoiled(kind: str, path) -> None:
    """A file that is no video, of a kind."""
    if kind == "no frames":
        with av.open(str(path), "w") as container:
            sound = container.add_stream("aac", rate=8000)
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), "float32"), "fltp", "mono")
            frame.sample_rate = 8000
            container.mux(sound.encode(frame))
            container.mux(sound.encode())
    elif kind == "one frame":
        write(path, ramp(1))
    elif kind == "cut":
        write(path, ramp(40))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "empty":
        path.write_bytes(b"")
    else:
        path.write_bytes(b"this is text " * 100)


@pytest.mark.parametrize("kind", ["no frames", "one frame", "cut", "empty", "text"])
def test_D24_what_is_no_video_is_refused_by_name(kind, folder):
    """Sound only, one frame, cut, empty, text named .mp4: refused with the file and the reason, or left out and listed"""
    spoiled(kind, folder / "low" / "bad.mp4")
    refusal = refused(lambda: read(source=f"folder:{folder}"))
    assert refusal.kind == "data" and refusal.where.endswith("bad.mp4") and refusal.why and "skip" in refusal.fix
    found = read(source=f"folder:{folder}", on_bad_record="skip")
    assert [record["name"] for record in found.bad] == ["low/bad.mp4"] and len(everything(found)) == 10


def test_D24_a_stream_that_ends_early_gives_what_is_there(tmp_path):
    """Truncated where no header says how long it is: the frames that are there, in their places"""
    write(tmp_path / "whole.mkv", ramp(40))
    content = (tmp_path / "whole.mkv").read_bytes()
    (tmp_path / "whole.mkv").write_bytes(content[: int(0.6 * len(content))])
    count = len(video.header(tmp_path / "whole.mkv").times)
    assert 10 < count < 40 and frames_of(tmp_path / "whole.mkv", 10.0, 4, 4) == [4, 5, 6, 7]


def test_D24_a_damaged_frame_is_a_bad_record(tmp_path):
    """Bytes in the middle are changed: the file is refused, nothing is trained on what the decoder makes up"""
    draws = np.random.default_rng(0)
    write(tmp_path / "damaged.mp4", draws.integers(0, 256, (40, 64, 64)).astype("uint8"), codec="libx264")
    content = bytearray((tmp_path / "damaged.mp4").read_bytes())
    for place in range(len(content) // 3, len(content) // 3 + 400):
        content[place] ^= 0x5A
    (tmp_path / "damaged.mp4").write_bytes(content)
    with pytest.raises(Unreadable):
        frames_of(tmp_path / "damaged.mp4", 10.0, 0, 40)


def test_videos_shorter_than_a_clip_are_left_out_and_counted(folder):
    write(folder / "low" / "short.mp4", ramp(3))
    found = read(source=f"folder:{folder}", frames=6)
    assert len(everything(found)) == 10 and ("left out", "1 videos of fewer than 6 frames at 10 a second") in found.notes and not found.bad
    refusal = refused(lambda: read(source=f"folder:{folder}", frames=60))
    assert refusal.kind == "data" and "--data.frames" in refusal.fix and "3 to 6 frames" in refusal.why


def test_a_file_that_goes_bad_is_not_replaced_by_one_of_another_split(tmp_path):
    """Of images that move too."""
    draws = np.random.default_rng(0)
    for number in range(30):
        Image.fromarray(draws.integers(0, 256, (8, 8)).astype("uint8")).save(tmp_path / f"{number:02}.png")
    found = read(source=f"moving:folder:{tmp_path}", on_bad_record="skip")
    images = found.train.images
    held = {row.tobytes() for split in ("validation", "test") for row in getattr(found, split).images[:]}
    images.records.kept = None
    for name in images.records.names[images.rows][:3]:
        (tmp_path / name.decode()).write_bytes(b"gone")
    assert not held & {row.tobytes() for row in images[:]} and len(found.bad) == 3


def test_the_missing_extra_is_named(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    refusal = refused(lambda: read(source=f"folder:{folder}"))
    assert refusal.kind == "environment" and refusal.fix == "pip install -e '.[video]'"


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"source": "digits", "frames": 8}, "data.frames"),
        ({"source": "tones", "fps": 5.0}, "data.fps"),
        ({"source": "moving:digits", "rate": 8000}, "data.rate"),
        ({"source": "moving:digits", "view": "waveform"}, "data.view"),
        ({"source": "moving:tones"}, "data.source"),
        ({"source": "moving:moving:digits"}, "data.source"),
        ({"source": "moving"}, "data.source"),
    ],
)
def test_options_of_other_records_are_refused(options, where):
    refusal = refused(lambda: read(**options))
    assert refusal.kind == "usage" and refusal.where == where


def test_arrays_of_five_axes_are_clips(tmp_path):
    raw = np.random.default_rng(0).integers(0, 256, (20, 4, 16, 16, 1)).astype("uint8")
    np.save(tmp_path / "clips.npy", raw)
    found = read(source=f"npy:{tmp_path}/clips.npy", fps=5)
    assert found.modality == Video((4, 16, 16, 1), fps=5.0) and len(everything(found)) == 20
    assert read(source=f"npy:{tmp_path}/clips.npy", resize=8).modality.shape == (4, 8, 8, 1)
    refusal = refused(lambda: read(source=f"npy:{tmp_path}/clips.npy", rate=8000))
    assert refusal.where == "data.rate"
    np.save(tmp_path / "grey.npy", raw[..., 0])
    np.save(tmp_path / "torch.npy", np.moveaxis(raw.repeat(3, axis=-1), -1, 2))
    assert refused(lambda: read(source=f"npy:{tmp_path}/torch.npy")).fix == "np.save(FILE, np.moveaxis(x, 2, -1))"
    assert "x[..., None]" in refused(lambda: read(source=f"npy:{tmp_path}/grey.npy")).fix
    np.testing.assert_array_equal(data.read(tmp_path / "grey.npy", CLIP, config.Data()), raw)


# ---- made clips


def test_what_moves_is_the_image_and_stays_inside():
    found, still = read(source="moving:digits"), read(source="digits")
    assert found.modality.shape == (12, 20, 20, 1) and len(found.train) == len(still.train) and found.modality.levels == 17
    raw = found.test[:]
    totals = still.test[:].reshape(len(raw), -1).sum(axis=1)
    assert (raw.reshape(len(raw), 12, -1).sum(axis=2) == totals[:, None]).all()
    np.testing.assert_array_equal(found.labels["test"], still.labels["test"])
    moved = [np.argwhere(frame[..., 0] > 0).min(axis=0) for frame in raw[0]]
    steps = np.abs(np.diff(moved, axis=0))
    assert 0 < steps.max() <= 2 and np.array_equal(found.test[5:7], raw[5:7])


def test_the_way_of_an_image_does_not_depend_on_who_asks():
    found = read(source="moving:digits", frames=6)
    rows = np.array([700, 3, 41])
    np.testing.assert_array_equal(found.train[rows], np.stack([found.train[[row]][0] for row in rows]))


# ---- tasks and augmentations


def batch_of(task, modality=CLIP, rows: int = 64):
    x = tf.constant(np.random.default_rng(0).random((rows, *modality.shape)), tf.float32)
    return x, task.batch(modality, x, None, Seed.of(1))


def test_whole_frames_are_missing():
    _, batch = batch_of(Inpaint(share=0.4, missing="frames"))
    missing = batch["mask"].numpy().reshape(64, 4, -1)
    assert (missing == missing[:, :, :1]).all() and missing[:, :, 0].mean() == pytest.approx(0.4, abs=0.1)


@pytest.mark.parametrize(("share", "missing"), [(0.25, [0, 0, 0, 1]), (0.5, [0, 0, 1, 1]), (0.9, [0, 1, 1, 1])])
def test_the_end_is_missing_and_asked_for(share, missing):
    x, batch = batch_of(Inpaint(share=share, missing="end"))
    assert (batch["mask"].numpy() == np.reshape(missing, (1, 4, 1, 1, 1))).all()
    kept = Inpaint().start(batch["condition"]).numpy()[:, : missing.count(0)]
    np.testing.assert_array_equal(kept, x[:, : missing.count(0)])


def test_a_box_of_space_and_time_is_missing():
    _, batch = batch_of(Inpaint(share=0.125), Video((8, 16, 16, 1)))
    for hole in batch["mask"].numpy()[..., 0]:
        sides = [np.flatnonzero(hole.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
        assert [len(side) for side in sides] == [4, 8, 8] and hole.sum() == 4 * 8 * 8


def test_missing_frames_are_for_clips():
    refusal = refused(lambda: Inpaint(missing="frames").condition_shape(Images((16, 16, 1))))
    assert refusal.where == "task" and "clips" in refusal.what


def test_frames_are_enlarged_as_images_are():
    x, batch = batch_of(SuperResolution(factor=2))
    frame = SuperResolution(factor=2).batch(Images((16, 16, 1)), x[:, 2], None, Seed.of(1))
    np.testing.assert_allclose(batch["condition"][:, 2], frame["condition"], atol=1e-6)
    assert SuperResolution(factor=2).given(CLIP).shape == (4, 8, 8, 1) and SuperResolution(factor=2).condition_shape(CLIP) == CLIP.shape


def test_noise_is_drawn_for_each_element():
    x, batch = batch_of(Denoise(level=0.1))
    assert np.std(batch["condition"] - x) == pytest.approx(0.09, abs=0.02)


@pytest.mark.parametrize("change", [augmentations.Flip(), augmentations.Shift(3), augmentations.Crop(0.5)])
def test_an_augmentation_befalls_all_frames_alike(change):
    raw = np.random.default_rng(0).integers(0, 256, (16, 1, 12, 12, 3)).astype("uint8").repeat(4, axis=1)
    made = augmentations.alike(change)(tf.constant(raw), Seed.of(3)).numpy()
    np.testing.assert_array_equal(made, made[:, :1].repeat(4, axis=1))
    np.testing.assert_array_equal(made[:, 0], change(tf.constant(raw[:, 0]), Seed.of(3)))
    assert (made != raw).any()


# ---- what is shown


def test_files_and_pictures_move():
    raw = np.random.default_rng(0).integers(0, 256, (5, *CLIP.shape)).astype("uint8")
    for content, kind in ((CLIP.write(raw), "GIF"), (CLIP.draw(raw / 255.0), "PNG")):
        with Image.open(io.BytesIO(content)) as image:
            assert image.format == kind and image.n_frames == 4 and image.info["duration"] == 100 and image.info["loop"] == 0
            assert image.size == (3 * 66 + 2, 2 * 66 + 2)
            image.seek(2)
            shown = np.asarray(image.convert("L"))[4:66:4, 4:66:4]
        np.testing.assert_allclose(shown, raw[0, 2, ..., 0], atol=6.0 if kind == "GIF" else 0.0)


def test_a_gif_that_was_written_is_read_as_it_was(tmp_path):
    raw = ramp(4, side=64)[None, ..., None]
    (tmp_path / "one.gif").write_bytes(Video((4, 64, 64, 1)).write(raw))
    again = clips.read(tmp_path / "one.gif", Video((4, 68, 68, 1)), config.Data())
    np.testing.assert_allclose(again[:, :, 2:-2, 2:-2], raw, atol=1.0)


@pytest.mark.parametrize("fps", [0.5, 12.0, 24.0, 30.0, 60.0, 240.0])
def test_what_moves_plays_as_long_as_the_clip(fps):
    raw = np.random.default_rng(0).integers(0, 256, (1, 24, 8, 8, 1)).astype("uint8")
    modality = Video(raw.shape[1:], fps=fps)
    for content, unit in ((modality.write(raw), 0.01), (modality.draw(raw / 255.0), 0.001)):
        with Image.open(io.BytesIO(content)) as image:
            durations = [frame.info["duration"] / 1000.0 for frame in ImageSequence.Iterator(image)]
        step = math.ceil(fps / 50.0)
        assert sum(durations) == pytest.approx(24 / fps, abs=unit + (step - 1) / fps) and min(durations) >= 0.0195


def test_pictures_made_smaller_for_the_page_still_move():
    raw = np.random.default_rng(0).integers(0, 256, (16, 8, 32, 32, 3)).astype("uint8")
    content = Video(raw.shape[1:], fps=5.0).draw(raw / 255.0)
    kind, smaller, size = page.fitted(content, len(content) // 10)
    with Image.open(io.BytesIO(smaller)) as image:
        assert kind == "webp" and image.n_frames == 8 and image.size == size and len(smaller) <= len(content) // 10
        image.seek(1)
        image.load()
        assert image.info["duration"] == 200


def test_a_clip_has_a_rate_and_four_sides():
    with pytest.raises(ValueError, match="frames a second"):
        Video((4, 16, 16, 1), fps=0.0)
    with pytest.raises(ValueError, match="4 positive"):
        Video((16, 16, 1))


# ---- networks over space and time


def model(factorized: bool = True) -> VAE:
    """Of clips 4 x 8 x 6, with convolutions of every kind."""
    rest = f"depth=2, features=16, connections='residual', attention=1, factorized={factorized}"
    made = VAE(f"Conv(widths=(4, 6), {rest})", "Normal(size=3)", decoder=f"Conv(widths=(6, 4), {rest})", likelihood="Bernoulli()")
    made.build((None, 4, 8, 6, 1))
    return made


def binary(rows: int) -> np.ndarray:
    return (np.random.default_rng(0).random((rows, 4, 8, 6, 1)) < 0.5).astype("float32")


def test_a_factorized_convolution_is_one_with_a_product_of_kernels():
    layer, whole = blocks.SpaceTime(1, 3), keras.layers.Conv3D(1, 3, padding="same")
    x = np.random.default_rng(0).normal(size=(2, 5, 6, 7, 1)).astype("float32")
    layer.build(x.shape)
    whole.build(x.shape)
    whole.kernel.assign(layer.space.kernel.numpy() * layer.time.kernel.numpy())
    np.testing.assert_allclose(layer(x), whole(x), atol=1e-5)


@pytest.mark.parametrize("jit", [True, False])
def test_factorized_networks_take_fewer_weights_and_learn_all_of_them(jit):
    vae = model()
    assert vae.count_params() < model(factorized=False).count_params()
    before = [weight.numpy() for weight in vae.trainable_weights]
    vae.compile(jit_compile=jit)
    vae.fit(binary(32), batch_size=8, epochs=2, verbose=0)
    still = [weight.path for weight, old in zip(vae.trainable_weights, before, strict=True) if np.array_equal(weight.numpy(), old)]
    assert not still


def test_what_meets_a_condition_on_the_grid_is_factorized_too():
    vae = VAE(
        "Conv(widths=(4,), factorized=True)", "Normal(size=3)", decoder="Conv(widths=(4,), factorized=True)", likelihood="Bernoulli()"
    )
    vae.build({"x": (None, 4, 8, 6, 1), "condition": (None, 4, 8, 6, 1)})
    layers = [layer for layer in vae._flatten_layers() if isinstance(layer, keras.layers.Conv3D | keras.layers.Conv3DTranspose)]
    assert layers and all(layer.kernel_size.count(1) in (1, 2) for layer in layers)


def test_a_factorized_model_is_the_same_from_a_file_and_compiled(tmp_path):
    vae, x = model(), tf.constant(binary(4))
    expected = vae.reconstruct(x).numpy()
    np.testing.assert_allclose(tf.function(vae.reconstruct, jit_compile=True)(x), expected, atol=1e-5)
    vae.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "model.keras").reconstruct(x), expected)


def test_factorized_networks_are_for_clips():
    refusal = refused(lambda: encoders.Conv((4,), factorized=True).build((None, 8, 8, 1)))
    assert refusal.kind == "usage" and "clips" in refusal.what


# ---- runs


SMALL = ("--data.frames", "4", "--model.encoder", "Conv(widths=(4, 8), features=32)", "--model.decoder", "Conv(widths=(8, 4), features=32)")
FEW = ("--training.steps", "20", "--evaluation.samples", "2", "--devices.jit", "off")
KINDS = {
    "plain": (),
    "noisy": ("--task", "denoise"),
    "gaps": ("--task", 'Inpaint(share=0.5, missing="frames")'),
    "next": ("--task", 'Inpaint(share=0.5, missing="end")'),
    "larger": ("--task", "super-resolution"),
    "odd": ("--task", "anomaly"),
    "kinds": ("--task", "conditional"),
}


@pytest.fixture(scope="module")
def runs(python, train_py, tmp_path_factory):
    place = tmp_path_factory.mktemp("runs")

    def run(name):
        folder = place / "saved_models" / name
        if not folder.exists():
            done = python(train_py, "--data.source", "moving:digits", "--name", name, *KINDS[name], *SMALL, *FEW, cwd=place)
            assert done.returncode == 0, done.stderr + done.stdout
        return folder

    return run


def test_a_run_on_clips_ends_with_everything(runs):
    folder = runs("plain")
    found = json.loads((folder / "report.json").read_text())
    assert found["test"]["elbo"] > -1e5 and found["test"]["bits_per_dim"] > 0.0
    for name in ("samples", "reconstructions", "interpolations", "traversals"):
        with Image.open(folder / "pictures" / f"{name}.png") as image:
            assert image.n_frames == 4
    model = tf.saved_model.load(str(folder / "serving" / "1"))
    raw = model.signatures["sample_raw"](n=tf.constant(3, tf.int64), seed=tf.constant(0, tf.int64), temperature=tf.constant(1.0))["raw"]
    assert raw.shape == (3, 4, 20, 20, 1) and raw.dtype == tf.uint8


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in KINDS if name != "plain"])
def test_every_task_works_on_clips(name, runs):
    found = json.loads((runs(name) / "report.json").read_text())
    if name not in ("odd", "kinds"):
        assert found["task"]["psnr"] > 0.0 and (runs(name) / "pictures" / "answers.png").is_file()


@pytest.mark.slow
def test_verbs_read_and_write_clips(runs, python, train_py, tmp_path):
    """A video of any length and size goes in, and a GIF comes out."""
    (tmp_path / "videos").mkdir()
    for number in range(12):
        write(tmp_path / "videos" / f"{number}.mp4", ramp(9, start=8 * number))
    write(tmp_path / "given.mkv", ramp(10, side=48))
    options = ("--data.frames", "4", "--data.resize", "16", *SMALL[2:], *FEW, "--task", "denoise", "--name", "noisy")
    done = python(train_py, "--data.source", f"folder:{tmp_path}/videos", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout
    for verb in ("reconstruct", "answer", "sample"):
        asked = (str(runs("plain")),) if verb == "sample" else ("noisy", "--input", str(tmp_path / "given.mkv"))
        done = python("-m", "keras_vae", verb, *asked, "--output", str(tmp_path / verb), cwd=tmp_path)
        assert done.returncode == 0, done.stderr + done.stdout
        (moving,), (array,) = (tmp_path / verb).glob("*.gif"), (tmp_path / verb).glob("*.npy")
        with Image.open(moving) as image:
            assert image.format == "GIF" and image.n_frames > 1
        assert verb == "sample" or np.load(array).shape == (3, 4, 16, 16, 1)  # of ten frames: none is left out
