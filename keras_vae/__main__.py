"""python -m keras_vae VERB RUN [options]: the verbs on a finished run. RUN is its folder, or its name under saved_models/.
The verb launch has no RUN: it starts several workers that train one.

A run with a class of your own needs --trust MODULE: code named by a file is never imported on the file's word.
"""

import functools
import importlib
import io
import math
from pathlib import Path
from typing import Literal

from keras_vae import command, launch, storage
from keras_vae.errors import Refusal

Split = Literal["train", "validation", "test"]


def sample(
    run: str,
    /,
    count: int = 64,
    seed: int = 0,
    temperature: tuple[float, ...] | None = None,
    density: Literal["prior", "ex-post"] = "prior",
    output: Path | None = None,
) -> None:
    """Draw from the prior and decode: samples.png and samples.npy (raw data).

    Args:
        run: folder or name of a finished run.
        count: how many.
        seed: the same seed gives the same samples, whatever the count.
        temperature: spread of the latent draws; 1, the density's own, if not given; of a hierarchy also one for each latent, top down.
        density: what is drawn from: the prior, or the mixture fitted to the codes of the training records.
        output: folder to write to; default: RUN/outputs.
    """
    _at_least(1, count=count)
    spread = (1.0,) if temperature is None else temperature
    said = f"--temperature {' '.join(map(str, spread))}"
    if not all(0.0 < value < float("inf") for value in spread):
        raise Refusal("usage", f"{said} must be finite and above 0")
    loaded = _load(run)
    from keras_vae.noise import Seed

    vae, seed = loaded.vae, Seed.of(_seed(seed)).fold("sample")
    source = loaded.density if density == "ex-post" else None
    if source is None and density == "ex-post":
        elsewhere = "the latent of the run is not R^n, which it is made for"
        why = "the run is of an earlier version" if vae.posterior.support == "real" else elsewhere
        raise Refusal("usage", "there is no ex-post density", "--density", why, "--density prior")
    if temperature is not None and density == "prior" and not vae.spreads:
        where, why = "--temperature", f"the prior {type(vae.prior).__name__} has no spread that it could change"
        raise Refusal("usage", "a temperature would do nothing", where, why, "leave it out")

    if len(spread) not in (1, *vae.temperature_shape):
        latents = f"the run has {math.prod(vae.temperature_shape)} latent" + "s" * bool(vae.temperature_shape)
        raise Refusal("usage", f"{said}: {len(spread)} numbers", why=latents, fix="one number, or one for each latent")
    spread = spread if len(spread) > 1 else spread[0]

    def draw(numbers, row):
        return vae.decode(vae.draw(numbers.shape[0], seed.at(row), spread, source), seed=seed.at(row))

    raw = _over(loaded, range(count), lambda numbers, row: loaded.modality.decode(draw(numbers, row)))
    _write(loaded, output, "samples", raw, picture=raw)


def reconstruct(
    run: str,
    /,
    input: Path | None = None,
    split: Split = "test",
    count: int = 40,
    output: Path | None = None,
) -> None:
    """Encode and decode records: reconstructions.png (each row above its reconstructions) and reconstructions.npy (raw data).

    Args:
        run: folder or name of a finished run.
        input: a .npy or .npz file, a picture, or a folder of pictures; default: records of the run's own data.
        split: which records of the run's own data.
        count: how many at most.
        output: folder to write to; default: RUN/outputs.
    """
    loaded = _load(run)
    from keras_vae import report

    raw, modality = _records(loaded, input, split, count), loaded.modality
    answer = _over(loaded, raw, lambda raw, _: modality.decode(loaded.vae.reconstruct(modality.encode(raw))))
    picture = report.pairs(modality.decode(modality.encode(raw[:40])).numpy(), answer[:40])
    _write(loaded, output, "reconstructions", answer, picture, columns=min(10, len(raw)))


def encode(
    run: str,
    /,
    input: Path | None = None,
    split: Split = "test",
    count: int | None = None,
    output: Path | None = None,
) -> None:
    """Write the posterior mean of each record: codes.npy, float32 [N, latent].

    Args:
        run: folder or name of a finished run.
        input: a .npy or .npz file, a picture, or a folder of pictures; default: records of the run's own data.
        split: which records of the run's own data.
        count: how many at most.
        output: folder to write to; default: RUN/outputs.
    """
    loaded = _load(run)
    raw = _records(loaded, input, split, count)
    _write(loaded, output, "codes", _over(loaded, raw, lambda raw, _: loaded.vae.encode(loaded.modality.encode(raw))))


def score(
    run: str,
    /,
    input: Path | None = None,
    split: Split = "test",
    count: int | None = None,
    samples: int = 1,
    seed: int = 0,
    output: Path | None = None,
) -> None:
    """Write how surprising each record is: scores.npy, float32 [N], -log p(x) bounded from above, nats.

    Args:
        run: folder or name of a finished run.
        input: a .npy or .npz file, a picture, or a folder of pictures; default: records of the run's own data.
        split: which records of the run's own data.
        count: how many at most.
        samples: K of the importance-weighted bound; 1 is the negative ELBO.
        seed: of the posterior's noise.
        output: folder to write to; default: RUN/outputs.
    """
    _at_least(1, samples=samples)
    loaded = _load(run)
    raw = _records(loaded, input, split, count)
    vae, seed = loaded.vae, _seed(seed)
    bound = _over(loaded, raw, lambda raw, row: vae.log_likelihood(loaded.modality.encode(raw), samples, seed, row), samples)
    said = f"K = {samples}" if vae.posterior.density else "distortion - log p(z): no bound on the likelihood"
    print(f"mean {-bound.mean():.3f} nats over {len(bound)} records, {said}")
    _write(loaded, output, "scores", -bound)


def interpolate(run: str, /, pairs: int = 8, steps: int = 10, output: Path | None = None) -> None:
    """Decode points on lines between the codes of test records: interpolations.png and interpolations.npy (raw data).

    Args:
        run: folder or name of a finished run.
        pairs: how many lines.
        steps: points on each, the ends included.
        output: folder to write to; default: RUN/outputs.
    """
    _at_least(1, pairs=pairs)
    _at_least(2, steps=steps)
    loaded = _load(run)
    if loaded.vae.posterior.support == "codes":
        why = "its latent is made of codes, and nothing lies between two of them"
        raise Refusal("usage", "the model has no interpolations", where=run, why=why, fix="reconstruct or sample")
    from keras_vae import report

    x = loaded.modality.encode(_records(loaded, None, "test", 2 * pairs))
    pairs = len(x) // 2
    raw = loaded.modality.decode(report.interpolate(loaded.vae, x[:pairs], x[pairs : 2 * pairs], steps)).numpy()
    _write(loaded, output, "interpolations", raw, raw, columns=steps)


def evaluate(run: str, /, split: Literal["validation", "test"] = "test", samples: int | None = None, limit: int | None = None) -> None:
    """Compute the figures of the report again.

    Args:
        run: folder or name of a finished run.
        split: on which records.
        samples: K of the importance-weighted log-likelihood; default: the run's own.
        limit: use only so many records.
    """
    loaded = _load(run)
    from keras_vae import evaluation, report
    from keras_vae.console import Console

    console = Console()
    samples = loaded.config.evaluation.samples if samples is None else samples
    _at_least(1, samples=samples, limit=1 if limit is None else limit)
    dataset = _dataset(loaded)
    evaluator = evaluation.Evaluator(loaded.vae, dataset, loaded.config.devices.jit == "on")
    total = min(len(getattr(dataset, split)), limit or len(getattr(dataset, split)))
    with console.progress("evaluating", total) as advance:
        figures = evaluator.full(split, samples, limit, advance)
    console.table(f"{loaded.folder.name}: {split} split", report.rows({"test": figures, "references": evaluator.references(split, limit)}))


def export(run: str, /, output: Path | None = None) -> None:
    """Write the SavedModel again, check it in a fresh process, and publish it as the next version.

    Args:
        run: folder or name of a finished run.
        output: folder to publish as; default: RUN/serving/<next number>.
    """
    loaded = _load(run)
    from keras_vae import runs, serving

    if output is None:
        output = runs.next_version(loaded.folder)
    elif output.exists():
        raise Refusal("usage", f"{output} exists", where="--output", fix="name a new folder")
    examples = loaded.modality.decode(loaded.vae.sample(64)).numpy()
    difference = serving.export(loaded.vae, loaded.modality, output, examples, loaded.density)
    print(f"{output}: checked in a fresh process, largest relative difference {difference:.1e}")


def report(runs: tuple[str, ...], /, output: Path | None = None) -> None:
    """Write the page of a run again, or one page with several runs side by side: report.html.

    Args:
        runs: folders or names of finished runs.
        output: file to write; default: RUN/report.html, or saved_models/report.html for several.
    """
    from keras_vae import folders, page

    found = [folders.finished(run, "report.json") for run in runs]
    content = page.render(found)
    path = output or (found[0] if len(found) == 1 else folders.ROOT) / "report.html"
    storage.write(path, content)
    print(path)


def diagnose(run: str, /) -> None:
    """Say what the figures of a run mean, and what to change.

    Args:
        run: folder or name of a finished run.
    """
    from keras_vae import diagnosis, folders
    from keras_vae.console import Console

    found = folders.read(folders.finished(run, "report.json"))
    lines = [diagnosis.line(finding) for finding in diagnosis.diagnose(found.report, found.history)]
    if not lines:
        fix = "train it again with --overwrite"
        raise Refusal("usage", "the run was never examined", str(found.folder), "it is of an earlier version", fix)
    Console().card(lines)


def doctor() -> None:
    """Say what is installed, what it runs on, and whether the mathematics holds on this machine."""
    command.load_tensorflow()
    from keras_vae import doctor
    from keras_vae.console import Console

    console = Console()
    found = doctor.examine(lambda label, healthy, text: console.log(f"{'ok ' if healthy else 'BAD'}  {label}: {text}"))
    if bad := [label for label, healthy, _ in found if not healthy]:
        fix = "pip install -r constraints.txt, and again"
        raise Refusal("environment", f"{len(bad)} of {len(found)} checks failed: {', '.join(bad)}", fix=fix)


def components() -> None:
    """Print what every component is, its options and its source, as Markdown."""
    from keras_vae.components import page

    print(page(), end="")


def _load(run: str):
    command.load_tensorflow()
    from keras_vae import runs

    return runs.load(run)


def _at_least(least: int, **options) -> None:
    for name, value in options.items():
        if value < least:
            raise Refusal("usage", f"--{name} {value} must be at least {least}")


def _seed(seed: int) -> int:
    if not 0 <= seed < 2**31:
        raise Refusal("usage", f"--seed {seed} must be between 0 and 2**31 - 1")
    return seed


def _records(loaded, path: Path | None, split: str, count: int | None):
    """Raw records: of a file, or of the run's own data. `Refusal` (data) if they are not what the model was trained on."""
    from keras_vae import data

    if count is not None:
        _at_least(1, count=count)
    if path is None:
        return getattr(_dataset(loaded), split)[:count]
    return data.read(path, loaded.modality, loaded.config.data, count)


def _dataset(loaded):
    """The run's own data. `Refusal` (model) if it is not what the run was trained on: its test records may have been training records."""
    from keras_vae import data, runs

    dataset = data.load(loaded.config.data)
    if dataset.fingerprint != runs.read_fingerprint(loaded.folder):
        fix = "bring the old data back; reconstruct, encode and score take other records with --input"
        raise Refusal("model", "the data has changed since the run was trained", where=loaded.config.data.source, fix=fix)
    return dataset


def _over(loaded, records, function, samples: int = 1):
    """`function(rows, number of the first)` over raw records, compiled: many at a time, each `samples` times."""
    import numpy as np
    import tensorflow as tf

    from keras_vae import evaluation

    compiled = tf.function(lambda rows, row: [function(rows, row)], autograph=False)  # XLA takes longer to compile than it saves
    most = evaluation.fitting(loaded.vae.event_shape, samples)
    answers = evaluation.batches(compiled, lambda start, stop: records[start:stop], len(records), most)
    return np.concatenate([answer for (answer,) in answers])


def _write(loaded, output: Path | None, name: str, array, picture=None, columns: int | None = None) -> None:
    """NAME.npy, and NAME.png where there is a picture."""
    import numpy as np

    folder = loaded.folder / "outputs" if output is None else output
    buffer = io.BytesIO()
    np.save(buffer, array)
    storage.write(folder / f"{name}.npy", buffer.getvalue())
    print(f"{folder / name}.npy  {array.dtype} {list(array.shape)}")
    if picture is not None:
        storage.write(folder / f"{name}.png", loaded.modality.write(picture, columns))
        print(f"{folder / name}.png")


def _later(verb):
    """The same signature, but a call only returns what is to be called: parsing and doing are apart."""
    return functools.wraps(verb)(lambda *arguments, **options: functools.partial(verb, *arguments, **options))


WRITTEN = sample, reconstruct, encode, score, interpolate, evaluate, diagnose, export, report, doctor, components
VERBS = {verb.__name__: _later(verb) for verb in WRITTEN}
VERBS["launch"] = launch.Launch


def program(arguments) -> None:
    import tyro

    arguments, words = launch.split(arguments) if arguments[:1] == ["launch"] else (arguments, [])
    first = command.Words()
    first.add_argument("--trust", action="append", default=[])
    known, arguments = first.parse_known_args(arguments)
    for module in known.trust:
        try:
            importlib.import_module(module)
        except Exception as error:  # whatever the user's module raises
            why = f"{type(error).__name__}: {error}"[:200]
            raise Refusal("usage", f"cannot import {module!r}", "--trust", why, "check the spelling and PYTHONPATH") from error
    about = {"prog": "python -m keras_vae", "description": __doc__}
    verb = command.brief(lambda: tyro.extras.subcommand_cli_from_dict(VERBS, args=arguments, **about), arguments)
    verb(*words)


if __name__ == "__main__":
    command.main(program)
