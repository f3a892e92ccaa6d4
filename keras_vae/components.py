"""Components are written as the Python call that makes them: "Mixture(components=64)".

The text is parsed with `ast` (nothing is evaluated) and the name is looked up in the room of its kind: the module is the registry
and the constructor is the schema, whose annotations (see `domains`) say what each option may be. A user's own class is written
"package.module:Class(...)". Listing and checking read the source of a room, so they need neither TensorFlow nor Keras.
"""

import ast
import dataclasses
import functools
import importlib
import inspect
import math
import re
import sys
import typing
from pathlib import Path

from keras_vae import domains
from keras_vae.errors import Refusal, nearest

PACKAGE = Path(__file__).parent

# kind -> (module, base class; the members are the module's other public classes, and a base that is another module's)
ROOMS = {
    "family": ("hierarchical", "VAE"),
    "encoder": ("networks.encoders", "Encoder"),
    "decoder": ("networks.decoders", "Decoder"),
    "posterior": ("posteriors", "Posterior"),
    "prior": ("priors", "Prior"),
    "likelihood": ("likelihoods", "Likelihood"),
    "objective": ("objectives", "Objective"),
    "decay": ("schedules", "Decay"),
    "augmentation": ("augmentations", "Augmentation"),
    "task": ("tasks", "Task"),
}


def path(kind: str) -> str:
    """Where the configuration names the component of this kind."""
    return {"decay": "optimizer.decay", "augmentation": "data.augment", "task": "task"}.get(kind, f"model.{kind}")


def _short(text: str) -> str:
    return text if len(text) <= 100 else text[:100] + "..."


def parse(text: str, where: str = "") -> tuple[str, dict]:
    """ "Name(option=value, ...)" -> (name, options); values are Python literals. A bare "Name" has no options. `where`: for refusals; a
    task may be said in plain words, as "super-resolution"."""

    def refuse(why: str):
        return Refusal("usage", f"cannot read the component {_short(text)!r}", where, why[:200], 'write it like "Normal(size=32)"')

    if where == "task" and re.fullmatch(r"[a-z]+(-[a-z]+)*", text):
        text = "".join(map(str.capitalize, text.split("-")))
    prefix, colon, call = text.strip().rpartition(":") if ":" in text.partition("(")[0] else ("", "", text.strip())
    if colon and not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", prefix):
        raise refuse("a class of your own is named package.module:Class")
    try:
        node = ast.parse(call, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise refuse(str(error)) from None
    if isinstance(node, ast.Name):
        return prefix + colon + node.id, {}
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise refuse("it is not a name or a call")
    if node.args or any(keyword.arg is None for keyword in node.keywords):
        raise refuse("every option is given by name")
    try:
        options = {keyword.arg: ast.literal_eval(keyword.value) for keyword in node.keywords}
    except (ValueError, TypeError, RecursionError, MemoryError):
        options = {"": object()}
    if not all(_plain(value) for value in options.values()):
        raise refuse("option values are plain numbers, strings, True/False/None and tuples of these")
    if len(options) < len(node.keywords):
        raise refuse("an option is given twice")
    return prefix + colon + node.func.id, options


def split(text: str, at: str = ",") -> list[str]:
    """The components of a list: "Flip, Shift(pixels=2)" -> ["Flip", "Shift(pixels=2)"]; `at`: the letter between them."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([") - (letter in ")]")
        if letter == at and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def _plain(value) -> bool:
    return all(map(_plain, value)) if isinstance(value, tuple) else value is None or isinstance(value, (bool, int, str)) or _finite(value)


def _finite(value) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def write(name: str, options: dict) -> str:
    """The inverse of `parse`."""
    return f"{name}({', '.join(f'{option}={value!r}' for option, value in options.items())})"


def edit(text: str, option: str, value, where: str = "") -> str:
    """The component with one option set."""
    name, options = parse(text, where)
    return write(name, {**options, option: value})


def leaves_open(kind: str, text: str, option: str) -> bool:
    """Whether the member of a room that `text` describes has an option which the text does not set."""
    name, options = parse(text)
    return option not in options and name in _room(kind) and option in _room(kind)[name][0]


def members(kind: str) -> dict[str, tuple[str, str]]:
    """The members of a room, read from its source: name -> (signature, first line of the docstring)."""
    return {
        name: (f"{name}({', '.join(f'{option}={default}' for option, (default, _) in options.items())})", text.partition("\n")[0])
        for name, (options, text) in _room(kind).items()
    }


def page() -> str:
    """Every member of every room, with what its docstring says and what its options may be: docs/components.md."""
    lines = ["# Components", "", HEADER]
    for kind, (module, base) in ROOMS.items():
        file, classes = f"keras_vae/{module.replace('.', '/')}.py", _classes(module)
        lines += ["", f"## {kind.capitalize()}: `--{path(kind).replace('_', '-')}`", "", f"[`{file}`](../{file})"]
        for shared in dict.fromkeys(
            [*(base,) * (base in classes), *_ancestors(base, classes), *(name for name in classes if name[0] == "_")]
        ):
            if classes[shared].module == module or shared in _ancestors(base, classes):
                lines += ["", _markdown(ast.get_docstring(classes[shared]) or "")]
        for name, (options, text) in _room(kind).items():
            lines += ["", f"### {name}", "", _markdown(text)]
            if options:
                lines += ["", "| option | default | may be |", "| --- | --- | --- |"]
                lines += [f"| `{option}` | `{default}` | {_shortened(domain)} |" for option, (default, domain) in options.items()]
    return "\n".join(lines) + "\n"


def _ancestors(name: str, classes: dict) -> list[str]:
    if name not in classes:
        return []
    bases = [base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "") for base in classes[name].bases]
    return [ancestor for base in bases if base in classes for ancestor in (base, *_ancestors(base, classes))]


def _shortened(domain) -> str:
    """A domain in words; of a long list of names the first few."""
    if typing.get_origin(domain) is typing.Literal and len(names := typing.get_args(domain)) > 8:
        return f"one of {len(names)} names of Keras: {', '.join(map(repr, names[:4]))}, ..."
    return domains.describe(domain).replace("|", "\\|")


def _markdown(text: str) -> str:
    """A docstring, one line a paragraph, as Markdown that shows it unchanged."""
    pieces = re.split(r"(`[^`]*`)", re.sub(r"(?<!\n)\n(?!\n)", " ", text))
    return "".join(piece if number % 2 else re.sub(r"([*_<\[\]|])", r"\\\1", piece) for number, piece in enumerate(pieces))


HEADER = """Written by `python -m keras_vae components` from the source.

B rows of a batch, K samples of each, \\*X the shape of a record, \\*Z that of a latent. All terms are in nats, summed over the elements of
a record. A published variant is a composition: beta-VAE is `ELBO(beta=4.0)`, a Wasserstein autoencoder `MMD(beta=0.0)`, a regularised
autoencoder (RAE) the posterior `Point()` with `ELBO(beta=...)` and samples of the ex-post density."""


def check(kind: str, name: str, options: dict, where: str) -> None:
    """`Refusal` (usage) if the room of `kind` has no such member, or the member no such option, or an option not such a value. What a
    class of the user's own takes is known only when it is made."""
    if ":" in name:
        return
    known = members(kind)
    if name not in known:
        fix = f"python train.py --list {kind}"
        raise Refusal("usage", f"there is no {kind} called {name!r}: {nearest(name, known)}", where=where, fix=fix)
    schema, fix = _room(kind)[name][0], f"its options are {known[name][0]}"
    for option, value in options.items():
        if option not in schema:
            raise Refusal("usage", f"{name} has no option {option!r}: {nearest(option, schema)}", where=where, fix=fix)
        domain = schema[option][1]
        if not domains.holds(domain, value):
            why = f"it must be {domains.describe(domain)}"
            raise Refusal("usage", f"{name} cannot have {option} = {_short(repr(value))}", where=where, why=why, fix=fix)


def find(kind: str, name: str) -> type:
    """The class called `name` in the room of `kind`, or, for "package.module:Class", in the user's own module, which is imported."""
    where = path(kind)
    if ":" not in name:
        check(kind, name, {}, where)
        return getattr(importlib.import_module(f"keras_vae.{ROOMS[kind][0]}"), name)
    found = attribute(name, where)
    room, base = ROOMS[kind]
    if not (isinstance(found, type) and issubclass(found, getattr(importlib.import_module(f"keras_vae.{room}"), base))):
        raise Refusal("usage", f"{name!r} is not a class derived from keras_vae.{room}.{base}", where, fix="see docs/adding.md")
    return found


def attribute(name: str, where: str):
    """The object that "package.module:name" names, in the user's own module, which is imported."""
    module, colon, attribute = name.rpartition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever the user's module raises
        why = f"{type(error).__name__}: {error}"[:200] if colon else "it is not MODULE:NAME"
        raise Refusal("usage", f"cannot import {name!r}", where, why, "check the spelling and PYTHONPATH") from error


def refuse_foreign(parts: dict[str, str]) -> None:
    """Code named by a file is never imported on the file's word: `Refusal` (model) if a part (kind -> text) names a class of a module
    that is not imported already."""
    for kind, text in parts.items():
        name, _ = parse(text)
        module = name.rpartition(":")[0]
        if module and module not in sys.modules:
            fix = f"if you trust it, import {module} first; on the command line: python -m keras_vae --trust {module} ..."
            raise Refusal("model", f"the model names a class of a module that is not imported: {name}", where=path(kind), fix=fix)


def make(kind: str, text, **extra):
    """The component that `text` describes (an object made already is returned); a wrong option is a refusal that lists the right ones."""
    if not isinstance(text, str):
        if not _foreign(type(text)):
            check(kind, *parse(describe(text)), path(kind))
        return text
    name, options = parse(text, path(kind))
    check(kind, name, options, path(kind))
    cls = find(kind, name)
    try:
        return cls(**options, **extra)
    except (TypeError, ValueError) as error:
        signature = f"{name}{inspect.signature(cls)}" if _foreign(cls) else members(kind)[name][0]
        raise Refusal("usage", f"{kind} {text}: {error}", where=path(kind), fix=f"its options are {signature}") from None


def describe(component) -> str:
    """The text that makes the component again."""
    cls = type(component)
    if dataclasses.is_dataclass(component):
        options = dataclasses.asdict(component)
    else:
        keras_own = ("name", "trainable", "dtype")
        options = {option: value for option, value in component.get_config().items() if option not in keras_own}
    if cls.__module__ in ("keras_vae.vae", f"keras_vae.{ROOMS['family'][0]}"):  # whose parts are named beside it
        options = {option: options[option] for option in _room("family")[cls.__name__][0]}
    known = inspect.signature(cls.__init__).parameters
    options = {option: value for option, value in options.items() if option not in known or known[option].default != value}
    options = {option: tuple(value) if isinstance(value, list) else value for option, value in options.items()}
    return write(f"{cls.__module__}:{cls.__name__}" if _foreign(cls) else cls.__name__, options)


def _foreign(cls: type) -> bool:
    return not cls.__module__.startswith("keras_vae.")


def _classes(module: str) -> dict[str, ast.ClassDef]:
    """Every class of a module and of `networks.network`, whose classes the networks inherit their options from."""
    found = {}
    for source in dict.fromkeys(("networks.network", module)):
        tree = ast.parse((PACKAGE / f"{source.replace('.', '/')}.py").read_text())
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                node.module = source
                found[node.name] = node
    return found


@functools.cache
def _room(kind: str) -> dict[str, tuple[dict, str]]:
    """The members of a room: name -> ({option: (default, domain)}, docstring)."""
    module, base = ROOMS[kind]
    classes = _classes(module)
    plain = {} if base in classes else {base: ({}, ast.get_docstring(_classes(base.lower())[base]))}
    return plain | {
        name: (_options(node, classes), ast.get_docstring(node) or "")
        for name, node in classes.items()
        if not name.startswith("_") and name != base and node.module == module
    }


def _options(node: ast.ClassDef, classes: dict) -> dict[str, tuple[str, object]]:
    """The constructor's options, each with its default and its domain; inherited ones where the class has no constructor of its own."""
    dataclass = any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)
    fields = [item for item in node.body if isinstance(item, ast.AnnAssign) and dataclass]
    constructor = next((item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"), None)
    inherited = [base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "") for base in node.bases]
    parent = next((classes[name] for name in inherited if name in classes), None)
    above = _options(parent, classes) if parent else {}
    if constructor is None:
        return above | {item.target.id: (ast.unparse(item.value), _domain(item.annotation)) for item in fields}
    pairs = zip(constructor.args.args[1:], constructor.args.defaults, strict=True)
    own = {argument.arg: (ast.unparse(default), _domain(argument.annotation)) for argument, default in pairs}
    return {**own, **{name: option for name, option in above.items() if name not in own}} if constructor.args.kwarg else own


def _domain(annotation):
    """What an annotation in the source means: a name of `domains` or a plain type, `A | B`, `tuple[A, ...]` or `Literal["a", "b"]`."""
    if isinstance(annotation, ast.BinOp):
        return _domain(annotation.left) | _domain(annotation.right)
    if isinstance(annotation, ast.Subscript) and annotation.value.id == "tuple":
        return tuple[_domain(annotation.slice.elts[0]), ...]
    if isinstance(annotation, ast.Subscript):
        return typing.Literal[ast.literal_eval(annotation.slice)]
    return getattr(domains, annotation.id, None) or {"str": str, "bool": bool}[annotation.id]
