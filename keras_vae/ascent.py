"""Latent optimisation: records moved in the latent towards more, or less, of a property.

Automatic Chemical Design Using a Data-Driven Continuous Representation of Molecules (Gomez-Bombarelli et al. 2018).
"""

from typing import NamedTuple

import numpy as np

RECORDS, FEWEST = 4000, 50  # training records that a head is fitted on, at most and at least
HELD_OUT = 10  # one record of so many chooses the ridge, and another says what the head explains
RIDGES = (0.001, 0.01, 0.1, 1.0, 10.0)


class Head(NamedTuple):
    """A property of z [N, D]: f(z) = mean + sum_i a_i exp(-gamma |z - z_i|^2)."""

    codes: np.ndarray  # z_i [n, D]
    weights: np.ndarray  # a_i [n]
    gamma: float
    mean: float
    explained: float  # share of the variance of records held out, at most 1

    def __call__(self, z) -> np.ndarray:
        """f(z), [N]."""
        return self.mean + self._kernel(z) @ self.weights

    def slope(self, z) -> np.ndarray:
        """df / dz, [N, D]."""
        parts = self._kernel(z) * self.weights
        return 2.0 * self.gamma * (parts @ self.codes - parts.sum(axis=1, keepdims=True) * z)

    def _kernel(self, z) -> np.ndarray:
        return np.exp(-self.gamma * _squared(z, self.codes))


def _squared(a, b) -> np.ndarray:
    """|a_i - b_j|^2, [N, M]."""
    return np.maximum(np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1) - 2.0 * a @ b.T, 0.0)


def fit(codes: np.ndarray, values: np.ndarray) -> Head:
    """The kernel ridge regression of values [n] on codes [n, D], each code once: gamma from the median distance, the ridge from what it
    explains of a tenth of the records; what is said to be explained is of another tenth."""
    codes, first = np.unique(codes.astype("float64"), axis=0, return_index=True)
    values, places = values.astype("float64")[first], np.random.default_rng(0).permutation(len(codes)) % HELD_OUT
    if len(codes) < HELD_OUT:  # they hardly differ, and say nothing
        return Head(codes, np.zeros(len(codes)), 1.0, float(values.mean()), 0.0)
    chosen_by, judged_by = places == 0, places == HELD_OUT // 2
    fitted = ~(chosen_by | judged_by)
    distances, least = _squared(codes[:500], codes[:500]), 1e-10 * max(1.0, float(np.square(codes).mean()))
    gamma = 0.5 / max(float(np.median(distances)), least)
    z, mean = codes[fitted], float(values[fitted].mean())
    kernel, heads = np.exp(-gamma * _squared(z, z)), []
    for ridge in RIDGES:
        head = Head(z, np.linalg.solve(kernel + ridge * np.eye(len(z)), values[fitted] - mean), gamma, mean, 0.0)
        heads.append((_explained(head, codes[chosen_by], values[chosen_by]), ridge, head))
    head = max(heads, key=lambda found: found[:2])[2]
    return head._replace(explained=_explained(head, codes[judged_by], values[judged_by]))


def _explained(head: Head, z, values) -> float:
    """1 - squared errors / variance; 0 where values do not vary."""
    variance = float(values.var()) if len(values) else 0.0
    return 1.0 - float(np.square(head(z) - values).mean()) / variance if variance > 1e-12 else 0.0


def climb(slope, z: np.ndarray, decode, measured, steps: int, size: float, sign: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best raw records [N, *raw] on the way from z [N, D], so many steps of length `size` along `slope(z)`, and their property [N],
    `measured(decode(z))`, NaN where none has any; and that of z itself. `sign` = -1: down the slope, and the least is the best."""
    best = decode(z)
    first = found = measured(best)
    for _ in range(steps):
        direction = sign * slope(z)
        z = z + size * direction / np.maximum(np.linalg.norm(direction, axis=1, keepdims=True), 1e-12)
        raw = decode(z)
        value = measured(raw)
        better = np.isfinite(value) & ~(sign * found >= sign * value)
        best = np.where(better.reshape(-1, *[1] * (raw.ndim - 1)), raw, best)
        found = np.where(better, value, found)
    return best, found, first
