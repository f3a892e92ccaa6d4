"""keras_vae: the loop behind train.py.

default: plain Adam, as everybody's. soonest: what reaches a good bound first, with averaged weights and Nesterov's momentum.
"""

import tempfile
from pathlib import Path

import numpy as np
from workloads import Workload

VARIANTS = {
    "default": {},
    "soonest": {"optimizer.algorithm": "Nadam", "optimizer.learning_rate": 1.5e-3, "optimizer.warmup": 100, "optimizer.ema": 0.99},
}


def configuration(work: Workload, source: str, variant: str = "default"):
    """The options of train.py that stand for a workload."""
    if work.kind == "text":
        return _of_text(work, variant)
    further = ", normalization='group', connections='residual', depth=2" if work.kind == "resnet" else ""
    kind = "Dense" if work.kind == "dense" else "Conv"
    network = "{}(widths={}, activation='relu'" + further + ")"
    return _config({
        "model.family": f"HierarchicalVAE(groups={work.groups}, channels={work.channels})" if work.groups else "VAE",
        "data.source": source,
        "data.batch_size": work.batch,
        "data.augment": "none",
        "data.binarize": "dynamic" if work.likelihood == "bernoulli" else "none",
        "model.encoder": network.format(kind, work.widths),
        "model.decoder": network.format(kind, work.widths[::-1]),
        "model.posterior": f"Normal(size={work.latent})",
        "model.likelihood": "Bernoulli()" if work.likelihood == "bernoulli" else "Normal(sigma='learned')",
    }, work, variant)  # fmt: skip


def _of_text(work: Workload, variant: str):
    read, write, width = work.widths
    network = f"Recurrent(levels={work.levels}, embedding={work.embedding}, widths=({width},), activation='relu', units={{}})"
    return _config({
        "data.source": "pydoc",  # which is not read: the records are numbers already
        "data.batch_size": work.batch,
        "model.encoder": network.format(read),
        "model.decoder": network.format(write),
        "model.posterior": f"Normal(size={work.latent})",
        "model.likelihood": f"Tokens(levels={work.levels})",
        "model.objective": "ELBO()",
    }, work, variant)  # fmt: skip


def _config(options: dict, work: Workload, variant: str):
    from keras_vae.config import Config, override

    plain = {"rate": work.rate, "warmup": 0, "decay": "Constant()", "clip_norm": 0.0}
    options |= {f"optimizer.{'learning_rate' if name == 'rate' else name}": value for name, value in plain.items()}
    config = Config()
    for path, value in {**options, "training.steps": 10**7, **VARIANTS[variant]}.items():
        config = override(config, path, value)
    return config


def sentences(work: Workload, records: np.ndarray):
    """The data set of tokens that are numbers already."""
    from keras_vae import data
    from keras_vae.modalities.text import Text
    from keras_vae.vocabulary import END, UNKNOWN, Vocabulary

    known = Vocabulary("words", (END, UNKNOWN, *map(str, range(2, work.levels))))
    return data.Dataset("sentences", Text(work.shape[0], known), records, records[:200], records[:200])


class Contestant:
    def __init__(self, work: Workload, variant: str, records, weights):
        from keras_vae import choices, command, data, devices, training

        command.load_tensorflow()
        self.work, self.names = work, list(weights)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "records.npz")
            few = records[:200]  # the splits that are not trained on
            np.savez(path, train=records, validation=few, test=few)
            config = configuration(work, f"npz:{path}", variant)
            dataset = sentences(work, records) if work.kind == "text" else data.load(config.data, print)
            config, _ = choices.resolve(config, dataset)
            self.trainer = training.prepare(config, dataset, devices.Group())
        for variable, value in zip(self.variables(), weights.values(), strict=True):
            variable.assign(value)

    def variables(self) -> list:
        """The weights in the order of `workloads.initial`."""
        vae = self.trainer.vae
        if self.work.kind == "text":
            reader, writer = vae.encoder, vae.decoder
            layers = reader.look, *reader.read.ways, *reader.units, vae.posterior, writer.look, *writer.units, writer.enter, writer.write
            return [*(weight for layer in layers for weight in layer.weights), vae.likelihood.kernel, vae.likelihood.bias]
        sigma = [vae.likelihood.log_sigma] if self.work.likelihood == "normal" else []
        parts = vae.encoder, vae.posterior, vae.decoder
        return [*(weight for part in parts for weight in part.weights), *sigma, *vae.likelihood.project.weights, vae.likelihood.bias]

    def describe(self) -> str:
        from keras_vae import devices

        versions = devices.describe()
        return f"keras_vae {versions['keras_vae']}, TensorFlow {versions['tensorflow']}, Keras {versions['keras']}"

    def train(self, records: int) -> float:
        trainer, until = self.trainer, self.trainer.step + records // self.work.batch
        trainer.vae.reset_metrics()
        while trainer.step < until:
            metrics = trainer.advance(until)
            trainer.agree()
        return metrics["loss"]

    def weights(self) -> dict:
        with self.trainer.averaged():
            return {name: np.array(variable) for name, variable in zip(self.names, self.variables(), strict=True)}
