"""Tables: what is read of files, how a row becomes x and back, what scores it, what fills it, and whole runs on them."""

import dataclasses
import gzip
import itertools
import json
import os
import zipfile

import numpy as np
import pytest
import tensorflow as tf
from helpers import build, difference, gradients, in_fresh_process
from scipy import stats
from test_faults_data import load, notes, refused
from test_xla import compile_whole

from keras_vae import __main__ as verbs
from keras_vae import choices, components, config, data, distributions, evaluation, likelihoods, marginals, runs, training
from keras_vae.console import Console
from keras_vae.errors import Refusal
from keras_vae.modalities import tabular
from keras_vae.noise import Seed
from keras_vae.sources import arrays

KINDS = (0, 1, 3, 0, 2)  # a number, one that may be missing, three levels, a number, two levels
SIZE = 9
NAMES = "age,income,city,joined,score,stars"


def lines(rows: int = 300, seed: int = 0, gaps: float = 0.1) -> list[str]:
    """A header and rows: whole numbers, skewed ones with gaps and many zeros, categories with gaps, dates, numbers, few values."""
    random = np.random.default_rng(seed)
    found = [NAMES]
    for _ in range(rows):
        age = random.integers(18, 2000)
        income = "" if random.random() < gaps else "0" if random.random() < 0.3 else f"{np.exp(random.normal(8.0 + age / 1000, 1.0)):.6g}"
        city = "?" if random.random() < gaps else ["Bern", "Oslo", "Rome"][min(2, int(random.exponential(1.0)))]
        day = np.datetime64("2020-01-01") + int(random.integers(0, 2000))
        found.append(f"{age},{income},{city},{day},{random.normal(age / 500):.6f},{random.integers(1, 6)}")
    return found


def saved(path, content: list[str] | bytes) -> str:
    path.write_bytes(content if isinstance(content, bytes) else "\n".join(content).encode())
    return f"csv:{path}"


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    return load(saved(tmp_path_factory.mktemp("people") / "people.csv", lines()))


# ---- the distribution


def drawn(kinds, rows: int, seed: int = 0):
    """A distribution with random parameters, and rows that are some of its values."""
    random = np.random.default_rng(seed)
    at = distributions.tables.layout(kinds)
    fields = random.normal(0, 1, (2, rows, at.size)).astype("float32")
    p = distributions.Columns.of(kinds)(*map(tf.constant, fields))
    return at, p


def test_the_density_of_a_row_sums_to_one():
    """Over all levels and flags, and the integral over the numbers; of one that is missing nothing is integrated."""
    at, p = drawn(KINDS, 1)
    grid, total = np.linspace(-30.0, 30.0, 2001, dtype="float32"), 0.0
    rows = []
    for there, first, second in itertools.product((0.0, 1.0), range(3), range(2)):
        row = np.zeros(SIZE, "float32")
        row[[at.flags[0], at.levels[0, first], at.levels[1, second]]] = there, 1.0, 1.0
        rows.append(row)
    for row in rows:
        elements = p.repeat(len(grid)).element_log_prob(np.tile(row, (len(grid), 1))).numpy()
        numbers = [at.numbers[0], at.numbers[2], *([at.numbers[1]] if row[at.flags[0]] else [])]
        rest = np.delete(elements, numbers, axis=1)[0].sum()
        integral = 1.0
        for place in numbers:
            value = np.tile(row, (len(grid), 1))
            value[:, place] = grid
            density = np.exp(p.repeat(len(grid)).element_log_prob(value).numpy()[:, place])
            integral *= np.trapezoid(density, grid)
        total += np.exp(rest) * integral
    assert total == pytest.approx(1.0, abs=1e-4)


def test_what_is_missing_is_not_scored():
    at, p = drawn(KINDS, 1)
    row = np.zeros((2, SIZE), "float32")
    row[1, at.numbers[1]] = 7.0
    first, second = p.repeat(2).log_prob(row).numpy()
    assert first == second
    row[:, at.flags] = 1.0
    assert np.diff(p.repeat(2).log_prob(row).numpy())[0] < -1.0


def test_a_draw_is_a_row_with_the_probabilities_of_the_mean():
    at, p = drawn(KINDS, 1, seed=3)
    rows = p.repeat(20000).sample(Seed.of(0)).numpy()
    assert np.isin(rows[:, at.flags], (0.0, 1.0)).all()
    for levels, size in zip(at.levels, at.sizes, strict=True):
        assert (rows[:, levels[:size]].sum(axis=1) == 1.0).all()
    spread = np.sqrt(rows.var(axis=0) / len(rows))
    assert (np.abs(rows.mean(axis=0) - p.mean().numpy()[0]) < 5 * spread + 1e-6).all()
    mode, mean = p.mode().numpy()[0], p.mean().numpy()[0]
    assert all(mode[levels[:size]].argmax() == mean[levels[:size]].argmax() for levels, size in zip(at.levels, at.sizes, strict=True))
    assert np.array_equal(mode[at.flags], np.round(mean[at.flags])) and np.array_equal(mode[at.numbers], mean[at.numbers])


def test_the_row_compiles_to_the_same():
    _, p = drawn(KINDS, 4)
    value = p.sample(Seed.of(1))

    def everything(value):
        return {"density": p.element_log_prob(value), "mean": p.mean(), "mode": p.mode(), "draw": p.sample(Seed.of(2))}

    found, wrong = compile_whole(everything, value)
    assert wrong == set() and difference(list(found.values()), list(everything(value).values())) < 1e-5


@pytest.mark.parametrize("kinds", [(0,), (1,), (2,), (0, 1), (3, 4), KINDS])
@pytest.mark.parametrize("sigma", ["learned", "predicted"])
def test_adapt_makes_the_model_of_independent_columns(kinds, sigma):
    at, p = drawn(kinds, 1, seed=5)
    x = p.repeat(3000).sample(Seed.of(0)).numpy()
    likelihood = likelihoods.Columns(kinds=kinds, sigma=sigma)
    likelihood.event_shape = (at.size,)
    likelihood.build((None, 1))
    likelihood.adapt(x)
    q = likelihood.reference(len(x))
    assert likelihood.check(x) == ""
    entropy, seen = p.repeat(3000).log_prob(x).numpy(), q.log_prob(x).numpy()
    assert seen.mean() >= entropy.mean() - 1e-3, "the best fit is no worse than the truth on its own rows"
    assert abs((seen - entropy).mean()) < 0.02
    assert likelihood.slope().shape == (at.size,) and (likelihood.slope() > 0).all()


def test_a_column_that_hardly_ever_changes_does_not_outweigh_the_others():
    x = np.random.default_rng(0).normal(size=(500, 4)).astype("float32")
    x[:, 2] = 0.0
    likelihood = likelihoods.Columns()
    likelihood.event_shape = (4,)
    likelihood.build((None, 1))
    likelihood.adapt(x)
    x[0, 2] = 3.0
    surprise = -likelihood.reference(len(x)).element_log_prob(x).numpy()
    assert 100 < surprise[0, 2] < 1000, "it is an odd row, and not the only thing that counts"


def test_levels_that_are_none_do_not_fit():
    vae = build((SIZE,), likelihood=f"Columns(kinds={KINDS})", encoder="Dense(widths=(8,))", decoder="Dense(widths=(8,))")
    with pytest.raises(Refusal, match="does not fit the data"):
        vae.adapt(np.full((20, SIZE), 0.4, "float32"))
    with pytest.raises(ValueError, match="rows of 9 elements"):
        build((SIZE + 1,), likelihood=f"Columns(kinds={KINDS})", encoder="Dense(widths=(8,))", decoder="Dense(widths=(8,))")


def test_a_model_of_rows_learns_and_samples_are_rows(people):
    text = people.modality.likelihood()[0]
    vae = build(people.modality.shape, likelihood=text, encoder="Dense(widths=(8,))", decoder="Dense(widths=(8,))")
    x = people.encoded("train")
    vae.adapt(x)
    assert all(np.isfinite(gradient).all() for gradient in map(np.asarray, gradients(vae, x.numpy())[0]))
    rows = vae.sample(50)
    assert people.modality.check(people.modality.decode(rows), "samples") is not None
    assert vae.likelihood.check(rows.numpy()) == ""


# ---- the modality


def test_rows_come_back_as_they_were(people):
    raw, table = people.train, people.modality
    again = table.decode(table.encode(raw)).numpy()
    assert [column.kind for column in table.columns] == ["number", "number", "category", "date", "number", "few"]
    assert np.isnan(raw[:, 1]).any() and np.isnan(raw[:, 2]).any(), "the example has gaps"
    assert np.array_equal(np.isnan(raw), np.isnan(again))
    assert np.array_equal(again[:, [0, 2, 3, 5]], raw[:, [0, 2, 3, 5]], equal_nan=True)
    assert np.allclose(again[:, [1, 4]], raw[:, [1, 4]], rtol=1e-4, atol=1e-3, equal_nan=True)


@pytest.mark.parametrize("scaled", ["normal", "standard", "robust"])
def test_rows_come_back_however_they_are_scaled(people, scaled):
    table = tabular.refitted(people.modality, people.train, scaled)
    again = table.decode(table.encode(people.test)).numpy()
    assert np.allclose(again, people.test, rtol=1e-3, atol=2e-3, equal_nan=True)


def test_normal_scores_are_normal_and_an_atom_is_one_score(people):
    x, table = people.encoded("train").numpy(), people.modality
    score = x[:, 0]
    assert stats.kstest(score, "norm").pvalue > 0.5
    zero = people.train[:, 1] == 0.0
    assert zero.sum() > 30 and len(set(x[zero, 1])) == 1
    atom, above = x[zero, 1][0], x[~zero & ~np.isnan(people.train[:, 1]), 1].min()
    low = tf.constant(np.where(np.arange(x.shape[1]) == 1, 0.5 * (atom + above), x[zero][:1]).astype("float32"))
    assert table.decode(low).numpy()[0, 1] == 0.0, "all scores below the next value are the atom's"


def test_standard_scores_are_deviations_from_the_mean(people):
    table = tabular.refitted(people.modality, people.train, "standard")
    score = table.encode(people.train).numpy()[:, 0]
    assert abs(score.mean()) < 1e-4 and score.std() == pytest.approx(1.0, abs=1e-3)


def test_robust_scores_do_not_move_with_what_is_far_off(people):
    """asinh((value - median) / s), s of the quartiles: a tenth of the rows at a billion hardly change the score of the others."""
    table = tabular.refitted(people.modality, people.train, "robust")
    value = people.train[:, 4].astype("float64")
    low, middle, high = np.quantile(value, (0.25, 0.5, 0.75))
    expected = np.arcsinh((value - middle) / ((high - low) / 1.349))
    score = table.encode(people.train).numpy()[:, list(table.column_of).index(4)]
    assert np.allclose(score, expected, atol=5e-3)  # between knots
    far = people.train.copy()
    far[::10, 4] = 1e9
    moved = tabular.refitted(people.modality, far, "robust").encode(people.train).numpy()[:, list(table.column_of).index(4)]
    assert np.abs(moved - score).max() < 0.5


def test_what_is_far_off_does_not_blur_what_is_near(people):
    """One row of the training records at a billion, or at the end of what a number can be, leaves the rarity of the others as it was."""
    near = people.modality.for_anomalies(people.train)
    for value in (1e9, 1e30, -3e38):
        far = people.train.copy()
        far[0, 4] = value
        table = people.modality.for_anomalies(far)
        x, place = table.encode(far).numpy(), list(table.column_of).index(4)
        assert np.isfinite(x).all() and np.abs(x[0, place]) < 100.0
        found, expected = (kind.rarity(kind.encode(people.train)).numpy()[:, place] for kind in (table, near))
        assert np.abs(found - expected).max() < 0.5  # one row of the tail is gone
        alone = table.rarity(tf.constant(x)).numpy()
        assert alone[0, place] > alone[1:, place].max() + 2.0
        assert np.abs(table.decode(x).numpy()[0, 4] / value - 1.0) < 0.01


def test_rarity_is_minus_the_logarithm_of_a_density(people):
    """Of a score it integrates to one and is what scipy's kernel density is; of levels and gaps it sums to one."""
    table = people.modality.for_anomalies(people.train)
    x = table.encode(people.train).numpy()
    starts = np.cumsum([0, *table.widths])
    grid = np.linspace(-8.0, 8.0, 4001, dtype="float32")
    for place, column in enumerate(table.columns):
        own = slice(starts[place], starts[place + 1])
        if column.levels:
            levels = np.eye(table.widths[place], dtype="float32")
            rows = np.zeros((len(levels), x.shape[1]), "float32")
            rows[:, own] = levels
            shares = np.exp(-table.rarity(tf.constant(rows)).numpy()[:, own].sum(axis=1))
            counts = (x[:, own].sum(axis=0) + 1.0 / len(levels)) / (len(x) + 1.0)
            assert shares.sum() == pytest.approx(1.0, abs=1e-5) and np.allclose(shares, counts, rtol=1e-4)
            continue
        rows = np.zeros((len(grid), x.shape[1]), "float32")
        rows[:, own.start], gone = grid, 0.0
        scores = x[:, own.start]
        if table.widths[place] == 2:
            rows[:, own.start + 1] = 1.0
            nothing = table.rarity(tf.zeros((1, x.shape[1]))).numpy()[0, own]
            gone, scores = np.exp(-nothing.sum()), scores[x[:, own.start + 1] > 0.0]
        density = np.exp(-table.rarity(tf.constant(rows)).numpy()[:, own].sum(axis=1))
        assert np.trapezoid(density, grid) + gone == pytest.approx(1.0, abs=0.01), column.name
        spread = min(scores.std(), np.subtract(*np.quantile(scores, (0.75, 0.25))) / 1.349)
        kernel = stats.gaussian_kde(scores, spread * len(scores) ** -0.2 / scores.std(ddof=1))
        n = len(scores)
        expected = (1.0 - gone) * (n * kernel(grid) + stats.cauchy.pdf(grid)) / (n + 1.0)
        assert np.abs(density - expected).max() < 0.05 * expected.max(), column.name


def test_D20_values_never_seen_are_taken_too(people):
    """A level, or a value, was not in the training records."""
    row = np.repeat(people.train[:1], 3, axis=0)
    row[:, 1], row[:, 2] = 1.0, 0.0
    row[:, 0] = -1e7, 1e7, 30.0
    row[2, 2], row[2, 5] = len(people.modality.columns[2].levels), 4.9
    x = people.modality.encode(row).numpy()
    assert np.isfinite(x).all() and x[0, 0] < -5.0 < 5.0 < x[1, 0]
    again = people.modality.decode(x).numpy()
    assert again[:2, 0].tolist() == list(people.modality.columns[0].ends), "what is written lies within what was seen"
    assert again[2, 2] == row[2, 2] and tabular.OTHER in people.modality.write(again).decode(), "a level nobody saw is another"
    assert again[2, 5] == 5.0, "of few values the nearest"


def test_a_table_is_the_same_from_its_file(people):
    again = tabular.Table.of(json.loads(json.dumps(dataclasses.asdict(people.modality))))
    assert again == people.modality and np.array_equal(again.encode(people.test), people.modality.encode(people.test))


def test_encoding_compiles_to_the_same(people):
    table = people.modality
    found, wrong = compile_whole(lambda raw: {"x": table.encode(raw), "raw": table.decode(table.encode(raw))}, tf.constant(people.test))
    assert wrong == set()
    assert np.allclose(found["x"], table.encode(people.test), atol=1e-5)
    assert np.allclose(found["raw"], people.test, rtol=1e-3, atol=1e-2, equal_nan=True)


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (0, np.inf, "finite number"),
        (0, np.nan, "no value in column 'age'"),
        (2, 9.0, "place of a level"),
        (2, 0.5, "place of a level"),
    ],
)
def test_rows_from_outside_are_checked(people, place, value, words):
    rows = people.test[:4].copy()
    rows[2, place] = value
    with pytest.raises(Refusal, match=words):
        people.modality.check(rows, "here")
    with pytest.raises(tf.errors.InvalidArgumentError, match=people.modality.columns[place].name):
        people.modality.checks(tf.constant(rows))
    assert people.modality.check(people.test[:4], "here").dtype == np.float32
    people.modality.checks(tf.constant(people.test[:4]))


def test_what_a_column_is_depends_on_training_records_alone():
    """Levels that only the test records have are other ones, and a test value moves no score."""
    columns = tabular.Column("a", "number"), tabular.Column("b", "category", ("u", "v", "w"))
    train = np.stack([np.arange(50.0), [1.0] * 30 + [0.0] * 20], axis=1)
    first, records = tabular.fit(columns, {"train": train, "test": np.array([[1e6, 2.0], [3.0, 1.0]])})
    second, _ = tabular.fit(columns, {"train": train, "test": train})
    assert first == second and first.columns[1].levels == ("v", "u")
    assert records["test"][:, 1].tolist() == [2.0, 0.0], "the third level is another, the first the most frequent"


# ---- sources


def test_a_csv_file_is_read_by_its_names(people):
    assert [column.name for column in people.modality.columns] == NAMES.split(",")
    assert len(people.train) + len(people.validation) + len(people.test) == 300
    assert "2 numbers" in notes(people, "columns") or "columns" in dict(people.card())
    assert people.modality.columns[2].levels[0] == "Bern", "the most frequent level is the first"


@pytest.mark.parametrize("delimiter", ";\t|")
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_D18_another_delimiter_and_a_byte_order_mark(delimiter, bom, tmp_path, people):
    """A CSV file has another delimiter, or a byte order mark."""
    content = "\n".join(lines()).replace(",", delimiter).encode()
    dataset = load(saved(tmp_path / "people.csv", bom + content))
    assert dataset.modality == people.modality and np.array_equal(dataset.train, people.train, equal_nan=True)


def test_D18_a_compressed_file_and_other_line_ends(tmp_path, people):
    """A CSV file is compressed, or has other line ends."""
    path = tmp_path / "people.csv.gz"
    path.write_bytes(gzip.compress("\r\n".join(lines()).encode()))
    assert load(f"csv:{path}").modality == people.modality


def test_D18_latin_1(tmp_path):
    """A CSV file is in Latin-1."""
    rows = [row.replace("Rome", "Zürich") for row in lines()]
    dataset = load(saved(tmp_path / "rows.csv", "\n".join(rows).encode("latin-1")))
    assert "Zürich" in dataset.modality.columns[2].levels and "Latin-1" in notes(dataset, "note")


def test_D18_ragged_rows_are_named_by_their_line(tmp_path):
    """A CSV file has rows with too many or too few cells."""
    rows = lines(60)
    rows[7] += ",5"
    rows[20] = rows[20].rpartition(",")[0]
    source = saved(tmp_path / "rows.csv", rows)
    assert "line 8" in refused("data", source) and "7 cells" in refused("data", source)
    dataset = load(source, on_bad_record="skip")
    assert [found["name"] for found in dataset.bad] == ["line 8", "line 21"]
    assert len(dataset.train) + len(dataset.validation) + len(dataset.test) == 58


def test_D18_too_many_ragged_rows_are_refused_even_then(tmp_path):
    """Many rows of a CSV file have another number of cells."""
    rows = lines(100)
    rows[10:40] = [row + ",5" for row in rows[10:40]]
    assert "30 of" in refused("data", saved(tmp_path / "rows.csv", rows), on_bad_record="skip")


def test_D18_without_a_header_columns_are_numbered(tmp_path, people):
    """A CSV file has no line of names."""
    dataset = load(saved(tmp_path / "rows.csv", lines()[1:]))
    assert [column.name for column in dataset.modality.columns] == [f"column {number}" for number in range(6)]
    assert "looks like a row" in notes(dataset, "note") and len(dataset.train) == len(people.train)


def test_D18_a_header_of_words_over_words_is_one(tmp_path):
    """A CSV file has names above words."""
    rows = ["colour,shape", *[f"{['red', 'blue'][n % 2]},{['round', 'square', 'flat'][n % 3]}" for n in range(60)]]
    assert [column.name for column in load(saved(tmp_path / "rows.csv", rows)).modality.columns] == ["colour", "shape"]


def test_D18_two_columns_of_one_name_are_refused(tmp_path):
    """Two columns of a CSV file have one name."""
    assert "'age'" in refused("data", saved(tmp_path / "rows.csv", ["age,age", "1,2", "3,4"]))


def test_D18_a_line_without_end_is_not_read(tmp_path):
    """A line of a CSV file is a gigabyte long."""
    path = tmp_path / "rows.csv"
    with open(path, "w") as file:
        file.write("a,b\n1,2\n3,")
        file.truncate(2**30)  # a gigabyte of nothing, which takes no room on the disk
    assert "line 3 is longer" in refused("data", f"csv:{path}")


@pytest.mark.parametrize("content", [b"", b"\n\n", b"a,b\n", b'a,b\n1,"2\n3,4\n'])
def test_D18_a_file_without_rows_is_refused(content, tmp_path):
    """A CSV file is empty, has names alone, or a quotation mark that never ends."""
    refused("data", saved(tmp_path / "rows.csv", content))


def test_D18_infinite_numbers_are_named(tmp_path):
    """A cell of a CSV file is infinite."""
    rows = lines(60)
    rows[5] = "inf" + rows[5][rows[5].index(",") :]
    source = saved(tmp_path / "rows.csv", rows)
    assert "row 4" in refused("data", source) and "'age'" in refused("data", source)
    assert len(load(source, on_bad_record="skip").bad) == 1


def test_D19_parquet_is_read_as_csv_is(tmp_path, people):
    """A table is a Parquet file with types of its own."""
    import pyarrow
    from pyarrow import parquet

    rows = [line.split(",") for line in lines()]
    columns = {name: [row[place] for row in rows[1:]] for place, name in enumerate(rows[0])}
    typed = {name: [None if cell in ("", "?") else cell for cell in cells] for name, cells in columns.items()}
    typed |= {"age": list(map(int, typed["age"])), "income": [None if cell is None else float(cell) for cell in typed["income"]]}
    typed |= {"joined": [np.datetime64(cell).item() for cell in typed["joined"]], "score": list(map(float, typed["score"]))}
    parquet.write_table(pyarrow.table(typed), tmp_path / "people.parquet")
    dataset = load(f"parquet:{tmp_path / 'people.parquet'}")
    assert dataset.modality == people.modality and np.array_equal(dataset.test, people.test, equal_nan=True)


def test_D19_what_parquet_holds_beside_cells_is_refused(tmp_path):
    """A Parquet file holds lists, is damaged, or is not there."""
    import pyarrow
    from pyarrow import parquet

    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.table({"a": [1, 2, 3], "b": [[1], [2], [3]]}), path)
    assert "column 'b' holds list" in refused("data", f"parquet:{path}")
    path.write_bytes(b"PAR1 and nothing else")
    assert "cannot read" in refused("data", f"parquet:{path}")
    assert "cannot read" in refused("data", f"parquet:{tmp_path / 'none.parquet'}")


def test_D19_rows_of_numbers_in_arrays(tmp_path):
    """An array of rows has gaps, or infinite numbers."""
    x = np.random.default_rng(0).normal(size=(200, 4))
    x[5, 1] = np.nan
    np.savez(tmp_path / "rows.npz", x=x, y=np.arange(200) % 3)
    dataset = load(f"npz:{tmp_path / 'rows.npz'}")
    assert dataset.modality.raw_shape == (4,) and set(dataset.labels) == {"train", "validation", "test"}
    assert not dataset.modality.columns[0].missing
    assert load(f"npz:{tmp_path / 'rows.npz'}", drop="column 1").modality.raw_shape == (3,)
    np.save(tmp_path / "rows.npy", np.where(np.arange(200)[:, None] == 3, np.inf, x))
    assert "row 3" in refused("data", f"npy:{tmp_path / 'rows.npy'}")


def test_D19_nothing_pickled_is_read(tmp_path):
    """A .npz file holds a pickle that would run code."""

    class Payload:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "made"),))

    np.savez(tmp_path / "rows.npz", x=np.array([Payload()] * 4, dtype=object))
    assert "Python objects" in refused("data", f"npz:{tmp_path / 'rows.npz'}")
    assert not (tmp_path / "made").exists()


def test_D19_what_unpacks_to_more_than_the_memory_is_refused_by_its_size(tmp_path, monkeypatch):
    """A .npz file unpacks to more than the memory holds.

    The directory of the archive says so; nothing of it is unpacked."""
    with zipfile.ZipFile(tmp_path / "rows.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", b"nothing like that")
    content = (tmp_path / "rows.npz").read_bytes()
    at = content.index(b"PK\x01\x02") + 24  # where the directory holds the unpacked size
    (tmp_path / "rows.npz").write_bytes(content[:at] + (2**32 - 2).to_bytes(4, "little") + content[at + 4 :])
    monkeypatch.setattr(arrays, "memory", lambda: 2**30)
    assert "unpacks to 4 GiB" in refused("data", f"npz:{tmp_path / 'rows.npz'}")


def test_D20_a_column_without_values_is_refused(tmp_path):
    """A column has no value at all."""
    rows = [NAMES + ",empty", *[row + "," for row in lines(50)[1:]]]
    assert "'empty' is empty" in refused("data", saved(tmp_path / "rows.csv", rows))
    assert load(saved(tmp_path / "rows.csv", rows), drop="empty").modality.raw_shape == (6,)


def test_D20_too_many_levels_are_refused_with_advice(tmp_path):
    """A category has more than a thousand levels."""
    rows = ["id,value", *[f"user-{number},{number}" for number in range(1500)]]
    source = saved(tmp_path / "rows.csv", rows)
    assert "1,500 different texts" in refused("data", source) and "--data.drop" in refused("data", source)
    assert load(source, drop="id").modality.raw_shape == (1,)


def test_D20_a_word_among_numbers_is_named(tmp_path):
    """One word stands among a thousand numbers."""
    rows = ["a,b", *[f"{number},{number * 2}" for number in range(1200)]]
    rows[700] = "oops,3"
    assert "'oops'" in refused("data", saved(tmp_path / "rows.csv", rows))


@pytest.mark.parametrize("first", [",a,b", "0,1,2", "1,2,3", "id,a,b"])
def test_the_names_that_pandas_and_numpy_write_are_names(first, tmp_path):
    random = np.random.default_rng(0)
    rows = [first, *[f"{number},{random.normal():.4f},{random.normal():.4f}" for number in range(60)]]
    dataset = load(saved(tmp_path / "rows.csv", rows))
    assert all(column.kind == "number" for column in dataset.modality.columns)
    assert len(dataset.train) + len(dataset.validation) + len(dataset.test) == 60


def test_numbers_with_underscores_are_names(tmp_path):
    rows = ["site,value", *[f"{number % 7}_{number % 3},{number}.5" for number in range(60)]]
    assert load(saved(tmp_path / "rows.csv", rows)).modality.columns[0].kind == "category"


def test_the_time_of_a_day_is_a_part_of_it(tmp_path):
    rows = ["when,value", *[f"2026-01-{day:02d} {hour:02d}:00:00,{day}" for day in range(1, 29) for hour in (6, 12)]]
    dataset = load(saved(tmp_path / "rows.csv", rows))
    assert dataset.modality.columns[0].kind == "date" and set(np.unique(dataset.train[:, 0] % 1)) == {0.25, 0.5}
    rows = ["when,value", *[f"2026-01-{day:02d}-A{day},{day}" for day in range(1, 29)]]
    assert load(saved(tmp_path / "other.csv", rows)).modality.columns[0].kind == "category"


@pytest.mark.parametrize("header", ["size,m;weight,kg;age,y", '"size, m";"weight";"age"'])
def test_D18_a_mark_within_cells_does_not_cut_them(header, tmp_path):
    """Names in a CSV file hold another delimiter."""
    rows = [header, *[f"{number};{number}.5;{number % 9}" for number in range(40)]]
    assert load(saved(tmp_path / "rows.csv", rows)).modality.raw_shape == (3,)


def test_D18_utf_16(tmp_path, people):
    """A CSV file is in UTF-16."""
    assert load(saved(tmp_path / "people.csv", "\n".join(lines()).encode("utf-16"))).modality == people.modality


def test_D18_a_damaged_compressed_file(tmp_path):
    """A compressed CSV file is damaged."""
    whole = bytearray(gzip.compress("\n".join(lines()).encode()))
    whole[400:420] = bytes(20)
    (tmp_path / "people.csv.gz").write_bytes(whole)
    assert "cannot read the file" in refused("data", f"csv:{tmp_path / 'people.csv.gz'}")


def test_D20_a_gap_that_only_a_test_record_has_is_a_gap():
    """A value is missing in a test record alone: it is no other level, and no value."""
    columns = tabular.Column("a", "number"), tabular.Column("b", "category", ("u", "v")), tabular.Column("c", "number")
    random = np.random.default_rng(0)
    train = np.stack([random.normal(size=60), random.integers(0, 2, 60), random.integers(0, 3, 60)], axis=1)
    table, _ = tabular.fit(columns, {"train": train, "validation": train, "test": np.full((2, 3), np.nan)})
    assert all(column.missing for column in table.columns) and table.columns[2].kind == "few"
    assert np.isnan(table.decode(table.encode(np.full((2, 3), np.nan, "float32")))).all()


def test_large_whole_numbers_may_round_either_way(people):
    column = tabular.Fitted("n", "number", values=(0.0, 1e8), scores=(-1.0, 1.0), ends=(0.0, 1e8), whole=True)
    table = tabular.Table((column,))
    live = np.array([[9e7], [3.0]], "float32")
    assert table.difference(live + np.float32([[8.0], [1.0]]), live) < 1e-6
    assert table.difference(live + np.float32([[9e5], [0.0]]), live) > 1e-3


def test_rows_of_arrays_from_outside_may_have_what_the_run_dropped(tmp_path, people):
    x = np.random.default_rng(0).normal(size=(100, 4)).astype("float32")
    np.save(tmp_path / "rows.npy", x)
    options = config.Data(source=f"npy:{tmp_path / 'rows.npy'}", drop="column 0")
    table = data.load(options, foreign=True).modality
    for rows in (x[:5], x[:5, 1:]):
        np.save(tmp_path / "new.npy", rows)
        assert np.array_equal(data.read(str(tmp_path / "new.npy"), table, options), x[:5, 1:])
    np.save(tmp_path / "new.npy", people.test[:3])
    assert len(data.read(str(tmp_path / "new.npy"), people.modality, config.Data(drop="id"))) == 3
    assert "names a column of a CSV" in refused("usage", f"npy:{tmp_path / 'rows.npy'}", label="column 3")


def test_every_row_from_outside_is_answered_or_refused(tmp_path, people):
    table = people.for_task("impute").modality.asked()
    saved(tmp_path / "rows.csv", [NAMES, ",,,,,", "1,2,Bern,2020-01-01,1,1"])
    assert data.read(str(tmp_path / "rows.csv"), table, config.Data()).shape == (2, 6)
    saved(tmp_path / "rows.csv", [NAMES, "1,2,Bern", "1,2,Bern,2020-01-01,1,1"])
    with pytest.raises(Refusal, match="line 2"):
        data.read(str(tmp_path / "rows.csv"), table, config.Data(on_bad_record="skip"))


def test_the_columns_are_filled_into_a_likelihood_that_leaves_them_open(people):
    chosen = config.override(config.Config(), "model.likelihood", "Columns(sigma='predicted')")
    found, _ = choices.resolve(chosen, people)
    assert components.make("likelihood", found.model.likelihood).kinds == people.modality.kinds


def test_the_model_of_columns_alone_is_that_of_what_is_seen(tmp_path):
    """Beside N(0, 1), whose entropy is 1.42 nats a cell."""
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(4000, 6)))
    dataset = load(f"npy:{tmp_path / 'rows.npy'}").for_task("impute")
    chosen, _ = choices.resolve(config.override(config.Config(), "task", "Impute()"), dataset)
    vae = runs.build(chosen, dataset.modality)
    vae.adapt(**dataset.some("train", 3000))
    batch = dataset.batch("test")
    found = evaluation.Evaluator(vae, dataset, jit=False).references("test")["per_pixel_log_likelihood"]
    assert found == pytest.approx(-0.5 * np.log(2 * np.pi * np.e) * float(tf.reduce_sum(batch["mask"])) / len(batch["x"]), rel=0.03)


def test_a_column_may_be_the_label(tmp_path):
    dataset = load(saved(tmp_path / "rows.csv", lines(gaps=0.0)), label="city")
    assert dataset.classes == ("Bern", "Oslo", "Rome") and dataset.modality.raw_shape == (5,)
    assert "no label" in refused("data", saved(tmp_path / "rows.csv", lines()), label="city")
    assert "no column 'town'" in refused("usage", saved(tmp_path / "rows.csv", lines()), label="town")


def test_options_of_the_other_kind_are_refused(tmp_path):
    source = saved(tmp_path / "rows.csv", lines(40))
    for option in ({"resize": 8}, {"binarize": "dynamic"}, {"augment": "Flip"}):
        assert "for images" in refused("usage", source, **option) or "means nothing" in refused("usage", source, **option)
    assert "rows of a table" in refused("usage", "digits", drop="a")


def test_a_file_from_outside_is_read_by_the_columns_of_the_run(tmp_path, people):
    order = [5, 2, 0, 1, 4, 3]
    rows = [",".join(np.array(line.split(","))[order]) for line in lines(20, seed=3)]
    saved(tmp_path / "new.csv", [rows[0], *[row.replace("Bern", "Kyiv") for row in rows[1:]]])
    found = data.read(str(tmp_path / "new.csv"), people.modality, config.Data())
    assert found.shape == (20, 6) and (found[:, 2] == len(people.modality.columns[2].levels)).any()
    for bad, words in (
        (["age,city", "1,Bern"], "no column 'income'"),
        ([NAMES + ",more", lines(1)[1] + ",1"], "no run knows the column 'more'"),
    ):
        saved(tmp_path / "bad.csv", bad)
        with pytest.raises(Refusal, match=words):
            data.read(str(tmp_path / "bad.csv"), people.modality, config.Data())
    saved(tmp_path / "bad.csv", [NAMES, "old,1,Bern,2020-01-01,1,1"])
    with pytest.raises(Refusal, match="'old' in column 'age'"):
        data.read(str(tmp_path / "bad.csv"), people.modality, config.Data())


# ---- imputation


def test_of_a_training_row_what_is_hidden_is_scored_and_what_is_missing_is_not(people):
    dataset = people.for_task("impute")
    raw = np.tile(dataset.train, (10, 1))
    batch = {name: np.asarray(value) for name, value in dataset.made(raw, None, Seed.of(1)).items()}
    known = ~np.isnan(np.asarray(dataset.modality.encode(raw)))
    _, seen = np.split(batch["condition"], 2, axis=1)
    assert np.array_equal(batch["mask"] + seen, known.astype("float32"))
    assert all(np.isfinite(value).all() for value in batch.values())
    columns = dataset.modality.column_of
    for column in range(6):
        assert (np.ptp(batch["mask"][:, columns == column], axis=1) == 0).all(), "a column is hidden whole"
    assert abs(1.0 - seen.sum() / known.sum() - 0.3) < 0.02
    assert (batch["x"][batch["mask"] == 0.0] == 0.0).all()


def test_what_is_filled_in_leaves_what_is_known(people):
    dataset = people.for_task("impute")
    task, table = dataset.task, dataset.modality
    given = dataset.test[:8].copy()
    given[:, 0] = np.nan
    condition = task.condition(table, given=given)
    made = table.encode(np.tile(table.examples(dataset.test[8:9]), (8, 1)))
    filled = table.decode(task.joined(task.asked(made, condition), made)).numpy()
    known = ~np.isnan(given)
    assert not np.isnan(filled).any() and np.allclose(filled[known], given[known], rtol=1e-3, atol=2e-3)
    assert (filled[:, 0] == dataset.test[8, 0]).all()


def test_imputation_is_for_tables_and_restorations_for_images(people):
    with pytest.raises(Refusal, match="for tables"):
        load("digits").for_task("impute")
    with pytest.raises(Refusal, match="not for tables"):
        components.make("task", "denoise").condition_shape(people.modality)


# ---- runs


QUICK = {
    "training.steps": 30,
    "evaluation.samples": 2,
    "devices.jit": "off",
    "model.encoder": "Dense(widths=(16,))",
    "model.decoder": "Dense(widths=(16,))",
}


def finished(folder, monkeypatch, source: str, **options):
    monkeypatch.chdir(folder)
    chosen = config.override(config.Config(), "data.source", source)
    for path, value in {**QUICK, **options}.items():
        chosen = config.override(chosen, path, value)
    training.train(config.check(config.override(chosen, "name", "run")), Console())
    return runs.load(folder / "saved_models" / "run")


def test_a_run_on_a_table_from_training_to_serving(tmp_path, monkeypatch, capsys):
    source = saved(tmp_path / "people.csv", lines())
    loaded = finished(tmp_path, monkeypatch, source)
    report = json.loads((loaded.folder / "report.json").read_text())
    assert report["test"]["bits_per_dim"] is None and "ppca_log_likelihood" not in report["references"]
    assert "no picture" in (loaded.folder / "report.html").read_text() or "are no pictures" in (loaded.folder / "report.html").read_text()
    assert sorted(path.name for path in (loaded.folder / "pictures").iterdir()) == ["curves.png", "samples.png"]
    verbs.sample(str(loaded.folder), count=40)
    written = (loaded.folder / "outputs" / "samples.csv").read_text().splitlines()
    assert written[0] == NAMES and len(written) == 41
    assert all(row.split(",")[2] in ("Bern", "Oslo", "Rome", "", tabular.OTHER) for row in written[1:])
    verbs.score(str(loaded.folder), input=tmp_path / "people.csv", count=7)
    verbs.reconstruct(str(loaded.folder))
    verbs.export(str(loaded.folder))
    assert np.load(loaded.folder / "outputs" / "scores.npy").shape == (7,)
    raw = loaded.modality.check(data.read(str(tmp_path / "people.csv"), loaded.modality, config.Data(), 5), "")
    np.save(tmp_path / "raw.npy", raw)
    in_fresh_process(
        "import numpy as np, tensorflow as tf, sys\n"
        "model = tf.saved_model.load(sys.argv[1])\n"
        "raw = np.load(sys.argv[2])\n"
        "score = model.signatures['score_raw'](raw=tf.constant(raw), seed=tf.constant(1, tf.int64))['score']\n"
        "spread = {'seed': tf.constant(1, tf.int64), 'temperature': tf.constant(1.0)}\n"
        "rows = model.signatures['sample_raw'](n=tf.constant(9, tf.int64), **spread)['raw']\n"
        "assert np.isfinite(score).all() and rows.shape == (9, 6)\n"
        "bad = raw.copy(); bad[0, 2] = 40\n"
        "try: model.signatures['score_raw'](raw=tf.constant(bad), seed=tf.constant(1, tf.int64))\n"
        "except tf.errors.InvalidArgumentError as error: assert 'city' in str(error)\n"
        "else: raise AssertionError\n",
        str(loaded.folder / "serving" / "1"), tmp_path / "raw.npy",
    )  # fmt: skip


@pytest.mark.slow
def test_a_run_that_fills_in(tmp_path, monkeypatch, capsys):
    source = saved(tmp_path / "people.csv", lines())
    loaded = finished(tmp_path, monkeypatch, source, task="impute", **{"training.steps": 300, "optimizer.learning_rate": 3e-3})
    figures = json.loads((loaded.folder / "report.json").read_text())["task"]
    assert figures["rmse"] < figures["given_rmse"]
    saved(tmp_path / "gaps.csv", [NAMES, ",1000,Oslo,2021-05-05,1.5,3", "700,,?,,,"])
    verbs.answer(str(loaded.folder), input=tmp_path / "gaps.csv")
    first, second = ((loaded.folder / "outputs" / "answers.csv").read_text().splitlines())[1:]
    assert all(first.split(",")) and all(second.split(","))
    assert first.split(",")[1:] == ["1000", "Oslo", "2021-05-05", "1.5", "3"] and second.startswith("700,")
    drawn = []
    for seed in (0, 1):
        verbs.answer(str(loaded.folder), input=tmp_path / "gaps.csv", temperature=1.0, seed=seed)
        drawn.append((loaded.folder / "outputs" / "answers.csv").read_text())
    assert drawn[0] != drawn[1], "another seed, another draw"


@pytest.mark.slow
def test_a_run_that_finds_anomalies(tmp_path, monkeypatch, capsys):
    source = saved(tmp_path / "people.csv", [*lines(400), *["900,1e30,Bern,2021-01-01,1e9,3"] * 4])  # as is to be found
    loaded = finished(tmp_path, monkeypatch, source, task="anomaly")
    assert loaded.modality.scaled == "robust" and all(column.kind != "few" for column in loaded.modality.columns)
    assert runs.read_modality(loaded.folder) == loaded.modality and "floor=1.0" in loaded.config.model.likelihood
    saved(tmp_path / "odd.csv", [NAMES, "500,3000,Bern,2022-01-01,1.0,3", "90000,3000,Bern,2022-01-01,-400,3"])
    verbs.detect(str(loaded.folder), input=tmp_path / "odd.csv")
    assert np.load(loaded.folder / "outputs" / "anomalies.npy").tolist() == [False, True]
    raw = data.read(str(tmp_path / "odd.csv"), loaded.modality, config.Data())
    model = tf.saved_model.load(str(loaded.folder / "serving" / "1"))
    answer = model.signatures["detect_raw"](raw=tf.constant(raw))
    assert np.allclose(answer["score"], np.load(loaded.folder / "outputs" / "scores.npy"), rtol=1e-4)
    assert answer["elements"].shape == (2, *loaded.modality.shape)


@pytest.mark.slow
def test_rows_under_a_class(tmp_path, monkeypatch):
    source = saved(tmp_path / "people.csv", lines(gaps=0.0))
    loaded = finished(tmp_path, monkeypatch, source, task="conditional", **{"data.label": "city"})
    verbs.sample(str(loaded.folder), count=10, label=1)
    assert (loaded.folder / "outputs" / "samples.csv").read_text().startswith("age,income,joined")


def test_the_picture_of_a_table_shows_both(people):
    raw = people.train
    dollars = [dataclasses.replace(column, name="in_$_out_$") for column in people.modality.columns]
    dollars[2] = dataclasses.replace(dollars[2], levels=("<$5_$", "b_$", "$"))
    picture = marginals.compare(dataclasses.replace(people.modality, columns=tuple(dollars)), raw, raw[::-1])
    assert picture.startswith(b"\x89PNG")
    ours = marginals.correlations(np.nan_to_num(raw))
    assert np.allclose(ours, stats.spearmanr(np.nan_to_num(raw)).statistic, atol=1e-9)


def test_wide_and_narrow_tables_train(tmp_path):
    """A hundred columns, a single one, one that never changes, one of two values."""
    random = np.random.default_rng(0)
    for columns in (100, 1):
        x = random.normal(size=(120, columns))
        x[:, 0] = random.integers(0, 2, 120)
        x[:, -1] = 5.0 if columns > 1 else x[:, 0]
        np.save(tmp_path / "rows.npy", x)
        dataset = load(f"npy:{tmp_path / 'rows.npy'}")
        chosen, _ = choices.resolve(config.Config(), dataset)
        vae = runs.build(chosen, dataset.modality)
        vae.adapt(dataset.encoded("train"))
        assert np.isfinite(evaluation.Evaluator(vae, dataset, jit=False).elbo("test")["elbo"])
