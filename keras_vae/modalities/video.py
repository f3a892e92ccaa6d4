"""Video: clips of grey or colour frames."""

from dataclasses import dataclass

import numpy as np

from keras_vae.modalities.images import Images
from keras_vae.pictures import animation


@dataclass(frozen=True)
class Video(Images):
    """Raw clips T x H x W x C, `fps` frames a second, as x in [0, 1] as images are; files and pictures of them move."""

    fps: float = 10.0  # frames a second

    sides = 3
    suffix = "gif"

    def __post_init__(self):
        super().__post_init__()
        if type(self.fps) not in (int, float) or not 0.0 < self.fps < 1e6:
            raise ValueError("a clip needs a number of frames a second")

    def card(self, seen, looked: str) -> list[tuple[str, str]]:
        """What a person should see of the clips, given training records; `looked` says which they are."""
        frames = self.shape[0]
        return [("length", f"{frames} frames, {frames / self.fps:.3g} seconds at {self.fps:g} a second"), *super().card(seen, looked)]

    def write(self, raw, columns: int | None = None) -> bytes:
        """One GIF in which all clips [N, T, H, W, C] move on a grid, row by row."""
        low, high = self.bounds
        return self.draw((np.asarray(raw, "float32") - low) / (high - low), columns, "GIF")

    def draw(self, x, columns: int | None = None, kind: str = "PNG") -> bytes:
        """The same of x in [0, 1], as a PNG, whose first frame is seen where pictures stand still, or as a GIF."""
        return animation(x, columns, self.fps, kind)
