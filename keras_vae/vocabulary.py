"""Sentences as numbers: characters, words, pieces of words (byte-pair encoding; extra `text`), or what molecules are written with."""

import functools
import re
from collections import Counter
from dataclasses import dataclass

import numpy as np

from keras_vae.errors import Refusal

END, UNKNOWN = "<end>", "<unk>"  # the first two of a vocabulary; the end also fills what is left of a record
CUT = {  # kind -> its tokens
    "words": r"[^ \t\n\r\f\v]+",  # between what TensorFlow's ops divide words at
    "characters": r".",
    "smiles": r"\[[^\]]*\]|Br|Cl|%[0-9][0-9]|.",  # atoms in brackets and of two letters, rings of two digits, all else
    "selfies": r"\[[^\]]*\]|.",
}
MOLECULES = ("smiles", "selfies")


@dataclass(frozen=True)
class Vocabulary:
    """`kind`: words (what stands between spaces), pieces of them, which `merges` make in the order they were learned in, characters, or the
    atoms, bonds and rings of SMILES or SELFIES."""

    kind: str
    tokens: tuple[str, ...]
    merges: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, kind: str, sentences, most: int) -> "Vocabulary":
        """Of training sentences, the most frequent tokens first, at most so many with the two that are always there."""
        if kind == "pieces":
            return cls._of_pieces(sentences, most)
        counts = Counter(token for sentence in sentences for token in _split(kind, sentence))
        for token in (END, UNKNOWN):  # corpora may have them already
            counts.pop(token, None)
        ranked = sorted(counts, key=lambda token: (-counts[token], token))
        return cls(kind, (END, UNKNOWN, *ranked[: most - 2]))

    @classmethod
    def _of_pieces(cls, sentences, most: int) -> "Vocabulary":
        import json

        tokenizer = library().Tokenizer(library().models.BPE(unk_token=UNKNOWN))
        tokenizer.pre_tokenizer = library().pre_tokenizers.Metaspace()
        options = {"special_tokens": [END, UNKNOWN], "limit_alphabet": most - 2, "show_progress": False}
        trainer = library().trainers.BpeTrainer(vocab_size=most, **options)
        tokenizer.train_from_iterator(sentences, trainer)
        model = json.loads(tokenizer.to_str())["model"]
        merges = tuple(tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in model["merges"])
        merges = tuple(pair for pair in merges if "".join(pair) != END)  # no piece ends a sentence
        return cls("pieces", tuple(sorted(model["vocab"], key=model["vocab"].get)), merges)

    def __len__(self) -> int:
        return len(self.tokens)

    @functools.cached_property
    def places(self) -> dict[str, int]:
        """Of all tokens but the end, which no sentence may hold."""
        return {token: place for place, token in enumerate(self.tokens) if place}

    def numbers(self, sentence: str) -> list[int]:
        """The tokens of a sentence, without an end."""
        if self.kind == "pieces":
            return self._tokenizer.encode(sentence).ids
        return [self.places.get(token, 1) for token in _split(self.kind, sentence)]

    def sentence(self, numbers) -> str:
        """Up to the first end."""
        numbers = np.asarray(numbers)
        ends = np.flatnonzero(numbers == 0)
        words = [self.tokens[number] for number in numbers[: ends[0] if len(ends) else None]]
        if self.kind == "pieces":
            return "".join(words).replace("▁", " ").strip()
        return (" " if self.kind == "words" else "").join(words)

    @functools.cached_property
    def _tokenizer(self):
        tokenizer = library().Tokenizer(library().models.BPE({END: 0, **self.places}, list(self.merges), unk_token=UNKNOWN))
        tokenizer.pre_tokenizer = library().pre_tokenizers.Metaspace()
        return tokenizer


def _split(kind: str, sentence: str) -> list[str]:
    return re.findall(CUT[kind], sentence, re.DOTALL)


def library():
    """tokenizers. `Refusal` (environment) where the extra is not installed."""
    try:
        import tokenizers
    except ImportError as error:
        raise Refusal("environment", "pieces of words need tokenizers", why=str(error)[:200], fix="pip install -e '.[text]'") from None
    return tokenizers
