"""The shape of the package, held by reading its source: who may import whom, who may draw, write, print, and what nobody may do."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "keras_vae"

# Floor by floor, file -> the files of its own floor it may use. A file may use every lower floor; what is not listed here fails.
FLOORS = (
    {
        "errors": (),
        "components": ("domains", "errors"),
        "config": ("components", "domains", "errors"),
        "console": ("errors",),
        "cluster": ("errors",),
        "devices": ("cluster", "environment", "errors", "signals"),
        "domains": (),
        "drawing": (),
        "environment": ("cluster", "errors"),
        "folders": ("config", "errors"),
        "noise": ("errors",),
        "distributions": (
            "distributions.continuous",
            "distributions.discrete",
            "distributions.latent",
            "distributions.protocol",
            "distributions.sentences",
            "distributions.tables",
        ),
        "distributions.continuous": ("distributions.protocol", "noise", "errors"),
        "distributions.discrete": ("distributions.continuous", "distributions.protocol", "noise", "errors"),
        "distributions.latent": ("distributions.continuous", "distributions.protocol", "noise"),
        "distributions.protocol": (),
        "distributions.sentences": ("distributions.discrete", "distributions.protocol", "noise"),
        "distributions.tables": ("distributions.discrete", "distributions.protocol", "noise"),
        "inference": ("distributions", "errors"),
        "metrics": ("distributions",),
        "schedules": ("domains", "errors"),
        "signals": (),
        "storage": ("errors",),
        "style": (),
    },
    {
        "audio": (),
        "chemistry": (),
        "video": (),
        "augmentations": (),
        "tasks": (),
        "density": (),
        "blocks": (),
        "flows": ("blocks",),
        "linear": (),
        "modalities": (),
        "modalities.images": ("modalities.modality", "pictures"),
        "modalities.modality": (),
        "modalities.sound": ("modalities.modality", "pictures"),
        "modalities.tabular": ("modalities.modality",),
        "modalities.molecules": ("chemistry", "modalities.text", "vocabulary"),
        "modalities.text": ("modalities.modality", "vocabulary"),
        "modalities.video": ("modalities.images", "pictures"),
        "marginals": (),
        "pictures": (),
        "presets": (),
        "proposals": (),
        "records": (),
        "journal": (),
        "spaces": (),
        "vocabulary": (),
    },
    {
        "networks": (),
        "networks.encoders": ("networks.network",),
        "networks.decoders": ("networks.guide", "networks.network"),
        "networks.guide": (),
        "networks.topdown": (),
        "networks.network": (),
        "posteriors": (),
        "priors": (),
        "likelihoods": (),
        "objectives": (),
        "pruning": (),
        "stability": (),
        "sources": (),
        "sources.arrays": ("sources.survey", "sources.tables", "sources.recordings"),
        "sources.tables": (),
        "sources.digits": (),
        "sources.files": (),
        "sources.clips": ("sources", "sources.files", "sources.stills"),
        "sources.folder": ("sources", "sources.clips", "sources.files", "sources.recordings", "sources.stills"),
        "sources.lines": ("sources.arrays",),
        "sources.moving": (),
        "sources.pairs": (),
        "sources.recordings": ("sources", "sources.files"),
        "sources.stills": ("sources", "sources.files"),
        "sources.survey": ("sources.recordings",),
        "sources.tfds": (),
        "sources.tones": (),
        "data": (
            "sources",
            "sources.arrays",
            "sources.clips",
            "sources.digits",
            "sources.folder",
            "sources.lines",
            "sources.moving",
            "sources.pairs",
            "sources.recordings",
            "sources.stills",
            "sources.tables",
            "sources.tfds",
            "sources.tones",
        ),
        "command": (),
    },
    {"vae": (), "hierarchical": ("vae",)},
    {
        "__init__": (),
        "choices": (),
        "evaluation": (),
        "diagnosis": (),
        "gradient_flow": (),
        "runs": (),
        "serving": (),
        "report": (),
        "ascent": (),
        "features": ("evaluation",),
        "page": ("diagnosis",),
        "speed": (),
        "symptoms": ("evaluation",),
    },
    {"loop": (), "training": ("loop",), "trial": ("loop", "training")},
    {
        "__main__": ("doctor", "launch"),
        "doctor": (),
        "launch": (),
        "tuning": (),
        "search_page": ("tuning",),
        "searching": ("search_page", "tuning"),
    },
    {"train.py": (), "tune.py": ()},
)
FLOOR = {file: number for number, floor in enumerate(FLOORS) for file in floor}

# These answer --help, --list and `report`, so their import may not cost more than the standard library; storage never imports
# anything else.
LIGHT = ("__init__", "__main__", "command", "components", "config", "domains", "environment", "errors", "presets", "signals", "storage")
LIGHT += ("diagnosis", "drawing", "folders", "launch", "page", "style")
ALONE = ("cluster", "diagnosis", "domains", "errors", "signals", "storage")

# A name nobody may use, as a pattern of its full dotted name -> {file: the one reason it may}.
BANNED = {
    r"tensorflow\.distribute\b.*": {"devices": "all there is of it"},
    r"tensorflow\.keras\b.*": {},  # Keras 3 is `keras`
    r"keras\.layers\.(Dropout|GaussianNoise|GaussianDropout|SpatialDropout\w*|AlphaDropout|Random\w*)": {},
    r"keras\.random\b.*|(.*\.)?SeedGenerator": {},
    r"tensorflow\.random\b.*": {},
    r"tensorflow\.raw_ops\.StatelessRandomUniformFullIntV2": {"noise": "the one source of bits"},
    r"tensorflow\.raw_ops\.RandomIndexShuffle": {"data": "the order, a pure function of (seed, position)"},
    r"tensorflow\.raw_ops\.(?!StatelessRandomUniformFullIntV2|RandomIndexShuffle)\w*(Random|Multinomial|Normal)\w*": {},
    r"numpy\.random\.(?!default_rng$).*|random(\..*)?": {},
    r"(builtins\.)?(eval|exec|compile|__import__)": {},
    r"(pickle|cPickle|cloudpickle|dill|joblib|marshal|shelve)(\..*)?": {},
    r"(.*\.)?(load_model|unsafe_load|enable_unsafe_deserialization)": {},
    r"importlib\.import_module": {"components": "looks a name up in its room", "__main__": "what --trust names"},
}

# Calls that write, move or delete -> {file: why it does not go through storage.py}.
WRITES = {
    "open": {
        "modalities.sound": "into memory",
        "runs": "into the folder that storage.publish commits",
        "trial": "what a process says, which nobody reads back",
        "tuning": "what processes say, which nobody reads back",
        "sources.lines": "reads with gzip's open",
        "video": "reads with PyAV's open",
    },
    "savez": {"runs": "into the folder that storage.publish commits", "serving": "into memory", "density": "into memory"},
    "write_bytes": {"serving": "questions for the fresh process, in a temporary folder outside the run"},
    "create_file_writer": {"report": "TensorBoard appends to its own event files"},
    "savefig": {"report": "into memory", "marginals": "into memory", "features": "into memory"},
    "save": {
        "chemistry": "into memory",
        "pictures": "into memory",
        "__main__": "into memory",
        "page": "into memory",
        "serving": "into the folder that storage.publish commits",
        "training": "into the file that storage.replacing commits",
        "loop": "a checkpoint, by runs.save_checkpoint",
        "doctor": "a checkpoint, by the loop",
    },
    "rename": {"runs": "sets a damaged checkpoint aside, which is one rename"},
    "download_and_prepare": {"sources.tfds": "TensorFlow Datasets commits its own files"},
    **{name: {} for name in ("write_text", "savez_compressed", "savetxt", "save_weights", "tofile", "dump", "to_csv", "touch")},
    **{name: {} for name in ("mkdir", "makedirs", "unlink", "rmdir", "rmtree", "copyfile", "copytree", "move")},
    "copy": {"tuning": "of keras-tuner's values, in memory"},
}
PRINTS = {"command", "console", "__main__"}


def sources():
    for path in sorted(PACKAGE.rglob("*.py")):
        name = str(path.relative_to(PACKAGE).with_suffix("")).replace("/", ".")
        yield name.removesuffix(".__init__"), path.read_text()
    for path in (ROOT / "train.py", ROOT / "tune.py"):
        if path.exists():
            yield path.name, path.read_text()


def complaints(file: str, source: str) -> list[str]:
    """Every rule that the source of one file breaks, as "line: what"."""
    tree = ast.parse(source)
    names = imported(tree)
    found = [(node, full) for node in ast.walk(tree) for full in dotted(node, names)]
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [
        f"{file}:{getattr(node, 'lineno', 1)}: {what}"
        for rule in (floors, banned, module_level, keywords, writes, prints)
        for node, what in rule(file, tree, found, calls)
    ]


def imported(tree) -> dict[str, str]:
    """Local name -> full dotted name, for every import anywhere in the file."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for item in node.names:
                first = item.name.partition(".")[0]
                names[item.asname or first] = item.name if item.asname else first
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            names.update({item.asname or item.name: f"{module}.{item.name}" for item in node.names})
    return names


def dotted(node, names):
    """The full dotted names that a node uses or imports."""
    if isinstance(node, ast.Import):
        yield from (item.name for item in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield from (f"{'.' * node.level + (node.module or '')}.{item.name}" for item in node.names)
    elif isinstance(node, ast.Attribute | ast.Name):
        parts = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if isinstance(node, ast.Name):
            yield ".".join([names.get(node.id, node.id), *reversed(parts)])


def floors(file, tree, found, calls):
    if file not in FLOOR:
        yield tree, "the file is on no floor"
        return
    for node, full in found:
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        if full.endswith(".*") or full.startswith("."):
            yield node, f"import of {full}: import by name, from the package"
        if full.partition(".")[0] == "keras_vae":
            target = own_file(full)
            below = FLOOR.get(target, 99) < FLOOR[file] or target in FLOORS[FLOOR[file]].get(file, ())
            if not below:
                yield node, f"imports {target}, which is not on a lower floor"
        elif (file in ALONE or (file in LIGHT and node in tree.body)) and full.partition(".")[0] not in sys.stdlib_module_names:
            yield node, f"imports {full}, but has to do without"


def own_file(full: str) -> str:
    """The file of the package that an import names: the longest part that is one, else the package itself."""
    parts = full.split(".")[1:]
    return next((name for size in (2, 1) if (name := ".".join(parts[:size])) in FLOOR), "__init__")


def banned(file, tree, found, calls):
    for node, full in found:
        for pattern, allowed in BANNED.items():
            if re.fullmatch(pattern, full) and file not in allowed:
                yield node, f"uses {full}"


def module_level(file, tree, found, calls):
    inside = {id(inner) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.Lambda) for inner in ast.walk(node)}
    for node, full in found:
        if full.startswith("numpy.random.") and id(node) not in inside and not isinstance(node, ast.Import | ast.ImportFrom):
            yield node, f"draws with {full} when imported"


def keywords(file, tree, found, calls):
    for call in calls:
        for keyword in call.keywords:
            constant = keyword.value.value if isinstance(keyword.value, ast.Constant) else True
            if keyword.arg in ("allow_pickle", "shell") and constant is not False:
                yield call, f"passes {keyword.arg}={ast.unparse(keyword.value)}"
            if keyword.arg == "safe_mode" and constant is not True:
                yield call, "passes safe_mode=False"


def writes(file, tree, found, calls):
    if file == "storage":
        return
    for call in calls:
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        if name in WRITES and file not in WRITES[name] and not (name == "open" and reads_only(call)):
            yield call, f"writes with {ast.unparse(call.func)}(...): every file a run writes goes through storage.py"


def reads_only(call) -> bool:
    """Whether an `open` is for reading, as far as the source says so. `something.open` takes the mode first."""
    place = 0 if isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) not in ("io", "os", "Image") else 1
    modes = [keyword.value for keyword in call.keywords if keyword.arg == "mode"] or call.args[place : place + 1]
    return all(isinstance(mode, ast.Constant) and set(str(mode.value)) <= set("rbt") for mode in modes)


def prints(file, tree, found, calls):
    for call in calls:
        if isinstance(call.func, ast.Name) and call.func.id == "print" and file not in PRINTS:
            yield call, "prints: the console does"


@pytest.mark.parametrize("file, source", [pytest.param(*pair, id=pair[0]) for pair in sources()])
def test_every_file_keeps_the_rules(file, source):
    assert complaints(file, source) == []


@pytest.mark.parametrize(
    "file, snippet, word",
    [
        ("brand_new", "", "no floor"),
        ("networks.brand_new", "", "no floor"),
        ("noise", "from keras_vae import blocks", "imports blocks"),
        ("noise", "def f():\n    from keras_vae.vae import VAE", "imports vae"),
        ("priors", "from keras_vae import posteriors", "imports posteriors"),
        ("posteriors", "from keras_vae.networks.encoders import Dense", "imports networks.encoders"),
        ("data", "import keras_vae.likelihoods as l", "imports likelihoods"),
        ("runs", "from keras_vae import serving", "imports serving"),
        ("vae", "from keras_vae import VAE", "imports __init__"),
        ("vae", "import keras_vae", "imports __init__"),
        ("config", "from keras_vae import presets", "imports presets"),
        ("distributions", "from keras_vae.inference import Latent", "imports inference"),
        ("schedules", "from keras_vae import noise", "imports noise"),
        ("priors", "from . import posteriors", "by name"),
        ("priors", "from keras_vae.blocks import *", "by name"),
        ("storage", "import numpy as np", "do without"),
        ("storage", "from keras_vae import config", "imports config"),
        ("storage", "def f():\n    import numpy", "do without"),
        ("command", "import tensorflow", "do without"),
        ("components", "import keras", "do without"),
        ("vae", "import tensorflow as tf\ntf.distribute.get_replica_context()", "distribute"),
        ("vae", "from tensorflow import distribute", "distribute"),
        ("blocks", "import keras\nkeras.layers.Dropout(0.1)", "Dropout"),
        ("blocks", "from keras import layers\nlayers.SpatialDropout2D(0.1)", "SpatialDropout2D"),
        ("blocks", "from keras.layers import GaussianNoise", "GaussianNoise"),
        ("modalities.images", "import keras\nkeras.layers.RandomFlip()", "RandomFlip"),
        ("priors", "import keras\nkeras.random.normal((2,))", "keras.random"),
        ("priors", "from keras.random import SeedGenerator", "SeedGenerator"),
        ("priors", "import tensorflow as tf\ndef f():\n    return tf.random.normal((2,))", "tensorflow.random"),
        ("priors", "from tensorflow import random as r\nr.stateless_normal", "tensorflow.random"),
        ("priors", "import tensorflow as tf\ntf.raw_ops.StatelessRandomUniformFullIntV2", "StatelessRandom"),
        ("noise", "import tensorflow as tf\ntf.raw_ops.RandomStandardNormal", "RandomStandardNormal"),
        ("vae", "import tensorflow as tf\ntf.keras.Model", "tensorflow.keras"),
        ("data", "import numpy as np\nx = np.random.default_rng(0)", "when imported"),
        ("data", "import numpy as np\ndef f():\n    return np.random.rand(3)", "numpy.random.rand"),
        ("data", "import random", "uses random"),
        ("components", "eval('1')", "eval"),
        ("components", "def f(text):\n    exec(text)", "exec"),
        ("runs", "import pickle", "pickle"),
        ("runs", "import numpy as np\nnp.load('x', allow_pickle=True)", "allow_pickle"),
        ("runs", "import numpy as np\ndef f(p):\n    return np.load('x', allow_pickle=p)", "allow_pickle"),
        ("runs", "import keras\nkeras.models.load_model('x')", "load_model"),
        ("runs", "from keras.saving import load_model", "load_model"),
        ("serving", "import subprocess\nsubprocess.run('ls', shell=True)", "shell"),
        ("runs", "import importlib\nimportlib.import_module('os')", "import_module"),
        ("report", "open('x', 'w')", "storage.py"),
        ("report", "open('x', mode='ab')", "storage.py"),
        ("report", "def f(m):\n    open('x', m)", "storage.py"),
        ("report", "from pathlib import Path\nPath('x').open('w')", "storage.py"),
        ("report", "from pathlib import Path\nPath('x').write_text('')", "storage.py"),
        ("report", "from pathlib import Path\nPath('x').write_bytes(b'')", "storage.py"),
        ("report", "import numpy as np\nnp.savez('x.npz')", "storage.py"),
        ("report", "import json\njson.dump({}, f)", "storage.py"),
        ("runs", "import shutil\nshutil.rmtree('x')", "storage.py"),
        ("evaluation", "def f(vae):\n    vae.save('x.keras')", "storage.py"),
        ("training", "print('hello')", "prints"),
    ],
)
def test_the_checker_sees_a_broken_rule(file, snippet, word):
    found = complaints(file, snippet)
    assert found and any(word in line for line in found)


@pytest.mark.parametrize(
    "file, snippet",
    [
        ("devices", "import tensorflow as tf\ntf.distribute.get_strategy()"),
        ("command", "def f():\n    import tensorflow"),
        ("data", "import numpy as np\ndef f():\n    return np.random.default_rng(0)"),
        ("runs", "open('x')\nopen('x', 'rb')\nopen('x', mode='r')"),
        ("report", "from PIL import Image\nImage.open('x')"),
        ("vae", "def f(self):\n    self.compile()\n    return 'a'.replace('a', 'b')"),
        ("evaluation", "from keras_vae.noise import Seed\nfrom keras_vae import blocks"),
    ],
)
def test_the_checker_lets_good_code_pass(file, snippet):
    assert complaints(file, snippet) == []


def test_no_allowed_write_outlives_its_reason():
    """Each exception is used: take it out of the table and the checker complains."""
    by_file, stale = dict(sources()), []
    for call, allowed in WRITES.items():
        for file in list(allowed):
            reason = allowed.pop(file)
            stale += [] if complaints(file, by_file.get(file, "")) else [(call, file)]
            allowed[file] = reason
    assert stale == []
