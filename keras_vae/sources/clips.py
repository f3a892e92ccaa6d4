"""Videos in a folder as records: one or more clips of so many frames in each file."""

from collections import Counter

import numpy as np

from keras_vae import video
from keras_vae.config import sides
from keras_vae.errors import Refusal
from keras_vae.pictures import Fitting, is_grey
from keras_vae.records import Found
from keras_vae.sources import files
from keras_vae.sources.stills import fitting_shape

MOST = 16  # frames of a clip, where their number is chosen
COVERED = 0.95  # of the videos are at least as long as the clip that is chosen
SIDE = 64  # the largest side that is chosen


def find(root: bytes, names: list[bytes], others: int, name: str, options) -> Found:
    if options.given is not None:
        raise Refusal("usage", "data.given is for images, and the folder holds videos", "data.given", fix="leave --data.given out")
    found = Clips.of(root, names, others, options.on_bad_record)
    headers = [header for header in found.headers if header]
    if not headers:
        raise Refusal("data", "no video of the folder can be read", where=name, why=f"all {len(found):,} files are bad records")
    fps = float(options.fps or Counter(header.fps for header in headers).most_common(1)[0][0])
    counts = np.array([header.count(fps) for header in headers])
    frames = options.frames or max(2, min(MOST, int(np.quantile(counts, 1.0 - COVERED, method="lower"))))
    if not (counts >= frames).any():
        why = f"they have {counts.min():,} to {counts.max():,} frames at {fps:g} a second"
        raise Refusal("data", f"no video has the {frames} frames of a clip", name, why, "--data.frames sets fewer")
    facts, of = found.look()
    notes = _notes(headers, counts, fps, frames)
    shape, decided = fitting_shape(facts, options, notes, SIDE)
    found.cut(fps, frames, Fitting(shape[:2], shape[2], sides(options.crop, "data.crop")), shape)
    notes += found.left_over(of)
    return found.found(name, notes, fps=fps, parts="videos", decided={**decided, "fps": fps, "frames": frames})


class Clips(files.Timed):
    """Clips on disk as records, uint8 [n, T, H, W, C]: of each file all that are whole, of one that is too short none."""

    noun, codec = "video", video

    def facts(self, row: int) -> dict | None:
        if self.headers[row] is None:
            return None
        image = video.first(self.place(row))
        return {"size": (image.height, image.width), "grey": is_grey(image)}

    def cut(self, fps: float, frames: int, fitting: Fitting, shape: tuple, whole: bool = False) -> "Clips":
        """The same with a row for every clip; `whole`: also of what is left at the end of a file, the last frame standing."""
        self.fps, self.fitting = fps, fitting
        counts = np.array([header.count(fps) if header else frames for header in self.headers])
        self.divide(-(-counts // frames) if whole else counts // frames, frames)
        self.become((frames, *shape), "uint8")
        return self

    def read(self, row: int) -> np.ndarray:
        header = self.headers[self.file[row]]
        numbers = header.shown(self.fps, int(self.starts[row]), self.shape[1])
        return video.read(self.place(row), header, numbers, self.fitting)


def _notes(headers: list, counts: np.ndarray, fps: float, frames: int) -> list[tuple[str, str]]:
    """What was found and what becomes of it, for the data card."""
    notes, seconds = [], np.array([header.seconds for header in headers])
    if other := sum(abs(header.fps - fps) > 1e-3 for header in headers):
        notes.append(("converted", f"{other:,}: to {fps:g} frames a second; --data.fps sets another"))
    length, pieces, short = frames / fps, int((counts >= 2 * frames).sum()), int((counts < frames).sum())
    what = f"they last {seconds.min():.2f} to {seconds.max():.2f} seconds, {frames} frames, {length:.3g} seconds, make a record"
    what += f", of {pieces:,} files several, which share a split" if pieces else ""
    notes.append(("cut", f"{what}; --data.frames sets another length"))
    if short:
        notes.append(("left out", f"{short:,} videos of fewer than {frames} frames at {fps:g} a second"))
    return notes


def read(path, modality, options, count: int | None = None) -> np.ndarray:
    """All of the video at `path`, or of those in a folder by name, one clip after the other, the last of each file ending in its last
    frame; the first `count` of them, uint8 [N, T, H, W, C]."""
    if modality.levels not in (2, 256):
        why = f"the model takes {f'{modality.levels} grey levels' if modality.levels else 'continuous values'}"
        raise Refusal("data", "a video has 256 grey levels", where=str(path), why=why, fix="give an array: .npy or .npz")
    frames, *shape = modality.shape
    found = Clips.of(*files.named(path, (*video.SUFFIXES, ".gif"), "video"), 0, "error")
    fitting = Fitting(tuple(shape[:2]), shape[2], sides(options.crop, "data.crop"))
    raw = found.cut(modality.fps, frames, fitting, tuple(shape), whole=True)[:count]
    return raw // 128 if modality.levels == 2 else raw
