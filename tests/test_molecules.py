"""Molecules: how they are read, what generated ones are worth, and a whole run on those that come with RDKit."""

import io
import itertools
import json
import re
import sys
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_vae import chemistry, config, data
from keras_vae.errors import Refusal
from keras_vae.modalities.molecules import Molecules
from keras_vae.vocabulary import END, UNKNOWN, Vocabulary

pytest.importorskip("rdkit", reason="the extra `chem` is not installed")
pytest.importorskip("selfies", reason="the extra `chem` is not installed")

ASPIRIN, CAFFEINE, SALT = "CC(=O)Oc1ccccc1C(=O)O", "Cn1cnc2c1c(=O)n(C)c(=O)n2C", "[Na+].[Cl-]"
SOME = (ASPIRIN, CAFFEINE, "BrCCCl", "C[C@@H](N)C(=O)O", "C1CC%10CC1CC%10", "F/C=C/F", "c1ccncc1", "CCO", "CC(C)C", "OCC(O)CO")


def read(source, **options) -> data.Dataset:
    return data.load(config.Data(source=str(source), **options), log=lambda text: None)


def refused(source, **options) -> Refusal:
    with pytest.raises(Refusal) as found:
        read(source, **options)
    return found.value


def homologues(count: int = 40) -> list[str]:
    """Chains, of which no two are one molecule."""
    return ["C" * (number // 2 + 2) + ("O" if number % 2 else "N") for number in range(count)]


def write(path, lines) -> str:
    path.write_text("\n".join(lines))
    return f"smiles:{path}"


# ---- tokens


def test_smiles_are_cut_between_atoms_bonds_and_rings():
    known = Vocabulary.of("smiles", SOME, 100)
    assert {"Br", "Cl", "[C@@H]", "%10", "c", "=", "/"} <= set(known.tokens)
    assert "B" not in known.tokens and "r" not in known.tokens
    assert [known.sentence(known.numbers(text)) for text in SOME] == list(SOME)


@pytest.mark.parametrize("text", SOME)
def test_selfies_name_the_same_molecule(text):
    assert chemistry.canonical(chemistry.smiles(chemistry.selfies(text))) == chemistry.canonical(text)


def test_nearly_any_selfies_are_a_molecule_and_few_smiles_are():
    found = {}
    for kind in ("smiles", "selfies"):
        texts = [chemistry.selfies(text) for text in SOME] if kind == "selfies" else SOME
        modality, random = Molecules(12, Vocabulary.of(kind, texts, 100)), np.random.default_rng(0)
        raw = random.integers(1, modality.levels, (50, 12))  # unknown tokens too
        found[kind] = np.mean([chemistry.canonical(text) is not None for text in modality.texts(raw)])
    assert found["selfies"] > 0.95 and found["smiles"] < 0.5


@pytest.mark.parametrize("kind", ["smiles", "selfies"])
def test_tensorflow_cuts_molecules_as_python_does(kind):
    texts = [chemistry.selfies(text) for text in SOME] if kind == "selfies" else list(SOME)
    modality = Molecules(30, Vocabulary.of(kind, texts, 100))
    asked = [*texts, "", "[Xx]", texts[0] * 5]
    found = modality.from_bytes(tf.constant(asked))
    assert np.array_equal(found, modality.numbers(asked))
    assert [text.decode() for text in modality.to_bytes(found).numpy()] == [modality.vocabulary.sentence(row) for row in found.numpy()]


# ---- figures


def test_shares_are_counted_by_molecule_and_not_by_writing():
    made = ["CCO", "OCC", "CCN", "C1CC", "", "c1ccccc1"]  # two are one, two are none
    found = chemistry.figures(made, ["CCO", "c1ccccc1"], train=["NCC"])
    assert found["validity"] == pytest.approx(4 / 6) and "frechet" in found and found["uniqueness"] == pytest.approx(3 / 4)
    assert found["novelty"] == pytest.approx(2 / 3)


def test_of_nothing_valid_only_that_is_said():
    assert chemistry.figures(["C1CC", "x"], ["CCO"], ["CCO"]) == {"validity": 0.0, "uniqueness": 0.0}


def test_the_same_molecules_have_no_distance():
    found = chemistry.figures(list(SOME), list(SOME), train=[])
    assert abs(found["frechet"]) < 1e-6 and found["scaffolds"] == pytest.approx(1.0) and found["fragments"] == pytest.approx(1.0)
    assert found["novelty"] == 1.0
    for key in ("qed", "logp", "sa", "diversity"):
        assert found[key] == pytest.approx(found[f"known_{key}"])


def test_figures_are_those_of_the_literature():
    aspirin = chemistry.molecule(ASPIRIN)
    assert chemistry.qed(aspirin) == pytest.approx(0.55, abs=0.01)  # Bickerton et al. 2012
    assert chemistry.logp(aspirin) == pytest.approx(1.31, abs=0.01)
    assert chemistry.accessibility(aspirin) < 2.0 < chemistry.accessibility(chemistry.molecule("CC1(C)C2CCC1(C)C(=O)C2"))


def test_diversity_is_of_pairs():
    one, other = chemistry.molecule("CCO"), chemistry.molecule("c1ccccc1")
    assert chemistry.diversity([one] * 3) == pytest.approx(0.0, abs=1e-6)
    assert chemistry.diversity([one, other]) == pytest.approx(1.0)
    assert chemistry.diversity([one, one, other]) == pytest.approx(2 / 3)


def test_the_cosine_is_of_counts():
    assert chemistry.cosine(Counter("aab"), Counter("aab")) == pytest.approx(1.0)
    assert chemistry.cosine(Counter("aa"), Counter("b")) == 0.0 == chemistry.cosine(Counter(), Counter("b"))
    assert chemistry.cosine(Counter("ab"), Counter("a")) == pytest.approx(2**-0.5)


def test_the_distance_is_that_of_gaussians():
    """|m - n|^2 + tr(S + T - 2 (S T)^(1/2)) in closed form where both are diagonal, in deviations of both together."""
    random = np.random.default_rng(0)
    b = random.normal(size=(200000, 2)) * (1.0, 3.0)
    a = random.normal(size=(200000, 2)) * (2.0, 3.0) + (1.0, 6.0)
    variances = (1.0 + 4.0) / 2.0 + 0.25, 9.0 + 9.0  # within, and between the means
    expected = (1.0 + (2.0 - 1.0) ** 2) / variances[0] + 36.0 / variances[1]
    assert chemistry.frechet(a, b) == pytest.approx(expected, abs=0.02)


def test_what_does_not_vary_makes_no_distance_but_a_difference_does():
    same = np.full((5, 2), 46.069)
    assert chemistry.frechet(same, same + 1e-14) < 1e-6
    assert chemistry.frechet(np.array([[1.0, 2.0]] * 4 + [[9.0, 2.0]]), np.array([[1.0, 2.0]] * 5)) > 0.1


@pytest.mark.parametrize("made, known", [(["CCO", *["C1"] * 9], ["CCO", "CCCN"]), (["CCO", "CCN"], ["x"]), (["CCO"], ["CCO"])])
def test_of_few_molecules_what_can_be_said_is_finite(made, known):
    found = chemistry.figures(made, known, [])
    assert all(np.isfinite(value) for value in found.values()) and "frechet" not in found


def test_scaffolds_have_two_rings_and_fragments_are_counted_each():
    biphenyl, toluene, ester = map(chemistry.molecule, ("c1ccccc1-c1ccccc1", "Cc1ccccc1", "CCOC(=O)CCC(=O)OCC"))
    assert len(chemistry.scaffolds([biphenyl, toluene])) == 1
    assert Counter(chemistry.fragments([ester])).most_common(1)[0][1] == 2


def test_pictures_have_a_field_for_each_also_for_none():
    found = Image.open(io.BytesIO(chemistry.picture([ASPIRIN, "C1CC", CAFFEINE], columns=2, side=100)))
    assert found.size == (200, 200)
    fields = [np.asarray(found.convert("L"))[y : y + 100, x : x + 100] for y, x in itertools.product((0, 100), repeat=2)]
    assert [bool((field < 250).any()) for field in fields] == [True, False, True, False]


@pytest.mark.parametrize("name", ["rdkit", "selfies"])
def test_the_missing_extra_is_named(name, monkeypatch, tmp_path):
    for module in [module for module in sys.modules if module.partition(".")[0] == name]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, name, None)
    found = refused(write(tmp_path / "a.smi", homologues()), tokens="selfies")
    assert found.kind == "environment" and found.fix == "pip install -e '.[chem]'" and name in found.what


# ---- files


def test_the_molecules_of_a_file_are_a_data_set(tmp_path):
    lines = [f"{text} name-{number}" for number, text in enumerate(homologues())]
    found = read(write(tmp_path / "a.smi", lines))
    texts = [text for raw in (found.train, found.validation, found.test) for text in found.modality.texts(raw[:])]
    assert sorted(texts) == sorted(homologues()) and found.modality.vocabulary.kind == "smiles"
    assert found.decided["tokens"] == "smiles" and any(label == "molecules" for label, _ in found.card())


def test_the_first_column_of_a_table_may_hold_them(tmp_path):
    (tmp_path / "train.csv").write_text("\n".join(["canonical_smiles,logp", *(f"{text},1.5" for text in homologues())]))
    found = read(f"smiles:{tmp_path}")
    assert sum(map(len, (found.train, found.validation, found.test))) == 40 and not found.bad


def test_selfies_are_read_from_smiles_and_written_as_such(tmp_path):
    found = read(write(tmp_path / "a.smi", homologues()), tokens="selfies")
    texts = [text for raw in (found.train, found.validation, found.test) for text in found.modality.texts(raw[:])]
    assert sorted(texts) == sorted(homologues()) and set(found.modality.vocabulary.tokens) == {END, UNKNOWN, "[C]", "[N]", "[O]"}
    (tmp_path / "b.smi").write_text("CCO\nCCCN\n")
    raw = data.read(tmp_path / "b.smi", found.modality, config.Data())
    assert found.modality.write(raw).decode() == "CCO\nCCCN\n"


@pytest.mark.parametrize(
    "source, tokens, fits", [("pydoc", "smiles", "words"), ("nci", "words", "smiles, selfies"), ("nci", "pieces", "smiles, selfies")]
)
def test_tokens_of_other_records_are_refused(source, tokens, fits):
    found = refused(source, tokens=tokens)
    assert found.kind == "usage" and found.where == "data.tokens" and fits in found.fix


def test_D22_what_is_no_molecule_stops_the_start_or_is_left_out_and_listed(tmp_path, capfd):
    """Invalid SMILES: refused with the line, or left out, counted and listed; RDKit says nothing itself"""
    source = write(tmp_path / "a.smi", [*homologues(), "C1CC", "xyz"])
    found = refused(source)
    assert found.kind == "data" and "line 41" in found.what and "C1CC is no molecule" in found.why and "skip" in found.fix
    found = read(source, on_bad_record="skip")
    assert [record["name"] for record in found.bad] == ["a.smi, line 41", "a.smi, line 42"] and sum(
        map(len, (found.train, found.validation, found.test))
    ) == 40
    assert ("left out", "2 lines that hold no molecule, listed in bad_records.jsonl") in found.notes
    assert "SMILES Parse Error" not in capfd.readouterr().err
    assert refused(write(tmp_path / "b.smi", [*homologues(), *["C1CC"] * 11]), on_bad_record="skip").what.startswith("11 of 51 lines")


def test_a_pentavalent_nitrogen_is_written_as_rdkit_mends_it(tmp_path):
    found = read(write(tmp_path / "a.smi", [*homologues(), "CN(=O)=O"]), tokens="selfies")
    assert chemistry.selfies("CN(=O)=O") is None and sum(map(len, (found.train, found.validation, found.test))) == 41


def test_lines_from_outside_keep_their_numbers_and_are_not_cut(tmp_path):
    modality = Molecules(6, Vocabulary.of("smiles", SOME, 100))
    (tmp_path / "a.smi").write_text("CCO\n\nOCC name\n")
    assert modality.texts(data.read(tmp_path / "a.smi", modality, config.Data())) == ["CCO", "", "OCC"]
    (tmp_path / "a.smi").write_text("C" * 9)
    with pytest.raises(Refusal, match="a molecule has 9 tokens"):
        data.read(tmp_path / "a.smi", modality, config.Data())
    assert np.array_equal(modality.from_bytes(tf.constant(["OCC name"])), modality.numbers(["OCC"]))


def test_the_data_is_another_where_molecules_are_written_otherwise(tmp_path):
    write(tmp_path / "a.smi", homologues()), write(tmp_path / "b.smi", [text[::-1] for text in homologues()])
    assert len({read(f"smiles:{tmp_path / name}").fingerprint for name in ("a.smi", "b.smi")}) == 2


def test_D22_one_molecule_written_in_two_ways_is_in_one_split(tmp_path):
    """Duplicates, also under another SMILES, share a split and are counted"""
    found = read(write(tmp_path / "a.smi", [*homologues(), *(text[::-1] for text in homologues())]))
    splits = [{chemistry.canonical(text) for text in found.modality.texts(raw[:])} for raw in (found.train, found.validation, found.test)]
    assert not splits[0] & splits[1] and not splits[0] & splits[2] and not splits[1] & splits[2]
    assert any(label == "duplicates" and "40 of 80" in text for label, text in found.notes)


def test_D22_salts_are_kept_and_very_large_molecules_left_out(tmp_path):
    """A salt is a record of several parts; a molecule of five hundred atoms is left out and counted, not cut"""
    found = read(write(tmp_path / "a.smi", [*homologues(), SALT, "C" * 500]))
    texts = [text for raw in (found.train, found.validation, found.test) for text in found.modality.texts(raw[:])]
    assert SALT in texts or any(UNKNOWN in text for text in texts)
    assert len(texts) == 41 and max(map(len, texts)) < 100
    assert ("left out", "1 of 42 molecules of more than 127 tokens; --data.length allows more") in found.notes


def test_D22_an_empty_file_is_refused(tmp_path):
    """A file without lines, and one of nothing but empty ones"""
    for content in ("", "\n \n"):
        (tmp_path / "a.smi").write_text(content)
        assert refused(f"smiles:{tmp_path / 'a.smi'}").kind == "data"


# ---- a run

SMALL = "embedding=8, units=24, widths=(16,)"


@pytest.fixture(scope="module")
def run(python, train_py, tmp_path_factory):
    """The folder of a run on the molecules that come with RDKit."""
    place = tmp_path_factory.mktemp("runs")
    networks = ("--model.encoder", f"Recurrent({SMALL})", "--model.decoder", f"Recurrent({SMALL})", "--data.length", "24")
    steps = ("--training.steps", "60", "--evaluation.samples", "2", "--optimizer.learning-rate", "0.01", "--devices.jit", "off")
    done = python(train_py, "--data.source", "nci", "--data.tokens", "selfies", "--name", "made", *networks, *steps, cwd=place)
    assert done.returncode == 0, done.stderr + done.stdout
    return place / "saved_models" / "made"


@pytest.mark.slow
def test_a_run_on_molecules_ends_with_everything(run):
    found = json.loads((run / "report.json").read_text())["molecules"]
    assert found["validity"] > 0.95 and 0.0 < found["uniqueness"] <= 1.0 and 0.0 < found["novelty"] <= 1.0
    assert 0.0 < found["qed"] < 1.0 and np.isfinite(found["frechet"])
    for name in ("samples.png", "reconstructions.png", "interpolations.png", "traversals.png"):
        assert (np.asarray(Image.open(run / "pictures" / name).convert("L")) < 250).any()
    assert all(chemistry.canonical(text) is not None for text in (run / "pictures" / "samples.txt").read_text().splitlines() if text)
    page = (run / "report.html").read_text()
    assert "drug-likeness" in page and "To read" in page and "novelty" in page


@pytest.mark.slow
def test_verbs_read_and_write_smiles(run, python, tmp_path):
    (tmp_path / "given.smi").write_text(f"{ASPIRIN}\nCCO\n")
    for verb, options in (("reconstruct", ["--input", str(tmp_path / "given.smi")]), ("sample", ["--count", "4"])):
        done = python("-m", "keras_vae", verb, str(run), *options, "--output", str(tmp_path / verb))
        assert done.returncode == 0, done.stderr + done.stdout
    written = (tmp_path / "reconstruct" / "reconstructions.txt").read_text().splitlines()
    assert chemistry.canonical(written[2]) == "CCO" and len(written) == 4
    assert len((tmp_path / "sample" / "samples.txt").read_text().splitlines()) == 4
    (tmp_path / "given.smi").write_text("C1CC\n")
    done = python("-m", "keras_vae", "encode", str(run), "--input", str(tmp_path / "given.smi"))
    assert done.returncode == 3 and "a line holds no molecule" in done.stderr and "C1CC" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("lower", [False, True])
def test_molecules_are_moved_towards_a_property(lower, run, python, tmp_path):
    options = ["--property", "logp", "--count", "12", "--steps", "20", "--size", "0.5", "--output", str(tmp_path), *["--lower"] * lower]
    done = python("-m", "keras_vae", "optimize", str(run), *options)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "of the variance" in done.stdout and "records: " in done.stdout
    header, *lines = (line.split(",") for line in (tmp_path / "optimized.csv").read_text().splitlines())
    assert header == ["given", "given_logp", "decoded_logp", "optimized", "optimized_logp"] and len(lines) == 12
    for given, before, _, made, after in lines:
        assert float(before) == pytest.approx(chemistry.logp(chemistry.molecule(given)), rel=1e-4, abs=1e-4)
        assert after == "nan" or float(after) == pytest.approx(chemistry.logp(chemistry.molecule(made)), rel=1e-4, abs=1e-4)
    decoded, best = (float(word) for word in re.search(r"([-\d.]+) decoded, ([-\d.]+) the best", done.stdout).groups())
    assert best <= decoded if lower else best > decoded  # of a model that has hardly been trained, lower may be nowhere
    assert (
        np.load(tmp_path / "optimized.npy").shape[0] == 12 and (np.asarray(Image.open(tmp_path / "optimized.png").convert("L")) < 250).any()
    )


@pytest.mark.slow
def test_a_property_that_nobody_measures_is_refused(run, python):
    done = python("-m", "keras_vae", "optimize", str(run), "--property", "beauty")
    assert done.returncode == 2 and "'beauty' cannot be optimized" in done.stderr and "qed or logp or sa" in done.stderr
