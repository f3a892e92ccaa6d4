"""A trial of a search: one setting trained up to a step, in a process of its own, and what it is worth."""

import json
import math
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

import numpy as np

from keras_vae import choices, config, data, devices, evaluation, loop, runs, storage, training
from keras_vae.console import Console
from keras_vae.errors import Refusal


class Silent:
    """A board that shows nothing: what a search shows, it shows itself."""

    def __getattr__(self, name):
        return lambda *_: None


def child(folder: str, text: str, share: float, measure: tuple[str, str]) -> None:
    """The whole life of a trial's process: everything it prints goes to log.txt, what it found to result.json."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the search, which ends its trials itself
    threading.Thread(target=follow, args=(os.getppid(),), daemon=True).start()
    folder = Path(folder)
    log = open(folder / "log.txt", "a")  # noqa: SIM115, open as long as the process lives
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    try:
        found = run(folder, config.from_json(text, "trial"), share, measure)
    except Refusal as refusal:
        found = {"failed": f"{refusal.what}: {refusal.why}" if refusal.why else refusal.what}
    except MemoryError:
        found = {"failed": "out of memory"}
    except Exception as error:  # whatever a setting does to TensorFlow, the search goes on
        traceback.print_exc()
        memory = "ResourceExhausted" in type(error).__name__
        found = {"failed": "out of memory" if memory else f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"[:300]}
    storage.write(folder / "result.json", json.dumps(found))
    sys.stdout.flush()
    os._exit(0)  # TensorFlow's own end takes a second


def follow(parent: int) -> None:
    """End with the search: a trial that outlived it would write where the next one does."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def run(folder: Path, asked: config.Config, share: float, measure: tuple[str, str] = ("elbo", "")) -> dict:
    """Train a share of the run, to the end of an epoch, from the last checkpoint if there is one: what the best validation so far saw.
    The schedules are those of the whole run, so that a run trained in pieces is the one that was never cut."""
    started, console = time.perf_counter(), Console()
    dataset = data.load(asked.data, console.log, foreign=True)
    resolved, _ = choices.resolve(asked, dataset, 1)
    if (folder / "config.json").exists():  # how it was compiled when it began
        resolved = config.override(resolved, "devices.jit", config.read(folder / "config.json").devices.jit)
    trainer = training.prepare(resolved, dataset, devices.Group())
    storage.write(folder / "config.json", config.to_json(trainer.config))
    trainer.restore(folder, console.log)
    evaluator = evaluation.Evaluator(trainer.vae, trainer.dataset, trainer.config.devices.jit == "on", trainer.group, trainer.batch_for)
    trainer.until = min(trainer.total, math.ceil(share * trainer.total / trainer.every) * trainer.every)
    loop.fit(trainer, evaluator, folder, Silent(), console)
    vae = runs.build(trainer.config, dataset.modality)
    trainer.give_best(vae)
    figures = {"elbo": trainer.watch.state["best"] if trainer.decides == "elbo" else None}
    judge = evaluation.Evaluator(vae, trainer.dataset)
    if figures["elbo"] is None:
        figures["elbo"] = judge.elbo("validation")["elbo"]
    if "log_likelihood" in measure:
        figures["log_likelihood"] = float(np.mean(judge.log_likelihood("validation", trainer.config.evaluation.samples or 10)))
    figures |= {
        "parameters": float(sum(np.prod(weight.shape) for weight in vae.trainable_weights)),
        "seconds": trainer.spent,
        "step": float(trainer.step),
        "best_step": float(trainer.watch.state["best_step"]),
        **({"latency": latency(vae, trainer.dataset)} if "latency" in measure else {}),
        "returns": float(trainer.watch.state["returns"]),
        "all_seconds": time.perf_counter() - started,
    }
    if bad := [name for name, value in figures.items() if not math.isfinite(value)]:
        return {"failed": f"{bad[0]} is not finite"}
    start = trainer.watch.state["start"]
    if trainer.decides == "elbo" and start is not None and loop.clearly_worse(figures["elbo"], start):
        return {"failed": f"training ended worse than it began: the validation ELBO went from {start:.2f} to {figures['elbo']:.2f}"}
    return {"figures": figures}


def latency(vae, dataset) -> float:
    """Seconds that one record takes through encoder and decoder, the median of some, compiled."""
    import tensorflow as tf

    reconstruct = tf.function(vae.reconstruct, autograph=False)
    batch, seconds = dataset.batch("validation", 0, 1), []
    for _ in range(12):
        began = time.perf_counter()
        reconstruct(batch["x"], batch.get("condition"))
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds[2:]))
