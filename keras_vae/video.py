"""Videos as files bring them -> frames at one rate, by stated rules. PyAV decodes (extra `video`).

At another rate each frame is the one that was shown at its time: files of varying rates play as fast as they did. Turned as the file says.
"""

import contextlib
from typing import NamedTuple

import numpy as np
from PIL import Image

from keras_vae.errors import Refusal, Unreadable

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg")  # and .gif, where all pictures are such and move
PIXELS = 2**25  # of a frame; what claims more is refused by its header
SLACK = 1e-4  # seconds that time stamps may be rounded by


class Header(NamedTuple):
    """Of a video: when each of its frames is shown, seconds from the first, and how long the last lasts."""

    times: np.ndarray
    last: float

    @property
    def seconds(self) -> float:
        return float(self.times[-1]) + self.last

    @property
    def fps(self) -> float:
        """Frames a second, in the mean."""
        return round((len(self.times) - 1) / float(self.times[-1]), 2)


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
        with Image.open(path) as image:
            return getattr(image, "n_frames", 1) > 1
    except (OSError, ValueError):
        return False


def header(path) -> Header:
    """What a file holds, packet by packet, without decoding. `Unreadable` if it is no video of two frames."""
    with opened(path) as (container, stream), failing():
        stamps = [packet.pts if packet.pts is not None else packet.dts for packet in container.demux(stream) if packet.size]
        if len(stamps) < 2:
            raise Unreadable(f"it has {len(stamps)} frames: a clip needs two")
        if stream.frames > len(stamps):
            raise Unreadable(f"it is cut: {len(stamps):,} of {stream.frames:,} frames are there")
        if None in stamps or max(stamps) == min(stamps):
            raise Unreadable("its frames have no times")
        times = np.sort(np.array(stamps, np.float64)) * float(stream.time_base)
        times = times - times[0]
        return Header(times, float(np.median(np.diff(times))))


def first(path) -> Image.Image:
    """The first frame."""
    with opened(path) as (container, stream), failing():
        for frame in container.decode(stream):
            return _picture(frame)
    raise Unreadable("it has no frames")


def read(path, fps: float, start: int, count: int, fitting) -> np.ndarray:
    """`count` frames from `start` on, both at `fps`, each made by `fitting`: uint8 [count, H, W, C]. `Unreadable` if it ends before."""
    wanted, made = (start + np.arange(count)) / fps + SLACK, []
    with opened(path) as (container, stream), failing():
        begin, base = (stream.start_time or 0) * float(stream.time_base), float(stream.time_base)
        if start:
            with contextlib.suppress(library().error.FFmpegError):  # what cannot be searched is read from its start
                container.seek(int((begin + wanted[0]) / base), stream=stream)
        shown, end = None, 0.0
        for frame in container.decode(stream):
            time = frame.pts * base - begin if frame.pts is not None else end
            while shown and len(made) < count and wanted[len(made)] < time:
                made.append(fitting(_picture(shown)))
            if len(made) == count:
                return np.stack(made)
            shown, end = frame, time + 1.0 / float(stream.average_rate or fps)
        while shown and len(made) < count and wanted[len(made)] < end + 0.5 / fps:
            made.append(fitting(_picture(shown)))
    if len(made) < count:
        raise Unreadable("it is shorter than its header said")
    return np.stack(made)


def _picture(frame) -> Image.Image:
    image = frame.to_image()
    return image.rotate(frame.rotation, expand=True) if getattr(frame, "rotation", 0) else image


@contextlib.contextmanager
def opened(path):
    """The container and its first stream of frames."""
    av = library()
    with failing(), contextlib.ExitStack() as stack:
        container = stack.enter_context(av.open(path.decode("utf-8", "surrogateescape") if isinstance(path, bytes) else str(path)))
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
