"""Which setting to try next, given what others were worth.

A Gaussian process over the settings says what one is worth, and how sure that is; the next is the untried one that could be worth most
(Gaussian Process Optimization in the Bandit Setting; Srinivas et al. 2010). It is looked for among settings, not between them: the best
place between them, rounded, is in the end a setting that was tried already.
"""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor, kernels

BETA = 2.0  # spreads above the mean that a setting could be worth
DRAWN, VARIED = 500, 200  # candidates: drawn from all of the space, and near each of the best
BEST = 5
NEAR = 0.15  # how far a number is varied, as a share of its range
CHANGED = 3  # values of a setting that are varied, in the mean


def propose(space, tried: list[dict], worths: list[float | None], seed) -> dict | None:
    """The values of the next setting; None if none is found that was not tried. A worth is -inf of a setting that failed, None of one that
    is being tried: it counts as one in the middle until it is known."""
    chance = np.random.default_rng(seed)
    candidates, seen = [], {key(values) for values in tried}
    known = [number for number, worth in enumerate(worths) if worth is not None and worth > -np.inf]
    best = sorted(known, key=lambda number: -worths[number])[:BEST]
    for start in [None] * DRAWN + [tried[number] for number in best for _ in range(VARIED)]:
        values = draw(space, chance, start)
        if key(values) not in seen:
            seen.add(key(values))
            candidates.append(values)
    if not candidates:
        return None
    level = np.array([worths[number] for number in known])
    # What failed, or is worth far less than the middle, is bad; how bad does not matter, and would flatten all the rest.
    floor = 2.0 * np.median(level) - level.max()
    heights = [np.median(level) if worth is None else max(worth, floor) for worth in worths]
    model = process()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a length, or the noise, at the end of its range
        model.fit(np.array([columns(space, values) for values in tried]), np.array(heights))
    mean, spread = model.predict(np.array([columns(space, values) for values in candidates]), return_std=True)
    return candidates[int(np.argmax(mean + BETA * spread))]


def process() -> GaussianProcessRegressor:
    """Not yet fitted. One length for all columns: with one for each, thirty trials tell too little of twenty."""
    kernel = kernels.Matern(1.0, (0.1, 10.0), nu=2.5) + kernels.WhiteKernel(0.01, (1e-4, 1.0))
    return GaussianProcessRegressor(kernel, normalize_y=True, random_state=0)


def draw(space, chance, start: dict | None = None) -> dict:
    """A setting by chance, or one near `start`, of which some values are varied."""
    values = {}
    for dimension in space:
        if dimension.matters(values):
            old = None if start is None else start.get(dimension.name)
            share = chance.random()
            if old is not None:
                if chance.random() > CHANGED / len(space):
                    values[dimension.name] = old
                    continue
                if not dimension.choices:
                    share = np.clip(dimension.share(old) + NEAR * chance.normal(), 0.0, 1.0)
            values[dimension.name] = dimension.at(share)
    return values


def columns(space, values: dict) -> list[float]:
    """A setting as a point: a number by its share of the range, a choice among kinds by a column for each; 0 for what does not matter."""
    found = []
    for dimension in space:
        value = values.get(dimension.name)
        if dimension.ordered:
            found.append(0.0 if value is None else dimension.share(value))
        else:
            found += [float(choice == value) for choice in dimension.choices]
    return found


def key(values: dict) -> tuple:
    return tuple(sorted((name, repr(value)) for name, value in values.items()))
