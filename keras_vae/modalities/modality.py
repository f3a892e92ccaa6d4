"""What a kind of data is to the rest of the program."""

import math

import numpy as np


class Modality:
    """The contract, and what most kinds answer.

    `encode(raw, seed)` makes x [B, *shape], float32, of raw records [B, *raw_shape], and `decode(x)` raw ones; `scale(raw)` is `encode`
    without a draw. `check(raw, where)` takes records from outside, `checks(raw)` are the ops that refuse them in a SavedModel, `write(raw)`
    makes a file of them, of the type `suffix`, and `draw(x)` a PNG. `likelihood()` and `augmentation()` are what is chosen where the user
    says nothing, `card(seen, looked)` what he is told.
    """

    shape: tuple  # of x
    raw_shape: tuple
    raw_dtype = "float32"
    x_bounds = (-math.inf, math.inf)
    levels = x_levels = 0  # how many values an element of raw and of x can take; 0: continuous
    level_width = None  # how far two levels lie apart in x; None: there are no bits per dimension
    ordered = True  # whether a value lies between its neighbours
    fidelity = "psnr"  # how near an answer comes to x: psnr, si_sdr or rmse (`metrics`)
    beside = None  # of pairs, what the record beside each is

    def apart(self, raw) -> tuple:
        """Raw records as they come, and what lies beside them."""
        return raw, None

    def known(self, x):
        """x without what it does not know."""
        return x

    def examples(self, raw) -> np.ndarray:
        """Raw records as ones without gaps."""
        return raw

    def for_anomalies(self, train) -> "Modality":
        """As records are scored best."""
        return self

    def for_restoration(self) -> "Modality":
        """As records are restored best."""
        return self

    def rarity(self, x):
        """What the value of each element alone adds to the score of an anomaly, [B, *shape], nats; None for nothing."""
        return None

    def asked(self) -> "Modality":
        """What a task may be given of these."""
        return self

    def power(self, x):
        """What the level of a noise counts in, [B, 1, ...] or a number."""
        return 1.0
