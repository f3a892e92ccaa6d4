"""Latent optimisation: on functions whose slope and top are known."""

import numpy as np
import pytest

from keras_vae import ascent

RANDOM = np.random.default_rng(0)
CODES = RANDOM.normal(size=(400, 3))


def hill(z) -> np.ndarray:
    """One at (1, 0, -1), and less around."""
    return np.exp(-0.2 * np.square(z - np.array([1.0, 0.0, -1.0])).sum(axis=1))


def test_a_head_explains_what_is_smooth_and_nothing_of_noise():
    head = ascent.fit(CODES, hill(CODES))
    assert head.explained > 0.97
    new = RANDOM.normal(size=(200, 3))
    assert 1.0 - np.square(head(new) - hill(new)).mean() / hill(new).var() == pytest.approx(head.explained, abs=0.03)
    assert ascent.fit(CODES, RANDOM.normal(size=400)).explained < 0.2


@pytest.mark.parametrize("values", [np.ones(400), hill(CODES)])
@pytest.mark.parametrize(
    "codes", [CODES, np.zeros((400, 3)), np.full((400, 3), 1.7), 1.7 + 1e-9 * CODES], ids=["", "zero", "equal", "near"]
)
def test_what_never_changes_is_fitted_too(codes, values):
    head = ascent.fit(codes, values)
    assert np.isfinite(head(codes)).all() and np.isfinite(head.slope(codes)).all() and head.explained <= 1.0
    assert head.explained < 0.1 or (np.ptp(values) > 0.0 and codes is CODES)


def test_copies_do_not_make_noise_known():
    values = RANDOM.normal(size=400)
    assert ascent.fit(np.tile(CODES, (3, 1)), np.tile(values, 3)).explained < 0.2


def test_the_slope_is_that_of_the_head():
    head, z, step = ascent.fit(CODES, hill(CODES)), RANDOM.normal(size=(5, 3)), 1e-5
    for axis in range(3):
        there, back = z.copy(), z.copy()
        there[:, axis] += step
        back[:, axis] -= step
        assert np.allclose((head(there) - head(back)) / (2.0 * step), head.slope(z)[:, axis], atol=1e-6)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_what_climbs_comes_near_the_top(sign):
    head, z = ascent.fit(CODES, hill(CODES)), RANDOM.normal(size=(20, 3))
    best, found, first = ascent.climb(head.slope, z, lambda z: z, hill, 50, 0.1, sign)
    assert np.array_equal(first, hill(z)) and np.array_equal(found, hill(best)) and (sign * (found - first) >= 0.0).all()
    assert found.min() > 0.95 if sign > 0 else found.mean() < 0.6 * first.mean()
    assert np.linalg.norm(best - z, axis=1).max() <= 50 * 0.1 + 1e-9


def test_what_has_no_property_is_passed_over():
    """Nothing to the right of x = 1/2 is a record: the best is the last before it; and of what never was one nothing is said."""
    measured = lambda z: np.where(z[:, 0] < 0.5, z[:, 0], np.nan)  # noqa: E731
    slope = lambda z: np.ones_like(z)  # noqa: E731
    best, found, first = ascent.climb(slope, np.array([[0.0], [0.7]]), lambda z: z, measured, 10, 0.1)
    assert found[0] == pytest.approx(0.4) and best[0, 0] == pytest.approx(0.4) and np.isnan(found[1]) and np.isnan(first[1])
