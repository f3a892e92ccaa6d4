"""What a TPU asks of whatever runs in training, held without one: it compiles as a whole, with static shapes and no part for the host.

XLA refuses on a processor most of what it would refuse on a TPU; `defects` finds the rest in the graph.
"""

import re
import typing

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import FlatEncoder, SameDecoder, arrays, batch_for, binary, build, difference, finite
from test_rooms import MEMBERS, SET_UP, SHAPE, models, name_of, shape_of

from keras_vae import components
from keras_vae.config import Optimizer
from keras_vae.modalities.images import Images
from keras_vae.noise import Seed

# The names of operations a step may not hold -> why.
BANNED = {
    r"(Eager)?PyFunc(Stateless)?": "runs Python",
    r"Print(V2)?|Assert|CheckNumerics(V2)?|Debug\w+|Timestamp|\w*Summary\w*": "reports to the host",
    r"\w*(Dataset|Iterator|Queue|Table|Reader)\w*": "lives on the host",
    r"Where|Unique\w*|ListDiff|DynamicPartition|NonMaxSuppression\w*": "has a shape that depends on the values",
    r"Bessel\w+": "has no kernel in XLA",
    r"(?!StatelessRandomUniformFullIntV2$)\w*(Random|Multinomial|Rng|NonDeterministic|StandardNormal|TruncatedNormal|StatefulUniform|Shuffle)\w*":
        "draws otherwise than noise.bits",
}  # fmt: skip
# complex64 is of Fourier transforms, which TPUs have
TYPES = {
    "complex64",
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "bfloat16",
    "float32",
    "resource",
    "variant",
}


def operations(graph):
    """Every operation of a traced function and of the functions it can reach: branches, loop bodies, calls."""
    for operation in graph.get_operations():
        yield operation
        for value in operation.node_def.attr.values():
            for called in (value.func, *value.list.func):
                if called.name:
                    yield from operations(graph._get_function(called.name).graph)


def defects(graph) -> set[str]:
    """What of a traced function would not run on a TPU, or not as it runs here."""
    found = set()
    for operation in operations(graph):
        name, types = operation.type, {tensor.dtype.base_dtype.name for tensor in (*operation.inputs, *operation.outputs)}
        found |= {f"{name} {why}" for pattern, why in BANNED.items() if re.fullmatch(pattern, name)}
        found |= {f"{name} holds {kind}" for kind in types - TYPES}
        if name != "Placeholder" or operation.outputs[0].consumers():  # a loop's condition is given more than it reads
            found |= {f"{name} has the shape {tensor.shape}" for tensor in operation.outputs if not tensor.shape.is_fully_defined()}
        if name == "Cast" and types == {"int64", "uint64"}:
            found.add("Cast between int64 and uint64 has no form of 32 bits: use tf.bitcast")
    return found


def compile_whole(function, *arguments):
    """What `function` gives under XLA, and the defects of its graph."""
    compiled = tf.function(function, jit_compile=True, autograph=False)
    return compiled(*arguments), defects(compiled.get_concrete_function(*arguments).graph)


# ---- the check itself

KEY, COUNTER = tf.zeros(1, tf.uint64), tf.zeros(2, tf.uint64)
GENERATOR = tf.random.Generator.from_seed(0)
TABLE = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer([1], [2]), 0)
HOSTILE = {
    "EagerPyFunc": lambda x: tf.py_function(tf.identity, [x], tf.float32),
    "PyFunc": lambda x: tf.numpy_function(np.copy, [x], tf.float32),
    "PyFuncStateless": lambda x: tf.numpy_function(np.copy, [x], tf.float32, stateful=False),
    "PrintV2": tf.print,
    "Print": lambda x: tf.raw_ops.Print(input=x, data=[x]),
    "Assert": tf.debugging.assert_positive,
    "CheckNumerics": lambda x: tf.debugging.check_numerics(x, ""),
    "Timestamp": lambda x: tf.timestamp(),
    "SummaryWriter": lambda x: tf.raw_ops.SummaryWriter(),
    "TensorDataset": tf.data.Dataset.from_tensors,
    "LookupTableFindV2": lambda x: TABLE.lookup(tf.constant(1)),
    "Where": tf.where,
    "Unique": lambda x: tf.unique(x[0]),
    "UniqueV2": lambda x: tf.raw_ops.UniqueV2(x=x, axis=[0]),
    "UniqueWithCounts": lambda x: tf.unique_with_counts(x[0]),
    "Range": lambda x: tf.range(x[0, 0]),
    "BesselK0": tf.math.special.bessel_k0,
    "BesselI1e": tf.math.bessel_i1e,
    "RandomUniform": lambda x: tf.random.uniform((3,)),
    "RandomUniformInt": lambda x: tf.random.uniform((3,), 0, 5, tf.int32),
    "RandomStandardNormal": lambda x: tf.random.normal((3,)),
    "TruncatedNormal": lambda x: tf.random.truncated_normal((3,)),
    "RandomGamma": lambda x: tf.random.gamma((3,), 1.0),
    "RandomShuffle": tf.random.shuffle,
    "RandomIndexShuffle": lambda x: tf.raw_ops.RandomIndexShuffle(index=1, seed=[0, 0, 0], max_index=5, rounds=16),
    "Multinomial": lambda x: tf.random.categorical(x, 2),
    "RngReadAndSkip": lambda x: GENERATOR.normal((3,)),
    "StatefulRandomBinomial": lambda x: GENERATOR.binomial((3,), 5.0, 0.5),
    "StatelessMultinomial": lambda x: tf.random.stateless_categorical(x, 2, (0, 0)),
    "StatelessRandomGetKeyCounter": lambda x: tf.random.stateless_uniform((3,), (0, 0)),
    "StatelessRandomUniformV2": lambda x: tf.random.stateless_uniform((3,), (0, 0)),
    "StatelessRandomNormalV2": lambda x: tf.random.stateless_normal((3,), (0, 0)),
    "StatelessTruncatedNormalV2": lambda x: tf.random.stateless_truncated_normal((3,), (0, 0)),
    "StatelessRandomGammaV2": lambda x: tf.raw_ops.StatelessRandomGammaV2(shape=[3], seed=[0, 0], alpha=tf.ones(3)),
    "StatelessRandomGammaV3": lambda x: tf.random.stateless_gamma((3,), (0, 0), 1.0),
    "StatelessRandomBinomial": lambda x: tf.random.stateless_binomial((3,), (0, 0), 5.0, 0.5),
    "AsString": tf.strings.as_string,
    "StringFormat": lambda x: tf.strings.format("{}", x),
    "StringToHashBucketFast": lambda x: tf.strings.to_hash_bucket_fast("text", 5),
    "DecodePng": lambda x: tf.io.decode_png(b""),
    "ReadFile": lambda x: tf.io.read_file("file"),
    "Cast": lambda x: tf.cast(COUNTER, tf.int64),
    "Square": lambda x: tf.square(tf.cast(x, tf.float64)),
}


def in_a_branch(function):
    return lambda x: tf.cond(x[0, 0] > 0.0, lambda: function(x), lambda: x)


def in_a_loop(function):
    return lambda x: tf.while_loop(lambda number, x: number < 3, lambda number, x: (number + 1, function(x)), (0, x))[1]


def in_a_call(function):
    return tf.function(function, autograph=False)


def in_everything(function):
    return in_a_call(in_a_loop(in_a_branch(in_a_call(function))))


def traced(function, shape=(3, 4)):
    return tf.function(function, autograph=False).get_concrete_function(tf.TensorSpec(shape, tf.float32)).graph


def holding(name):
    """x -> x, by a function that holds the operation."""

    def hold(x):
        HOSTILE[name](x)
        return x

    return hold


@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_tpu_cannot_run_is_found_at_any_depth(name):
    for function in (holding(name), in_everything(holding(name))):
        assert any(defect.startswith(f"{name} ") for defect in defects(traced(function)))


@pytest.mark.parametrize("place", [in_a_branch, in_a_loop, in_a_call, in_everything])
def test_every_place_is_searched(place):
    assert "PyFunc runs Python" in defects(traced(place(holding("PyFunc"))))


def test_every_reason_has_an_example():
    shown = set().union(*(defects(traced(holding(name))) for name in HOSTILE))
    assert all(any(defect.endswith(why) for defect in shown) for why in BANNED.values())


@pytest.mark.parametrize("place", [lambda function: function, in_a_branch, in_a_loop, in_a_call, in_everything])
def test_what_a_tpu_runs_is_no_defect_unless_its_shape_is_open(place):
    def harmless(x):
        words = tf.raw_ops.StatelessRandomUniformFullIntV2(shape=[4], key=KEY, counter=COUNTER, alg=1, dtype=tf.uint32)
        return tf.where(x > 0.0, x, tf.cast(words, tf.float32)) + tf.cast(tf.bitcast(KEY, tf.int64), tf.float32)

    assert defects(traced(place(harmless))) == set()
    assert any("has the shape (None, 4)" in defect for defect in defects(traced(place(harmless), (None, 4))))


# ---- what runs in training: every member as it is; with every option changed in the slow shard, since XLA takes seconds for each

ALL = [*models(MEMBERS), *(pytest.param(parts, marks=pytest.mark.slow) for parts in models(SET_UP))]


@pytest.mark.parametrize("parts", ALL, ids=name_of)
def test_step_of_every_member_compiles_as_a_whole_and_agrees_with_the_plain_step(parts):
    shape = shape_of(parts)
    x, plain, compiled = binary(6, shape), build(shape, clip_norm=1.0, **parts), build(shape, clip_norm=1.0, **parts)
    step = tf.function(lambda x: compiled.train_step(batch_for(compiled, x)), jit_compile=True, autograph=False)
    for batch in (x[:3], x[3:]):
        expected = plain.train_step(batch_for(plain, tf.constant(batch)))
        found = step(tf.constant(batch))
    assert not found["skipped"]
    assert all(np.isclose(found[name], expected[name], rtol=1e-5, atol=1e-4) for name in expected)
    assert difference(arrays(compiled.weights), arrays(plain.weights)) < 1e-5
    assert defects(step.get_concrete_function(tf.constant(batch)).graph) == set()


@pytest.mark.parametrize("parts", ALL, ids=name_of)
def test_evaluation_of_every_member_compiles_as_a_whole(parts):
    x, vae = tf.constant(binary(3, shape_of(parts))), build(shape_of(parts), **parts)
    found, wrong = compile_whole(lambda x: (vae.test_step(batch_for(vae, x)), vae.log_likelihood(x, samples=2)), x)
    assert wrong == set() and finite(tf.nest.flatten(found))


@pytest.mark.parametrize("parts", models(MEMBERS), ids=name_of)
def test_step_in_bfloat16_compiles_as_a_whole(parts):
    vae = build(shape_of(parts), dtype="mixed_bfloat16", **parts)
    found, wrong = compile_whole(lambda x: vae.train_step(batch_for(vae, x)), tf.constant(binary(3, shape_of(parts))))
    assert wrong == set() and np.isfinite(found["loss"]) and not found["skipped"]


@pytest.mark.parametrize("algorithm", typing.get_args(typing.get_type_hints(Optimizer)["algorithm"]))
def test_step_with_every_optimizer_compiles_as_a_whole_and_agrees_with_the_plain_step(algorithm):
    """With everything the optimizer is asked for at once: weight decay, running mean of the weights, clipping."""

    def make():
        optimizer = getattr(keras.optimizers, algorithm)(0.01, weight_decay=0.1, use_ema=True, ema_momentum=0.9)
        return build((2, 3, 1), optimizer, clip_norm=0.5, encoder=FlatEncoder(), decoder=SameDecoder())

    x, plain, compiled = binary(6, (2, 3, 1)), make(), make()
    step = tf.function(compiled.train_step, jit_compile=True, autograph=False)
    for batch in (x[:3], x[3:]):
        plain.train_step(batch)
        assert not step(tf.constant(batch))["skipped"]
    for kind in (lambda vae: vae.weights, lambda vae: vae.optimizer.variables):
        assert difference(arrays(kind(compiled)), arrays(kind(plain))) < 1e-5
    assert defects(step.get_concrete_function(tf.constant(batch)).graph) == set()


@pytest.mark.parametrize("name", components.members("decay"))
def test_every_decay_compiles(name):
    decay = components.make("decay", name)
    found, wrong = compile_whole(decay, tf.constant(0.6), tf.constant(2000.0))
    assert wrong == set() and abs(found - decay(tf.constant(0.6), tf.constant(2000.0))) < 1e-6


@pytest.mark.parametrize("name", components.members("augmentation"))
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_every_augmentation_compiles(name, dtype):
    change = components.make("augmentation", name)
    found, wrong = compile_whole(change, tf.cast(255.0 * binary(3, SHAPE), dtype), Seed.of(5, tf.constant(2)))
    assert wrong == set() and found.shape == (3, *SHAPE) and found.dtype == dtype


@pytest.mark.parametrize("options", [{}, {"levels": 0}, {"binarize": "dynamic"}, {"dequantize": True}], ids=str)
def test_what_a_record_goes_through_compiles(options):
    modality, raw = Images(SHAPE, **options), 255.0 * binary(3, SHAPE)
    encoded, wrong = compile_whole(modality.encode, tf.cast(raw, modality.raw_dtype), Seed.of(5, tf.constant(2)))
    assert wrong == set() and difference([encoded], [modality.encode(raw, Seed.of(5, 2))]) < 1e-6
    decoded, wrong = compile_whole(modality.decode, encoded)
    assert wrong == set() and decoded.dtype == modality.raw_dtype
