"""Configurations: round trips, override paths, ranges and types, config files that are wrong in every way, presets."""

import json
import math
import sys
import types
import typing

import pytest

from keras_vae import components, config, presets
from keras_vae.config import COMPONENTS, RANGES, Config, check, flatten, from_json, named, override, read, to_json
from keras_vae.errors import Refusal

LEAVES = flatten(Config())
KINDS = {path: {config._hint(path), *typing.get_args(config._hint(path))} for path in LEAVES}
TEXTS = [path for path in LEAVES if str in KINDS[path] and int not in KINDS[path]]


def refusal(function, *arguments) -> Refusal:
    """The usage refusal that the call must end in: short, and about what was wrong."""
    with pytest.raises(Refusal) as refused:
        function(*arguments)
    assert refused.value.kind == "usage" and refused.value.exit_code == 2
    assert len(str(refused.value).splitlines()) <= 6
    return refused.value


def set_and_check(path, value):
    return check(override(Config(), path, value))


def integral(path) -> bool:
    return float not in (config._hint(path), *typing.get_args(config._hint(path)))


@pytest.mark.parametrize("name", presets.PRESETS)
def test_every_preset_stacks_checks_and_comes_back_from_json(name):
    stacked = presets.stack([name])
    assert check(stacked) is stacked and stacked.name == name
    assert from_json(to_json(stacked), "here") == stacked
    for path, value in presets.PRESETS[name].items():
        assert flatten(stacked)[path] == value
    assert flatten(presets.stack([name, "quick"]))["training.epochs"] == presets.PRESETS["quick"]["training.epochs"]


def test_presets_stack_from_left_to_right():
    assert presets.stack(["fashion_mnist", "cifar10"]).data.source == "tfds:cifar10"
    assert presets.stack(["cifar10", "fashion_mnist"]).data.source == "tfds:fashion_mnist"
    assert presets.stack([]) == Config() and presets.stack(["mnist", "quick"]).name == "mnist-quick"
    refused = refusal(presets.stack, ["mnits"])
    assert "mnits" in str(refused) and "did you mean mnist" in str(refused)


def test_every_leaf_survives_json():
    changed = Config(name="ä name")
    for path, value in {"data.data_dir": "/d", "training.steps": 5, "training.minutes": 0.5, "training.patience": 3}.items():
        changed = override(changed, path, value)
    changed = override(override(changed, "model.prior", "my.module:Prior(a='\\n')"), "evaluation.limit", 7)
    text = to_json(changed)
    assert from_json(text, "here") == changed and json.loads(text)["format_version"] == config.FORMAT_VERSION
    assert set(flatten(changed)) == set(LEAVES)


def test_missing_keys_keep_their_defaults():
    assert from_json('{"name": "x", "data": {"batch_size": 7}}', "here") == override(Config(name="x"), "data.batch_size", 7)


@pytest.mark.parametrize("path", LEAVES)
def test_override_replaces_one_leaf_and_nothing_else(path):
    changed = flatten(override(Config(), path, "anything"))
    assert changed.pop(path) == "anything"
    assert changed == {other: value for other, value in LEAVES.items() if other != path}


@pytest.mark.parametrize(
    "path, value, leaf, result",
    [
        ("model.posterior.size", 64, "model.posterior", "Normal(size=64)"),
        ("model.posterior.limit", 3.0, "model.posterior", "Normal(size=24, limit=3.0)"),
        ("optimizer.decay.final", 0.1, "optimizer.decay", "Cosine(final=0.1)"),
        ("optimizer.clip-norm", 1.0, "optimizer.clip_norm", 1.0),
        ("data.batch-size", 3, "data.batch_size", 3),
    ],
)
def test_override_reaches_inside_components_and_takes_dashes(path, value, leaf, result):
    assert flatten(set_and_check(path, value)) == {**LEAVES, leaf: result}


@pytest.mark.parametrize(
    "path, mentioned",
    [
        ("modle.prior", "model.prior"),
        ("model.piror", "model.prior"),
        ("data.batchsize", "data.batch_size"),
        ("learning_rate", "optimizer.learning_rate"),
        ("latent_dim", "latent_dim"),
        ("", "unknown"),
        (".", "unknown"),
        ("model.", "unknown"),
        ("seed.x", "seed"),
        ("data.source.x", "data.source"),
        ("model.prior.a.b", "model.prior.a.b"),
        ("model.encoder.widths", "model.encoder"),
        ("model.posterior.", "model.posterior"),
        ("model.posterior.a b", "a b"),
        ("__class__", "__class__"),
    ],
)
def test_G1_an_unknown_path_is_refused_with_the_nearest(path, mentioned):
    """The path of an option is mistyped"""
    assert mentioned in str(refusal(set_and_check, path, 3))


@pytest.mark.parametrize("path, value, mentioned", [("model.posterior.sizes", 3, "size"), ("optimizer.decay.finl", 3, "final")])
def test_G1_an_unknown_option_of_a_component_is_refused_with_the_nearest(path, value, mentioned):
    """The option of a component is mistyped"""
    refused = refusal(set_and_check, path, value)
    assert path.split(".")[-1] in str(refused) and f"did you mean {mentioned}" in str(refused)


@pytest.mark.parametrize("path", ["model", "data", "training"])
def test_a_section_is_not_replaced_by_a_value(path):
    assert path in str(refusal(set_and_check, path, 3))


def test_every_number_has_a_range():
    numbers = {path for path in LEAVES if {int, float} & KINDS[path] and str not in KINDS[path]}
    assert numbers == set(RANGES)


def just_outside(path):
    least, most, inclusive = RANGES[path]
    yield most + 1 if integral(path) else math.nextafter(most, math.inf)
    if not inclusive:
        yield least
    yield least - 1 if integral(path) else math.nextafter(least, -math.inf)


@pytest.mark.parametrize("path, value", [(path, value) for path in RANGES for value in just_outside(path)])
def test_G2_a_value_just_outside_its_range_is_refused(path, value):
    """A number is just outside its range"""
    message = str(refusal(set_and_check, path, value))
    assert path in message and str(value) in message and f"{RANGES[path][0]}" in message


@pytest.mark.parametrize("path", RANGES)
def test_the_ends_of_a_range_are_allowed(path):
    least, most, inclusive = RANGES[path]
    kind = int if integral(path) else float
    for value in (kind(most), kind(least) if inclusive else math.nextafter(least, math.inf)):
        assert flatten(set_and_check(path, value))[path] == value


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e99, -1e99, True, False, "", "3", [], (1,), {}, b"3"], ids=repr)
@pytest.mark.parametrize("path", RANGES)
def test_G2_no_number_is_something_else(path, value):
    """A number is NaN, infinite, 1e99, a truth value, text or a container"""
    message = str(refusal(set_and_check, path, value))
    assert path in message and (repr(value) in message or str(value) in message)


def test_a_whole_number_beyond_every_float_is_out_of_range():
    for path in RANGES:
        assert path in str(refusal(set_and_check, path, 10**400))


@pytest.mark.parametrize("path", [path for path in RANGES if types.NoneType not in typing.get_args(config._hint(path))])
def test_a_number_that_must_be_given_is_not_none(path):
    assert path in str(refusal(set_and_check, path, None))


@pytest.mark.parametrize("value", [3, 1.5, True, [], ["a"], {"a": 1}], ids=repr)
@pytest.mark.parametrize("path", TEXTS)
def test_G2_no_text_is_something_else(path, value):
    """A text is a number or a container"""
    message = str(refusal(set_and_check, path, value))
    assert path in message and repr(value) in message


@pytest.mark.parametrize("path", [path for path, value in LEAVES.items() if isinstance(value, str) or path in ("name", "data.data_dir")])
def test_G2_an_empty_text_is_refused(path):
    """A text is empty"""
    message = str(refusal(set_and_check, path, ""))
    assert path in message and "''" in message


@pytest.mark.parametrize("path", COMPONENTS)
def test_a_component_that_cannot_be_read_is_named(path):
    message = str(refusal(set_and_check, path, "Normal(size="))
    assert path in message and "Normal(size=" in message


@pytest.mark.parametrize("path, kind", COMPONENTS.items())
def test_a_component_that_does_not_exist_is_refused_with_its_path(path, kind):
    message = str(refusal(set_and_check, path, "Nonesuch()"))
    assert path in message and "Nonesuch" in message and f"--list {kind}" in message


@pytest.mark.parametrize(
    "path, value, mentioned",
    [
        ("devices.precision", "float16", "mixed_bfloat16"),
        ("devices.precision", "bfloat16", "mixed_bfloat16"),
        ("devices.jit", "yes", "auto"),
        ("devices.jit", True, "auto"),
        ("data.binarize", "dynamics", "dynamic"),
        ("stability.on_nonfinite", "skipp", "skip"),
        ("stability.on_nonfinite", None, "skip"),
    ],
)
def test_G2_a_choice_is_one_of_its_words(path, value, mentioned):
    """A word is none of those to choose from"""
    message = str(refusal(set_and_check, path, value))
    assert path in message and repr(value) in message and mentioned in message


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("digits", "digits"),
        ("folder:/data/my faces/", "my faces"),
        ("folder:../../etc", "etc"),
        ("folder:.", "folder"),
        ("folder:/", "folder"),
        ("npz:a/b.c.npz", "b.c"),
        ("tfds:mnist", "mnist"),
        ("python:my.module:load", "load"),
        ("folder:/a\nb", "a_b"),
        ("folder:" + "x" * 300, "x" * 60),
        ("folder:" + "漢" * 300, "漢" * 20),
        ("?:", "run"),
    ],
)
def test_a_run_without_a_name_is_called_after_its_data(source, name):
    assert named(override(Config(), "data.source", source)).name == name
    assert named(override(override(Config(), "data.source", source), "name", "mine")).name == "mine"


def test_binarising_and_dequantising_at_once_is_refused():
    both = override(override(Config(), "data.binarize", "dynamic"), "data.dequantize", True)
    assert "data.dequantize" in str(refusal(check, both))


@pytest.mark.parametrize("text", ["Flip", "Flip, Shift(pixels=2)", " Crop(least=0.5),Flip()", "Flip, my.module:Own(a=(1, 2))"])
def test_augmentations_are_a_list(text):
    check(override(Config(), "data.augment", text))


@pytest.mark.parametrize("text, word", [("Flp", "Flip"), ("Flip, Shift(pixel=2)", "pixels"), ("Flip,", ""), ("Flip Shift", "")])
def test_a_wrong_augmentation_is_refused(text, word):
    assert word in str(refusal(check, override(Config(), "data.augment", text)))


CONFIG_FILES = {
    "empty": "",
    "blank": " \n",
    "not json": "name: digits",
    "cut": to_json(Config())[:-30],
    "list": "[]",
    "number": "3",
    "null": "null",
    "text": '"digits"',
    "deep list": "[" * 100_000,
    "deep object": '{"data":' * 100_000,
    "deep value": '{"name": ' + "[" * 50_000 + "]" * 50_000 + "}",
    "binary": "\x00\x01",
    "newer": '{"format_version": 2}',
    "older": '{"format_version": 0}',
    "version of another type": '{"format_version": "1"}',
    "version of several types": '{"format_version": [1]}',
    "section is a number": '{"data": 3}',
    "section is a list": '{"model": []}',
    "section is null": '{"training": null}',
    "name is a number": '{"name": 3}',
    "name is an object": '{"name": {"a": 1}}',
    "seed is text": '{"seed": "0"}',
    "seed is a truth value": '{"seed": true}',
    "batch is a float": '{"data": {"batch_size": 128.0}}',
    "rate is NaN": '{"optimizer": {"learning_rate": NaN}}',
    "rate is too large": '{"optimizer": {"learning_rate": 1e400}}',
    "number of 401 digits": '{"training": {"epochs": 1' + "0" * 400 + "}}",
    "number of 5000 digits": '{"training": {"epochs": ' + "9" * 5000 + "}}",
    "unknown section": '{"modle": {}}',
    "unknown key": '{"data": {"batchsize": 3}}',
    "empty key": '{"": 3}',
    "unknown class": '{"model": {"prior": "Standrd()"}}',
    "code": '{"model": {"prior": "__import__(\'os\').system(\'true\')"}}',
    "component is an object": '{"model": {"prior": {"class_name": "Standard"}}}',
    "unpaired surrogate": '{"model": {"prior": "\\ud800"}}',
}


@pytest.mark.parametrize("content", CONFIG_FILES.values(), ids=CONFIG_FILES)
def test_G4_a_wrong_config_file_is_a_usage_refusal(content, tmp_path):
    """A config file is empty, not JSON, cut, 100,000 levels deep, or holds the wrong types, versions or classes"""
    (tmp_path / "config.json").write_text(content)
    assert len(str(refusal(read, tmp_path / "config.json"))) < 2000


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00{", "folder"], ids=["missing", "not text", "folder"])
def test_G4_a_config_file_that_cannot_be_read_is_named(content, tmp_path):
    """A config file is missing, a folder, or not text"""
    path = tmp_path / "config.json"
    if content == "folder":
        path.mkdir()
    elif content:
        path.write_bytes(content)
    assert str(path) in str(refusal(read, path))


@pytest.mark.parametrize(
    "content, word", [('{"data": {"batchsize": 3}}', "data.batch_size"), ('{"modle": 3}', "model"), ('{"sede": 3}', "seed")]
)
def test_G4_an_unknown_key_of_a_file_is_refused_with_the_nearest(content, word):
    """A key of a config file is mistyped"""
    assert word in str(refusal(from_json, content, "here"))


def test_a_version_from_the_future_is_named():
    assert "7" in str(refused := refusal(from_json, '{"format_version": 7}', "some/config.json")) and "some/config.json" in str(refused)


def test_G4_reading_a_config_file_imports_nothing_that_it_names(canary, tmp_path):
    """A config file names classes of foreign modules: reading it imports none"""
    name, sung = canary
    for text in (f"{name}:Prior()", f"{name}:Prior", f"{name}:Prior(a=__import__({name!r}))"):
        path = tmp_path / "config.json"
        path.write_text(json.dumps({"model": {"prior": text}, "optimizer": {"decay": text}}))
        try:
            read(path)
        except Refusal as refused:
            assert refused.kind == "usage"
    assert name not in sys.modules and not sung.exists()
    assert components.parse(f"{name}:Prior()") == (f"{name}:Prior", {})
