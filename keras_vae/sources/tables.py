"""csv:FILE, parquet:FILE, and two-dimensional arrays of npy:, npz: and python:: rows of numbers, dates and categories.

A cell that is empty, or NA, N/A, NaN, null, None or ?, is a missing value. A column of which all other cells are numbers is one of
numbers, of which all are dates (2026-01-31) one of dates, else one of categories.
"""

import contextlib
import csv
import datetime
import gzip
import io
import itertools
import math
import os
import zlib

import numpy as np

from keras_vae.errors import Refusal
from keras_vae.modalities.tabular import EPOCH, OTHER, Column
from keras_vae.records import Found, content_keys

MISSING = {"", "na", "n/a", "nan", "null", "none", "?"}
DELIMITERS = ",;\t|"
LONGEST = 2**20  # characters of a line
LEVELS = 1000  # of a category, at most


def find_csv(name: str, options, log) -> Found:
    names, cells, notes, bad = _read_csv(os.path.expanduser(name), options)
    return _found(names, cells, options, f"csv:{name}", notes, bad)


def find_parquet(name: str, options, log) -> Found:
    names, cells = _read_parquet(os.path.expanduser(name))
    return _found(names, cells, options, f"parquet:{name}", [], [])


def is_table(records: dict) -> bool:
    """Whether arrays by split are rows of numbers."""
    return all(isinstance(array, np.ndarray) and array.ndim == 2 for array in records.values())


def find_rows(records: dict, labels: dict, classes: tuple, options, where: str) -> Found:
    """Of arrays [N, D] of numbers by split; NaN is a missing value."""
    if options.label:
        fix = "call an array of class numbers y, or use csv:FILE"
        raise Refusal("usage", "data.label names a column of a CSV or Parquet file, and the rows are arrays", "data.label", fix=fix)
    found = Found({}, {}, 0, classes=classes)
    widths = {array.shape[1] for array in records.values()}
    if len(widths) > 1 or widths == {0}:
        shapes = ", ".join(f"{split} {list(array.shape)}" for split, array in records.items())
        raise Refusal("data", "the splits have not the same columns", where, shapes)
    names = [f"column {number}" for number in range(widths.pop())]
    kept = _kept(names, options, where)
    for split, array in records.items():
        if array.dtype.kind not in "buif":
            raise Refusal(
                "data", f"the records are {array.dtype}", f"{where}, {split}", "an array of rows holds numbers", "csv:FILE for categories"
            )
        rows = np.asarray(array, "float32")[:, kept]
        good = _finite(rows, [names[column] for column in kept], options, f"{where}, {split}", found.bad)
        found.records[split], found.keys[split] = rows[good], content_keys(np.ascontiguousarray(rows[good]))
        if split in labels:
            found.labels[split] = np.asarray(labels[split])[good]
    found.columns = tuple(Column(names[column], "number") for column in kept)
    return found


def without_dropped(rows: np.ndarray, options, columns: int) -> np.ndarray:
    """Rows from outside as a run of so many `columns` takes them: with or without what it dropped."""
    dropped = [name for name in _dropped(options) if name.removeprefix("column ").isdigit()]
    if rows.ndim != 2 or rows.shape[1] != columns + len(dropped):
        return rows
    return np.delete(rows, [int(name.removeprefix("column ")) for name in dropped], axis=1)


def read(path: str, table, options) -> np.ndarray:
    """The rows of a file from outside, by the columns of `table`. `Refusal` (data) for a column that is not there, or that no run knows."""
    if path.lower().endswith(".parquet"):
        names, cells = _read_parquet(path)
    else:
        names, cells, _, bad = _read_csv(path, options, known=[column.name for column in table.columns])
        if bad:
            raise Refusal("data", f"{bad[0]['name']} is no row of the table", path, bad[0]["why"], "mend it: each row is answered")
    known, own = [column.name for column in table.columns], {*_dropped(options), *([options.label] if options.label else [])}
    if lacking := [name for name in known if name not in names]:
        raise Refusal("data", f"the file has no column {lacking[0]!r}", path, f"it has {', '.join(names[:12])}")
    if foreign := [name for name in names if name not in known and name not in own]:
        raise Refusal("data", f"no run knows the column {foreign[0]!r}", path, f"the run was trained on {', '.join(known[:12])}")
    rows = np.empty((len(cells[0]), len(known)), "float32")
    for place, column in enumerate(table.columns):
        given = cells[names.index(column.name)]
        if column.kind == "category":
            places = {level: number for number, level in enumerate((*column.levels, OTHER))}
            rows[:, place] = [math.nan if cell is None else places.get(str(cell), len(column.levels)) for cell in given]
        else:
            for row, cell in enumerate(given):
                value = None if cell is None else (_day if column.kind == "date" else _number)(cell)
                if value is None and cell is not None:
                    wanted = "a date like 2026-01-31" if column.kind == "date" else "a number"
                    raise Refusal(
                        "data", f"row {row} has {str(cell)[:40]!r} in column {column.name!r}", path, f"the run was trained on {wanted}"
                    )
                rows[row, place] = math.nan if value is None else value
    return rows


def _read_csv(path: str, options, known: list[str] | None = None) -> tuple[list[str], list[list], list, list]:
    """Names, the cells of each column as text or None, notes for the card, and rows left out. `known`: the names a run has."""
    try:
        with _opened(path) as file:
            start = file.read(4096)
        encoding = "utf-16" if start[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        try:
            with _opened(path) as file:
                return _cells(io.TextIOWrapper(file, encoding, newline=""), path, options, [], known)
        except UnicodeDecodeError:
            with _opened(path) as file:
                notes = [("note", "the file is not UTF-8, and was read as Latin-1")]
                return _cells(io.TextIOWrapper(file, "latin-1", newline=""), path, options, notes, known)
    except (OSError, EOFError, zlib.error) as error:
        raise Refusal("data", "cannot read the file", path, str(error)[:200]) from None


def _opened(path: str):
    return (gzip.open if path.endswith(".gz") else open)(path, "rb")


def _cells(file, path: str, options, notes: list, known: list[str] | None) -> tuple:
    lines = _lines(file, path)
    first = list(itertools.islice(lines, 20))
    if not first or not first[0].strip():
        raise Refusal("data", "the file is empty, or begins with an empty line", path)
    delimiter, lines = _delimiter(first), itertools.chain(first, lines)
    reader, rows, bad = csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=True), [], []
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if not row:
                continue
            if rows and len(cells) != len(rows[0]):
                why = f"it has {len(cells)} cells, the first has {len(rows[0])}"
                if options.on_bad_record == "error":
                    fix = "mend it, or leave such rows out: --data.on-bad-record skip"
                    raise Refusal("data", f"line {reader.line_num} is no row of the table", path, why, fix)
                bad.append({"name": f"line {reader.line_num}", "why": why})
                continue
            rows.append(cells)
            if len(rows) == 1 and not any(cells):
                raise Refusal("data", "the first line has no names", path)
    except csv.Error as error:
        raise Refusal("data", f"line {reader.line_num} is no row of a CSV file", path, str(error)) from None
    if len(bad) > max(10, len(rows) // 100):
        raise Refusal(
            "data",
            f"{len(bad):,} of {len(rows) + len(bad):,} rows have another number of cells",
            path,
            f"{bad[0]['name']}: {bad[0]['why']}",
        )
    header = rows[0] == known or _is_header(rows)
    names, body = (rows[0], rows[1:]) if header else ([f"column {number}" for number in range(len(rows[0]))], rows)
    if header and not names[0]:
        names = ["column 0", *names[1:]]  # the numbers that pandas writes in front
        notes = [*notes, ("note", "the first column has no name; if it counts the rows: --data.drop 'column 0'")]
    if not header:
        notes = [*notes, ("note", "the first line looks like a row, not like names: the columns are numbered from 0")]
    if twice := [name for place, name in enumerate(names) if name in names[:place]]:
        raise Refusal("data", f"two columns are called {twice[0]!r}", path, "a column is known by its name", "rename one")
    if not body:
        raise Refusal("data", "the file has no rows", path, f"it has one line: {', '.join(names[:8])}")
    cells = [[None if cell.lower() in MISSING else cell for cell in column] for column in zip(*body, strict=True)]
    return names, cells, notes, bad


def _lines(file, path: str):
    """The lines of a file, none longer than `LONGEST`: a field of a gigabyte is not read."""
    for number in range(1, 2**62):
        line = file.readline(LONGEST)
        if not line:
            return
        if len(line) == LONGEST and not line.endswith("\n"):
            raise Refusal(
                "data",
                f"line {number} is longer than {LONGEST:,} characters",
                path,
                "no table has such a row",
                "is a quotation mark or a line end missing?",
            )
        yield line


def _delimiter(lines: list[str]) -> str:
    """What cuts the first lines into the same number of cells, the more the better; what cuts most in the first line if nothing does."""

    def cells(mark: str) -> list[int]:
        with contextlib.suppress(csv.Error):
            return [len(row) for row in csv.reader(lines, delimiter=mark, skipinitialspace=True) if row]
        return [0]

    counts = {mark: cells(mark) for mark in DELIMITERS}
    return max(DELIMITERS, key=lambda mark: (len(set(counts[mark])) == 1 and counts[mark][0] > 1, counts[mark][0]))


def _is_header(rows: list[list[str]]) -> bool:
    """Whether the first line is one of names: words above numbers, or words of which none is found again in its own column; or it counts
    the columns. The first may be empty, as pandas writes it."""
    first, body = rows[0], rows[1:1000]
    if first in ([str(number) for number in range(start, start + len(first))] for start in (0, 1)) and len(first) > 1:
        return True
    if not all(cell and _number(cell) is None for cell in first[1:]) or (first[0] and _number(first[0]) is not None):
        return False
    columns = [[row[place] for row in body if row[place].lower() not in MISSING] for place in range(len(first))]
    if any(column and all(_number(cell) is not None for cell in column) for column in columns):
        return True
    return all(cell not in column for cell, column in zip(first, columns, strict=True))


def _read_parquet(path: str) -> tuple[list[str], list[list]]:
    import pyarrow
    from pyarrow import ArrowException, parquet

    try:
        table = parquet.read_table(path)
        for place, field in enumerate(table.schema):
            if pyarrow.types.is_timestamp(field.type):  # nanoseconds have no Python object
                table = table.set_column(place, field.name, table[place].cast(pyarrow.timestamp("us"), safe=False))
    except (OSError, ArrowException) as error:
        raise Refusal("data", "cannot read the Parquet file", path, str(error)[:200]) from None
    names = [str(name) for name in table.column_names]
    if twice := [name for place, name in enumerate(names) if name in names[:place]]:
        raise Refusal("data", f"two columns are called {twice[0]!r}", path, "a column is known by its name", "rename one")
    if not names or not table.num_rows:
        raise Refusal("data", "the file has no rows", path)
    return names, [[_plain(value, name, path) for value in column.to_pylist()] for name, column in zip(names, table.columns, strict=True)]


def _plain(value, name: str, path: str):
    """A cell as a number or a text; None if it is missing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int | float):
        return value
    if isinstance(value, datetime.date):  # a datetime is one too
        return value.isoformat()
    if isinstance(value, str):
        return None if value.strip().lower() in MISSING else value.strip()
    try:
        return float(value)  # decimals
    except (TypeError, ValueError):
        raise Refusal(
            "data", f"column {name!r} holds {type(value).__name__}", path, "a cell is a number, a date or a text", f"--data.drop {name!r}"
        ) from None


def _number(cell) -> float | None:
    try:
        return None if "_" in str(cell) else float(cell)  # to Python 1_2 is a number
    except ValueError:
        return None


def _day(cell) -> float | None:
    """Days since 1970-01-01; of a time of day the part of the day that has passed."""
    try:
        when = datetime.datetime.fromisoformat(str(cell)).replace(tzinfo=None) if str(cell)[4:5] == "-" else None
        return None if when is None else (when - datetime.datetime.combine(EPOCH, datetime.time())) / datetime.timedelta(days=1)
    except ValueError:
        return None


def _dropped(options) -> list[str]:
    return [name.strip() for name in (options.drop or "").split(",") if name.strip()]


def _kept(names: list[str], options, where: str) -> list[int]:
    """The places of the columns that are modelled. `Refusal` (usage) for a name of `data.drop` or `data.label` that is not there."""
    for option, wanted in (("drop", _dropped(options)), ("label", [options.label] if options.label else [])):
        for name in wanted:
            if name not in names:
                raise Refusal("usage", f"there is no column {name!r}", f"data.{option}", f"{where} has {', '.join(names[:12])}")
    kept = [place for place, name in enumerate(names) if name not in _dropped(options) and name != options.label]
    if not kept:
        raise Refusal("usage", "no column is left", "data.drop")
    return kept


def _found(names: list[str], cells: list[list], options, where: str, notes: list, bad: list) -> Found:
    kept, found = _kept(names, options, where), Found({}, {}, 0, notes=notes, bad=bad)
    columns, values = [], []
    for place in kept:
        column, numbers = _column(names[place], cells[place], where)
        columns.append(column)
        values.append(numbers)
    rows = np.stack(values, axis=1).astype("float32")
    good = _finite(rows, [column.name for column in columns], options, where, found.bad)
    found.columns, found.records = tuple(columns), {"all": rows[good]}
    found.keys = {"all": content_keys(np.ascontiguousarray(rows[good]))}
    if options.label:
        label, places = _column(
            options.label, [None if cell is None else str(cell) for cell in cells[names.index(options.label)]], where, True
        )
        if np.isnan(places).any():
            what = f"row {int(np.isnan(places).argmax())} has no label"
            raise Refusal("data", what, f"data.label = {options.label!r}", "each record has a class", "leave such rows out of the file")
        found.labels, found.classes = {"all": places[good].astype(np.int64)}, label.levels
    if found.bad:
        found.notes.append(("left out", f"{len(found.bad):,} rows, listed in bad_records.jsonl"))
    large = [
        column.name
        for column, numbers in zip(columns, values, strict=True)
        if column.kind == "number" and np.nanmax(np.abs(numbers), initial=0) > 2**24
    ]
    if large:
        found.notes.append(("note", f"numbers above 16,777,216 are rounded to seven digits: {', '.join(large[:5])}"))
    return found


def _column(name: str, cells: list, where: str, category: bool = False) -> tuple[Column, np.ndarray]:
    known = [cell for cell in cells if cell is not None]
    for kind, meaning in (("number", _number), ("date", _day)) if known and not category else ():
        values = [None if cell is None else meaning(cell) for cell in cells]
        if all(value is not None or cell is None for value, cell in zip(values, cells, strict=True)):
            return Column(name, kind), np.array([math.nan if value is None else value for value in values])
    levels = {level: place for place, level in enumerate(sorted({str(cell) for cell in known}))}
    if len(levels) > LEVELS:
        odd = next((str(cell) for cell in known if _number(cell) is None), "")
        why = f"more than {LEVELS:,} are no category; {odd[:40]!r}, for one, is neither a number nor a date"
        raise Refusal(
            "data", f"column {name!r} has {len(levels):,} different texts", where, why, f"--data.drop {name!r}, or make groups of them"
        )
    places = np.array([math.nan if cell is None else levels[str(cell)] for cell in cells])
    return Column(name, "category", tuple(levels)), places


def _finite(rows: np.ndarray, names: list[str], options, where: str, bad: list) -> np.ndarray:
    """Which rows hold no infinite number; the others are refused, or listed."""
    infinite = np.isinf(rows)
    for row in np.flatnonzero(infinite.any(axis=1)):
        column = int(infinite[row].argmax())
        name, why = f"row {row}", f"its value in column {names[column]!r} is {rows[row, column]}"
        if options.on_bad_record == "error":
            fix = "replace or remove it, or leave such rows out: --data.on-bad-record skip"
            raise Refusal("data", f"{name} is not finite", where, why, fix)
        bad.append({"name": name, "why": why})
    if infinite.any(axis=1).sum() > max(10, len(rows) // 100):
        raise Refusal("data", f"{int(infinite.any(axis=1).sum()):,} of {len(rows):,} rows are not finite", where)
    return ~infinite.any(axis=1)
