"""Wrong configurations and wrong environments: each is refused in plain words, most of them before TensorFlow is loaded.

More of rows G1, G2 and G4 is in test_config.py, test_command.py and test_components.py.
"""

import ast
import configparser
import itertools
import json
import math
import re
import sys
import time
import types
import typing

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import build
from keras.src import activations

from keras_vae import choices, command, components, config, data, domains, environment, objectives, posteriors, runs
from keras_vae.__main__ import program
from keras_vae.config import COMPONENTS, RANGES, Config, check, flatten, from_json, override
from keras_vae.domains import Range
from keras_vae.errors import Refusal
from keras_vae.modalities.images import Images

MEMBERS = [(kind, name) for kind in components.ROOMS for name in components.members(kind)]
PATH = {kind: path for path, kind in COMPONENTS.items()}


def refused(call, *arguments, mentions=()) -> Refusal:
    """The usage refusal the call ends in: at most six lines, which mention what was wrong."""
    with pytest.raises(Refusal) as caught:
        call(*arguments)
    message = str(caught.value)
    assert caught.value.exit_code == 2 and len(message.splitlines()) <= 6 and len(message) < 2000
    for word in mentions:
        assert str(word) in message
    return caught.value


# ---- G2: every key of the configuration, against 1,000 generated values

LEAVES = flatten(Config())
WRONG = [math.nan, math.inf, -math.inf, 1e99, -1e99, 10**400, 0, -1, -0.5, "", "x", "1", True, False, None, (), (1,), (1, "a")]


def may_be(path: str, value) -> bool:
    """Whether the documented type and range of `path` allow `value`: said once more, without the code under test."""
    hint = config._hint(path)
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None:
        return types.NoneType in kinds
    if typing.get_origin(hint) is typing.Literal:
        return isinstance(value, str) and value in typing.get_args(hint)
    if path in RANGES:
        if type(value) not in ((int, float) if float in kinds else (int,)) or value != value:
            return False
        least, most, inclusive = RANGES[path]
        return least <= value <= most and (inclusive or value != least)
    if bool in kinds:
        return isinstance(value, bool)
    if path in ("data.resize", "data.crop"):
        return value == "1" or (type(value) is int and 1 <= value <= 8192)
    if path == "data.range":
        return False  # none of the generated texts is one
    if path == "name":
        return isinstance(value, str) and value[:1].isalnum() and all(each.isalnum() or each in "_ .+=@-" for each in value)
    return isinstance(value, str) and value != "" and (path not in COMPONENTS or value == "auto")


def by_override(path, value):
    return check(override(Config(), path, value))


def by_file(path, value):
    leaves = {}
    for name in path.split(".")[::-1]:
        leaves = {name: leaves or value} if not leaves else {name: leaves}
    return from_json(json.dumps(leaves), "here")


def by_set(path, value):
    return command.plain(command.parse(["--set", f"{path}={value!r}"]))


def generated(path: str, count: int):
    rng = np.random.default_rng(sum(path.encode()))
    least, most, *_ = RANGES.get(path, (-10, 10))
    for _ in range(count):
        number = float(rng.choice([least, most, 1.0])) + float(rng.choice([0, 1, -1, rng.normal()])) * 10.0 ** float(rng.integers(-5, 6))
        yield [number, int(number), WRONG[rng.integers(len(WRONG))], "".join(map(chr, rng.integers(32, 300, 5)))][rng.integers(4)]


CASES = -(-1000 // len(LEAVES))


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
@pytest.mark.parametrize("path", LEAVES)
def test_G2_every_key_takes_what_is_documented_and_nothing_else(path):
    """A value of a wrong type, negative, zero, NaN, 1e99 or empty, for every key, by every way a value comes in"""
    for value, way in zip(generated(path, CASES), itertools.cycle([by_override, by_file, by_set]), strict=False):
        if way is by_file and isinstance(value, tuple):
            value = list(value)  # JSON has no tuples
        if way is by_set and isinstance(value, float) and not math.isfinite(value):
            way = by_override  # a word that is no Python literal is a text
        if may_be(path, value):
            assert flatten(way(path, value))[path] == value
        else:
            refused(way, path, value, mentions=[path])


# ---- G3: impossible combinations


def options_of(kind, name):
    return {option: domain for option, (_, domain) in components._room(kind)[name][0].items()}


def alternatives(domain):
    return [part for each in typing.get_args(domain) for part in alternatives(each)] if is_union(domain) else [domain]


def is_union(domain) -> bool:
    return typing.get_origin(domain) in (types.UnionType, typing.Union)


def ends(domain):
    """(values at the ends of a domain, values just beyond them)."""
    if is_union(domain):
        inside, outside = zip(*map(ends, alternatives(domain)), strict=True)
        beyond = [value for values in outside for value in values if not domains.holds(domain, value)]
        return [value for values in inside for value in values], beyond
    kind = typing.get_origin(domain)
    if kind is typing.Literal:
        return list(typing.get_args(domain)), ["", typing.get_args(domain)[0] + "x", 1, None]
    if kind is tuple:
        inside, outside = ends(typing.get_args(domain)[0])
        return [(value,) for value in inside], [(), [1], *((value,) for value in outside), *((inside[0], value) for value in outside)]
    if domain is bool:
        return [True, False], [1, 0, None, "True"]
    number, allowed = domain.__origin__, domain.__metadata__[0]
    if number is int:
        return [allowed.least, allowed.most], [allowed.least - 1, allowed.most + 1, allowed.least + 0.5, "a", None, True, 10**400]
    least, most, (below, above) = allowed.least, allowed.most, (-math.inf, math.inf)
    low, under = (least, math.nextafter(least, below)) if allowed.least_allowed else (math.nextafter(least, above), least)
    high, over = (most, math.nextafter(most, above)) if allowed.most_allowed else (math.nextafter(most, below), most)
    return [low, high], [under, over, -1, 1e99, "a", None, True, 10**400]


OPTIONS = [(kind, name, option) for kind, name in MEMBERS for option in options_of(kind, name)]


@pytest.mark.parametrize(("kind", "name", "option"), OPTIONS, ids="-".join)
def test_G3_an_option_of_a_component_outside_its_domain_is_refused(kind, name, option):
    """An option of a component is out of range or of a wrong type: beta < 0, widths of 0, dropout 1.5, size='a'"""
    inside, outside = ends(options_of(kind, name)[option])
    for value in inside:
        text = components.write(name, {option: value})
        assert flatten(by_override(PATH[kind], text))[PATH[kind]] == text
        if name != "Piecewise" and option != "balance":  # which depend on other options
            assert components.describe(components.make(kind, text)) in (text, f"{name}()")
    assert outside
    for value in outside:
        text = components.write(name, {option: value})
        refused(by_override, PATH[kind], text, mentions=[PATH[kind], option])
        refused(components.make, kind, text, mentions=[option])


def test_the_names_that_keras_gives_are_all_offered():
    assert set(typing.get_args(domains.Activation)) == set(activations.ALL_OBJECTS_DICT) - {
        "glu",
        "threshold",
    }  # they halve the width, need options
    functions = {name for name, value in vars(keras.initializers).items() if name.islower() and isinstance(value, type)}
    assert set(typing.get_args(domains.Initializer)) == functions - {"stft"}  # it makes a Fourier transform
    found = {name for name, value in vars(keras.optimizers).items() if isinstance(value, type)}
    none = {"Optimizer", "LossScaleOptimizer", "MultiOptimizer", "OptimizerMap"}
    assert set(typing.get_args(config._hint("optimizer.algorithm"))) == found - none


@pytest.mark.parametrize("activation", typing.get_args(domains.Activation))
def test_every_activation_keeps_the_width(activation):
    assert np.isfinite(keras.activations.get(activation)(np.linspace(-1, 1, 8, dtype="float32")[None])).all()


def test_objects_are_checked_as_texts_are():
    refused(components.make, "objective", objectives.ELBO(beta=-1.0), mentions=["beta = -1.0", "model.objective"])
    refused(components.make, "posterior", posteriors.Normal(limit=0.0), mentions=["limit = 0.0", "model.posterior"])
    made = posteriors.Normal(size=1)
    assert components.make("posterior", made) is made


IMPOSSIBLE = [
    ["--model.objective", "ELBO(beta=-1)"],
    ["--model.objective", "ELBO(cycles=0)"],
    ["--model.encoder", "Dense(widths=0)"],
    ["--model.encoder", "Dense(widths=())"],
    ["--model.decoder", "Conv(widths=(32, 0))"],
    ["--model.decoder", "Conv(depth=0)"],
    ["--model.encoder", "Conv(kernel=0)"],
    ["--model.encoder", "Dense(dropout=1.5)"],
    ["--model.encoder", "Dense(activation='gleu')"],
    ["--model.posterior", "Normal(size=0)"],
    ["--model.posterior", "Normal(size='a')"],
    ["--set", "model.posterior.size='a'"],
    ["--set", "model.posterior.size=[3]"],
    ["--model.likelihood", "Normal(sigma=-1)"],
    ["--model.likelihood", "Binomial(levels=1)"],
    ["--optimizer.decay", "Cosine(final=2)"],
    ["--optimizer.algorithm", "MultiOptimizer"],
    ["--devices.precision", "float16"],
    ["--data.resize", "0x64"],
    ["--data.range", "1..0"],
    ["--data.augment", "Shift(pixels=-1)"],
    ["--data.binarize", "dynamic", "--data.dequantize"],
    ["--name", "../escape"],
    ["--name", "a/b"],
]
ANSWER_ALL = """
import io, json, sys, time, contextlib, runpy
answers = []
for words in json.loads(sys.argv[2]):
    started, said, code = time.process_time(), io.StringIO(), 0
    sys.argv[1:] = words
    with contextlib.redirect_stderr(said):
        try:
            runpy.run_path(PROGRAM, run_name="__main__")
        except SystemExit as left:
            code = left.code
    answers.append([code, said.getvalue(), time.process_time() - started, "tensorflow" in sys.modules])
print(json.dumps(answers))
"""


def test_G3_an_impossible_combination_is_refused_before_tensorflow_starts(python, train_py, tmp_path):
    """A combination of options is impossible: refused in under a second, before TensorFlow is loaded"""
    program = ANSWER_ALL.replace("PROGRAM", repr(str(train_py)))
    done = python("-c", program, "-", json.dumps(IMPOSSIBLE), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for words, (code, said, seconds, loaded) in zip(IMPOSSIBLE, json.loads(done.stdout), strict=True):
        assert code == 2 and not loaded and seconds < 1.0, (words, said)
        assert said.startswith("error: ") and len(said.splitlines()) <= 6 and "Traceback" not in said, said
    assert list(tmp_path.iterdir()) == []


def test_G3_a_refusal_takes_about_as_long_as_python_itself(python, train_py, tmp_path):
    """A combination of options is impossible: the whole process, measured"""

    def seconds(*arguments):
        started = time.perf_counter()
        done = python(*arguments, cwd=tmp_path)
        return time.perf_counter() - started, done

    bare = min(seconds("-c", "import keras_vae.command")[0] for _ in range(3))
    took, done = min((seconds(train_py, "--model.objective", "ELBO(beta=-1)") for _ in range(3)), key=lambda pair: pair[0])
    assert done.returncode == 2 and "beta = -1" in done.stderr
    assert took < 1.0 or took < 5 * bare


@pytest.mark.parametrize("shape, most", [((8, 8, 1), 3), ((28, 28, 1), 5), ((5, 7, 3), 3), ((4, 32, 1), 5), ((2, 2, 1), 1)], ids=str)
@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_G3_more_stages_than_the_image_allows_are_refused(kind, shape, most):
    """More down-samplings than the size of the image allows"""
    build(shape, **{kind: f"Conv(widths={(2,) * most}, features=2)"})
    widths, size = (2,) * (most + 1), f"{shape[0]} x {shape[1]}"
    model = override(Config(), f"model.{kind}", f"Conv(widths={widths})")
    model = choices.resolve(model, dataset(shape))[0]
    refused(runs.build, model, Images(shape), mentions=[f"model.{kind}", f"widths = {widths}", size, f"at most {most} widths"])


def test_G3_an_image_of_one_pixel_has_no_stages():
    """Convolutions on an image of one pixel"""
    model = override(Config(), "model.encoder", "Conv(widths=(2,))")
    refused(runs.build, choices.resolve(model, dataset((1, 1, 3)))[0], Images((1, 1, 3)), mentions=["1 x 1", "use Dense"])


@pytest.mark.parametrize(
    "words, said",
    [
        (["--model.encoder", "Conv(widths=(4, 4, 4, 4))"], "at most 3 widths"),
        (["--optimizer.decay", "Piecewise(boundaries=(0.5,))"], "as many factors"),
    ],
    ids=["stages", "decay"],
)
def test_G3_a_run_that_cannot_begin_leaves_nothing_behind(words, said, python, train_py, tmp_path):
    """Parts that do not fit the data or each other: the run is refused before its folder is made"""
    done = python(train_py, *words, cwd=tmp_path)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr and len(done.stderr.splitlines()) <= 6
    assert [path for path in tmp_path.rglob("*") if path.is_file() and not path.name.startswith(".lock-")] == []


# ---- G5: a package is missing

WITHOUT = "import runpy, sys; missing, program, *words = sys.argv[1:]; sys.modules[missing] = None; sys.argv = [program, *words]; "
WITHOUT += "runpy.run_path(program, run_name='__main__')"


@pytest.mark.parametrize(
    "module, words, install",
    [
        ("tyro", ["--dry-run"], "tyro"),
        ("rich", ["--dry-run"], "rich"),
        ("tensorflow", ["--dry-run"], "tensorflow"),
        ("sklearn", ["--dry-run"], "scikit-learn"),
        ("tensorflow_datasets", ["mnist", "--dry-run"], "tensorflow-datasets"),
    ],
)
def test_G5_a_missing_package_is_named_with_the_line_that_installs_it(module, words, install, python, train_py, tmp_path):
    """A package is missing"""
    done = python("-c", WITHOUT, module, train_py, *words, cwd=tmp_path)
    assert done.returncode == 6, done.stderr
    assert f"cannot import {module}" in done.stderr and f'pip install "{install}' in done.stderr
    assert len(done.stderr.splitlines()) <= 6 and "Traceback" not in done.stderr


def test_every_module_that_is_imported_is_a_requirement_or_the_standard_library():
    """So `environment.explain` knows the line for each of them. What an extra brings is imported in one place, which names the extra."""
    of_extras = {components.PACKAGE / f"{name}.py" for name in ("audio", "chemistry", "video", "vocabulary")}
    trees = [ast.parse(path.read_text()) for path in components.PACKAGE.rglob("*.py") if path not in of_extras]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {name for node in nodes for name in ([node.module] if isinstance(node, ast.ImportFrom) else [item.name for item in node.names])}
    modules = {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"keras_vae"}
    for module in modules:
        assert 'pip install "' in str(environment.explain(ModuleNotFoundError(name=module)))
    assert "pip install -e ." in str(environment.explain(ImportError("libcudart.so.12: cannot open shared object file")))


def unloadable(folder):
    (folder / "broken.py").write_text("raise ValueError('broken on purpose')\n")
    return folder


@pytest.mark.parametrize("module", ["nonesuch", "broken", "", ".x", "os; x"])
def test_G5_a_module_of_ones_own_that_cannot_be_imported_is_named(module, tmp_path, monkeypatch, capsys):
    """A module named with --trust is missing or fails"""
    monkeypatch.syspath_prepend(unloadable(tmp_path))
    with pytest.raises(SystemExit) as left:
        command.main(program, ["--trust", module, "sample", "digits"])
    said = capsys.readouterr().err
    assert left.value.code == 2 and repr(module) in said and len(said.splitlines()) <= 6


@pytest.mark.parametrize("error", [MemoryError("8 TiB"), tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")])
def test_memory_that_runs_out_is_said(error, capsys):
    def program(arguments):
        raise error

    with pytest.raises(SystemExit) as left:
        command.main(program, [])
    said = capsys.readouterr().err
    assert left.value.code == 6 and "out of memory" in said and "--data.batch-size" in said
    with pytest.raises(type(error)):
        command.main(program, ["--debug"])


def test_an_error_of_our_own_keeps_its_traceback():
    def program(arguments):
        return {}["a bug"]

    with pytest.raises(KeyError):
        command.main(program, [])


# ---- G7, G8: devices and batches


@pytest.mark.parametrize("visible", ["99", pytest.param("junk", marks=pytest.mark.slow)])
def test_G7_a_gpu_that_is_not_there_leaves_the_cpu(visible, python, train_py, tmp_path, monkeypatch):
    """A GPU is asked for and none is there, or CUDA_VISIBLE_DEVICES is junk: the CPU is used, and the card says so"""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    done = python(train_py, "--dry-run", cwd=tmp_path)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    said = " ".join(done.stdout.split())
    assert "no accelerator" in said and f"CUDA_VISIBLE_DEVICES={visible}" in said


@pytest.mark.slow
def test_G7_a_run_without_the_gpu_asked_for_ends_on_the_cpu(python, train_py, tmp_path, monkeypatch):
    """A whole run with a GPU asked for and none there: it ends on the CPU, and the report says so"""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "99")
    done = python(train_py, "--training.steps", "3", "--evaluation.samples", "2", "--name", "t", cwd=tmp_path)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert "no accelerator" in json.loads((tmp_path / "saved_models/t/report.json").read_text())["versions"]["machine"]


def dataset(shape=(4, 4, 1)) -> data.Dataset:
    raw = np.random.default_rng(0).integers(0, 256, (60, *shape)).astype("uint8")
    return data.Dataset("test", Images(shape), raw[:40], raw[40:50], raw[50:])


@pytest.mark.parametrize("batch_size, used", [(39, 39), (40, 40), (41, 40), (2**20, 40)])
def test_G8_a_batch_larger_than_the_data_is_all_of_it(batch_size, used):
    """A batch is larger than the data: it is all of the data, every epoch is a step, and the card says so"""
    asked = override(override(Config(), "data.batch_size", batch_size), "training.epochs", 3)
    resolved, decisions = choices.resolve(asked, dataset())
    assert resolved.data.batch_size == used and choices.total_steps(resolved, 40) == math.ceil(3 * 40 / used)
    assert (f"data.batch_size = {batch_size:,}" in dict(decisions).get("batch", "")) == (batch_size > 40)


# ---- G9: TensorFlow or Keras out of bounds, another backend


def fake(folder, package, version):
    """Metadata of a package of another version, found before the real one."""
    info = folder / f"{package}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")


LIBRARY = ["import keras_vae; keras_vae.VAE", "from keras_vae import VAE"]


@pytest.mark.parametrize("package, version", [("tensorflow", "2.15.1"), ("tensorflow", "2.22.0rc1"), ("keras", "2.15.0"), ("keras", "4.0")])
def test_G9_a_version_out_of_bounds_is_named_with_the_one_wanted(package, version, python, train_py, tmp_path, monkeypatch):
    """TensorFlow or Keras is too old or too new"""
    fake(tmp_path, package, version)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for words in ([train_py, "--dry-run"], ["-m", "keras_vae", "sample", "digits"]):
        done = python(*words, cwd=tmp_path)
        assert done.returncode == 6 and "Traceback" not in done.stderr and len(done.stderr.splitlines()) <= 6, done.stderr
        assert f"{package} {version} is installed" in done.stderr and f'pip install "{package}' in done.stderr and ">=" in done.stderr
    for code in LIBRARY:
        done = python("-c", code, cwd=tmp_path)
        assert done.returncode == 1 and f"Refusal: error: {package} {version} is installed" in done.stderr


@pytest.mark.parametrize("backend", ["torch", "jax", "nonsense"])
def test_G9_another_backend_of_keras_is_refused(backend, python, train_py, tmp_path, monkeypatch):
    """KERAS_BACKEND is not tensorflow"""
    monkeypatch.setenv("KERAS_BACKEND", backend)
    for words in ([train_py, "--dry-run"], ["-m", "keras_vae", "sample", "digits"]):
        done = python(*words, cwd=tmp_path)
        assert done.returncode == 6 and len(done.stderr.splitlines()) <= 6 and "Traceback" not in done.stderr, done.stderr
        assert repr(backend) in done.stderr and "export KERAS_BACKEND=tensorflow" in done.stderr
    for code in LIBRARY:
        assert f"Refusal: error: the Keras backend is {backend!r}" in python("-c", code, cwd=tmp_path).stderr


def test_G9_the_file_of_keras_does_not_choose_the_backend(python, tmp_path, monkeypatch):
    """~/.keras/keras.json names another backend: ours is chosen all the same"""
    (tmp_path / "keras.json").write_text('{"backend": "torch"}')
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    done = python("-c", "import keras_vae; keras_vae.VAE; import keras; print(keras.config.backend())", cwd=tmp_path)
    assert done.stdout == "tensorflow\n", done.stderr
    done = python("-c", "import os, sys, types; keras = types.ModuleType('keras'); sys.modules['keras'] = keras\n"
                  "keras.config = types.SimpleNamespace(backend=lambda: 'jax')\nimport keras_vae", cwd=tmp_path)  # fmt: skip
    assert "the Keras backend is 'jax'" in done.stderr


def test_the_bounds_are_those_of_setup_cfg(train_py):
    setup = configparser.ConfigParser()
    setup.read(train_py.parent / "setup.cfg")
    wanted = [line for line in setup["options"]["install_requires"].split() if line]
    found = environment.requirements()
    assert {name: set(bounds.split(",")) for name, bounds in found.items()} == {
        (parts := re.match(r"([\w.-]+)(.*)", line).groups())[0]: set(parts[1].split(",")) for line in wanted
    }


@pytest.mark.parametrize(
    "found, bounds, within",
    [
        ("2.21.0", "<2.22,>=2.20", True),
        ("2.20", "<2.22,>=2.20", True),
        ("2.9", "<2.22,>=2.20", False),
        ("2.22", "<2.22,>=2.20", False),
        ("2.22.0rc0", "<2.22,>=2.20", False),
        ("2.21.0.dev20260101+cpu", "<2.22,>=2.20", True),
        ("3.0", "", True),
    ],
)
def test_versions_are_compared_by_their_numbers(found, bounds, within):
    assert environment._within(found, bounds) == within


def test_a_range_is_said_as_it_is_meant():
    assert str(Range(0, 1, most_allowed=False)) == "at least 0 and below 1"
    assert str(Range(0, 1e6, least_allowed=False)) == "above 0 and at most 1000000.0"


# ---- G12: float16


@pytest.mark.parametrize("precision", ["float16", "mixed_float16"])
def test_G12_float16_is_refused_with_a_reason_and_what_to_use(precision, tmp_path):
    """float16 is asked for: by a flag, with --set, in a config file, or in Python"""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"devices": {"precision": precision}}))
    ways = [
        ["--devices.precision", precision],
        [f"--devices.precision={precision}"],
        ["--set", f"devices.precision={precision}"],
        ["--set", f"devices.precision={precision!r}"],
        ["--config", str(path)],
        ["mnist", "--seed", "3", "--devices.precision", "float32", "--devices.precision", precision],
    ]
    calls = [(command.parse, way) for way in ways] + [(by_override, "devices.precision", precision)]
    for call in calls:
        refusal = refused(*call, mentions=[repr(precision), "float16 loses small gradients", "several replicas"])
        assert refusal.fix == "use mixed_bfloat16" and refusal.where == "devices.precision"
    assert command.parse(["--devices.precision", "mixed_bfloat16"]).devices.precision == "mixed_bfloat16"


def test_G12_float16_leaves_the_program_with_2(python, train_py, tmp_path):
    """float16 is asked for: the whole process"""
    done = python(train_py, "mnist", "--devices.precision", "mixed_float16", cwd=tmp_path)
    assert done.returncode == 2 and "fix:   use mixed_bfloat16" in done.stderr and len(done.stderr.splitlines()) <= 6
    assert list(tmp_path.iterdir()) == []
