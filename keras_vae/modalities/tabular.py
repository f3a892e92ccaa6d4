"""Tables: rows of numbers, dates and categories, some of them missing."""

import csv
import dataclasses
import datetime
import functools
import io
import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np
import tensorflow as tf

from keras_vae.errors import Refusal
from keras_vae.modalities.modality import Modality

OTHER = "(other)"  # a level that is not among those of training
KNOTS = 100  # of the curve from values to scores, about
ATOM = 0.02  # share of the records from which on a value has an interval of scores to itself
FEW, OFTEN = 100, 10  # numbers with at most so many values, each so often on average, are taken for levels
FINE = np.linspace(-8.0, 8.0, 161)  # robust scores with a knot; 8 is that of a value 1,500 spreads off
ROBUST = np.concatenate([np.arange(-140.0, -8.0, 2.0), FINE, np.arange(10.0, 142.0, 2.0)])  # and those of all that float32 can hold
REACH, STEPS = 16.0, 801  # the last score on a curve of rarity, and its points
FAR = 10.0  # standard deviations beyond what was seen, where the curve goes on
EPOCH = datetime.date(1970, 1, 1)


class Column(NamedTuple):
    """A column as a source finds it: what its raw numbers stand for. Of a category they are places in `levels`, of a date days since
    1970-01-01; NaN is a missing value."""

    name: str
    kind: Literal["number", "date", "category"]
    levels: tuple = ()


@dataclass(frozen=True)
class Fitted:
    """A column as a model takes it, as fitted on the training records.

    A category, and a number of few values, is the one-hot of its `levels`; any other number a score: a piecewise linear function of it
    through (`values`, `scores`).
    """

    name: str
    kind: Literal["number", "date", "category", "few"]
    levels: tuple = ()
    values: tuple = ()
    scores: tuple = ()
    ends: tuple = ()  # the least and the greatest value
    whole: bool = False  # whether all values are whole numbers
    missing: bool = False  # whether one was missing, in any split
    rarity: tuple = ()  # -log share of each level, and of a missing value; of a number -log density at `STEPS` scores, -REACH to REACH
    gap: tuple = ()  # of a number that may be missing -log share of the records that have it, and of those that do not


@dataclass(frozen=True)
class Table(Modality):
    """Raw float32 rows [D], NaN where a value is missing, as x [E]: column by column a score, or one-hot levels.

    A number that may be missing is followed by 1 where it is there and 0 where not, and levels by one more: `gaps` = "marked". With
    "unknown" a missing value is NaN in x, and no part of what is modelled. Scores are normal (by rank: the value that a share p of the
    records lies below becomes the normal quantile of p), standard (in standard deviations from the mean), or robust (asinh((value - median)
    / s), s the standard deviation of a normal distribution with the same quartiles).
    """

    columns: tuple
    scaled: Literal["auto", "normal", "standard", "robust"] = "auto"
    gaps: Literal["marked", "unknown"] = "marked"

    fidelity, pictures = "rmse", False

    @classmethod
    def of(cls, values: dict) -> "Table":
        """What `dataclasses.asdict` made of one, and JSON of that."""
        columns = [Fitted(**{key: tuple(item) if isinstance(item, list) else item for key, item in column.items()})
                   for column in values["columns"]]  # fmt: skip
        return cls(tuple(columns), values["scaled"], values["gaps"])

    @property
    def raw_shape(self) -> tuple:
        return (len(self.columns),)

    @property
    def shape(self) -> tuple:
        """Of x."""
        return (sum(self.widths),)

    @property
    def widths(self) -> tuple[int, ...]:
        """How many elements of x each column takes."""
        return tuple(max(1, kind + (kind == 1)) for kind in self.kinds)

    @property
    def kinds(self) -> tuple[int, ...]:
        """Of each column, as `likelihoods.Columns` takes them."""
        return tuple(self._kind(column) for column in self.columns)

    def _kind(self, column: Fitted) -> int:
        gap = column.missing and self.gaps == "marked"
        return len(column.levels) + (column.kind == "category") + gap if column.levels else int(gap)

    @property
    def column_of(self) -> np.ndarray:
        """Of each element of x its column, [E]."""
        return np.repeat(np.arange(len(self.columns)), self.widths)

    def likelihood(self) -> tuple[str, str]:
        numbers = sum(not column.levels for column in self.columns)
        floor = ", floor=1.0" * (self.scaled == "robust")  # what lies within the spread of the bulk is no anomaly
        return f"Columns(kinds={self.kinds}{floor})", f"{numbers} columns of numbers, {len(self.columns) - numbers} of levels"

    def encode(self, raw, seed=None) -> tf.Tensor:
        """raw [B, D] -> x [B, E]. A level that was not in the training records is "(other)"; of a number of few values the nearest is
        taken."""
        raw, parts, marked = tf.cast(raw, tf.float32), [], self.gaps == "marked"
        known = ~tf.math.is_nan(raw)
        scores = iter(tf.split(self._scores(raw, known), len(self._numbers), axis=1) if self._numbers else ())
        for place, (column, width) in enumerate(zip(self.columns, self.widths, strict=True)):
            there, value = known[:, place], raw[:, place]
            if not column.levels:
                parts += [next(scores), tf.cast(there[:, None], tf.float32)][:width]
                continue
            value = tf.where(there, value, 0.0)
            if column.kind == "few":
                level = tf.argmin(tf.abs(value[:, None] - tf.constant(column.levels, tf.float32)), axis=1)
            else:
                level = tf.cast(value, tf.int64)
            if marked:
                level = tf.where(there, level, tf.cast(width - 1, tf.int64))
            parts.append(tf.one_hot(level, width))
        x = tf.concat(parts, axis=1)
        return x if marked else tf.where(tf.gather(known, self.column_of, axis=1), x, math.nan)

    def _scores(self, raw, known):
        """The middle of the scores that a value stands for: an atom has an interval of them."""
        value = tf.gather(raw, self._numbers, axis=1)
        there = tf.gather(known, self._numbers, axis=1)
        (values, slopes), (scores, _) = self._curve("values", "scores"), self._curve("scores", "values")
        value = tf.where(there, value, values[:, 0])
        left, right = (_along(value, values, scores, slopes, strict) for strict in (True, False))
        return tf.where(there, 0.5 * (left + right), 0.0)

    @functools.cached_property
    def _numbers(self) -> list[int]:
        return [place for place, column in enumerate(self.columns) if not column.levels]

    def _curve(self, x: str, y: str) -> tuple[np.ndarray, np.ndarray]:
        """The knots of one axis, and how fast the other changes after each, [numbers, knots]; what is only padding lies beyond all."""
        columns = [self.columns[place] for place in self._numbers]
        most = max(len(column.values) for column in columns)
        knots, slopes = np.full((len(columns), most), np.finfo("float32").max, "float32"), np.zeros((len(columns), most), "float32")
        for row, column in enumerate(columns):
            along, up = np.asarray(getattr(column, x)), np.asarray(getattr(column, y))
            run, rise = np.diff(along), np.diff(up)
            slope = np.divide(rise, run, out=np.zeros_like(rise), where=run > 0.0)
            knots[row, : len(along)], slopes[row, : len(along)] = along, [*slope, slope[-1]]
        return knots, slopes

    def decode(self, x) -> tf.Tensor:
        """x [B, E] -> raw [B, D]: of levels the largest, of scores the value, NaN where the mark says that it is missing."""
        parts, start, marked = [], 0, self.gaps == "marked"
        numbers = iter(tf.unstack(self._values(x), axis=1) if self._numbers else ())
        for column, width in zip(self.columns, self.widths, strict=True):
            own = x[:, start : start + width]
            start += width
            if not column.levels:
                value = next(numbers)
                parts.append(tf.where(own[:, 1] >= 0.5, value, math.nan) if width == 2 else value)
                continue
            level = tf.argmax(own, axis=1)
            value = (
                tf.gather(tf.constant((*column.levels, math.nan), tf.float32), level)
                if column.kind == "few"
                else tf.cast(level, tf.float32)
            )
            parts.append(tf.where(level == width - 1, math.nan, value) if column.missing and marked else value)
        return tf.stack(parts, axis=1)

    def _values(self, x):
        starts = np.cumsum([0, *self.widths])[self._numbers]
        (scores, slopes), (values, _) = self._curve("scores", "values"), self._curve("values", "scores")
        found = _along(tf.gather(x, starts, axis=1), scores, values, slopes, False)
        ends = np.array([self.columns[place].ends for place in self._numbers], "float32")
        found = tf.clip_by_value(found, ends[:, 0], ends[:, 1])  # no count below zero that never was one
        whole = np.array([self.columns[place].whole for place in self._numbers])
        return tf.where(whole, tf.round(found), found)

    def check(self, raw, where: str) -> np.ndarray:
        """Raw rows from outside as an array of the right type; `Refusal` (data) says what is wrong with them."""
        raw = np.asarray(raw)
        if raw.shape[1:] != self.raw_shape or not len(raw):
            what = f"the records have the shape {list(raw.shape)}"
            raise Refusal("data", what, where, f"the model takes [N, {len(self.columns)}]: a column each for {self._names()}")
        if raw.dtype.kind not in "buif":
            raise Refusal("data", f"the records are {raw.dtype}", where, "a row is numbers, of a category the place of its level")
        raw = raw.astype("float32")
        for place, column in enumerate(self.columns):
            values, known = raw[:, place], ~np.isnan(raw[:, place])
            wrong = (
                np.isinf(values)
                if column.kind != "category"
                else known & ((values < 0) | (values > len(column.levels)) | (values % 1 != 0))
            )
            if wrong.any():
                row, most = int(wrong.argmax()), len(column.levels)
                wanted = f"a place of a level, 0 to {most} ({OTHER})" if column.kind == "category" else "a finite number"
                raise Refusal("data", f"row {row} has {values[row]:g} in column {column.name!r}", where, f"the model takes {wanted}")
            if not column.missing and not known.all():
                why = "no record of the run's own data had one missing"
                fix = "fill it (a run of --task impute does), or leave the row out"
                raise Refusal("data", f"row {int((~known).argmax())} has no value in column {column.name!r}", where, why, fix)
        return raw

    def _names(self) -> str:
        names = [column.name for column in self.columns]
        return ", ".join(names[:8]) + ", ..." * (len(names) > 8)

    def checks(self, raw) -> list:
        """Ops that fail where raw rows are not what `encode` takes."""
        found = []
        for place, column in enumerate(self.columns):
            value = raw[:, place]
            if column.kind == "category":
                known = tf.where(tf.math.is_nan(value), 0.0, value)
                right = (known >= 0.0) & (known <= float(len(column.levels))) & (known == tf.round(known))
                said = f"column {column.name!r} must be the place of a level, 0 to {len(column.levels)}"
            else:
                right, said = tf.abs(tf.where(tf.math.is_nan(value), 0.0, value)) < math.inf, f"column {column.name!r} must be finite"
            found.append(tf.debugging.Assert(tf.reduce_all(right), [said]))
            if not column.missing:
                said = f"column {column.name!r} must not be missing: in the run's own data it never was"
                found.append(tf.debugging.Assert(~tf.reduce_any(tf.math.is_nan(value)), [said]))
        return found

    def known(self, x):
        """x without what it does not know."""
        return tf.where(tf.math.is_nan(x), 0.0, x)

    def examples(self, raw) -> np.ndarray:
        """Raw rows as ones without gaps, where these are no part of what is modelled."""
        return np.asarray(raw) if self.gaps == "marked" else np.where(np.isnan(raw), self.decode(self.known(self.encode(raw))), raw)

    def for_anomalies(self, train) -> "Table":
        """As rows are scored best: a rank hides how far off a value lies, and anomalies among the records move a mean."""
        table = refitted(self, train, "robust") if self.scaled == "auto" else self
        x = table.encode(train[np.arange(len(train))]).numpy()
        return dataclasses.replace(table, columns=tuple(map(with_rarity, table.columns, np.split(x, np.cumsum(table.widths)[:-1], axis=1))))

    def rarity(self, x):
        """-log of the density or probability of each column alone, where x [B, E] has its value, [B, E], nats; None if never fitted."""
        if not self.columns or not self.columns[0].rarity:
            return None
        parts, start = [], 0
        numbers = iter(tf.split(self._rarities(x), len(self._numbers), axis=1) if self._numbers else ())
        for column, width in zip(self.columns, self.widths, strict=True):
            own = x[:, start : start + width]
            start += width
            if column.levels:
                parts.append(own * np.array(column.rarity[:width], "float32"))
            elif width == 1:
                parts.append(next(numbers))
            else:
                there, (seen, gone) = own[:, 1:], column.gap
                parts += [there * next(numbers), there * seen + (1.0 - there) * gone]
        return tf.concat(parts, axis=1)

    def _rarities(self, x):
        """Of the columns of numbers, [B, numbers], by linear interpolation."""
        columns = [self.columns[place] for place in self._numbers]
        nats = np.array([column.rarity for column in columns], "float32").ravel()
        scores = tf.gather(x, np.cumsum([0, *self.widths])[self._numbers], axis=1)
        along = tf.clip_by_value((scores / REACH + 1.0) * (STEPS // 2), 0.0, STEPS - 1.0)
        low = tf.minimum(tf.cast(along, tf.int32), STEPS - 2)
        first = low + np.arange(len(columns), dtype=np.int32) * STEPS
        left, right = tf.gather(nats, first), tf.gather(nats, first + 1)
        return left + (along - tf.cast(low, tf.float32)) * (right - left)

    def for_imputation(self, train) -> "Table":
        """As gaps are filled best: what is missing is unknown, and no number is taken for levels, which say nothing of each other."""
        return dataclasses.replace(refitted(self, train, self.scaled, few=0), gaps="unknown")

    def asked(self) -> "Table":
        """The same, where any value may be missing."""
        return dataclasses.replace(self, columns=tuple(dataclasses.replace(column, missing=True) for column in self.columns))

    def difference(self, served: np.ndarray, live: np.ndarray) -> float:
        """How far raw answers lie apart, beside their size. A level may be another where two are as likely: of one in fifty at most."""
        if served.shape != live.shape:
            return math.inf
        worst, few = 0.0, max(1.0, len(live) / 50)
        for place, column in enumerate(self.columns):
            ours, theirs = live[:, place], served[:, place]
            if (np.isnan(ours) != np.isnan(theirs)).sum() > few:
                return math.inf
            apart = np.abs(np.nan_to_num(ours) - np.nan_to_num(theirs))
            if column.levels:
                worst = max(worst, math.inf if (apart > 0.0).sum() > few else 0.0)
            else:  # a whole number may round either way
                apart = np.maximum(apart - float(column.whole), 0.0)
                worst = max(worst, float(apart.max(initial=0.0) / max(1.0, np.nanmax(np.abs(ours), initial=0.0))))
        return worst

    def write(self, raw, columns: int | None = None) -> bytes:
        """A CSV file of raw rows [N, D], with the names of the levels."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow([column.name for column in self.columns])
        written = [[_cell(column, value) for value in values] for column, values in zip(self.columns, np.asarray(raw).T, strict=True)]
        writer.writerows(zip(*written, strict=True))
        return buffer.getvalue().encode()

    suffix = "csv"

    def card(self, seen: np.ndarray, looked: str) -> list[tuple[str, str]]:
        """What a person should see of the columns, given training records."""
        names = {"number": "numbers", "few": "numbers of few values", "date": "dates", "category": "categories"}
        kinds = [(sum(column.kind == kind for column in self.columns), what) for kind, what in names.items()]
        said = ", ".join(f"{count} {what}" for count, what in kinds if count)
        rows = [("columns", f"{len(self.columns)}: {said}; {self.shape[0]} elements")]
        for column, values in list(zip(self.columns, seen.T, strict=True))[:SHOWN]:
            rows.append((f"  {column.name[:20]}", _described(column, values)))
        if len(self.columns) > SHOWN:
            rows.append(("", f"and {len(self.columns) - SHOWN} more"))
        constant = [column.name for column, values in zip(self.columns, seen.T, strict=True) if len(np.unique(values)) == 1]
        if len(constant) == len(self.columns):
            rows.append(("warning", f"no variance: no column ever changes {looked}; there is nothing to learn"))
        elif constant:
            rows.append(("note", f"{len(constant)} columns never change {looked}: {', '.join(constant[:5])}"))
        return rows


SHOWN = 16  # columns on the card


def with_rarity(column: Fitted, x: np.ndarray) -> Fitted:
    """The column, knowing how rare its values are, given its elements [N, width] of the training records.

    The density of a score is a sum of normal ones, as wide as Silverman's rule has it, min(deviation, quartiles / 1.349) n^(-1/5) (Density
    Estimation for Statistics and Data Analysis; Silverman 1986). It and the shares are smoothed by one more record, spread over all levels
    or, as a Cauchy distribution, over all scores.
    """
    if column.levels:
        shares = (x.sum(axis=0) + 1.0 / x.shape[1]) / (len(x) + 1.0)
        return dataclasses.replace(column, rarity=tuple((-np.log(shares)).tolist()))
    scores, gap = x[:, 0].astype("float64"), ()
    if x.shape[1] == 2:
        scores, share = scores[x[:, 1] > 0.0], (x[:, 1].sum() + 0.5) / (len(x) + 1.0)
        gap = (-math.log(share), -math.log(1.0 - share))
    at, step = np.linspace(-REACH, REACH, STEPS, retstep=True)
    spread = min(filter(None, (scores.std(), np.subtract(*np.quantile(scores, (0.75, 0.25))) / 1.349)), default=1.0)
    width = max(spread * len(scores) ** -0.2, step)
    counts = np.bincount(np.round((np.clip(scores, -REACH, REACH) + REACH) / step).astype(int), minlength=STEPS)
    kernel = np.exp(-0.5 * np.square(np.arange(1 - STEPS, STEPS) * step / width)) / (width * math.sqrt(2.0 * math.pi))
    density = (np.convolve(counts, kernel, "valid") + 1.0 / (math.pi * (1.0 + np.square(at)))) / (len(scores) + 1.0)
    return dataclasses.replace(column, rarity=tuple((-np.log(density)).round(5).tolist()), gap=gap)


def _along(value, knots, heights, slopes, strict: bool):
    """The piecewise linear function through (knots, heights) at `value` [B, n]; of knots in one place the first (`strict`) or the last."""
    before = knots < value[..., None] if strict else knots <= value[..., None]
    segment = tf.maximum(tf.reduce_sum(tf.cast(before, tf.int32), axis=-1) - 1, 0) + np.arange(len(knots), dtype=np.int32) * knots.shape[1]
    knot, height, slope = (tf.gather(np.ravel(table), segment) for table in (knots, heights, slopes))
    return height + (value - knot) * slope


def _cell(column: Fitted, value: float) -> str:
    if np.isnan(value):
        return ""
    if column.kind == "category":
        return [*column.levels, OTHER][int(value)]
    if column.kind == "date":
        days = min(max(round(float(value)), -719162), 2932896)  # of the years 1 to 9999
        return (EPOCH + datetime.timedelta(days=days)).isoformat()
    return f"{value:.0f}" if column.whole and value == round(float(value)) else f"{value:.7g}"


def _described(column: Fitted, values: np.ndarray) -> str:
    known = values[~np.isnan(values)]
    share = 1.0 - len(known) / len(values)
    gaps = f", {share:.1%} missing" * (share > 0.0)
    if column.kind == "category":
        return f"{len(column.levels)} levels: {', '.join(map(str, column.levels[:4]))}{', ...' if len(column.levels) > 4 else ''}{gaps}"
    ends = " to ".join(_cell(column, end) for end in (known.min(), known.max())) if len(known) else ""
    return (f"{len(column.levels)} values, {ends}" if column.kind == "few" else ends) + gaps


def fit(columns: tuple[Column, ...], records: dict, scaled: str = "auto") -> tuple[Table, dict]:
    """The table of training records, and the records of every split with places of its levels: most frequent first, others as one.
    `Refusal` (data) for a column that is empty."""
    found, recoded = [], {split: np.array(rows, "float32") for split, rows in records.items()}
    for place, column in enumerate(columns):
        train, gaps = records["train"][:, place], any(np.isnan(rows[:, place]).any() for rows in records.values())
        if np.isnan(train).all():
            fix = f"--data.drop {column.name!r}"
            raise Refusal(
                "data", f"column {column.name!r} is empty in the training records", "data.source", "nothing can be learned of it", fix
            )
        if column.kind == "category":
            counts = np.bincount(train[~np.isnan(train)].astype(np.int64), minlength=len(column.levels))
            kept = [level for level in np.argsort(-counts, kind="stable") if counts[level]]
            to = np.full(len(column.levels), len(kept), "float32")
            to[kept] = np.arange(len(kept))
            for rows in recoded.values():
                known = ~np.isnan(rows[:, place])
                rows[known, place] = to[rows[known, place].astype(np.int64)]
            found.append(Fitted(column.name, "category", tuple(column.levels[level] for level in kept), missing=gaps))
        else:
            found.append(fitted(column, train, scaled, gaps))
    return Table(tuple(found), scaled), recoded


def refitted(table: Table, train: np.ndarray, scaled: str, few: int = FEW) -> Table:
    """The same columns with their numbers scaled in another way; rows stay as they are."""
    rows = train[np.arange(len(train))]
    columns = [
        column if column.kind == "category" else fitted(column, rows[:, place], scaled, column.missing, few)
        for place, column in enumerate(table.columns)
    ]
    return dataclasses.replace(table, columns=tuple(columns), scaled=scaled)


def fitted(column, train: np.ndarray, scaled: str, gaps: bool, few: int = FEW) -> Fitted:
    """A column of numbers, given the training values [N], whether any record has none, and how many values are few enough for levels."""
    kind = "date" if column.kind == "date" else "number"
    known = np.sort(train[~np.isnan(train)].astype("float64"))
    values, counts = np.unique(known, return_counts=True)
    common = {"ends": (float(known[0]), float(known[-1])), "whole": bool((values == np.round(values)).all()), "missing": gaps}
    if scaled == "standard":
        mean, deviation = known.mean(), known.std() or 1.0
        return Fitted(column.name, kind, (), (mean - deviation, mean + deviation), (-1.0, 1.0), **common)
    if scaled == "robust":
        low, middle, high = np.quantile(known, (0.25, 0.5, 0.75))
        knots = middle + ((high - low) / 1.349 or known.std() or 1.0) * np.sinh(ROBUST)
        held = np.abs(knots) < np.finfo("float32").max
        return Fitted(column.name, kind, (), tuple(knots[held].tolist()), tuple(ROBUST[held].tolist()), **common)
    if kind == "number" and 2 <= len(values) <= few and len(known) >= OFTEN * len(values):
        return Fitted(column.name, "few", tuple(values.tolist()), **common)
    n, deviation = len(known), known.std() or 1.0
    stops = np.cumsum(counts) / n
    starts = stops - counts / n
    middles = 0.5 * (starts + stops)
    atoms = counts / n >= ATOM
    chosen = {*np.searchsorted(middles, np.linspace(0.0, 1.0, KNOTS)).clip(0, len(values) - 1).tolist(), *np.flatnonzero(atoms).tolist(), 0}
    knots = []
    for place in sorted(chosen):
        shares = (starts[place], stops[place]) if atoms[place] else (middles[place],)
        knots += [(float(values[place]), NormalDist().inv_cdf(min(max(share, 0.5 / n), 1.0 - 0.5 / n))) for share in shares]
    (least, lowest), (greatest, highest) = knots[0], knots[-1]
    knots = [(least - FAR * deviation, lowest - FAR), *knots, (greatest + FAR * deviation, highest + FAR)]
    return Fitted(column.name, kind, (), *(tuple(axis) for axis in zip(*knots, strict=True)), **common)
