"""Components as text: parsing without evaluating, listing without TensorFlow, making, describing, and classes of one's own."""

import inspect
import json
import re
import sys

import keras
import pytest

from keras_vae import components, config, runs
from keras_vae.errors import Refusal
from keras_vae.vae import VAE

MEMBERS = [(kind, name) for kind in components.ROOMS for name in components.members(kind)]

NASTY = [
    "", " ", "(", "Normal(", "Normal)", "Normal(size=)", "Normal(=3)", "Normal size", "Normal;Prior", "import os", "Normal\nNormal",
    "Normal(size=3); import os", "Normal(size=3)\x00", "\ud800", "3", "'Normal'", "None", "None()", "[Normal()]", "lambda: 1",
    "Normal(3)", "Normal(*[3])", "Normal(**{'size': 3})", "Normal(size=3, **{})", "Normal(size=3, 4)",
    "Normal()()", "Normal().x", "keras.Normal()", "Normal[0]", "Normal() + Normal()", "Normal() if 1 else 2", "await Normal()",
    "__import__('os')", "__import__('os').system('true')", "Normal(size=__import__('os'))", "Normal(size=open('x', 'w'))",
    "Normal(size=Normal())", "Normal(size=size)", "Normal(size=os.name)", "Normal(size=1 + 1)", "Normal(size=not 1)",
    "Normal(size=[x for x in (1,)])", "Normal(size=lambda: 1)", "Normal(size=(yield))", "Normal(size=f'{1}')", "Normal(size=(a := 3))",
    "Normal(size=" + "(" * 300 + ")" * 300 + ")", "Normal(size=" + "[" * 100_000, "-" * 100_000, "Normal(size=" + "-" * 3000 + "1)",
    "Normal(size=" + "9" * 5000 + ")", "N(x=" * 1000, "Normal(size=" + "a." * 3000 + "b)", "Normal(size=" + "1+" * 3000 + "1)",
]  # fmt: skip


@pytest.mark.parametrize(
    "text, name, options",
    [
        ("Normal", "Normal", {}),
        ("Normal()", "Normal", {}),
        (" Normal( size = 3 ) ", "Normal", {"size": 3}),
        ("Dense(widths=(512, 256), dropout=0.1)", "Dense", {"widths": (512, 256), "dropout": 0.1}),
        ("Normal(sigma='optimal', floor=1e-3)", "Normal", {"sigma": "optimal", "floor": 1e-3}),
        ("A(a=-1, b=True, c=None, d='it\\'s (a=1)', e=())", "A", {"a": -1, "b": True, "c": None, "d": "it's (a=1)", "e": ()}),
        ("my.package:Class(size=3)", "my.package:Class", {"size": 3}),
        ("my.package:Class", "my.package:Class", {}),
        ("A(path='c:d')", "A", {"path": "c:d"}),
    ],
)
def test_parse_reads_what_write_wrote(text, name, options):
    assert components.parse(text) == (name, options)
    assert components.parse(components.write(name, options)) == (name, options)


@pytest.mark.parametrize("text", NASTY, ids=lambda text: repr(text[:30]))
def test_anything_but_a_plain_call_is_refused(text):
    with pytest.raises(Refusal) as refused:
        components.parse(text)
    assert refused.value.kind == "usage" and len(str(refused.value).splitlines()) <= 6


def test_a_refusal_of_a_long_text_is_short():
    with pytest.raises(Refusal) as refused:
        components.parse("Normal(size=" + "9" * 100_000 + ")")
    assert len(str(refused.value)) < 2000


@pytest.mark.parametrize("value", ["{1, 2}", "{'a': 1}", "b'x'", "1j", "...", "1e999"])
def test_option_values_are_numbers_strings_constants_and_tuples_only(value):
    with pytest.raises(Refusal):
        components.parse(f"Normal(size={value})")


def test_an_option_given_twice_is_refused():
    with pytest.raises(Refusal):
        components.parse("Normal(size=1, size=2)")


@pytest.mark.parametrize("text", [":Class()", "..:Class()", "os; import x:Class()", "a:b:Class()", "1a:Class()", "a..b:Class()"])
def test_the_module_of_a_foreign_class_must_be_a_dotted_name(text):
    with pytest.raises(Refusal):
        components.find("prior", components.parse(text)[0])


@pytest.mark.parametrize(
    "text, option, value, result",
    [
        ("Normal", "size", 64, "Normal(size=64)"),
        ("Normal(size=16)", "size", 64, "Normal(size=64)"),
        ("Normal(size=16, limit=3.0)", "size", 64, "Normal(size=64, limit=3.0)"),
        ("Normal(size=16)", "limit", 3.0, "Normal(size=16, limit=3.0)"),
        ("my.package:Class(a='b')", "c", (1, 2), "my.package:Class(a='b', c=(1, 2))"),
    ],
)
def test_edit_sets_one_option_and_keeps_the_others(text, option, value, result):
    assert components.edit(text, option, value) == result


@pytest.mark.parametrize(
    "kind, name, meant", [("prior", "Standrd", "Standard"), ("likelihood", "bernouli", "Bernoulli"), ("decay", "Cosin", "Cosine")]
)
def test_find_names_the_nearest(kind, name, meant):
    with pytest.raises(Refusal) as refused:
        components.find(kind, name)
    assert refused.value.kind == "usage" and name in str(refused.value) and f"did you mean {meant}" in str(refused.value)


@pytest.mark.parametrize("kind, hidden", [("encoder", "Encoder"), ("encoder", "keras"), ("prior", "Prior"), ("prior", "Dense")])
def test_base_classes_and_imports_are_no_members(kind, hidden):
    assert hidden not in components.members(kind)
    with pytest.raises(Refusal):
        components.find(kind, hidden)


def real_options(cls) -> dict:
    """The options with their defaults as Python sees them: the class's own first, then those it passes on by **kwargs; of a family not
    its parts, which are named beside it."""
    options = {}
    for parent in cls.__mro__:
        if parent in (keras.layers.Layer, VAE, object):
            break
        if "__init__" in vars(parent):
            parameters = inspect.signature(parent.__init__).parameters.values()
            options |= {p.name: p.default for p in parameters if p.default is not p.empty and p.name not in options}
            if not any(p.kind is p.VAR_KEYWORD for p in parameters):
                break
    return options


@pytest.mark.parametrize("kind, name", MEMBERS)
def test_the_listing_is_the_constructor(kind, name):
    signature, line = components.members(kind)[name]
    assert components.parse(signature) == (name, real_options(components.find(kind, name)))
    assert len(line) > 5


@pytest.mark.parametrize("kind, base", [(kind, base) for kind, (_, base) in components.ROOMS.items() if base])
def test_no_member_of_a_room_is_missing_from_its_listing(kind, base):
    components.make(kind, next(iter(components.members(kind))))
    module = sys.modules[f"keras_vae.{components.ROOMS[kind][0]}"]
    real = {name for name, value in vars(module).items() if isinstance(value, type) and issubclass(value, getattr(module, base))}
    assert {name for name in real if not name.startswith("_")} - {base} == set(components.members(kind)) - {base}


@pytest.mark.parametrize("kind, name", MEMBERS)
def test_every_member_is_made_without_options_and_described_back(kind, name):
    made = components.make(kind, name)
    assert components.describe(made) == f"{name}()"
    for option, value in real_options(type(made)).items():
        if (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and option
            not in (
                "momentum",
                "revival",
                "final",
                "l1",
                "l2",
                "dropout",
                "forget",
                "sparsity",
                "beta",
                "factor",
                "probability",
                "least",
                "output",
                "share",
                "rate",
            )
        ):
            text = f"{name}({option}={value + 1!r})"
            assert components.describe(components.make(kind, text)) == text


def test_listing_needs_neither_tensorflow_nor_keras(python):
    code = (
        "import sys; sys.modules['tensorflow'] = sys.modules['keras'] = sys.modules['numpy'] = None\n"
        "import json; from keras_vae import components\n"
        "print(json.dumps({kind: components.members(kind) for kind in components.ROOMS}))"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(json.dumps({kind: components.members(kind) for kind in components.ROOMS}))


@pytest.mark.parametrize(
    "kind, text, offending, listed",
    [
        ("posterior", "Normal(sizes=3)", "sizes", "size=16"),
        ("posterior", "Normal(size=0)", "size", "size=16"),
        ("posterior", "Normal(size='3')", "size = '3'", "limit=10.0"),
        ("posterior", "Normal(size=2.5)", "size = 2.5", "limit=10.0"),
        ("encoder", "Dense(widths=())", "widths", "activation='gelu'"),
        ("encoder", "Dense(activation='gleu')", "gleu", "activation='gelu'"),
        ("decoder", "Conv(kernel=0)", "kernel", "kernel=4"),
        ("likelihood", "Normal(sigma='optiml')", "optiml", "sigma='optimal'"),
        ("objective", "ELBO(beta=-1)", "beta", "warmup=0"),
        ("objective", "ELBO(shape='lin')", "lin", "linear"),
        ("decay", "Cosine(finl=1)", "finl", "final=0.01"),
        ("decay", "Piecewise(boundaries=(0.5,))", "boundaries", "factors=(0.1, 0.01)"),
    ],
)
def test_a_wrong_option_is_answered_with_the_right_ones(kind, text, offending, listed):
    with pytest.raises(Refusal) as refused:
        components.make(kind, text)
    message = str(refused.value)
    assert refused.value.kind == "usage" and len(message.splitlines()) <= 6
    assert offending in message and listed in message


@pytest.mark.parametrize(
    "text", ["Cosine(final='x')", "Cosine(final=-1)", "Polynomial(power=0)", "InverseSquareRoot(knee=0)", "Plateau(patience=0)"]
)
def test_a_decay_checks_its_options(text):
    with pytest.raises(Refusal):
        components.make("decay", text)


def test_an_object_is_taken_as_it_is():
    made = components.make("posterior", "Normal(size=3)")
    assert components.make("posterior", made) is made


def test_a_class_of_ones_own_is_imported_on_ones_own_word(tmp_path, monkeypatch):
    source = "from keras_vae.priors import Standard\n\n\nclass Mine(Standard):\n    def __init__(self, width: float = 1.0, **kwargs):\n"
    source += "        super().__init__(**kwargs)\n        self.width = width\n"
    (tmp_path / "my_priors.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    text = "my_priors:Mine(width=2.0)"
    vae = VAE(encoder="Dense(widths=(4,))", decoder="Dense(widths=(4,))", prior=text)
    assert vae.prior.width == 2.0
    assert components.describe(vae.prior) == text
    assert VAE.from_config(vae.get_config()).prior.width == 2.0  # it is imported by now
    with pytest.raises(Refusal) as refused:
        components.make("prior", "my_priors:Main()")
    assert "my_priors:Main" in str(refused.value)


def test_G4_a_config_that_came_with_a_model_imports_nothing(canary):
    """The config in a .keras file names a class of a foreign module"""
    name, sung = canary
    with pytest.raises(Refusal) as refused:
        VAE.from_config({**VAE().get_config(), "prior": f"{name}:Prior()"})
    assert refused.value.kind == "model" and f"{name}:Prior" in str(refused.value)
    assert name not in sys.modules and not sung.exists()


def test_G4_loading_a_run_imports_nothing(canary, tmp_path):
    """The config of a finished run names a class of a foreign module"""
    name, sung = canary
    folder = tmp_path / "run"
    folder.mkdir()
    hostile = json.loads(config.to_json(config.Config(name="run")))
    hostile["model"].update(encoder="Dense()", decoder="Dense()", likelihood="Bernoulli()", prior=f"{name}:Prior()")
    (folder / "config.json").write_text(json.dumps(hostile))
    (folder / "modality.json").write_text('{"shape": [8, 8, 1], "levels": 17, "binarize": "none"}')
    (folder / "model.keras").write_bytes(b"")
    with pytest.raises(Refusal) as refused:
        runs.load(folder)
    assert refused.value.kind == "model"
    assert name not in sys.modules and not sung.exists()


@pytest.mark.parametrize("text", ["os:mkdir(path={!r})", "keras_vae.storage:write(path={!r}, content='x')", "pathlib:Path.touch"])
def test_a_config_that_came_with_a_model_calls_no_function_of_an_imported_module(text, tmp_path):
    """The class must be one of the room: os.mkdir is importable, and importing is not the only way to run code."""
    target = tmp_path / "called"
    with pytest.raises(Refusal):
        VAE.from_config({**VAE().get_config(), "prior": text.format(str(target))})
    assert not target.exists()


def test_a_module_that_fails_to_import_is_a_refusal(tmp_path, monkeypatch):
    (tmp_path / "broken_module.py").write_text("raise ValueError('broken on purpose')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(Refusal) as refused:
        components.find("prior", "broken_module:Prior")
    assert "broken on purpose" in str(refused.value)


# ---- docs/components.md


def test_the_page_of_components_is_what_the_source_says(train_py):
    found = (train_py.parent / "docs" / "components.md").read_text()
    assert found == components.page(), "python -m keras_vae components > docs/components.md"


@pytest.mark.parametrize("kind", components.ROOMS)
def test_the_page_shows_every_member_with_its_options(kind):
    _, _, room = components.page().partition(f"\n## {kind.capitalize()}: ")
    room = room.partition("\n## ")[0]
    for name, (signature, line) in components.members(kind).items():
        _, _, member = room.partition(f"\n### {name}\n")
        member = member.partition("\n### ")[0]
        assert line.split("`")[0].split("|")[0].split("[")[0].split("*")[0].split("_")[0].split("<")[0] in member
        assert all(f"| `{option}` | `" in member for option in components.parse(signature)[1])


@pytest.mark.parametrize("kind", ["posterior", "prior", "likelihood", "objective"])
def test_every_member_of_the_model_says_its_source_and_when_to_use_it(kind):
    for name in components.members(kind):
        text = inspect.getdoc(components.find(kind, name))
        assert re.search(r"\bUse it\s", text) and re.search(r"\b(1[6-9]|20)\d\d\b", text), f"{kind} {name}"
