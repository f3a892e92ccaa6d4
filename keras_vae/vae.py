"""The variational autoencoder: four layers, a prior and a formula.

log p(x)  >=  ELBO  =  E_q(z|x) [ log p(x|z) ]  -  KL( q(z|x) || p(z) )        nats, per example
"""

import inspect
import math

import keras
import numpy as np
import tensorflow as tf

from keras_vae import components, devices, linear, metrics, pruning, stability
from keras_vae.errors import Refusal
from keras_vae.inference import Gate, Inference, Latent
from keras_vae.noise import Seed, normal, uniform


@keras.saving.register_keras_serializable("keras_vae")
class VAE(keras.Model):
    """A VAE composed of layers, each given as the call that makes it ("Normal(size=32)") or as an object.

    It is a `keras.Model`: `compile`, `fit`, `evaluate`, `predict` and `save` work on arrays x [N, *X]. `objective` is the loss; `seed`
    addresses all noise: the same seed and the same batches give the same weights.

    It is a model of p(x|c) if it is built with a "condition" c beside x, [B, C] or, on the grid of x, [B, ..., C], which encoder and
    decoder are given and the prior is not (Learning Structured Output Representation using Deep Conditional Generative Models; Sohn et
    al. 2015).
    """

    condition_shape = ()  # (C,), or (..., C) of one on the data's grid; set by `build`

    def __init__(
        self,
        encoder="Dense()",
        posterior="Normal()",
        prior="Standard()",
        decoder="Dense()",
        likelihood="Bernoulli()",
        objective="ELBO()",
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(**{"autocast": False, **kwargs})  # x is scored as it is; the networks cast for themselves
        for kind, part in (("encoder", encoder), ("decoder", decoder)):
            setattr(self, kind, components.make(kind, part, dtype=self.dtype_policy.name))
        for kind, part in (("posterior", posterior), ("prior", prior), ("likelihood", likelihood), ("objective", objective)):
            setattr(self, kind, components.make(kind, part))
        self.check_parts()
        self.seed = seed
        self.clip_norm = None
        self.accumulate = 1
        self.trackers = {name: metrics.Mean(name) for name in self.objective.terms}
        self.clipped, self.skipped = metrics.Sum("clipped"), metrics.Sum("skipped")
        self.guard = stability.Guard()

    def check_parts(self) -> None:
        """`Refusal` (usage) if the parts make no sense together."""
        if self.posterior.support not in self.prior.supports:
            why = f"{_name(self.posterior)} gives z in {WHERE[self.posterior.support]}, and {_name(self.prior)} is a density on "
            why += " or ".join(WHERE[support] for support in self.prior.supports)
            fits = [name for name in components.members("prior") if self.posterior.support in components.find("prior", name).supports]
            fix = f"--model.prior with one of {', '.join(fits)}"
            raise Refusal("usage", "the prior does not fit the posterior", components.path("prior"), why, fix)
        if self.decoder.sequential and not self.likelihood.writes:
            what, why = f"{_name(self.likelihood)} does not fit {_name(self.decoder)}", "it has outputs of its own at each place"
            raise Refusal("usage", what, components.path("likelihood"), why, "--model.likelihood Tokens()")
        if self.prior.infers and self.likelihood.writes:
            what, why = (
                f"{_name(self.prior)} does not fit {_name(self.likelihood)}",
                "its inputs are numbers that move, and tokens are none",
            )
            raise Refusal("usage", what, components.path("prior"), why, "--model.prior with another, like Mixture()")
        if refused := self.prior.refuses(self.posterior):
            what = f"{_name(self.prior)} does not fit {_name(self.posterior)}"
            raise Refusal("usage", what, components.path("prior"), refused, "python train.py --list prior")
        if refused := self.objective.refuses(self.posterior, self.prior, self.likelihood):
            what = f"{_name(self.objective)} does not fit the other parts"
            raise Refusal("usage", what, components.path("objective"), refused, "python train.py --list objective")

    def check_condition(self) -> None:
        """`Refusal` (usage) if a part has no use for a condition."""
        if self.prior.infers:
            why = "it asks the encoder about inputs of its own, and these have no condition"
            fix = "--model.prior with another, like Mixture()"
            raise Refusal("usage", f"{_name(self.prior)} does not fit a model with a condition", components.path("prior"), why, fix)
        for kind in ("encoder", "decoder"):
            if "condition" not in inspect.signature((part := getattr(self, kind)).call).parameters:
                what, fix = f"{_name(part)} takes no condition", "write call(self, x, training=False, seed=None, condition=None)"
                raise Refusal("usage", what, components.path(kind), "the batch has one, and its `call` has no such argument", fix)

    @property
    def latent_shape(self) -> tuple:
        """*Z, what `encode` gives and `decode` takes for one datum."""
        return self.posterior.event_shape

    @property
    def footprint(self) -> tuple:
        """The shape of data that would take as much memory as a record does on its way."""
        return (max(math.prod(self.event_shape), getattr(self.decoder, "elements", 0)),)

    @property
    def spreads(self) -> bool:
        """Whether a temperature changes samples."""
        return self.prior.spreads

    @property
    def temperature_shape(self) -> tuple:
        """Of the temperature that `sample` takes at most."""
        return ()

    def infer(self, batch: dict, seed: Seed, training: bool = False, samples: int = 1, noise=None, gate=()) -> Inference:
        """What the model says about a batch: every term of the bound, in order. With `samples` = K each row appears K times; `noise`
        [B, *Z] replaces what is drawn; the samples pass a `gate` (see `inference.Gate`)."""
        if not self.built:
            raise ValueError("the model is not built: call fit(x) or adapt(x) first")
        condition = batch.get("condition")
        features = self.encoder(batch.get("input", batch["x"]), condition, training=training, seed=seed.fold("encoder"))
        posterior = self.posterior(features).repeat(samples)  # q(z|x)
        seed, condition = seed.repeat(samples), None if condition is None else tf.repeat(condition, samples, axis=0)
        if noise is None:
            noise = normal(seed.fold("z"), (tf.shape(posterior[0])[0], *self.posterior.event_shape))
        posterior, z = posterior.draw(noise)
        z = gate(z) if gate else z
        prior = self.prior(z)  # p(z)
        shown = {"x": tf.repeat(batch["x"], samples, axis=0)} if self.decoder.autoregressive else {}
        features = self.decoder(z, condition, training=training, seed=seed.fold("decoder"), **shown)
        likelihood = self.likelihood(features)  # p(x|z)
        contrast, taught = (), ()
        if self.objective.contrasts:
            contrast = self.prior.sample(z.shape[0] or tf.shape(z)[0], seed.fold("contrast"))
        if self.objective.crosses and "teacher" in batch:
            theirs = batch["teacher"]["q"].repeat(samples).from_noise(noise)  # z' ~ q'(z|x)
            features = self.decoder(theirs, condition, training=training, seed=seed.fold("decoder"), **shown)
            taught = theirs, self.likelihood(features)
        return Inference((Latent(posterior, z, prior),), likelihood, gate, contrast, taught)

    def gathered(self, inference: Inference) -> tf.Tensor:
        """The z of an inference as `decode` takes it."""
        return inference.latents[0].z

    def gradients(self, batch: dict, seed: Seed, step, count):
        """What the rows of one replica add to the mean over the `count` rows of the global batch: d loss / d weights, the loss []; and to
        sums over it: the terms of the objective, the statistics that parts of the model follow."""
        self.objective.check(batch, self.posterior.event_shape)
        with tf.GradientTape() as tape:
            gate = Gate() if self.objective.gated else ()
            inference = self.infer(batch, seed, training=True, samples=self.objective.draws, gate=gate)
            terms = self.objective(batch, inference, step)
            penalty = sum(self.losses, 0.0) / (devices.replicas() * self.accumulate)
            loss = tf.reduce_sum(terms["loss"]) / tf.cast(count, tf.float32) + penalty
        slopes = zip(tape.gradient(loss, self.trainable_weights), self.trainable_weights, strict=True)
        gradients = [tf.zeros_like(tf.convert_to_tensor(weight)) if slope is None else slope for slope, weight in slopes]
        statistics = self.statistics(batch, inference, seed, count)
        return gradients, loss, {name: tf.reduce_sum(values) for name, values in terms.items()}, statistics

    def statistics(self, batch: dict, inference: Inference, seed: Seed, count) -> tuple:
        """Sums over the rows of one replica that parts of the model follow without a gradient."""
        draws = self.objective.draws
        x, observed = (tf.repeat(batch[name], draws, axis=0) if name in batch and draws > 1 else batch.get(name) for name in ("x", "mask"))
        followed = self.likelihood.statistics(inference.likelihood, x, observed)
        return followed, self.posterior.statistics(inference.latents[0].q, seed.repeat(draws), count * draws)

    def accumulated(self, batch: dict, seed: Seed, step, count):
        """`gradients`, worked off in `accumulate` parts one after the other."""
        rows, why = batch["x"].shape[0], f"a batch is worked off in accumulate = {self.accumulate} equal parts: drop one that is ragged"
        if rows is None:
            tf.debugging.assert_equal(tf.shape(batch["x"])[0] % self.accumulate, 0, message=why)
        elif rows % self.accumulate:
            raise ValueError(f"{why}; this one has {rows} rows")
        parts = tf.nest.map_structure(lambda rows: tf.reshape(rows, (self.accumulate, -1, *rows.shape[1:])), batch)
        size = tf.shape(parts["x"], tf.int64)[1]

        def gradients(number):
            part = tf.nest.map_structure(lambda rows: rows[number], parts)
            return self.gradients(part, seed.at(seed.row + tf.cast(number, tf.int64) * size), step, count)

        def add(number, sums):
            return number + 1, tf.nest.map_structure(tf.add, sums, gradients(number))

        # A loop, so that no executor works on two parts at a time: memory is what this saves.
        return tf.while_loop(lambda number, _: number < self.accumulate, add, (1, gradients(0)), parallel_iterations=1)[1]

    def train_step(self, data) -> dict:
        """One update: gradient, sum over the replicas, clip, guard, then apply everything or nothing. The only training step there is."""
        batch, step = as_batch(data), self.step
        first, count = batch.pop("place", None) or devices.place(tf.shape(batch["x"])[0])
        before = [tf.convert_to_tensor(variable) for variable in self.moving]
        parts = self.compiled_gradients(batch, Seed.of(self.seed, step, row=first), step, count)
        devices.update(self.compiled_update, devices.total(parts), (count, before), self.guard.in_a_row)
        return self.get_metrics_result()

    def update(self, parts, constants) -> None:
        """Clip, guard, apply: what the sums over all replicas make of the weights, on one of them. A step that is skipped counts all the
        same: else the same batch and noise would come again for ever."""
        (gradients, loss, terms, statistics), (count, before) = parts, constants
        limit = self.guard.limit() if self.clip_norm is None else self.clip_norm or math.inf
        gradients, norm = stability.clip(gradients, limit)
        healthy, step = stability.healthy(loss, norm), self.step
        phases = self.objective.phases(step)
        held = [~phases[kind] if (kind := self.part_of(weight)) in phases else None for weight in self.trainable_weights] if phases else []
        with pruning.around(self), stability.only_if(healthy, self.optimizer, self.trainable_weights, held):
            self.optimizer.apply(gradients, self.trainable_weights)
        for part, sums in zip((self.likelihood, self.posterior), statistics, strict=True):
            part.update(*sums)
        for name, tracker in self.trackers.items():
            tracker.update_state(terms[name], count)
        for variable, value in zip(self.moving, before, strict=True):
            variable.assign(tf.where(healthy, variable, value))
        self.guard.update(healthy, norm, step)
        self.clipped.update_state(tf.cast(healthy & (norm > limit), tf.float32))
        self.skipped.update_state(tf.cast(~healthy, tf.float32))

    @property
    def step(self) -> tf.Tensor:
        """How many updates training has come to, int64 []: a run that went back has had more than one optimizer."""
        return self.guard.began + tf.convert_to_tensor(self.optimizer.iterations)

    def part_of(self, weight) -> str:
        """The kind of the part a weight belongs to."""
        return next(kind for kind in LAYERS if any(weight is own for own in getattr(self, kind).weights))

    @property
    def moving(self) -> list:
        """What follows the data without a gradient: running statistics and the metrics."""
        guard = {id(weight) for weight in self.guard.weights}
        weights = [weight for weight in self.non_trainable_weights if id(weight) not in guard]
        return weights + [variable for tracker in self.trackers.values() for variable in tracker.variables]

    def test_step(self, data) -> dict:
        batch = as_batch(data)
        self.objective.check(batch, self.posterior.event_shape)
        first, count = devices.place(tf.shape(batch["x"])[0])
        seen = tf.convert_to_tensor(self.trackers["loss"].count)  # so figures do not depend on the batch size
        inference = self.infer(batch, Seed.of(self.seed, row=seen + first).fold("test"), samples=self.objective.draws)
        terms = self.objective(batch, inference, self.step)
        sums = devices.total({name: tf.reduce_sum(values) for name, values in terms.items()})
        for name, tracker in self.trackers.items():
            tracker.update_state(sums[name], count)
        return self.get_metrics_result()

    def call(self, inputs, training=None, seed=None) -> Inference:
        seed = Seed.of(self.seed).fold("call") if seed is None else seed
        return self.infer(as_batch(inputs), seed, training=bool(training))

    def predict_step(self, data) -> Inference:
        inference = self(data)
        return inference._replace(likelihood=inference.likelihood.apart())

    def encode(self, x, condition=None) -> tf.Tensor:
        """The posterior mean, z [B, *Z]; as below, given the `condition` [B, C] where the model has one."""
        return self.posterior(self.encoder(x, condition)).mean()

    def decode(self, z, condition=None, seed: Seed | None = None) -> tf.Tensor:
        """The mean of p(x|z), x [B, *X]; of an autoregressive decoder see `generate`."""
        return self.generate(self.decoder(z, condition), seed)

    def generate(self, features, seed: Seed | None = None) -> tf.Tensor:
        """x [B, *X] from the decoder's features: the mean of p(x|z), or, where elements depend on those before them, each the likeliest
        given these. With a `seed` it is a draw from p(x|z) there, and where a mean would be no record (a class and a half).

        That x is the only one which x -> draw(p(. | z, x)) leaves as it is, noise fixed; the map is repeated until nothing changes, far
        fewer times than there are elements (Accelerating Feedforward Computation via Parallel Nonlinear Equation Solving; Song et al.
        2021).
        """
        if not self.decoder.autoregressive:
            p = self.likelihood(features)
            return self.likelihood.middle(p) if seed is None or not self.likelihood.drawn else p.sample(seed.fold("x"))
        if self.decoder.sequential:
            return self.written(features, seed)

        def again(number, x, _):
            p = self.likelihood(self.decoder.refine(features, x))
            new = p.mode() if seed is None else p.sample(seed.fold("x"))
            return number + 1, new, tf.reduce_any(new != x)

        most = math.prod(self.event_shape[:-1]) + 1
        first = tf.nest.flatten(features)[0]
        start = tf.constant(0), tf.zeros((tf.shape(first)[0], *self.event_shape)), tf.constant(True)
        shapes = tf.TensorShape(()), tf.TensorShape((first.shape[0], *self.event_shape)), tf.TensorShape(())
        more = lambda number, _, changed: changed & (number < most)  # noqa: E731
        return tf.while_loop(more, again, start, shape_invariants=shapes, parallel_iterations=1)[1]

    def written(self, told, seed: Seed | None = None) -> tf.Tensor:
        """x [B, T, C], each place given those before it: the likeliest, or, with a `seed`, the draw that `generate` would find."""
        first, length = tf.nest.flatten(told)[0], self.event_shape[0]
        shape = tf.shape(first)[0], *self.event_shape
        chances = tf.zeros(shape) if seed is None else uniform(seed.fold("x"), shape)

        def write(place, before, state, found):
            features, state = self.decoder.advance(told, state, before)
            p = self.likelihood(features)
            new = p.mode() if seed is None else p.by(tf.slice(chances, (0, place, 0), (-1, 1, -1)))
            return place + 1, new, state, found.write(place, new)

        found = tf.TensorArray(tf.float32, length, element_shape=(first.shape[0], 1, *self.event_shape[1:]))
        start = tf.constant(0), tf.zeros_like(chances[:, :1]), self.decoder.begin(told), found
        found = tf.while_loop(lambda place, *_: place < length, write, start, parallel_iterations=1)[-1]
        return self.likelihood.finished(tf.concat(tf.unstack(found.stack()), axis=1))

    def reconstruct(self, x, condition=None) -> tf.Tensor:
        """decode(encode(x)), [B, *X]."""
        return self.decode(self.encode(x, condition), condition)

    def sample(self, n, seed: int = 0, temperature=1.0, density=None, condition=None) -> tf.Tensor:
        """n means of p(x|z) (of an autoregressive decoder, and of a table, draws) with z ~ p(z), or of another `density` (see
        `density.fit`), spread by `temperature`, [n, *X]. The first of n samples do not depend on n. `condition`: one for each, or one for
        all of them."""
        if isinstance(n, int) and n == 0 and self.built:  # convolutions of no rows may have a wrong shape (oneDNN, TensorFlow 2.21)
            return tf.zeros((0, *self.event_shape))
        if condition is not None and len(tf.convert_to_tensor(condition).shape) == len(self.condition_shape):
            condition = tf.repeat(tf.cast(condition, tf.float32)[None], n, axis=0)
        seed = Seed.of(seed).fold("sample")
        z = self.draw(n, seed, temperature, density, condition)
        if not self.likelihood.drawn:
            return self.decode(z, condition, seed)
        return tf.where(tf.reduce_max(temperature) > 0.0, self.decode(z, condition, seed), self.decode(z, condition))

    def draw(self, n, seed: Seed, temperature=1.0, density=None, condition=None) -> tf.Tensor:
        """n draws z ~ p(z), or of another `density`, [n, *Z], as `sample` decodes them."""
        return (density or self.prior).sample(n, seed, temperature)

    def explain(self, z, x, condition=None):
        """p(x|z), given all of x before each element where the decoder asks for it."""
        return self.likelihood(self.decoder(z, condition, **({"x": x} if self.decoder.autoregressive else {})))

    def surprise(self, x) -> tuple:
        """Distortion + rate at the posterior mean, [B], and what each element adds to the distortion, [B, *parts], nats: no draw."""
        batch = as_batch(x)
        inference = self.infer(batch, Seed.of(0), noise=tf.zeros((tf.shape(batch["x"])[0], *self.latent_shape)))
        elements = -inference.likelihood.element_log_prob(batch["x"])
        return inference.distortion(batch["x"]) + inference.rate(), elements

    def teach(self, x, condition=None) -> dict:
        """What a student is shown of x [B, *X]: q(z|x), and the mean of p(x|z) at the posterior mean, [B, *X]."""
        posterior = self.posterior(self.encoder(x, condition))
        return {"q": posterior, "x": self.decode(posterior.mean(), condition)}

    def log_weights(self, batch: dict, samples: int, seed: Seed) -> tf.Tensor:
        """log p(x, z) - log q(z|x) at K = `samples` draws z ~ q(z|x), [B, K], nats."""
        inference = self.infer(batch, seed, samples=samples)
        observed = tf.repeat(batch["mask"], samples, axis=0) if "mask" in batch else None
        weights = inference.log_importance_weight(tf.repeat(batch["x"], samples, axis=0), observed)
        return tf.reshape(weights, (-1, samples))

    def log_likelihood(self, x, samples: int = 100, seed: int = 0, row: int = 0, condition=None) -> tf.Tensor:
        """The importance-weighted bound log 1/K sum p(x, z_k) / q(z_k|x) <= log p(x), [B], nats, K = `samples`; K = 1 is the ELBO
        (Importance Weighted Autoencoders; Burda et al. 2015). `row`: the number of the first record, where x is a part of more. Where the
        posterior has no density (`posterior.density`), it is -(distortion - log p(z)), and no bound."""
        batch = as_batch(x) | ({} if condition is None else as_batch({"condition": condition}))
        weights = self.log_weights(batch, samples, Seed.of(seed, row=row).fold("log_likelihood"))
        return tf.reduce_logsumexp(weights, axis=1) - tf.math.log(float(samples))

    def adapt(self, x, mask=None, condition=None) -> None:
        """Build for data like the sample x [N, *X], with a `condition` [N, C] where it comes with one, and start the output at its mean,
        over what `mask` [N, *X] (1 = observed) shows. Refuses data the likelihood cannot score or the objective cannot compare."""
        x = np.asarray(x, "float32")
        given = {} if condition is None else {"condition": np.asarray(condition, "float32")}
        if condition is not None and len(condition) != len(x):
            raise ValueError(f"{len(condition)} rows of the condition for {len(x)} of x: give one for each")
        self.build({"x": x.shape} | {name: values.shape for name, values in given.items()})
        for name, values in {"data": x, **given}.items():
            if not np.isfinite(values).all():
                row = int(np.argwhere(~np.isfinite(values))[0][0])
                raise Refusal("data", f"the {name} has values that are not finite", where=f"row {row}", fix="remove or replace them")
        for kind, why in (("likelihood", self.likelihood.check(x)), ("objective", self.objective.excludes(x))):
            if why:
                raise Refusal("data", f"the {kind} does not fit the data", why=why, fix=f"python train.py --list {kind}")
        x = observed(x, mask)
        self.likelihood.adapt(x)
        if self.encoder_shape[1:] == x.shape[1:]:
            self.prior.adapt(x)
        paths = self.encoder.linear and self.decoder.linear and self.posterior.support == "real"
        if paths and self.encoder_shape[1:] == x.shape[1:]:
            linear.start(self, x)

    def build(self, inputs_shape):
        if self.built:
            return
        shapes = inputs_shape if isinstance(inputs_shape, dict) else {"x": inputs_shape}
        event_shape, condition_shape = tuple(shapes["x"][1:]), tuple(shapes.get("condition", ()))
        if condition_shape:
            grid = condition_shape[1:-1]
            if len(condition_shape) < 2 or not all(condition_shape[1:]) or grid not in ((), event_shape[:-1]):
                fix = "a class as one-hot, keras.utils.to_categorical(labels), a number as [B, 1], an image with the height and width of x"
                raise ValueError(f"a condition has the shape [B, C], or [B, ..., C] on the grid of x, not {list(condition_shape)}: {fix}")
            self.check_condition()
            self.condition_shape = self.encoder.condition_shape = self.decoder.condition_shape = condition_shape[1:]
        self.decoder.event_shape = self.likelihood.event_shape = event_shape
        self.encoder.location_shape = self.posterior.event_shape
        self.prior.data_shape = tuple(shapes.get("input", shapes["x"])[1:])
        self.prior.meet(self.posterior, lambda x: self.posterior(self.encoder(x)))
        self.decoder.location_shape = event_shape
        input_shape, z_shape = (None, *shapes.get("input", shapes["x"])[1:]), (None, *self.posterior.event_shape)
        self.encoder.build(input_shape)
        self.posterior.build(self.encoder.compute_output_shape(input_shape))
        self.prior.build(z_shape)
        self.build_decoder(z_shape)
        self.likelihood.build(self.decoder.compute_output_shape(z_shape))
        self.check_parts()
        self.event_shape, self.encoder_shape = event_shape, input_shape
        self.built = True

    def build_decoder(self, z_shape) -> None:
        self.decoder.build(z_shape)

    def compile(self, optimizer="adam", clip_norm: float | None = None, accumulate: int = 1, jit_compile="update", **kwargs):
        """`optimizer`: a Keras optimizer or its name; `clip_norm`: clip the gradient to this global norm (None = well above what has
        been usual, see `stability.Guard`; 0 = never); `accumulate`: work
        each batch off in so many parts, for memory; `jit_compile`: what XLA compiles, "update" (what follows the gradient), True (all of
        the step, except the reduction over several replicas) or False (nothing)."""
        if kwargs.get("loss") is not None:
            raise ValueError("the objective is the loss: give it to VAE(objective=...)")
        if kwargs.get("metrics") or kwargs.get("weighted_metrics"):
            raise ValueError("the metrics are the objective's terms; compute others from predict(x)")
        if any(getattr(optimizer, name, None) for name in ("clipnorm", "global_clipnorm", "clipvalue")):
            raise ValueError("clip with compile(clip_norm=...): the optimizer's own clipping works per replica")
        if getattr(optimizer, "gradient_accumulation_steps", None):
            raise ValueError("accumulate with compile(accumulate=...): the optimizer's own accumulation fails on several replicas")
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer) or getattr(optimizer, "ema_overwrite_frequency", None):
            raise ValueError("loss scaling and ema_overwrite_frequency are not supported: a skipped step could not be taken back")
        if jit_compile not in (True, False, "update", "auto"):
            raise ValueError(f"jit_compile={jit_compile!r} must be True, False or 'update'")
        devices.check_scope(self)
        if jit_compile == "auto":  # Keras' own default
            jit_compile = "update"
        if jit_compile == "update" and kwargs.get("run_eagerly"):  # to look at each operation
            jit_compile = False
        if accumulate != int(accumulate) or accumulate < 1 or not (clip_norm is None or clip_norm >= 0.0):
            raise ValueError(f"accumulate={accumulate} must be 1, 2, ..., and clip_norm={clip_norm} at least 0")
        if accumulate > 1 and self.couples:
            raise ValueError(f"accumulate={accumulate} would change the result: {', '.join(self.couples)} looks at the batch as a whole")
        clip_norm = None if clip_norm is None else float(clip_norm)
        self.clip_norm, self.accumulate, self.compiled_with = clip_norm, int(accumulate), jit_compile
        gradients = self.accumulated if accumulate > 1 else self.gradients
        inner = jit_compile is True and devices.stepping_out()
        compiled = inner and not self.couples  # no reduction may be inside what XLA compiles
        self.compiled_gradients = tf.function(gradients, jit_compile=True, autograph=False) if compiled else gradients
        self.compiled_update = devices.for_each(self.update, compiled=bool(jit_compile))
        super().compile(optimizer=optimizer, **{"jit_compile": jit_compile is True and not inner, **kwargs})
        devices.local(self.optimizer)

    @property
    def couples(self) -> list[str]:
        """The parts that look at the batch as a whole: their result is no sum over examples."""
        parts = [self.objective, *self._flatten_layers(include_self=False)]
        return sorted({type(part).__name__ for part in parts if getattr(part, "couples", False)})

    def fit(self, x=None, *args, **kwargs):
        """As `keras.Model.fit`; a model that was never built is first adapted to x (its first batch, if x is a dataset)."""
        if any(kwargs.get(name) is not None for name in ("sample_weight", "class_weight")):
            raise ValueError(WEIGHTS)  # Keras itself drops them where there is no y
        if devices.several_workers(self):
            raise ValueError("Keras' fit does not work with several workers: train.py does")
        if not self.built and (isinstance(x, (dict, tf.data.Dataset)) or hasattr(x, "shape")):
            first = as_batch(next(iter(x)) if isinstance(x, tf.data.Dataset) else x)
            self.adapt(first["x"], first.get("mask"), first.get("condition"))
        return super().fit(x, *args, **kwargs)

    @property
    def metrics(self):
        return [*self.trackers.values(), self.clipped, self.skipped]

    def get_config(self):
        parts = {kind: components.describe(getattr(self, kind)) for kind in PARTS}
        return {**parts, "seed": self.seed, "name": self.name, "dtype": self.dtype_policy.name}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        components.refuse_foreign({kind: config[kind] for kind in PARTS})
        return cls(**config)

    def get_build_config(self):
        if not self.built:
            return None
        condition = {"condition": (None, *self.condition_shape)} if self.condition_shape else {}
        return {"shapes": {"x": (None, *self.event_shape), "input": self.encoder_shape, **condition}}

    def build_from_config(self, config):
        self.build(config["shapes"])

    def get_compile_config(self):
        if not self.compiled:
            return None
        return {
            **super().get_compile_config(),
            "clip_norm": self.clip_norm,
            "accumulate": self.accumulate,
            "jit_compile": self.compiled_with,
        }

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)


WEIGHTS = "sample_weight and class_weight are not supported: leave examples out, or elements with a mask"
WHERE = {"real": "R^n", "sphere": "the sphere", "codes": "a finite number of codes"}
LAYERS = ("encoder", "posterior", "prior", "decoder", "likelihood")
PARTS = ("encoder", "posterior", "prior", "decoder", "likelihood", "objective")


def _name(part) -> str:
    return type(part).__name__


def observed(x: np.ndarray, mask) -> np.ndarray:
    """x [N, *X] with values of other records in the place of what `mask` (1 = observed) leaves out, so that each element keeps its mean and
    about its spread; where no record shows an element, the mean of all."""
    if mask is None:
        return x
    seen, filled = (np.asarray(mask) > 0.0).reshape(len(x), -1), np.array(x).reshape(len(x), -1)
    middle = filled[seen].mean() if seen.any() else 0.0
    for values, shown in zip(filled.T, seen.T, strict=True):
        known, hidden = values[shown], np.count_nonzero(~shown)
        drawn = np.resize(known, hidden) if len(known) else np.full(hidden, middle)
        values[~shown] = drawn + (known.mean() - drawn.mean() if len(known) and hidden else 0.0)
    return filled.reshape(x.shape)


def as_batch(data) -> dict:
    """What Keras hands a step (x, (x,), (x, label) or a dict with "x") as a batch dict; x becomes float32.

    What a "mask" (1 = observed) leaves out is set to 0: neither the encoder nor the likelihood may depend on it.
    """
    if isinstance(data, (tuple, list)):
        batch = dict(data[0]) if isinstance(data[0], dict) else {"x": data[0]}
        if len(data) > 1 and data[1] is not None:
            batch["label"] = data[1]
        if len(data) > 2 and data[2] is not None:
            raise ValueError(WEIGHTS)
    else:
        batch = dict(data) if isinstance(data, dict) else {"x": data}
    batch = {key: tf.cast(value, tf.float32) if key in ("x", "input", "mask", "condition") else value for key, value in batch.items()}
    if "mask" in batch:
        batch["x"] = tf.where(batch["mask"] > 0.0, batch["x"], 0.0)
    return batch
