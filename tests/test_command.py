"""The command line of train.py: what wins over what, every flag people type, mistakes answered with the nearest name, and speed."""

import json
import re
import time

import pytest

from keras_vae import command, components, presets
from keras_vae.config import Config, flatten, override, read, to_json
from keras_vae.errors import EXIT_CODES, Refusal

DEFAULT = override(Config(), "name", "digits")


def leaves(*arguments) -> dict:
    return flatten(command.plain(command.parse(list(arguments))))


@pytest.fixture
def program(capsys):
    """program(*arguments) -> (exit code, stdout, stderr) of a command line that is parsed and shown, in this process."""

    def run(*arguments):
        code = 0
        try:
            command.main(lambda words: command.show(command.parse(words)), list(arguments))
        except SystemExit as left:
            code = left.code
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_nothing_typed_is_the_digits_preset():
    assert command.plain(command.parse([])) == DEFAULT


def test_presets_stack_and_name_the_run():
    found = leaves("mnist", "quick")
    assert found == {**flatten(Config()), **presets.PRESETS["mnist"], **presets.PRESETS["quick"], "name": "mnist-quick"}


def test_later_kinds_of_words_win(tmp_path):
    assert leaves("mnist")["data.batch_size"] == 256
    assert leaves("mnist", "--set", "data.batch_size=7")["data.batch_size"] == 7
    assert leaves("mnist", "--set", "data.batch_size=7", "--data.batch-size", "8")["data.batch_size"] == 8
    path = tmp_path / "config.json"
    path.write_text(to_json(override(override(DEFAULT, "data.batch_size", 6), "seed", 5)))
    found = leaves("--config", str(path), "--set", "data.batch_size=7")
    assert (found["seed"], found["data.batch_size"]) == (5, 7)
    assert leaves("--config", str(path), "--data.batch-size", "8", "--set", "data.batch_size=7")["data.batch_size"] == 8
    assert leaves(f"--config={path}")["data.batch_size"] == 6


def test_presets_and_a_config_file_are_not_mixed(program, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(to_json(DEFAULT))
    code, _, error = program("mnist", "--config", str(path))
    assert code == 2 and "--config" in error


def test_flags_come_in_any_order():
    words = [["--seed", "3"], ["--set", "model.posterior.size=4"], ["--name", "x"], ["--overwrite"], ["--model.prior", "Standard"]]
    forward, backward = (command.parse([word for group in order for word in group]) for order in (words, words[::-1]))
    assert forward == backward and forward.seed == 3 and forward.overwrite


def test_set_is_repeatable_and_later_ones_win():
    found = leaves("--set", "model.posterior.size=4", "--set", "seed=1", "--set", "model.posterior.limit=2.0", "--set=seed=2")
    assert found == {**flatten(DEFAULT), "model.posterior": "Normal(size=4, limit=2.0)", "seed": 2}


@pytest.mark.parametrize(
    "setting, leaf, value",
    [
        ("training.steps=None", "training.steps", None),
        ("training.epochs=2", "training.epochs", 2),
        ("optimizer.learning_rate=1e-4", "optimizer.learning_rate", 1e-4),
        ("optimizer.learning-rate=1e-4", "optimizer.learning_rate", 1e-4),
        ("data.grey=True", "data.grey", True),
        ("data.resize=64", "data.resize", 64),
        ("data.data_dir='/a=b'", "data.data_dir", "/a=b"),
        ("model.encoder=Dense(widths=(8, 4))", "model.encoder", "Dense(widths=(8, 4))"),
        ("model.posterior.size=4", "model.posterior", "Normal(size=4)"),
        ("optimizer.decay.final=0.5", "optimizer.decay", "Cosine(final=0.5)"),
    ],
)
def test_set_reads_python_values_and_bare_words(setting, leaf, value):
    assert leaves("--set", setting) == {**flatten(DEFAULT), leaf: value}


FLAGS = [
    ("--name", "my run", "name", "my run"),
    ("--seed", "7", "seed", 7),
    ("--task", "Denoise(level=0.3)", "task", "Denoise(level=0.3)"),
    ("--data.source", "npz:digits.npz", "data.source", "npz:digits.npz"),
    ("--data.resize", "64", "data.resize", 64),
    ("--data.crop", "148x100", "data.crop", "148x100"),
    ("--data.grey", "True", "data.grey", True),
    ("--data.range", "-1..1", "data.range", "-1..1"),
    ("--data.augment", "Flip, Shift(pixels=1)", "data.augment", "Flip, Shift(pixels=1)"),
    ("--data.given", "folder:noisy", "data.given", "folder:noisy"),
    ("--data.rate", "16000", "data.rate", 16000),
    ("--data.seconds", "0.5", "data.seconds", 0.5),
    ("--data.frames", "8", "data.frames", 8),
    ("--data.fps", "12.5", "data.fps", 12.5),
    ("--data.tokens", "characters", "data.tokens", "characters"),
    ("--data.vocabulary", "500", "data.vocabulary", 500),
    ("--data.length", "40", "data.length", 40),
    ("--data.view", "waveform", "data.view", "waveform"),
    ("--data.drop", "id, name", "data.drop", "id, name"),
    ("--data.label", "class", "data.label", "class"),
    ("--data.scores", "standard", "data.scores", "standard"),
    ("--data.on-bad-record", "skip", "data.on_bad_record", "skip"),
    ("--data.batch-size", "32", "data.batch_size", 32),
    ("--data.data-dir", "/data", "data.data_dir", "/data"),
    ("--data.binarize", "dynamic", "data.binarize", "dynamic"),
    ("--model.encoder", "Dense(widths=(8,))", "model.encoder", "Dense(widths=(8,))"),
    ("--model.decoder", "Conv(depth=2)", "model.decoder", "Conv(depth=2)"),
    ("--model.posterior", "Normal(size=64)", "model.posterior", "Normal(size=64)"),
    ("--model.prior", "Standard()", "model.prior", "Standard()"),
    ("--model.likelihood", "Normal(sigma=0.1)", "model.likelihood", "Normal(sigma=0.1)"),
    ("--model.objective", "ELBO(beta=4)", "model.objective", "ELBO(beta=4)"),
    ("--optimizer.algorithm", "AdamW", "optimizer.algorithm", "AdamW"),
    ("--optimizer.learning-rate", "1e-4", "optimizer.learning_rate", 1e-4),
    ("--optimizer.warmup", "5", "optimizer.warmup", 5),
    ("--optimizer.decay", "Constant()", "optimizer.decay", "Constant()"),
    ("--optimizer.decay-share", "0.5", "optimizer.decay_share", 0.5),
    ("--optimizer.clip-norm", "0", "optimizer.clip_norm", 0.0),
    ("--optimizer.weight-decay", "0.01", "optimizer.weight_decay", 0.01),
    ("--optimizer.ema", "0.99", "optimizer.ema", 0.99),
    ("--training.steps", "10", "training.steps", 10),
    ("--training.epochs", "0.5", "training.epochs", 0.5),
    ("--training.minutes", "1.5", "training.minutes", 1.5),
    ("--training.evaluate-every", "2", "training.evaluate_every", 2.0),
    ("--training.patience", "4", "training.patience", 4),
    ("--training.teacher", "t", "training.teacher", "t"),
    ("--training.checkpoint-every", "5", "training.checkpoint_every", 5.0),
    ("--evaluation.samples", "5", "evaluation.samples", 5),
    ("--evaluation.limit", "6", "evaluation.limit", 6),
    ("--optimizer.accumulate", "4", "optimizer.accumulate", 4),
    ("--devices.strategy", "mirrored", "devices.strategy", "mirrored"),
    ("--devices.virtual", "2", "devices.virtual", 2),
    ("--devices.precision", "mixed_bfloat16", "devices.precision", "mixed_bfloat16"),
    ("--devices.jit", "off", "devices.jit", "off"),
    ("--stability.on-nonfinite", "abort", "stability.on_nonfinite", "abort"),
    ("--stability.autopilot", "off", "stability.autopilot", "off"),
    ("--model.family", "HierarchicalVAE", "model.family", "HierarchicalVAE"),
]


@pytest.mark.parametrize("flag, word, leaf, value", FLAGS, ids=[flag for flag, *_ in FLAGS])
def test_a_typed_flag_sets_its_leaf_and_nothing_else(flag, word, leaf, value):
    assert leaves(flag, word) == {**flatten(DEFAULT), leaf: value}
    assert leaves(f"{flag}={word}")[leaf] == value


SWITCHES = {"--data.dequantize": "data.dequantize", "--devices.deterministic": "devices.deterministic"}


@pytest.mark.parametrize("flag, leaf", SWITCHES.items())
def test_a_typed_switch_sets_its_leaf_and_nothing_else(flag, leaf):
    assert leaves(flag) == {**flatten(DEFAULT), leaf: True}


def test_every_leaf_has_a_flag_that_is_tested():
    assert {leaf for _, _, leaf, _ in FLAGS} | set(SWITCHES.values()) == set(flatten(Config()))


@pytest.mark.parametrize("flag", ["--print-config", "--dry-run", "--overwrite", "--steal-lock", "--debug"])
def test_a_switch_is_off_until_typed(flag):
    field = flag.removeprefix("--").replace("-", "_")
    assert not getattr(command.parse([]), field)
    assert getattr(command.parse([flag]), field) is True


def test_what_print_config_prints_is_a_config_file(program, tmp_path):
    typed = ["mnist", "quick", "--model.posterior", "Normal(size=4)", "--set", "training.steps=9", "--optimizer.learning-rate", "1e-4"]
    code, out, _ = program(*typed, "--print-config")
    assert code == 0 and json.loads(out)["training"]["steps"] == 9
    path = tmp_path / "config.json"
    path.write_text(out)
    assert read(path) == command.plain(command.parse(typed)) == command.plain(command.parse(["--config", str(path)]))


@pytest.mark.parametrize("kind", ["presets", *components.ROOMS, *(f"{kind}s" for kind in components.ROOMS)])
def test_list_shows_every_member(kind, program):
    code, out, _ = program("--list", kind)
    assert code == 0
    for name in presets.PRESETS if kind == "presets" else components.members(kind if kind in components.ROOMS else kind[:-1]):
        assert re.search(rf"^{name}\b", out, re.MULTILINE)


MISTAKES = [
    (["mnits"], "mnits", "mnist"),
    (["mnist", "qiuck"], "qiuck", "quick"),
    (["--list", "piror"], "piror", "prior"),
    (["--set", "modle.prior=Standard()"], "modle.prior", "model.prior"),
    (["--set", "data.batchsize=3"], "data.batchsize", "data.batch_size"),
    (["--set", "model.posterior.sise=3"], "sise", "size"),
    (["--set", "seed"], "seed", "PATH=VALUE"),
    (["--set", "seed=1.5"], "seed", "int"),
    (["--set", "seed==3"], "seed", "int"),
    (["--set", "model.encoder.widths=3"], "model.encoder", "Dense"),
    (["--set", "=3"], "''", "unknown"),
    (["--model.prior", "Standrd()"], "Standrd", "Standard"),
    (["--model.prior", "Standard(sise=3)"], "sise", "Standard()"),
    (["--model.posterior", "Normal(3)"], "Normal(3)", "by name"),
    (["--model.posterior", "Normal(size=os.getcwd())"], "os.getcwd()", "plain"),
    (["--data.batch-size", "0"], "0", "data.batch_size"),
    (["--optimizer.learning-rate", "nan"], "nan", "optimizer.learning_rate"),
    (["--optimizer.learning-rate", "-1"], "-1", "optimizer.learning_rate"),
    (["--optimizer.learning-rate", "1e99"], "1e+99", "optimizer.learning_rate"),
    (["--training.epochs", "inf"], "inf", "training.epochs"),
    (["--seed", "-1"], "-1", "seed"),
    (["--data.resize", "64x"], "data.resize", "HEIGHTxWIDTH"),
    (["--data.crop", "0"], "data.crop", "1 to 8192"),
    (["--data.range", "1..0"], "data.range", "0..1"),
    (["--data.augment", "Flp"], "data.augment", "Flip"),
    (["--data.binarize", "dynamic", "--data.dequantize"], "data.dequantize", "--data.binarize"),
    (["--config", "no/such/file.json"], "no/such/file.json", "No such file"),
    (["--config", "."], "'.'", "directory"),
    (["--config", ""], "--config", "directory"),
    (["--list", ""], "''", "presets"),
    (["--model.encoder", "Dense(widths=0)"], "widths = 0", "at least 1"),
    (["--name", "../x"], "../x", "letters"),
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("arguments, offending, helpful", MISTAKES, ids=[" ".join(words) for words, *_ in MISTAKES])
def test_G1_a_mistake_is_answered_in_six_lines_with_what_was_meant(arguments, offending, helpful, program):
    """A preset, a room, a path or a component is mistyped"""
    code, out, error = program(*arguments, "--print-config")
    assert code == 2 and out == ""
    assert (offending.strip("'") or offending) in error and helpful.lower() in error.lower()
    assert error.startswith("error: ") and len(error.splitlines()) <= 6 and "Traceback" not in error


TYPOS = [
    (["--modle.prior", "Standard()"], "--modle.prior", "--model.prior"),
    (["--data.batchsize", "3"], "--data.batchsize", "--data.batch-size"),
    (["--devices.precision", "float16"], "float16", "mixed_bfloat16"),
    (["--devices.jit", "yes"], "yes", "auto"),
    (["--stability.on-nonfinite", "rewindd"], "rewindd", "skip"),
    (["--seed", "x"], "x", "--seed"),
    (["--data.batch-size", "1.5"], "1.5", "--data.batch-size"),
    (["--training.epochs", "many"], "many", "--training.epochs"),
    (["--seed"], "--seed", "--seed"),
    (["--overwrite", "yes"], "yes", "yes"),
    (["--seed", "3", "mnist"], "mnist", "mnist"),
    (["--data.batch_size", "3", "--devices.jit", "yes"], "yes", "auto"),  # underscores are no typo
    (["--set"], "--set", "--set"),
    (["--config"], "--config", "expected one argument"),
    (["--optimizer.algorithm", "Adamm"], "Adamm", "AdamW"),
]


@pytest.mark.parametrize("arguments, offending, helpful", TYPOS, ids=[" ".join(words) for words, *_ in TYPOS])
def test_G1_a_typo_in_a_flag_is_usage_and_names_the_nearest(arguments, offending, helpful, program):
    """A flag is mistyped, or its value is missing or of another type"""
    code, out, error = program("--print-config", *arguments)
    assert code == 2 and out == ""
    assert offending in error and helpful in error and "Traceback" not in error and len(error.splitlines()) <= 6


@pytest.mark.parametrize("kind, code", EXIT_CODES.items())
def test_a_refusal_leaves_with_the_code_of_its_kind(kind, code, capsys):
    def program(arguments):
        raise Refusal(kind, "what", where="where", why="why", fix="fix")

    with pytest.raises(SystemExit) as left:
        command.main(program, [])
    assert left.value.code == code
    assert capsys.readouterr().err == "error: what\nwhere: where\nwhy:   why\nfix:   fix\n"
    with pytest.raises(Refusal):
        command.main(program, ["--debug"])


def test_ctrl_c_leaves_with_130_and_says_how_to_continue(capsys):
    def program(arguments):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as left:
        command.main(program, [])
    assert left.value.code == 130 and "same command" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, code, said",
    [(["--list", "priors"], 0, "Standard()"), (["--help"], 0, "--model.prior"), (["mnist", "--print-config"], 0, "tfds:mnist")],
)
def test_questions_are_answered_without_tensorflow(arguments, code, said, python, train_py, tmp_path):
    done = python("-X", "importtime", train_py, *arguments, cwd=tmp_path)
    assert done.returncode == code and said in done.stdout
    modules = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "keras_vae" in modules and not modules & {"tensorflow", "keras", "numpy", "sklearn", "matplotlib"}


def test_what_only_some_runs_need_is_not_loaded_by_all(python):
    """Keras itself does without what is missing here."""
    others = ("sklearn", "scipy", "matplotlib", "tensorflow_datasets", "tensorboard", "pandas", "keras_tuner")
    code = "import sys; sys.modules.update(dict.fromkeys(sys.argv[1:])); import keras_vae.console, keras_vae.training"
    done = python("-c", code, *others)  # an import of one of them is an error
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    "arguments, word",
    [(["mnits"], "mnist"), (["--modle.prior", "X()"], "--model.prior"), (["--devices.precision", "float16"], "mixed_bfloat16")],
)
def test_a_mistake_leaves_the_program_with_2(arguments, word, python, train_py, tmp_path):
    done = python(train_py, *arguments, cwd=tmp_path)
    assert done.returncode == 2 and word in done.stderr and done.stdout == "" and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_list_takes_no_longer_than_a_second_and_a_half(python, train_py, tmp_path):
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        assert python(train_py, "--list", "presets", cwd=tmp_path).returncode == 0
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 1.5


def test_no_preset_is_the_digits_preset():
    assert command.plain(command.parse([])) == command.plain(command.parse(["digits"]))
