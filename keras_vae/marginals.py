"""A table beside the rows that a model makes: every column, and how they go together. One PNG."""

import io
import math

import numpy as np

SHOWN = 24  # columns
BARS = 12  # levels


def compare(table, real: np.ndarray, drawn: np.ndarray) -> bytes:
    """Raw rows [N, D] and [M, D] of a `tabular.Table`: the shares of each column, and the rank correlations of all."""
    from matplotlib.figure import Figure

    count = min(SHOWN, len(table.columns))
    across = min(4, count)
    down = math.ceil(count / across)
    figure = Figure(figsize=(2.6 * across + 3.2, max(1.9 * down, 4.2)), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(2.6 * across, 3.2))
    for place, axes in enumerate(left.subplots(down, across, squeeze=False).flat):
        if place >= count:
            axes.axis("off")
            continue
        _column(axes, table.columns[place], real[:, place], drawn[:, place])
    left.legend(handles=left.axes[0].containers[:2], labels=["test records", "samples"], loc="outside upper left", ncols=2, frameon=False)
    if len(table.columns) > 1:
        for axes, rows, title in zip(right.subplots(2, 1), (real, drawn), ("test records", "samples"), strict=True):
            image = axes.imshow(correlations(rows), cmap="RdBu_r", vmin=-1.0, vmax=1.0, interpolation="nearest")
            axes.set_title(f"rank correlations, {title}", fontsize=8)
            axes.set(xticks=[], yticks=[])
        right.colorbar(image, ax=right.axes, shrink=0.6)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110)
    return buffer.getvalue()


def _column(axes, column, real: np.ndarray, drawn: np.ndarray) -> None:
    known = [values[~np.isnan(values)] for values in (real, drawn)]
    if column.kind == "category":
        places = np.arange(min(BARS, len(column.levels)))
        for values, shift, color in zip(known, (-0.2, 0.2), ("0.6", "C0"), strict=True):
            shares = [(values == place).sum() / max(1, len(values)) for place in places]
            axes.bar(places + shift, shares, 0.4, color=color)
        axes.set_xticks(places, [_plain(column.levels[place], 8) for place in places], rotation=60, fontsize=5)
    else:
        together = np.concatenate(known)
        low, high = np.quantile(together, (0.002, 0.998)) if len(together) else (0.0, 1.0)
        edges = np.linspace(low, high if high > low else low + 1.0, 25)
        for values, color in zip(known, ("0.6", "C0"), strict=True):
            shares = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0] / max(1, len(values))
            axes.bar(edges[:-1], shares, np.diff(edges), align="edge", color=color, alpha=0.6)
    axes.set_title(_plain(column.name, 24), fontsize=8)
    axes.tick_params(labelsize=6)


def _plain(text, length: int) -> str:
    """The beginning of a text, in which a dollar sign begins no formula."""
    return str(text)[:length].replace("$", r"\$")


def correlations(rows: np.ndarray) -> np.ndarray:
    """Spearman's, of raw rows [N, D], gaps at the middle of their column; 0 where a column never changes."""
    middle = np.nan_to_num(np.nanmedian(np.where(np.isnan(rows).all(axis=0), 0.0, rows), axis=0))
    filled = np.where(np.isnan(rows), middle, rows)
    ranks = np.stack([_ranks(column) for column in filled.T], axis=1)
    deviations = ranks.std(axis=0)
    scaled = (ranks - ranks.mean(axis=0)) / np.where(deviations > 0.0, deviations, np.inf)
    return scaled.T @ scaled / len(rows)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Equal values share the middle of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - 0.5 * (counts + 1))[inverse]
