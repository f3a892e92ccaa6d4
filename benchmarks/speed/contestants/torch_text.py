"""PyTorch, a loop by hand over sentences: cuDNN's kind of gated recurrent units on packed sequences, and a softmax of real places alone.

What its users would not write at once, and what made it faster: only the places within a sentence go through the softmax, which is most of
the work.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence
from workloads import BETA_1, BETA_2, EPSILON, Workload

VARIANTS = {"eager": None}


class VAE(nn.Module):
    def __init__(self, work: Workload):
        super().__init__()
        read, write, width = work.widths
        self.reader, self.writer = (nn.Embedding(work.levels, work.embedding) for _ in range(2))
        self.read = nn.GRU(work.embedding, read, batch_first=True, bidirectional=True)
        self.dense, self.q = nn.Linear(2 * read, width), nn.Linear(width, 2 * work.latent)
        self.told, self.first = nn.Linear(work.latent, width), nn.Linear(width, write)
        self.write = nn.GRU(work.embedding + width, write, batch_first=True)
        self.p = nn.Linear(write, work.levels)

    def forward(self, tokens):
        """The mean over the batch of distortion + rate, tokens [B, T]."""
        within = (torch.cumsum(tokens == 0, dim=1) - (tokens == 0).long()) == 0
        packed = pack_padded_sequence(self.reader(tokens), within.sum(dim=1), batch_first=True, enforce_sorted=False)
        states = self.read(packed)[1]
        features = F.relu(self.dense(torch.cat([states[0], states[1]], dim=1)))
        mean, log_variance = self.q(features).chunk(2, dim=1)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        told = F.relu(self.told(z))
        before = self.writer(F.pad(tokens, (1, -1)))
        entered = torch.cat([before, told[:, None].expand(-1, tokens.shape[1], -1)], dim=2)
        states = self.write(entered, torch.tanh(self.first(told))[None])[0]
        distortion = F.cross_entropy(self.p(states[within]), tokens[within], reduction="sum")
        rate = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum()
        return (distortion + rate) / len(tokens)


class Contestant:
    def __init__(self, work: Workload, variant: str, records, weights):
        torch.manual_seed(0)
        self.work, self.given, self.vae = work, weights, VAE(work)
        with torch.no_grad():
            for (parameter, inward, _), value in zip(self.parameters(), weights.values(), strict=True):
                parameter.copy_(torch.from_numpy(np.ascontiguousarray(inward(value))))
        self.records = torch.from_numpy(records).long()
        self.optimizer = torch.optim.Adam(self.vae.parameters(), work.rate, (BETA_1, BETA_2), EPSILON, fused=True)

    def parameters(self):
        """(parameter, from our layout, to our layout) in the order of `workloads.initial`. The two biases of gated units are one there."""
        vae, same, turned = self.vae, lambda a: a, lambda a: a.T

        def gates(a, axis=0):
            """Update, reset, candidate -> reset, update, candidate, and the other way round."""
            first, second, third = np.split(a, 3, axis)
            return np.concatenate([second, first, third], axis)

        def units(layer, ending=""):
            kernels = [getattr(layer, f"weight_{kind}_l0{ending}") for kind in ("ih", "hh")]
            biases = Biases(*(getattr(layer, f"bias_{kind}_l0{ending}") for kind in ("ih", "hh")))
            return [(kernel, lambda a: gates(a.T), lambda a: gates(a).T) for kernel in kernels] + [
                (biases, lambda a: gates(a, 1), lambda a: gates(a, 1))
            ]

        def dense(layer):
            return [(layer.weight, turned, turned), (layer.bias, same, same)]

        return [
            (vae.reader.weight, same, same),
            *units(vae.read),
            *units(vae.read, "_reverse"),
            *dense(vae.dense),
            *dense(vae.q),
            (vae.writer.weight, same, same),
            *dense(vae.told),
            *dense(vae.first),
            *units(vae.write),
            *dense(vae.p),
        ]

    def describe(self) -> str:
        return f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads"

    def train(self, records: int) -> float:
        batch, total = self.work.batch, torch.zeros(())
        for rows in torch.randperm(len(self.records))[:records].split(batch):
            if len(rows) < batch:
                break
            loss = self.vae(self.records[rows])
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            total += loss.detach()
        return total.item() / (records // batch)

    def weights(self) -> dict:
        return {name: outward(p.detach().numpy()) for name, (p, _, outward) in zip(self.given, self.parameters(), strict=True)}


class Biases:
    """Two biases as one parameter [2, 3 states]."""

    def __init__(self, entered, state):
        self.parts = entered, state

    def copy_(self, values):
        for part, row in zip(self.parts, values, strict=True):
            part.copy_(row)

    def detach(self):
        return torch.stack([part.detach() for part in self.parts])
