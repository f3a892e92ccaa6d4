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
    from keras_vae.config import Config, override

    further = ", normalization='group', connections='residual', depth=2" if work.kind == "resnet" else ""
    kind = "Dense" if work.kind == "dense" else "Conv"
    network = "{}(widths={}, activation='relu'" + further + ")"
    options = {
        "model.family": f"HierarchicalVAE(groups={work.groups}, channels={work.channels})" if work.groups else "VAE",
        "data.source": source,
        "data.batch_size": work.batch,
        "data.augment": "none",
        "data.binarize": "dynamic" if work.likelihood == "bernoulli" else "none",
        "model.encoder": network.format(kind, work.widths),
        "model.decoder": network.format(kind, work.widths[::-1]),
        "model.posterior": f"Normal(size={work.latent})",
        "model.likelihood": "Bernoulli()" if work.likelihood == "bernoulli" else "Normal(sigma='learned')",
        "optimizer.learning_rate": work.rate,
        "optimizer.warmup": 0,
        "optimizer.decay": "Constant()",
        "optimizer.clip_norm": 0.0,
        "training.steps": 10**7,
        **VARIANTS[variant],
    }
    config = Config()
    for path, value in options.items():
        config = override(config, path, value)
    return config


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
            dataset = data.load(config.data, print)
            config, _ = choices.resolve(config, dataset)
            self.trainer = training.prepare(config, dataset, devices.Group())
        for variable, value in zip(self.variables(), weights.values(), strict=True):
            variable.assign(value)

    def variables(self) -> list:
        """The weights in the order of `workloads.initial`."""
        vae = self.trainer.vae
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
