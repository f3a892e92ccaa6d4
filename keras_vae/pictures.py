"""Pictures as files bring them -> 8-bit grey or RGB of one shape, by stated rules. Pillow decodes.

Grey, RGB, palette, transparent (shown on white), 16-bit (to 8), CMYK and the like (to RGB), turned (upright, as EXIF says), animated
(the first frame).
"""

import io
import math
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from keras_vae.errors import Unreadable

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
FASTEST = 50.0  # frames a second of a picture that moves
PIXELS = 80_000_000  # of one picture; what claims more is refused by its header, before memory is spent on it
PNG_START = b"\x89PNG\r\n\x1a\n"
ORIENTATION = 274  # the EXIF tag


def decode(content: bytes, least: tuple[int, int] | None = None) -> tuple[Image.Image, set[str]]:
    """A file's content as a picture of mode L or RGB, and the conversions that took place. A JPEG may come smaller, at `least` (H, W)."""
    try:
        if content.startswith(PNG_START):
            _check_png(content)
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > PIXELS:
                raise Unreadable(f"its header claims {image.width} x {image.height} pixels, more than {PIXELS:,}")
            if least and image.format == "JPEG":
                image.draft(None, (2 * max(least), 2 * max(least)))  # decodes at a fraction of the size, in a fraction of the time
            image.load()
            return _standard(image)
    except Unreadable:
        raise
    except Exception as error:  # Pillow's decoders raise whatever the bytes lead them to
        raise Unreadable(
            "it is no picture" if isinstance(error, UnidentifiedImageError) else str(error)[:100] or type(error).__name__
        ) from None


def _check_png(content: bytes) -> None:
    """Compare the checksum of every chunk: Pillow skips those of the pixels."""
    place = len(PNG_START)
    while place < len(content):
        if place + 12 > len(content):
            raise Unreadable("the PNG is cut")
        (size,) = struct.unpack_from(">I", content, place)
        end = place + 8 + size
        if end + 4 > len(content):
            raise Unreadable("the PNG is cut")
        if zlib.crc32(memoryview(content)[place + 4 : end]) != struct.unpack_from(">I", content, end)[0]:
            raise Unreadable("a checksum of the PNG is wrong")
        place = end + 4
        if content[place - 8 - size : place - 4 - size] == b"IEND":
            return
    raise Unreadable("the PNG is cut")


def _standard(image: Image.Image) -> tuple[Image.Image, set[str]]:
    said = set()
    if getattr(image, "is_animated", False):
        said.add("animated, first frame")
    if "exif" in image.info and image.getexif().get(ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
        said.add("turned upright")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        grey = image.mode in ("L", "LA", "La")
        image = image.convert("RGBA")
        if image.getextrema()[3][0] < 255:
            said.add("transparent, on white")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image.convert("L" if grey else "RGB"), said
    if image.mode.startswith("I"):
        said.add("16-bit, to 8")
        return Image.fromarray(np.round(np.clip(np.asarray(image, np.float64), 0, 65535) / 257.0).astype(np.uint8)), said
    if image.mode in ("1", "L"):
        return image.convert("L"), said
    if image.mode != "RGB":
        said.add("palette" if image.mode == "P" else f"{image.mode}, to RGB")
    return image.convert("RGB"), said


def is_grey(image: Image.Image) -> bool:
    """Whether a picture, colour by its mode or not, holds nothing but grey."""
    if image.mode == "L":
        return True
    red, green, blue = (np.asarray(band) for band in image.split())
    return np.array_equal(red, green) and np.array_equal(green, blue)


@dataclass(frozen=True)
class Fitting:
    """Brings pictures to one shape: cut out the middle `crop` (H, W), then scale to cover `size` (H, W), aspect kept, and cut the rest."""

    size: tuple[int, int] | None
    channels: int
    crop: tuple[int, int] | None = None

    def cropped(self, image: Image.Image) -> Image.Image:
        if self.crop is None:
            return image
        height, width = min(self.crop[0], image.height), min(self.crop[1], image.width)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        return image.crop((left, top, left + width, top + height))

    def __call__(self, image: Image.Image) -> np.ndarray:
        """uint8 [H, W, C]."""
        image = self.cropped(image).convert("L" if self.channels == 1 else "RGB")
        if self.size and (image.height, image.width) != self.size:
            image = ImageOps.fit(image, (self.size[1], self.size[0]), Image.Resampling.BILINEAR)
        return np.asarray(image).reshape(image.height, image.width, self.channels)

    def array(self, raw: np.ndarray) -> np.ndarray:
        """The same for what is an array already, uint8 [..., H, W, C]."""
        if raw.ndim > 3:
            return np.stack([self.array(part) for part in raw])
        return self(Image.fromarray(raw[..., 0] if raw.shape[-1] == 1 else raw))


def sheet(x, columns: int | None = None) -> bytes:
    """One PNG with all pictures [N, H, W, C] of values in [0, 1] on a grid, row by row; small ones are enlarged by whole factors."""
    buffer = io.BytesIO()
    _grid(np.asarray(x), columns).save(buffer, "PNG")
    return buffer.getvalue()


def animation(x, columns: int | None, fps: float, kind: str) -> bytes:
    """The same of clips [N, T, H, W, C], as one picture that moves, without end: "PNG" or "GIF". Faster than browsers play, frames are left
    out."""
    x, buffer, unit = np.asarray(x), io.BytesIO(), 10 if kind == "GIF" else 1  # milliseconds that a duration is told in
    step = math.ceil(fps / FASTEST)
    shown = range(0, x.shape[1], step)
    first, *others = (_grid(x[:, time], columns) for time in shown)
    ends = np.round(1000.0 * step / (fps * unit) * np.arange(len(shown) + 1)).astype(int)
    durations = (unit * np.diff(ends)).tolist()
    first.save(buffer, kind, save_all=True, append_images=others, duration=durations, loop=0)
    return buffer.getvalue()


def _grid(x: np.ndarray, columns: int | None) -> Image.Image:
    n, height, width, channels = x.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = -(-n // columns)
    zoom, gap = max(1, 64 // max(height, width)), 2
    canvas = np.full((rows * (height * zoom + gap) + gap, columns * (width * zoom + gap) + gap, 3), 255, np.uint8)
    pixels = (np.clip(x, 0.0, 1.0) * 255.0).round().astype("uint8").repeat(zoom, 1).repeat(zoom, 2)
    for number, picture in enumerate(pixels):
        top = gap + number // columns * (height * zoom + gap)
        left = gap + number % columns * (width * zoom + gap)
        canvas[top : top + height * zoom, left : left + width * zoom] = picture[..., :3] if channels >= 3 else picture[..., :1]
    return Image.fromarray(canvas)
