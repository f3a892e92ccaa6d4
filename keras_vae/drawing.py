"""Markup that cannot be broken into, and the few drawings of report.html as SVG. Standard library only.

The drawings have no colours of their own: they carry classes, which the style of the page colours in light and dark.
"""

import html
import math
import re
from collections.abc import Iterable

EMPTY = ("meta", "img", "br")  # HTML elements without an end tag


class Markup(str):
    """Text that is markup already."""


def tag(name: str, /, *children, **attributes) -> Markup:
    """An element. Children that are no `Markup` and all attributes are escaped; a child may be a list, and None is left out;
    `class_` is the attribute class, `stroke_width` is stroke-width."""
    words = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items() if value is not None)
    if name in EMPTY:
        return Markup(f"<{name}{words}/>")
    return Markup(f"<{name}{words}>{join(children)}</{name}>")


def join(children: Iterable) -> Markup:
    parts = (join(child) if isinstance(child, list | tuple) else escape(child) for child in children if child is not None)
    return Markup("".join(parts))


def escape(value) -> str:
    """Markup as it is, anything else as text; characters that no page may hold become a replacement character."""
    if isinstance(value, Markup):
        return value
    return html.escape(re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", str(value)))


def figure(value: float, digits: int) -> str:
    """A number as it is set in text: grouped thousands, a real minus."""
    return f"{value:,.{digits}f}".replace("-", "−")


def ticks(low: float, high: float) -> list[float]:
    """About six round numbers within [low, high]."""
    power = 10.0 ** math.floor(math.log10((high - low) / 6))
    step = next(power * factor for factor in (1, 2, 5, 10) if (high - low) / (power * factor) <= 6)
    return [
        round(step * k, 12) if step > 1e-9 else step * k for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    ]


class Frame:
    """A box with axes: where data lands, and the markup of its grid and numbers."""

    def __init__(self, width: int, height: int, x: tuple[float, float], y: tuple[float, float], left: int = 58, equal: bool = False):
        self.width, self.height = width, height
        self.left, self.right, self.top, self.bottom = left, width - 22, 10, height - 38
        self.x, self.y = _wide(*x), _wide(*y)
        if equal:  # one unit is as long on both axes
            pixel = max((self.x[1] - self.x[0]) / (self.right - self.left), (self.y[1] - self.y[0]) / (self.bottom - self.top))
            self.x = _around(self.x, pixel * (self.right - self.left))
            self.y = _around(self.y, pixel * (self.bottom - self.top))

    def place(self, x: float, y: float) -> tuple[float, float]:
        across = self.left + (x - self.x[0]) / (self.x[1] - self.x[0]) * (self.right - self.left)
        up = self.bottom - (y - self.y[0]) / (self.y[1] - self.y[0]) * (self.bottom - self.top)
        return round(min(max(across, -1e4), 1e4), 1), round(min(max(up, -1e4), 1e4), 1)

    def axes(self, x_label: str, y_label: str | None = None, x_ticks: bool = True) -> list[Markup]:
        marks = []
        for value in ticks(*self.y):
            height = self.place(self.x[0], value)[1]
            marks.append(tag("line", class_="grid", x1=self.left, x2=self.right, y1=height, y2=height))
            marks.append(tag("text", short(value), x=self.left - 6, y=height + 4, text_anchor="end"))
        for value in ticks(*self.x) if x_ticks else ():
            across = self.place(value, self.y[0])[0]
            marks.append(tag("line", class_="tick", x1=across, x2=across, y1=self.bottom, y2=self.bottom + 4))
            marks.append(tag("text", short(value), x=across, y=self.bottom + 16, text_anchor="middle"))
        marks.append(tag("line", class_="tick", x1=self.left, x2=self.right, y1=self.bottom, y2=self.bottom))
        marks.append(tag("text", x_label, x=(self.left + self.right) / 2, y=self.height - 5, text_anchor="middle"))
        if y_label:
            middle = (self.top + self.bottom) / 2
            marks.append(tag("text", y_label, x=11, y=middle, transform=f"rotate(-90 11 {middle})", text_anchor="middle"))
        return marks

    def svg(self, says: str, *content) -> Markup:
        """The drawing; `says` is what it shows, for who cannot see it."""
        return tag("svg", *content, viewBox=f"0 0 {self.width} {self.height}", role="img", aria_label=says)


def curves(lines: list[tuple[str, list[float], list[float]]], says: str, name: str, x_label: str = "step") -> Markup:
    """Lines (class, xs, ys) over the steps; with "dots" in the class, points. The first twentieth of a long run does not set the scale:
    there everything is far off."""
    lines = [(style, [point for point in zip(xs, ys, strict=True) if abs(point[1]) < 1e100]) for style, xs, ys in lines]
    late = [y for _, points in lines for _, y in points[len(points) // 20 :]]
    x = (0.0, max((x for _, points in lines for x, _ in points), default=1.0))
    frame = Frame(400, 230, x, _padded(min(late, default=0.0), max(late, default=1.0)))
    box = {"x": frame.left, "y": frame.top, "width": frame.right - frame.left, "height": frame.bottom - frame.top}
    clip = tag("clipPath", tag("rect", **box), id=name)
    drawn = [_line(frame, style, points) for style, points in lines if points]
    return frame.svg(says, clip, frame.axes(x_label), tag("g", drawn, clip_path=f"url(#{name})"))


def _line(frame: Frame, style: str, points) -> Markup:
    if len(points) == 1 or "dots" in style:
        return dots(frame, style.replace("dots", "").strip(), points)
    return tag("polyline", class_=style, points=" ".join("{},{}".format(*frame.place(x, y)) for x, y in points))


def dots(frame: Frame, style: str, points, says: str | None = None) -> Markup:
    """Points as one path: each a line of no length with round ends."""
    path = "".join("M{} {}h0".format(*frame.place(x, y)) for x, y in points)
    return tag("path", tag("title", says) if says else None, class_=f"dots {style}", d=path)


def scatter(x: list[float], y: list[float], groups: list[tuple[str, str, list[int]]], axes: list[str], says: str) -> Markup:
    """Points in groups (class, name, which points); a group with a name has it written at its middle."""
    frame = Frame(400, 360, _padded(min(x), max(x)), _padded(min(y), max(y)), equal=True)
    drawn, names = [], []
    for style, name, members in groups:
        drawn.append(dots(frame, style, [(x[k], y[k]) for k in members], name))
        if name and members:
            across, up = frame.place(*(sorted(column[k] for k in members)[len(members) // 2] for column in (x, y)))
            names.append(
                tag("text", name if len(name) < 13 else name[:11] + "…", class_=f"name {style}", x=across, y=up + 4, text_anchor="middle")
            )
    return frame.svg(says, frame.axes(*axes), drawn, names)


def bars(values: list[tuple[str, float, str, str]], says: str, x_label: str, y_label: str) -> Markup:
    """Bars (label, height, class, what it is) from zero."""
    heights = [0.0, *(height for _, height, _, _ in values)]
    frame = Frame(400, 250, (0.0, len(values)), (min(heights), max(1e-9, *heights)))
    step = (frame.right - frame.left) / len(values)
    every = math.ceil((7.5 * max(len(label) for label, *_ in values) + 3) / step)  # so that labels do not touch
    drawn = []
    for place, (label, height, style, what) in enumerate(values):
        left, top, foot = frame.left + place * step, *(frame.place(0.0, end)[1] for end in (max(0.0, height), min(0.0, height)))
        box = {"x": round(left + 0.1 * step, 2), "y": top, "width": round(0.8 * step, 2), "height": round(max(foot - top, 0.5), 1)}
        drawn.append(tag("rect", tag("title", what), class_=style, **box))
        if place % every == 0:
            drawn.append(tag("text", label, x=round(left + step / 2, 1), y=frame.bottom + 15, text_anchor="middle"))
    return frame.svg(says, frame.axes(x_label, y_label, x_ticks=False), drawn)


def parallel(axes: list[tuple[str, str, str]], lines: list[tuple[str, str, list[float]]], says: str) -> Markup:
    """Upright axes (name, its least, its greatest value) side by side, and lines (class, what it is, heights 0..1) across all of them."""
    width, top, bottom, each = max(400, 82 * len(axes)), 34, 236, max(400, 82 * len(axes)) / len(axes)
    across = [round((place + 0.5) * each, 1) for place in range(len(axes))]
    drawn = []
    for style, what, heights in lines:
        points = " ".join(f"{x},{round(bottom - height * (bottom - top), 1)}" for x, height in zip(across, heights, strict=True))
        drawn.append(tag("polyline", tag("title", what), class_=style, points=points))
    for x, (name, least, greatest) in zip(across, axes, strict=True):
        drawn.append(tag("line", class_="tick", x1=x, x2=x, y1=top, y2=bottom))
        for text, height in ((name, 12), (greatest, top - 6), (least, bottom + 14)):
            drawn.append(tag("text", text if len(text) < 14 else text[:12] + "…", x=x, y=height, text_anchor="middle"))
    return tag("svg", drawn, viewBox=f"0 0 {width} 260", role="img", aria_label=says, style=f"max-width: {width}px; min-width: {width}px")


def levels(groups: list[tuple[str, list[tuple[str, float]]]], says: str, x_label: str, y_label: str) -> Markup:
    """Groups (class, [(what it is, value)]) of values > 0 by their place in the list, on a logarithmic scale; zeros are left out."""
    points = [
        (style, place, math.log10(value), what) for style, row in groups for place, (what, value) in enumerate(row, start=1) if value > 0.0
    ]
    heights = [height for _, _, height, _ in points]
    frame = Frame(400, 250, (0.0, 1.0 + max(len(row) for _, row in groups)), _padded(min(heights, default=0.0), max(heights, default=1.0)))
    return frame.svg(
        says, frame.axes(x_label, y_label), [dots(frame, style, [(place, height)], what) for style, place, height, what in points]
    )


def short(value: float) -> str:
    """A number on an axis."""
    return f"{value:,.10g}".replace("-", "−") if abs(value) < 1e-12 or 1e-4 <= abs(value) < 1e7 else f"{value:.4g}".replace("-", "−")


def _padded(low: float, high: float) -> tuple[float, float]:
    return low - 0.03 * (high - low), high + 0.03 * (high - low)


def _wide(low: float, high: float) -> tuple[float, float]:
    """The interval, opened where it is a point."""
    if high - low > 1e-9 * max(abs(low), abs(high), 1e-9):
        return low, high
    pad = abs(low) * 0.1 or 1.0
    return low - pad, high + pad


def _around(interval: tuple[float, float], length: float) -> tuple[float, float]:
    middle = (interval[0] + interval[1]) / 2
    return middle - length / 2, middle + length / 2
