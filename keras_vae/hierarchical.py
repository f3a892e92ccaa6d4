"""The hierarchical variational autoencoder: the plain one, and further latents on the grids of its decoder.

p(x, z) = p(z_0) p(z_1 | z_0) ... p(z_L | z_<L) p(x | z)        q(z|x) = q(z_0|x) q(z_1 | z_0, x) ... q(z_L | z_<L, x)
"""

import inspect
import math

import keras
import numpy as np
import tensorflow as tf

from keras_vae.domains import Count, Positive, Ratio
from keras_vae.errors import Refusal
from keras_vae.inference import Inference, Latent
from keras_vae.networks.topdown import TopDownBlock
from keras_vae.noise import Seed, normal
from keras_vae.vae import VAE


@keras.saving.register_keras_serializable("keras_vae")
class HierarchicalVAE(VAE):
    """A VAE whose decoder draws further latents on its way down from the coarsest grid to the data's (NVAE; Vahdat and Kautz 2020; Very
    Deep VAEs; Child 2020). Encoder and decoder are networks on a grid with as many stages as one another, like Conv.

    `groups`: how many there are on each grid of the decoder, from the coarsest on; the last it may name is the data's own. Each has
    `channels` numbers at every position; `limit` bounds their scales. `posterior` and `prior` are those of the first latent z_0, which
    is no grid; the others are Normal. Without groups it is the plain VAE. Use it for images whose detail no vector holds.

    Outside, z is all latents flat, side by side, [B, |z|]; whatever of it is left out at the end is decoded at the means of its priors.
    A temperature may be one for each latent, [1 + groups].
    """

    def __init__(self, groups: tuple[Ratio, ...] = (1, 1), channels: Count = 8, limit: Positive = 10.0, **kwargs):
        super().__init__(**{"encoder": "Conv()", "decoder": "Conv()", **kwargs})
        self.groups, self.channels, self.limit = tuple(groups), channels, limit

    def check_parts(self):
        super().check_parts()
        if self.objective.single:
            what, why = f"{type(self.objective).__name__} does not fit a hierarchy", "it looks at one latent, and here are several"
            raise Refusal("usage", what, "model.objective", why, "ELBO, or --model.family VAE")

    def build_decoder(self, z_shape):
        for kind in ("encoder", "decoder"):
            if "visit" not in inspect.signature(getattr(self, kind).call).parameters:
                what = f"{type(getattr(self, kind)).__name__} has no grids for the latents of a hierarchy"
                raise Refusal("usage", what, f"model.{kind}", fix=f"--model.{kind} with a network on a grid, like Conv()")
        sides, stages = self.encoder.halvings(self.decoder.event_shape), len(self.encoder.widths)
        if stages != len(self.decoder.widths):
            what, why = f"the encoder has {stages} stages, the decoder {len(self.decoder.widths)}", "latents lie where both have a grid"
            raise Refusal("usage", what, "model.decoder", why, "as many widths for each")
        if len(self.groups) > stages + 1:
            what, why = f"groups = {self.groups} for {stages + 1} grids", f"the networks have {stages} stages, and the data is a grid too"
            raise Refusal("usage", what, "model.family", why, "fewer groups, or more widths")
        self.places = [place for place, count in enumerate(self.groups) for _ in range(count)]
        self.shapes = [self.posterior.event_shape, *((*sides[-1 - place], self.channels) for place in self.places)]
        ahead = (self.decoder.widths[0], *self.decoder.widths)
        behind = (*(self.encoder.stage_width(width) for width in reversed(self.encoder.widths)), self.decoder.event_shape[-1])
        common = self.channels, self.limit, len(self.places)
        self.decoder.blocks = [TopDownBlock(self.decoder, ahead[place], *common, dtype=self.dtype_policy) for place in self.places]
        super().build_decoder(z_shape)
        for block, place in zip(self.blocks, self.places, strict=True):
            block.build(sides[-1 - place], behind[place])

    @property
    def blocks(self) -> list[TopDownBlock]:
        """One a group, from the top down. They are the decoder's, so that what holds for its kernels holds for theirs."""
        return self.decoder.blocks

    @property
    def latent_shape(self):
        return (sum(map(math.prod, self.shapes)),) if self.blocks else self.posterior.event_shape

    @property
    def spreads(self):
        return bool(self.blocks) or super().spreads

    @property
    def temperature_shape(self):
        return (len(self.shapes),) if self.blocks else ()

    def climb(self, x, condition, training, seed):
        """The features of x [B, *X] for the posterior of z_0, and those of each grid, the coarsest first."""
        grids = [x]

        def visit(_, features):
            grids.insert(0, features)
            return features

        return self.encoder(x, condition, training=training, seed=seed, visit=visit), grids

    def descend(self, z, choose, condition=None, training=False, seed=None, **shown):
        """The decoder's features from z_0. `choose(number, block, h, options)` gives z of each group on the way."""

        def visit(place, h):
            for number, block in enumerate(self.blocks):
                if self.places[number] == place:
                    below = None if seed is None else seed.fold("group").fold(number)
                    options = {"training": training, "seed": below, "condition": condition}
                    h = block.merge(h, choose(number, block, h, options), **options)
            return h

        return self.decoder(z, condition, training=training, seed=seed, visit=visit, **shown)

    def infer(self, batch, seed, training=False, samples=1, noise=None, gate=()):
        """As `VAE.infer`: every term of the bound, in order, from the top down."""
        if not self.built:
            raise ValueError("the model is not built: call fit(x) or adapt(x) first")
        condition = batch.get("condition")
        features, grids = self.climb(batch.get("input", batch["x"]), condition, training, seed.fold("encoder"))
        posterior = self.posterior(features).repeat(samples)  # q(z_0|x)
        grids = [tf.repeat(grid, samples, axis=0) if samples > 1 else grid for grid in grids]
        seed, condition = seed.repeat(samples), None if condition is None else tf.repeat(condition, samples, axis=0)
        noise = self.split(noise) if noise is not None else self.noise(seed.fold("z"), tf.shape(posterior[0])[0])
        posterior, z = posterior.draw(noise[0])
        latents = [Latent(posterior, z, self.prior(z))]

        def choose(number, block, h, options):
            p = block.prior(h, **options)  # p(z_l | z_<l)
            q = block.posterior(p, h, grids[self.places[number]], **options)  # q(z_l | z_<l, x)
            latents.append(Latent(q, q.from_noise(noise[1 + number]), p))
            return latents[-1].z

        shown = {"x": tf.repeat(batch["x"], samples, axis=0)} if self.decoder.autoregressive else {}
        features = self.descend(z, choose, condition, training, seed.fold("decoder"), **shown)
        return Inference(tuple(latents), self.likelihood(features))  # p(x|z)

    def gathered(self, inference):
        return self.flat([latent.z for latent in inference.latents])

    def encode(self, x, condition=None):
        features, grids = self.climb(x, condition, False, None)
        found = [self.posterior(features).mean()]

        def choose(number, block, h, options):
            found.append(block.posterior(block.prior(h, **options), h, grids[self.places[number]], **options).mean())
            return found[-1]

        self.descend(found[0], choose, condition)
        return self.flat(found)

    def decode(self, z, condition=None, seed=None):
        given = self.split(z)

        def choose(number, block, h, options):
            return given[1 + number] if len(given) > 1 + number else block.prior(h, **options).mean()

        return self.generate(self.descend(given[0], choose, condition), seed)

    def explain(self, z, x, condition=None):
        given, shown = self.split(z), {"x": x} if self.decoder.autoregressive else {}
        return self.likelihood(self.descend(given[0], lambda number, *_: given[1 + number], condition, **shown))

    def draw(self, n, seed: Seed, temperature=1.0, density=None, condition=None):
        temperature = tf.broadcast_to(tf.cast(temperature, tf.float32), (len(self.shapes),))
        found, noise = [(density or self.prior).sample(n, seed, temperature[0])], self.noise(seed.fold("groups"), n)

        def choose(number, block, h, options):
            p = block.prior(h, **options)
            found.append(p.loc + temperature[1 + number] * tf.exp(p.log_scale) * noise[1 + number])
            return found[-1]

        self.descend(found[0], choose, condition)
        return self.flat(found)

    def noise(self, seed, rows) -> list:
        """Standard normal noise for each latent; that of z_0 is what a plain VAE draws."""
        first, *others = self.shapes
        return [normal(seed, (rows, *first)), *(normal(seed.fold(1 + k), (rows, *shape)) for k, shape in enumerate(others))]

    def flat(self, latents):
        """The latents side by side; without groups, z_0 as it is."""
        if not self.blocks:
            return latents[0]
        return tf.concat([tf.reshape(z, (-1, math.prod(shape))) for z, shape in zip(latents, self.shapes, strict=True)], axis=1)

    def split(self, z) -> list:
        """The inverse of `flat`; also of z without some of the last latents."""
        if not self.blocks or tuple(z.shape[1:]) == self.posterior.event_shape:
            return [z]
        ends = np.cumsum(list(map(math.prod, self.shapes)))
        if z.shape[1] not in ends:
            raise ValueError(f"z has {z.shape[1]} numbers a row: latents end after {', '.join(map(str, ends))}")
        count = int(np.searchsorted(ends, z.shape[1])) + 1
        parts = tf.split(z, np.diff([0, *ends[:count]]), axis=1)
        return [tf.reshape(part, (-1, *shape)) for part, shape in zip(parts, self.shapes, strict=False)]

    def part_of(self, weight):
        inferring = (layer for block in self.blocks for layer in (block.behind, block.heads[1]))
        return "posterior" if any(weight is own for layer in inferring for own in layer.weights) else super().part_of(weight)

    def teach(self, x, condition=None):
        why, fix = "a student learns from one latent, and here are several", "a run of --model.family VAE"
        raise Refusal("usage", "a hierarchy is no teacher", "training.teacher", why, fix)

    def get_config(self):
        return {**super().get_config(), "groups": self.groups, "channels": self.channels, "limit": self.limit}
