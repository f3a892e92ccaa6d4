"""Text: sentences of so many tokens at most."""

import dataclasses
import functools
import math
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from keras_vae.distributions import sentences
from keras_vae.errors import Refusal
from keras_vae.modalities.modality import Modality
from keras_vae.vocabulary import Vocabulary


@dataclass(frozen=True)
class Text(Modality):
    """Raw tokens [T], the numbers of their places in a vocabulary, as x = k / (levels - 1) [T, 1]: classes without an order. Token 0 ends a
    sentence and fills what is left of a record, so that the end is a part of what is modelled."""

    length: int  # tokens, the end of the longest sentence included
    vocabulary: Vocabulary = dataclasses.field(repr=False)

    suffix, raw_dtype, ordered, writes = "txt", "int32", False, "text"
    pictures, filed, x_bounds = False, True, (0.0, 1.0)
    records = "sentences"

    @classmethod
    def of(cls, values: dict) -> "Text":
        """What `dataclasses.asdict` made of one, and JSON of that."""
        known = values["vocabulary"]
        merges = tuple(tuple(pair) for pair in known["merges"])
        return cls(values["length"], Vocabulary(known["kind"], tuple(known["tokens"]), merges))

    def __post_init__(self):
        if type(self.length) is not int or self.length < 2 or len(self.vocabulary) < 3:
            raise ValueError("text needs two tokens a record and three in its vocabulary, at least")

    @property
    def levels(self) -> int:
        return len(self.vocabulary)

    x_levels = levels

    @property
    def raw_shape(self) -> tuple:
        return (self.length,)

    @property
    def shape(self) -> tuple:
        return (self.length, 1)

    @property
    def reads(self) -> str:
        return "" if self.vocabulary.kind == "pieces" else "text"

    @functools.cached_property
    def assets(self):
        """The tokens by their names."""
        places = self.vocabulary.places
        entries = tf.lookup.KeyValueTensorInitializer(list(places), list(places.values()), tf.string, tf.int32)
        return tf.lookup.StaticHashTable(entries, 1)

    def from_bytes(self, content) -> tf.Tensor:
        """UTF-8 sentences [B] -> raw [B, T]; one that is too long is cut."""
        content = tf.strings.regex_replace(content, r"^[\s\p{Z}]+|[\s\p{Z}]+$", "")
        numbers = tf.ragged.map_flat_values(self.assets.lookup, self._cut(content))
        return tf.pad(numbers.to_tensor(0, shape=(None, self.length - 1)), ((0, 0), (0, 1)))

    def _cut(self, content):
        """The tokens of sentences [B], ragged."""
        return tf.strings.unicode_split(content, "UTF-8") if self.vocabulary.kind == "characters" else tf.strings.split(content)

    def to_bytes(self, raw) -> tf.Tensor:
        """raw [B, T] -> UTF-8 sentences [B]."""
        kept = tf.cumsum(tf.cast(raw == 0, tf.int32), axis=1) == 0
        tokens = tf.ragged.boolean_mask(tf.gather(tf.constant(self.vocabulary.tokens), raw), kept)
        sentence = tf.strings.reduce_join(tokens, axis=-1, separator=" " if self.vocabulary.kind == "words" else "")
        return tf.strings.strip(tf.strings.regex_replace(sentence, "▁", " ")) if self.vocabulary.kind == "pieces" else sentence

    def counted(self, x) -> tf.Tensor:
        """The places up to the end of each sentence."""
        return tf.cast(sentences.within(sentences.numbers(x, self.levels - 1)), tf.float32)[..., None]

    def free_bits(self) -> float:
        """A decoder that sees the words before does without a latent, if it may."""
        return 0.2

    def encode(self, raw, seed=None) -> tf.Tensor:
        """raw [B, T] -> x, float32."""
        return tf.cast(raw, tf.float32)[..., None] / (self.levels - 1)

    scale = encode

    def decode(self, x) -> tf.Tensor:
        """x -> raw [B, T]; what follows an end is nothing."""
        raw = tf.cast(tf.round(tf.clip_by_value(x[..., 0], 0.0, 1.0) * (self.levels - 1)), tf.int32)
        return tf.where(tf.cumsum(tf.cast(raw == 0, tf.int32), axis=1) == 0, raw, 0)

    def for_restoration(self) -> "Text":
        """`Refusal` (usage): there is no noise of words."""
        raise Refusal("usage", "restorations are of images, clips and waveforms", "task", "the records are sentences", "another --task")

    def numbers(self, sentences) -> np.ndarray:
        """Sentences -> raw [N, T]; one that is too long is cut before its end."""
        raw = np.zeros((len(sentences), self.length), "int32")
        for row, sentence in zip(raw, sentences, strict=True):
            found = self.vocabulary.numbers(sentence)[: self.length - 1]
            row[: len(found)] = found
        return raw

    def check(self, raw, where: str) -> np.ndarray:
        """Raw records from outside, as an array of the right type; `Refusal` (data) says what is wrong with them."""
        raw = np.asarray(raw)
        if raw.ndim != 2 or raw.shape[1] != self.length or not len(raw):
            raise Refusal("data", f"the records have the shape {list(raw.shape)}", where, f"the model takes [N, {self.length}] tokens")
        if raw.dtype.kind not in "iu" or raw.min() < 0 or raw.max() >= self.levels:
            ends = f" from {raw.min()} to {raw.max()}" if raw.dtype.kind in "iuf" else ""
            raise Refusal("data", f"the records are {raw.dtype}{ends}", where, f"the model takes numbers of tokens, 0 to {self.levels - 1}")
        return raw.astype("int32")

    def checks(self, raw) -> list:
        """Ops that fail where there is no such token."""
        said = f"a token is a number from 0 to {self.levels - 1}"
        return [tf.debugging.assert_less(raw, self.levels, said), tf.debugging.assert_non_negative(raw, said)]

    def difference(self, served: np.ndarray, live: np.ndarray) -> float:
        """The share of the sentences that differ: where two tokens are nearly alike, a rounding may turn one, and then what follows it."""
        if served.shape != live.shape:
            return math.inf
        other = np.abs(served - live) > 0.5 / (self.levels - 1)  # of raw tokens as of x
        apart = float(other.any(axis=1).mean()) if len(live) else 0.0
        return 0.0 if apart <= 0.1 else apart

    def likelihood(self) -> tuple[str, str]:
        """The one for these records, and why."""
        return f"Tokens(levels={self.levels})", f"one of {self.levels:,} tokens at each place"

    def networks(self) -> dict[str, str]:
        """The encoder and the decoder for these records."""
        return {"encoder": f"Recurrent(levels={self.levels})", "decoder": f"Recurrent(levels={self.levels})"}

    def augmentation(self) -> str:
        """What may happen to a record of few."""
        return "none"

    def card(self, seen: np.ndarray, looked: str) -> list[tuple[str, str]]:
        """What a person should see of the sentences, given training records; `looked` says which they are."""
        lengths, others = (seen > 0).sum(axis=1), (seen == 1).sum() / max(1, (seen > 0).sum())
        size = f"{lengths.mean():.1f} {self.tokens} in the mean, {lengths.max()} at most, {looked}; a record has {self.length}"
        return [
            (self.records, size),
            ("vocabulary", f"{self.levels:,} {self.tokens}; {others:.2%} of what is read are others"),
            ("first", "; ".join(text[:60] for text in self.texts(seen[:2]))),
        ]

    @property
    def tokens(self) -> str:
        """What a record consists of, for a message."""
        return self.vocabulary.kind

    def write(self, raw, columns: int | None = None) -> bytes:
        """A sentence a line, UTF-8."""
        return "".join(f"{text}\n" for text in self.texts(raw)).encode()

    def texts(self, raw) -> list[str]:
        """Raw records as sentences."""
        return [self.vocabulary.sentence(row) for row in np.asarray(raw)]
