"""pythae's own BaseTrainer on its VAE, with an encoder and a decoder of the workload's widths and a data set that draws the pixels anew.

default: one epoch a turn, by the trainer's `train_step`. Left out, which favours it: checkpoints (steps_saving=None, its default), the
copy of the best model after every epoch, the final model on disk and an evaluation set. Its progress bar stays, into a file. The data set
gives one record at a time, as its loader asks for them, and there are no worker processes, which is its default.
"""

import tempfile
from importlib.metadata import version

import numpy as np
import torch
from pythae.data.datasets import DatasetOutput
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from torch import nn
from torch.utils.data import Dataset
from workloads import BETA_1, BETA_2, EPSILON, Workload, last, stacks

VARIANTS = {"default": {}}


class Pictures(Dataset):
    """`count` of the records, bytes; every visit draws every pixel anew."""

    def __init__(self, records, count):
        self.all, self.count = torch.from_numpy(records).reshape(len(records), -1), count
        self.choose()

    def choose(self):
        """Other records, if the turn does not see them all."""
        self.records = self.all if self.count == len(self.all) else self.all[torch.randperm(len(self.all))[: self.count]]

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return DatasetOutput(data=torch.bernoulli(self.records[index] / 255.0))


def stack(plan):
    made = {
        "dense": lambda layer: nn.Linear(layer.inside, layer.out),
        "relu": lambda layer: nn.ReLU(),
        "flatten": lambda layer: nn.Flatten(),
    }
    return nn.Sequential(*(made[layer.kind](layer) for layer in plan))


class Encoder(BaseEncoder):
    def __init__(self, plan, latent):
        super().__init__()
        self.layers, self.mean, self.log_variance = stack(plan), *(nn.Linear(last(plan), latent) for _ in range(2))

    def forward(self, x):
        features = self.layers(x)
        return ModelOutput(embedding=self.mean(features), log_covariance=self.log_variance(features))


class Decoder(BaseDecoder):
    def __init__(self, plan, size):
        super().__init__()
        self.layers = nn.Sequential(stack(plan), nn.Linear(last(plan), size), nn.Sigmoid())

    def forward(self, z):
        return ModelOutput(reconstruction=self.layers(z))


class Contestant:
    def __init__(self, work: Workload, variant: str, records, weights):
        if work.kind != "dense":
            raise ValueError("written for the dense workloads only")
        self.work, self.given, (encoder, decoder), size = work, list(weights), stacks(work), int(np.prod(work.shape))
        config = VAEConfig(input_dim=(size,), latent_dim=work.latent, reconstruction_loss="bce")
        self.vae = VAE(config, Encoder(encoder, work.latent), Decoder(decoder, size))
        self._load(weights)
        options = {
            "per_device_train_batch_size": work.batch,
            "learning_rate": work.rate,
            "optimizer_params": {"betas": (BETA_1, BETA_2), "eps": EPSILON},
        }
        self.records, self.options, self.trainer, self.count = records, options, None, 0

    def _trainer(self, count: int) -> None:
        """The trainer of epochs of `count` records; its optimizer lives as long as it does."""
        with tempfile.TemporaryDirectory() as folder:
            config = BaseTrainerConfig(output_dir=folder, no_cuda=True, **self.options)
            self.trainer = BaseTrainer(self.vae, Pictures(self.records, count), training_config=config)
            self.trainer.prepare_training()
        self.count = count

    def _modules(self):
        """(weights, biases) of the layers, in the order of `workloads.initial`; the two halves of `q` as one."""
        encoder, decoder = self.vae.encoder, self.vae.decoder
        linear = [m for m in encoder.layers if isinstance(m, nn.Linear)]
        rest = [m for m in decoder.layers.modules() if isinstance(m, nn.Linear)]
        return [*([m] for m in linear), [encoder.mean, encoder.log_variance], *([m] for m in rest)]

    def _load(self, weights):
        values = iter(weights.values())
        with torch.no_grad():
            for modules in self._modules():
                kernel, bias = next(values), next(values).reshape(-1)
                for module, k, b in zip(modules, np.split(kernel, len(modules), axis=1), np.split(bias, len(modules)), strict=True):
                    module.weight.copy_(torch.from_numpy(k.T.copy()))
                    module.bias.copy_(torch.from_numpy(b.copy()))

    def describe(self) -> str:
        return f"pythae {version('pythae')}, PyTorch {torch.__version__}, {torch.get_num_threads()} threads"

    def train(self, records: int) -> float:
        if records != self.count:
            self._trainer(records)
        self.trainer.train_dataset.choose()
        loss = self.trainer.train_step(1)
        self.trainer.callback_handler.on_epoch_end(training_config=self.trainer.training_config)
        return loss

    def weights(self) -> dict:
        found = []
        for modules in self._modules():
            found.append(np.concatenate([m.weight.detach().numpy().T for m in modules], axis=1))
            found.append(np.concatenate([m.bias.detach().numpy() for m in modules]))
        found[-1] = found[-1].reshape(self.work.shape)
        return dict(zip(self.given, found, strict=True))
