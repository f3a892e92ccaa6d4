"""Videos as files bring them -> frames at one rate, by stated rules. PyAV decodes (extra `video`).

At another rate each frame is the one that was shown at its time: files of varying rates play as fast as they did. Turned as the file says;
mirrors and pixels that are not square are taken as they are stored.
"""

import contextlib
import os
from typing import NamedTuple

import numpy as np
from PIL import Image

from keras_vae.errors import Refusal, Unreadable

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg")  # and .gif, where all pictures are such and move
PIXELS = 2**25  # of a frame; what claims more is refused by its header
NEAR = 64  # frames: what lies so near to the start is reached by decoding
ROUNDING = 0.25  # of a frame: time stamps of some containers are whole milliseconds
LEAST = 0.95  # of the length that the header claims: below, a file is cut


class Header(NamedTuple):
    """Of a video: when each of its frames is shown, seconds from the first, how long one lasts, and their time stamps, None without."""

    times: np.ndarray
    spacing: float
    stamps: tuple | None

    @property
    def seconds(self) -> float:
        return float(self.times[-1]) + self.spacing

    @property
    def fps(self) -> float:
        """Frames a second, in the mean."""
        return len(self.times) / self.seconds

    def count(self, fps: float) -> int:
        """How many frames there are at a rate."""
        return int(self.seconds * fps + ROUNDING)

    def shown(self, fps: float, start: int, count: int) -> np.ndarray:
        """The number of the frame that is shown at each of `count` moments from `start` on, both at a rate."""
        moments = np.arange(start, start + count) / fps + ROUNDING * self.spacing
        return np.maximum(np.searchsorted(self.times, moments, side="right") - 1, 0)


def library():
    """PyAV. `Refusal` (environment) where the extra is not installed."""
    try:
        import av
    except ImportError as error:
        raise Refusal("environment", "videos need PyAV", why=str(error)[:200], fix="pip install -e '.[video]'") from None
    return av


def moves(path) -> bool:
    """Whether a GIF has more than one frame."""
    try:
        with Image.open(path, formats=["GIF"]) as image:
            return image.n_frames > 1
    except Exception:  # Pillow's decoders raise whatever the bytes lead them to
        return False


def header(path) -> Header:
    """What a file holds, packet by packet, without decoding. `Unreadable` if it is no video of two frames."""
    with opened(path) as (container, stream), failing():
        packets = [(packet.pts, packet.dts) for packet in container.demux(stream) if packet.size and not packet.is_discard]
        if len(packets) < 2:
            raise Unreadable(f"it has {len(packets)} frames: a clip needs two")
        shown, decoded = zip(*packets, strict=True)
        guessed = container.format.name == "mpeg"  # there the time stamps are
        stamps, base = None if guessed or None in shown else tuple(sorted(shown)), float(stream.time_base)
        known = sorted(decoded) if stamps is None and not guessed and None not in decoded else stamps
        rate = stream.average_rate or stream.guessed_rate
        regular = np.arange(len(packets)) / float(rate) if rate else None
        times = regular if known is None else (np.array(known, np.float64) - known[0]) * base
        if times is None or times[-1] <= 0.0:
            raise Unreadable("its frames have no times")
        spacing = float(np.median(np.diff(times)))
        if regular is not None and np.abs(times - regular).max() < 0.5 / float(rate):
            times, spacing = regular, 1.0 / float(rate)  # what a container rounded
        found = Header(times, spacing, stamps)
        claimed = float(stream.duration * base) if stream.duration else 0.0
        if found.seconds + 2.0 * spacing < LEAST * claimed:
            raise Unreadable(f"it is cut: {found.seconds:.2f} of {claimed:.2f} seconds are there")
        return found


def first(path) -> Image.Image:
    """The first frame."""
    with opened(path) as (container, stream), failing():
        for frame in container.decode(stream):
            return _picture(frame)
    raise Unreadable("it has no frames")


def read(path, header: Header, numbers: np.ndarray, fitting) -> np.ndarray:
    """The frames of these numbers, rising, each made by `fitting`: uint8 [count, H, W, C]. `Unreadable` if the video ends before."""
    found = _sought(path, header, numbers, fitting) if header.stamps and numbers[0] > NEAR else None
    if found is None:
        with opened(path) as (container, stream), failing():
            found = _taken(enumerate(container.decode(stream)), numbers, fitting)
    if len(found) < len(numbers):
        raise Unreadable("it is shorter than its header said")
    return np.stack(found)


def _sought(path, header: Header, numbers: np.ndarray, fitting) -> list | None:
    """The same from the picture before that needs no other; None where it was not found."""
    places = {stamp: number for number, stamp in enumerate(header.stamps)}
    with opened(path) as (container, stream), contextlib.suppress(library().error.FFmpegError):
        container.seek(header.stamps[numbers[0]], stream=stream)
        frames = ((places.get(frame.pts, -1), frame) for frame in container.decode(stream))
        start = next(frames, (-1, None))
        if 0 <= start[0] <= numbers[0]:
            found = _taken(_from(start, frames), numbers, fitting)
            return found if len(found) == len(numbers) else None
    return None


def _from(first, others):
    yield first
    yield from others


def _taken(frames, numbers: np.ndarray, fitting) -> list:
    """Of frames with their numbers those that are wanted."""
    found = []
    for number, frame in frames:
        if frame.is_corrupt:
            raise Unreadable("a frame is damaged")
        while len(found) < len(numbers) and numbers[len(found)] == number:
            found.append(found[-1] if found and numbers[len(found) - 1] == number else fitting(_picture(frame)))
        if len(found) == len(numbers) or number > numbers[len(found)]:
            break
    return found


def _picture(frame) -> Image.Image:
    image = frame.to_image()
    return image.rotate(frame.rotation, expand=True) if frame.rotation else image


@contextlib.contextmanager
def opened(path):
    """The container and its first stream of frames."""
    av = library()
    with failing(), contextlib.ExitStack() as stack:
        container = stack.enter_context(av.open(os.path.abspath(os.fsdecode(path))))  # a name with a colon would be a protocol
        if not container.streams.video:
            raise Unreadable("it has sound and no frames" if container.streams.audio else "it has no frames")
        stream = container.streams.video[0]
        if stream.width * stream.height > PIXELS:
            raise Unreadable(f"its header claims {stream.width} x {stream.height} pixels, more than {PIXELS:,}")
        stream.codec_context.thread_count = 1  # files are read by several threads
        yield container, stream


@contextlib.contextmanager
def failing():
    """What the decoder says of a file, as `Unreadable`."""
    try:
        yield
    except (OSError, EOFError, ValueError, library().error.FFmpegError) as error:
        said = getattr(error, "strerror", None) or str(error)
        raise Unreadable(said[:100] or "it is no video") from None
