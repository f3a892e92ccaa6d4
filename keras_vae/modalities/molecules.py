"""Molecules: sentences of the tokens of SMILES or SELFIES."""

import numpy as np
import tensorflow as tf

from keras_vae import chemistry
from keras_vae.modalities.text import Text
from keras_vae.vocabulary import CUT, UNKNOWN


class Molecules(Text):
    """Raw tokens [T] as `Text` has them; what is written and drawn of them is SMILES."""

    pictures, records, tokens, properties = True, "molecules", "tokens", tuple(chemistry.PROPERTIES)

    def _cut(self, content):
        molecule = tf.strings.regex_replace(content, r"\s.*$", "")  # what follows is a name
        return tf.strings.split(tf.strings.regex_replace(molecule, f"({CUT[self.vocabulary.kind]})", r"\1 "))

    def texts(self, raw) -> list[str]:
        """Raw records as SMILES."""
        found = super().texts(raw)
        return [chemistry.smiles(text.replace(UNKNOWN, "")) for text in found] if self.vocabulary.kind == "selfies" else found

    def measured(self, name, raw) -> np.ndarray:
        molecules, unknown = map(chemistry.molecule, self.texts(raw)), (np.asarray(raw) == 1).any(axis=1)
        found = [np.nan if one is None else chemistry.PROPERTIES[name](one) for one in molecules]
        return np.where(unknown, np.nan, found)

    def draw(self, x, columns: int | None = None) -> bytes:
        """One PNG with the structures of all molecules, row by row."""
        return chemistry.picture(self.texts(self.decode(tf.convert_to_tensor(x, tf.float32))), columns or 8)

    def judge(self, made, known, train) -> dict[str, float]:
        """`chemistry.figures`, of the known ones those of which every token is in the vocabulary."""
        known, train = (raw[~(np.asarray(raw) == 1).any(axis=1)] for raw in (known, train))
        return chemistry.figures(*map(self.texts, (made, known, train)))
