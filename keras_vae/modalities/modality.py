"""What a kind of data is to the rest of the program."""

import math

import numpy as np
import tensorflow as tf


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
    reads = writes = ""  # what strings a SavedModel makes records of, and of records: wav, text
    assets = ()  # what TensorFlow has to keep for that
    beside = None  # of pairs, what the record beside each is
    pictures = True  # whether a record can be seen in a PNG
    judge = None  # (made, held-out, training raw records) -> what the made ones are worth, by name; None where nothing is known of that
    properties = ()  # what can be measured of a record, by name
    filed = False  # whether records are kept as a file beside the PNG, to be heard or read

    def apart(self, raw) -> tuple:
        """Raw records as they come, and what lies beside them."""
        return raw, None

    def known(self, x):
        """x without what it does not know."""
        return x

    def looks(self, x):
        """x [B, *shape] as classes of records are told apart, [B, ...], numbers."""
        return self.known(x)

    def measured(self, name: str, raw) -> np.ndarray:
        """One of the `properties` of raw records, [N]; NaN of what has none."""
        raise NotImplementedError

    def counted(self, x):
        """What of x makes up a record, [B, *shape], 1 or 0."""
        return tf.ones_like(x)

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

    def from_bytes(self, content):
        """Raw records of strings [N] of what is `served`, in ops."""
        raise NotImplementedError

    def to_bytes(self, raw):
        """Strings [N] of raw records, in ops."""
        raise NotImplementedError

    def networks(self) -> dict[str, str]:
        """The encoder and the decoder, where grids or rows are not what they are for."""
        return {}

    def free_bits(self) -> float:
        """Nats of each latent unit that cost nothing, where networks would say nothing by them otherwise."""
        return 0.0

    def asked(self) -> "Modality":
        """What a task may be given of these."""
        return self

    def power(self, x):
        """What the level of a noise counts in, [B, 1, ...] or a number."""
        return 1.0
