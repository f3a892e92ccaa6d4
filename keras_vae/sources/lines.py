"""text: and smiles:FILE or FOLDER, the lines of UTF-8 files, also compressed (.gz), as records: of sentences, and of molecules, where what
follows a space is no part of one; pydoc, sentences of the help that comes with Python; nci, molecules that come with RDKit.

In a folder, files whose names hold train, valid (or val, validation, dev) or test are the splits.
"""

import dataclasses
import gzip
import hashlib
import os
import re
import zlib

import numpy as np

from keras_vae import chemistry
from keras_vae.errors import Refusal
from keras_vae.records import SPLITS, Found, content_keys
from keras_vae.sources import arrays
from keras_vae.vocabulary import CUT, MOLECULES, Vocabulary

LONGEST = 2**16  # characters of a line
MOST = {"characters": 256, "words": 128, "pieces": 128, "smiles": 128, "selfies": 128}  # tokens of a record, where their number is chosen
SIZES = {"characters": 1000, "words": 10_000, "pieces": 4000, "smiles": 500, "selfies": 500}  # of a vocabulary, where it is chosen
ENDINGS = {"text": (".txt",), "smiles": (".smi", ".smiles", ".csv", ".txt")}
ODD = re.compile("[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")  # what some programs take for the end of a line
SPLIT_WORDS = {
    "train": "train",
    "valid": "validation",
    "val": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
}


def find(name: str, options, log, source: str = "text") -> Found:
    path, notes, found = os.path.expanduser(name), [], {}
    if not os.path.exists(path):
        raise Refusal("data", "cannot read the lines", where=name, why="there is no such file", fix=f"--data.source {source}:FILE")
    places = {place: _split(place) if os.path.isdir(path) else "all" for place in _files(path, name, source)}
    for place, split in places.items():
        if split == "all" and "train" in places.values():
            notes.append(("ignored", f"{os.path.basename(place)}, whose name says no split"))
            continue
        if split in found:
            why, fix = (
                f"{os.path.basename(place)} is another file of the {split} lines",
                "put them in one, or name them train, valid and test",
            )
            raise Refusal("data", "the lines are in more files than splits", name, why, fix)
        found[split] = _read(place, notes, empty=source == "smiles")
    named = {split: place for place, split in places.items()}
    return _found(found, notes, name, options, source, named)


def _split(place: str) -> str:
    """The split that a file's name says."""
    words = re.split(r"[\W_]+", os.path.basename(place).lower())
    return next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), "all")


def find_smiles(name: str, options, log) -> Found:
    return find(name, options, log, "smiles")


def find_nci(name: str, options, log) -> Found:
    """The first five thousand of the open collection of the National Cancer Institute."""
    place = os.path.join(chemistry.library().RDConfig.RDDataDir, "NCI", "first_5K.smi")
    return _found({"all": _read(place, notes := [])}, notes, "nci", dataclasses.replace(options, on_bad_record="skip"), "smiles")


def find_pydoc(name: str, options, log) -> Found:
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise Refusal("environment", "this Python came without its help texts", "data.source", fix="--data.source text:FILE") from None
    sentences = set()
    for paragraph in re.split(r"\n\s*\n", "\n\n".join(topics.values())):
        prose = " ".join(re.sub(r'[`*_"]+', " ", paragraph).lower().split())
        for sentence in re.split(r"(?<=[.?!:]) (?=[a-z(])", prose):
            words = re.findall(r"\w+(?:['-]\w+)*|[^\w\s]", sentence)
            if 4 <= len(words) <= 30 and sum(word[0].isalpha() for word in words) >= 0.8 * len(words):
                sentences.add(" ".join(words))
    return _found({"all": sorted(sentences)}, [], "pydoc", options, "text")


def read(path: str, modality, count: int | None = None) -> np.ndarray:
    """The first `count` lines of a file as tokens [N, T], or those of an array of tokens."""
    if path.lower().endswith((".npy", ".npz")):
        return arrays.read_rows_of(path, modality, count)
    if not os.path.isfile(path):
        raise Refusal("data", "cannot read the text", path, "there is no such file", "a file of lines, or a .npy file of tokens")
    lines, kind = _read(path, [], empty=True)[:count], modality.vocabulary.kind
    if kind in MOLECULES:
        lines = [molecule(line, kind, modality.length, path) for line in lines]
    return modality.numbers(lines)


def molecules(lines: list[str], kind: str, where: str, skip: bool = False) -> tuple[list[str], list[str], list[dict]]:
    """The molecules of lines, as SMILES or SELFIES, the canonical SMILES of each, and what is no record and why; empty lines are none.
    `Refusal` (data) for the first of these, or with `skip` for too many."""
    texts, canonical, bad = [], [], []
    for number, line in enumerate(lines, 1):
        smiles = re.split(r"[\s,;]", line)[0]
        if not smiles or (number == 1 and "smiles" in smiles.lower()):  # the head of a column
            continue
        one = chemistry.canonical(smiles)
        text = (chemistry.selfies(smiles) or chemistry.selfies(one)) if one and kind == "selfies" else smiles
        if one and text:
            texts.append(text), canonical.append(one)
            continue
        why = f"{smiles[:80]} {'cannot be written as SELFIES' if one else 'is no molecule to RDKit'}"
        bad.append({"name": f"{os.path.basename(where)}, line {number}", "why": why})
        if not skip:
            fix = "mend it, or leave such lines out: --data.on-bad-record skip"
            raise Refusal("data", f"line {number:,} holds no molecule", where, why, fix)
    if len(bad) > max(10, len(lines) // 100):
        raise Refusal("data", f"{len(bad):,} of {len(lines):,} lines hold no molecule", where, f"{bad[0]['name']}: {bad[0]['why']}")
    return texts, canonical, bad


def molecule(line: str, kind: str, length: int, where: str) -> str:
    """That of a line from outside, nothing of an empty one. `Refusal` (data) for what is none, or longer than a record."""
    try:
        text = "".join(molecules([line], kind, where)[0])
    except Refusal as refusal:
        raise Refusal("data", "a line holds no molecule", where, refusal.why) from None
    if (tokens := len(re.findall(CUT[kind], text))) >= length:
        raise Refusal("data", f"a molecule has {tokens} tokens", where, f"{line[:80]}: the model takes {length - 1} at most")
    return text


def _files(path: str, name: str, source: str) -> list[str]:
    if not os.path.isdir(path):
        return [path]
    endings = tuple(ending + more for ending in ENDINGS[source] for more in ("", ".gz"))
    places = sorted(os.path.join(path, file) for file in os.listdir(path) if file.endswith(endings))
    if not places:
        raise Refusal("data", "the folder has no such lines", where=name, fix=f"files end in {', '.join(endings)}")
    return places


def _read(path: str, notes: list, empty: bool = False) -> list[str]:
    """The lines of a file, but the `empty` ones only where they are asked for."""
    try:
        with gzip.open(path) if path.endswith(".gz") else open(path, "rb") as file:
            content = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise Refusal("data", "cannot read the text", where=path, why=str(error)[:200]) from None
    lines = content.removeprefix(b"\xef\xbb\xbf").splitlines()
    text = [ODD.sub(" ", line.decode("utf-8", "replace").replace("\0", "")).strip() for line in lines]
    damaged = sum("�" in line and "�".encode() not in raw for line, raw in zip(text, lines, strict=True))
    long = sum(len(line) > LONGEST for line in text)
    kept = [line[:LONGEST] for line in text if line or empty]
    what = os.path.basename(path)
    if damaged:
        notes.append(("converted", f"{damaged:,} lines of {what} are no UTF-8: what is none became �"))
    if long:
        notes.append(("cut", f"{long:,} lines of {what} after {LONGEST:,} characters"))
    if few := len(text) - len(kept):
        notes.append(("left out", f"{few:,} empty lines of {what}"))
    if not kept:
        raise Refusal("data", "the text has no lines", where=path)
    return kept


def _found(sentences: dict, notes: list, name: str, options, source: str, places: dict | None = None) -> Found:
    if not {"all", "train"} & set(sentences):
        raise Refusal("data", "there are no train lines", where=name, why=f"there are {', '.join(sentences)} only")
    kind = {"text": "words", "smiles": "smiles"}[source] if options.tokens == "auto" else options.tokens
    if (kind in MOLECULES) != (source == "smiles"):
        fits = [other for other in SIZES if (other in MOLECULES) == (source == "smiles")]
        raise Refusal("usage", f"data.tokens = {kind} means nothing for {source}", "data.tokens", fix=f"one of {', '.join(fits)}")
    found = Found({}, {}, levels=0, notes=notes, text=kind, decided={"tokens": kind})
    for split, lines in sentences.items():
        known = [" ".join(re.findall(CUT["words"], line)) for line in lines]  # spaces make no other sentence
        if source == "smiles":
            lines, known, bad = molecules(lines, kind, (places or {}).get(split, name), options.on_bad_record == "skip")
            if not lines:
                raise Refusal("data", "the file holds no molecules", (places or {}).get(split, name))
            found.bad += bad
            notes += [("left out", f"{len(bad):,} lines that hold no molecule, listed in bad_records.jsonl")] if bad else []
        found.records[split] = np.array(lines, object)
        digests = (hashlib.blake2b(text.encode(), digest_size=8).digest() for text in known)
        found.keys[split] = np.frombuffer(b"".join(digests), np.uint64)
    return found


def fit(found: Found, options):
    """(length, vocabulary, tokens [N, T] by split) of sentences by split, fitted on those of training."""
    kind, records, notes = found.text, found.records, found.notes
    vocabulary = Vocabulary.of(kind, records["train"], options.vocabulary or SIZES[kind])
    if len(vocabulary) < 3:
        raise Refusal("data", "the training lines have no token but <unk>", options.source)
    numbers = {split: [vocabulary.numbers(line) for line in records[split]] for split in SPLITS}
    most = max(len(line) for lines in numbers.values() for line in lines) + 1
    length = options.length or min(most, MOST[kind])
    long = {split: np.array([len(line) >= length for line in lines]) for split, lines in numbers.items()}
    if cut := sum(map(np.count_nonzero, long.values())):
        total = sum(map(len, numbers.values()))
        if kind in MOLECULES:  # a part of one is none
            for split in SPLITS:
                numbers[split] = [line for line, apart in zip(numbers[split], long[split], strict=True) if not apart]
                found.keys[split] = found.keys[split][~long[split]]
                if not numbers[split]:
                    raise Refusal("data", f"no molecule of the {split} split has {length - 1} tokens at most", "data.length")
            notes.append(("left out", f"{cut:,} of {total:,} molecules of more than {length - 1} tokens; --data.length allows more"))
        else:
            notes.append(("cut", f"{cut:,} of {total:,} sentences to {length - 1} {kind}; --data.length sets another length"))
    if kind in MOLECULES and options.length is None:
        length = max(len(line) for lines in numbers.values() for line in lines) + 1
    raw = {}
    for split, lines in numbers.items():
        raw[split] = np.zeros((len(lines), length), "int32")
        for row, line in zip(raw[split], lines, strict=True):
            row[: min(len(line), length - 1)] = line[: length - 1]
        if kind not in MOLECULES:  # of which one may be written in many ways
            found.keys[split] = content_keys(raw[split])
    return length, vocabulary, raw
