"""PyTorch, a loop by hand: records resident as bytes, a permutation an epoch, fused Adam, channels last for convolutions.

eager: as it is. compile: the loss and its gradient through torch.compile.

What its users would not write at once, and what made it faster: the dense layers' products by oneDNN, since the MKL in the wheels leaves
half of an AMD processor idle; sixteen random bits a pixel, drawn as 64-bit words, since PyTorch's generator is serial; and a malloc that
keeps freed memory.
"""

import ctypes
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from workloads import BETA_1, BETA_2, EPSILON, GROUPS, Workload, last, stacks

VARIANTS = {"eager": None, "compile": {}}
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of glibc's mallopt

library = torch.library.Library("speed", "DEF")  # an operator of our own, so that torch.compile leaves the product as it is
library.define("product(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
library.impl("product", lambda x, weight, bias: torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], ""), "CPU")
torch.library.register_fake("speed::product", lambda x, weight, bias: x.new_empty(len(x), len(weight)), lib=library)
product = torch.ops.speed.product.default


class Product(torch.autograd.Function):
    """x [B, I], weight [O, I], bias [O] or None -> [B, O]."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        ctx.biased = bias is not None
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        to_x = product(gradient, weight.t(), None) if ctx.needs_input_grad[0] else None
        return to_x, product(gradient.t(), x.t(), None), gradient.sum(0) if ctx.biased else None


class Linear(nn.Linear):
    def forward(self, x):
        return Product.apply(x, self.weight, self.bias)


LOG_TWO = math.log(2.0)


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, width, eps=1e-3)
        self.first, self.last = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x):
        return x + self.last(F.relu(self.first(self.norm(x))))


class Block(nn.Module):
    """A group of latents: p from h, q from h and e relative to p, scales softplus(ln 2 a) / ln 2 with |a| < 10; h + project(z), refined."""

    def __init__(self, layer, channels):
        super().__init__()
        width = layer.out
        self.grid = layer.stride
        self.ahead, self.behind = (nn.Conv2d(inside, width, 3, padding=1) for inside in (width, width + layer.inside))
        self.p, self.q = (nn.Conv2d(width, 2 * channels, 1) for _ in range(2))
        self.project = nn.Conv2d(channels, width, 1)
        self.first, self.last = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def normal(self, values):
        mean, a = values.chunk(2, dim=1)
        return mean, torch.log(F.softplus(LOG_TWO * 10.0 * torch.tanh(a / 10.0)) / LOG_TWO)

    def forward(self, h, e):
        mean, log_scale = self.normal(self.p(F.relu(self.ahead(h))))
        change, log_ratio = self.normal(self.q(F.relu(self.behind(torch.cat([h, e], dim=1)))))
        z = mean + change + torch.exp(log_scale + log_ratio) * torch.randn_like(mean)
        rate = 0.5 * (change.square() * torch.exp(-2 * log_scale) + torch.exp(2 * log_ratio) - 1 - 2 * log_ratio).sum()
        h = h + self.project(z)
        return h + self.last(F.relu(self.first(h))), rate


def stack(plan, channels=0):
    made = {
        "block": lambda layer: Block(layer, channels),
        "dense": lambda layer: Linear(layer.inside, layer.out),
        "conv": lambda layer: nn.Conv2d(layer.inside, layer.out, 3, stride=layer.stride, padding=1),
        "up": lambda layer: nn.ConvTranspose2d(layer.inside, layer.out, 4, stride=2, padding=1),
        "norm": lambda layer: nn.GroupNorm(GROUPS, layer.out, eps=1e-3),
        "relu": lambda layer: nn.ReLU(inplace=True),
        "flatten": lambda layer: nn.Flatten(),
        "reshape": lambda layer: nn.Unflatten(1, (layer.shape[2], *layer.shape[:2])),
        "residual": lambda layer: Residual(layer.out),
    }
    return nn.Sequential(*(made[layer.kind](layer) for layer in plan))


class VAE(nn.Module):
    def __init__(self, work: Workload):
        super().__init__()
        encoder, decoder = stacks(work)
        self.work, self.dense = work, work.kind == "dense"
        self.encoder, self.q, self.decoder = stack(encoder), Linear(last(encoder), 2 * work.latent), stack(decoder, work.channels)
        if work.likelihood == "normal":
            self.log_sigma = nn.Parameter(torch.zeros(()))
        self.p = Linear(last(decoder), math.prod(work.shape), bias=False)
        if not self.dense:
            self.p = nn.Conv2d(last(decoder), work.shape[-1], 1, bias=False)
        channels_first = (work.shape[-1], *work.shape[:2])
        self.bias = nn.Parameter(torch.zeros(math.prod(work.shape) if self.dense else channels_first))

    def forward(self, x):
        """The mean over the batch of distortion + rate; x [B, D], or [B, C, H, W]."""
        features, grids, below = x, [], 0.0
        for layer in self.encoder:
            features = layer(features)
            if self.work.groups and isinstance(layer, nn.ReLU) and features.dim() == 4:
                grids.insert(0, features)
        mean, log_variance = self.q(features).chunk(2, dim=1)
        features = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        for layer in self.decoder:
            if isinstance(layer, Block):
                features, rate = layer(features, grids[layer.grid])
                below = below + rate
            else:
                features = layer(features)
        output = self.p(features) + self.bias
        if self.work.likelihood == "bernoulli":
            distortion = F.binary_cross_entropy_with_logits(output, x, reduction="sum")
        else:
            elements = 0.5 * ((x - output) * torch.exp(-self.log_sigma)).square()
            distortion = elements.sum() + x.numel() * (self.log_sigma + 0.5 * math.log(2 * math.pi))
        rate = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum() + below
        return (distortion + rate) / x.shape[0]


class Contestant:
    def __init__(self, work: Workload, variant: str, records, weights):
        torch.manual_seed(0)
        libc = ctypes.CDLL(None)
        for threshold in (TRIM_THRESHOLD, MMAP_THRESHOLD):
            libc.mallopt(threshold, 1 << 30)
        self.work, self.given, self.vae = work, weights, VAE(work)
        self._load(weights)
        records = torch.from_numpy(records)
        if work.kind == "dense":
            self.records = records.reshape(len(records), -1).contiguous()
        else:
            self.vae = self.vae.to(memory_format=torch.channels_last)
            self.records = records.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
        # 16 bits an element in the layout of a batch, seen as words to be drawn and as the pixels' thresholds
        self.words = torch.zeros(work.batch * math.prod(work.shape) // 4, dtype=torch.int64)
        self.noise = self.words.view(torch.int16).view(work.batch, *((-1,) if self.dense else work.shape))
        self.noise = self.noise if self.dense else self.noise.permute(0, 3, 1, 2)
        self.optimizer = torch.optim.Adam(self.vae.parameters(), work.rate, (BETA_1, BETA_2), EPSILON, fused=True)
        options = VARIANTS[variant]
        self.loss = self._loss if options is None else torch.compile(self._loss, fullgraph=True, **options)

    def _loss(self, raw, noise):
        if self.work.likelihood == "bernoulli":
            return self.vae((noise < raw.int() * 257 - 32768).float())  # noise from -32768 to 32767: a pixel is lit with raw / 255
        return self.vae(raw.float() / 255.0)

    def parameters(self):
        """(name, parameter, from our layout, to our layout) in the order of `workloads.initial`."""
        vae, found = self.vae, []
        modules = [*vae.encoder, vae.q, *sorted(vae.decoder, key=lambda module: not isinstance(module, Block))]
        inner = [list(module.children()) if isinstance(module, (Residual, Block)) else [module] for module in modules]
        for module in (module for group in inner for module in group):
            if isinstance(module, nn.Linear):
                found += [(module.weight, lambda a: a.T, lambda a: a.T), (module.bias, None, None)]
            elif isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
                found += [(module.weight, lambda a: a.T[:, :, None, None], lambda a: a[:, :, 0, 0].T), (module.bias, None, None)]
            elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                found += [(module.weight, lambda a: a.transpose(3, 2, 0, 1), lambda a: a.transpose(2, 3, 1, 0)), (module.bias, None, None)]
            elif isinstance(module, nn.GroupNorm):
                found += [(module.weight, None, None), (module.bias, None, None)]
        found += [(vae.log_sigma, None, None)] if self.work.likelihood == "normal" else []
        if self.dense:
            found += [
                (vae.p.weight, lambda a: a.T, lambda a: a.T),
                (vae.bias, lambda a: a.reshape(-1), lambda a: a.reshape(self.work.shape)),
            ]
        else:
            found.append((vae.p.weight, lambda a: a.T[:, :, None, None], lambda a: a[:, :, 0, 0].T))
            found.append((vae.bias, lambda a: a.transpose(2, 0, 1), lambda a: a.transpose(1, 2, 0)))
        return found

    @property
    def dense(self):
        return self.work.kind == "dense"

    def _load(self, weights):
        with torch.no_grad():
            for (parameter, inward, _), value in zip(self.parameters(), weights.values(), strict=True):
                parameter.copy_(torch.from_numpy(np.array(inward(value) if inward else value)))

    def describe(self) -> str:
        return f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads"

    def train(self, records: int) -> float:
        batch, total = self.work.batch, torch.zeros(())
        order = torch.randperm(len(self.records))[:records]
        for rows in order.split(batch):
            if len(rows) < batch:
                break
            if self.work.likelihood == "bernoulli":
                self.words.random_(-(2**63), None)
            loss = self.loss(self.records[rows], self.noise)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            total += loss.detach()
        return total.item() / (records // batch)

    def weights(self) -> dict:
        values = [(outward(p.detach().numpy()) if outward else p.detach().numpy()) for p, _, outward in self.parameters()]
        return dict(zip(self.given, values, strict=True))
