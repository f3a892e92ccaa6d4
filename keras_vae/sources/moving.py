"""moving:SOURCE: made clips in which an image of another source, as moving:digits or moving:tfds:mnist, moves and bounces off the edges.

Like Moving MNIST (Unsupervised Learning of Video Representations using LSTMs; Srivastava et al. 2015) with one image: its label is the
clip's, its split too, and each image has one way to go.
"""

import dataclasses
import math

import numpy as np

from keras_vae.errors import Refusal
from keras_vae.records import SPLITS, Found, complete, keep_apart

FRAMES, FPS = 12, 10.0
FIELD = 16 / 7  # the side of a clip over that of the image
SPEED = 0.6  # of the image's side a second, at least; to twice as much


def found(images: Found, name: str, options) -> Found:
    """Clips of the images that the source called `name` holds. `Refusal` (usage) for other records."""
    if images.columns or images.rate or images.fps or not images.levels:
        raise Refusal("usage", "what moves is an image of grey levels", "data.source", f"{name} is none", "--data.source moving:digits")
    images, fps = complete(images), float(options.fps or FPS)
    keep_apart(images)
    records = {split: Moving(images.records[split], options.frames or FRAMES, fps, number) for number, split in enumerate(SPLITS)}
    notes = [*images.notes, ("made", f"clips in which an image of {name} moves")]
    return dataclasses.replace(images, records=records, fps=fps, notes=notes)


class Moving:
    """Clips of images [N, h, w, C] as records, uint8 [n, T, H, W, C]: the way of each image depends on its number in its split."""

    def __init__(self, images, frames: int, fps: float, number: int):
        draws, self.images = np.random.default_rng(number), images
        height, width, channels = images[np.arange(1)].shape[1:]
        self.field = tuple(4 * math.ceil(FIELD * side / 4) for side in (height, width))
        angle, speed = 2.0 * np.pi * draws.random(len(images)), SPEED * (1.0 + draws.random(len(images))) * max(height, width)
        self.start = draws.random((len(images), 2))  # of the room that there is
        self.pace = (speed * np.stack([np.sin(angle), np.cos(angle)])).T / fps  # pixels a frame
        self.shape, self.dtype = (len(images), frames, *self.field, channels), np.dtype("uint8")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows) -> np.ndarray:
        images, rows = self.images[rows], np.arange(len(self))[rows]
        clips = np.zeros((len(rows), *self.shape[1:]), "uint8")
        room = np.array(self.field) - images.shape[1:3]
        moved = self.start[rows, None] * room + self.pace[rows, None] * np.arange(self.shape[1])[:, None]
        places = np.round(room - np.abs(moved % (2 * room) - room)).astype(int)  # there and back again
        for clip, image, way in zip(clips, images, places, strict=True):
            for frame, (top, left) in zip(clip, way, strict=True):
                frame[top : top + image.shape[0], left : left + image.shape[1]] = image
        return clips
