"""Runs as `train.py` makes them, without report and export: what the scripts beside this one measure."""

import contextlib
import tempfile
from pathlib import Path


class Silent:
    """A console and a board that show nothing."""

    @contextlib.contextmanager
    def training(self, total, done):
        yield lambda *_: None

    def __getattr__(self, name):
        return lambda *_, **__: None


def train(options: dict):
    """(the best model, its data set) of a run with these options: path -> value."""
    from keras_vae import choices, config, data, devices, evaluation, loop, runs, training

    chosen = config.Config()
    for path, value in options.items():
        chosen = config.override(chosen, path, value)
    dataset = data.load(chosen.data, lambda *_: None, foreign=True)
    chosen, _ = choices.resolve(config.check(chosen), dataset, 1)
    trainer = training.prepare(chosen, dataset, devices.Group())
    with tempfile.TemporaryDirectory() as folder:
        loop.fit(trainer, evaluation.Evaluator(trainer.vae, trainer.dataset), Path(folder), Silent(), Silent())
    vae = runs.build(chosen, trainer.dataset.modality)
    trainer.give_best(vae)
    return vae, trainer.dataset
