"""The devices a run uses, how numbers are held on them, and everything there is of `tf.distribute`.

The model never meets a strategy. It is given a part of the global batch, asks `place` which part, adds up with `total` (or, where its
mathematics couples the examples, looks at all of them with `gather`) and updates itself with `either`. With one replica these do nothing.
"""

import contextlib
import functools
import os
import platform
import resource
import signal
import threading

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context

from keras_vae import cluster, environment, signals
from keras_vae.errors import Refusal

# ---- inside a step: what a replica may ask and do


def replicas() -> int:
    """How many replicas share the global batch."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def place(rows):
    """Where the `rows` of this replica lie in the global batch: (number of the first, rows of the global batch), int64."""
    rows = tf.cast(rows, tf.int64)
    if replicas() == 1:
        return tf.zeros((), tf.int64), rows
    context = tf.distribute.get_replica_context()
    number = context.replica_id_in_sync_group
    counts = total(tf.where(tf.range(replicas()) == number, rows, tf.zeros((), tf.int64)))
    return tf.cumsum(counts, exclusive=True)[number], tf.reduce_sum(counts)


def total(parts):
    """The sum over all replicas of each tensor in a structure, in one reduction. Not inside a compiled function."""
    return parts if replicas() == 1 else tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, parts)


def gather(rows):
    """The rows of all replicas, [global batch, ...], in order; gradients flow back to where they came from. Not inside a compiled
    function: who calls this says so with `couples = True`."""
    return rows if replicas() == 1 else tf.distribute.get_replica_context().all_gather(rows, axis=0)


def update(functions: list, totals, constants, anchor) -> None:
    """function(totals, constants) on each replica by itself: it may write variables and use Keras optimizers, and has to do the same
    everywhere. Several replicas step aside for it, since no optimizer works within one; `functions` has one for each, `anchor` is any
    variable they share."""
    if not stepping_out():
        functions[0](totals, constants)
        return

    def once(strategy, *arguments):
        remaining = iter(functions)

        def here(_, *arguments):
            next(remaining)(*arguments)
            return tf.zeros(())

        strategy.extended._use_merge_call = lambda: False  # else the optimizer would ask to step aside once more
        try:
            strategy.extended.update(anchor.value, here, args=arguments, group=False)
        finally:
            del strategy.extended._use_merge_call

    tf.distribute.get_replica_context().merge_call(once, args=(totals, constants))


def for_each(function, compiled: bool) -> list:
    """The function, once for each replica of this process, compiled with XLA or not: a compiled one knows its replica's variables."""
    local = len(tf.distribute.get_strategy().extended.worker_devices) if stepping_out() else 1
    return [tf.function(function, jit_compile=True, autograph=False) if compiled else function for _ in range(local)]


def stepping_out() -> bool:
    """Whether updates are made outside the replicas, so that XLA can compile the gradient but not the whole step."""
    return tf.distribute.has_strategy() and not isinstance(tf.distribute.get_strategy(), tf.distribute.TPUStrategy)


def several_workers(model: keras.Model) -> bool:
    """Whether a model was made for a strategy of several processes."""
    return isinstance(model.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy)


class Here:
    """Stands for a strategy where an optimizer asks for one: an update is of the replica at hand."""

    def __init__(self, strategy):
        self.extended, self.strategy = self, strategy

    def __getattr__(self, name):
        return getattr(self.strategy.extended, name)

    def update(self, variable, function, args=(), kwargs=None, group=True):
        return function(variable, *args, **(kwargs or {}))


def check_scope(model: keras.Model) -> None:
    """ValueError unless the strategy at hand is the one that the model was made for."""
    if tf.distribute.get_strategy() is not model.distribute_strategy:
        raise ValueError("compile within the scope that the model was made in: with strategy.scope(): vae.compile(...)")


def local(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """The optimizer, told that the gradients it is given are reduced already, and that it updates the replica at hand: Keras would reduce
    and step aside by itself."""
    optimizer._all_reduce_sum_gradients = lambda pairs: pairs
    if stepping_out():
        optimizer._distribution_strategy = Here(tf.distribute.get_strategy())
    return optimizer


# ---- around the step: which devices take part, and what the workers tell one another


class Group:
    """The replicas that share a run: `local` ones in this process, the others in those of its fellow workers. Worker 0 is the chief."""

    def __init__(self, strategy: tf.distribute.Strategy | None = None, workers: int = 1, worker: int = 0):
        self.strategy = strategy or tf.distribute.get_strategy()
        self.workers, self.worker, self.chief = workers, worker, worker == 0
        self.replicas = self.strategy.num_replicas_in_sync
        self.local = self.replicas // workers

    @property
    def alone(self) -> bool:
        """Whether there is one device and no strategy, so that XLA can compile a loop around the step."""
        with self.scope():
            return not tf.distribute.has_strategy()

    def scope(self):
        """Within the block variables are made on every replica."""
        return self.strategy.scope()

    def split(self, rows: np.ndarray, axis: int = 0) -> list[tf.Tensor]:
        """The rows of this worker as equal parts, each on the device of its replica."""
        return self._placed(np.split(rows, self.local, axis))

    def copies(self, value: np.ndarray) -> list[tf.Tensor]:
        """One value on the device of each replica."""
        return self._placed([value] * self.local)

    def _placed(self, parts) -> list[tf.Tensor]:
        if self.local == 1:
            return [tf.constant(parts[0])]
        placed = []
        for part, device in zip(parts, self.strategy.extended.worker_devices, strict=True):
            with tf.device(device):
                placed.append(tf.constant(part))
        return placed

    def run(self, step, *parts: list[tf.Tensor]):
        """step(number of the replica in the group, its part of each of `parts`) on every replica of this worker; a list of the results."""
        first = self.worker * self.local

        def each(values):
            return self.strategy.experimental_distribute_values_from_function(
                lambda context: values[context.replica_id_in_sync_group - first]
            )

        numbers = [tf.constant(first + number, tf.int64) for number in range(self.local)]
        results = self.strategy.run(step, [each(values) for values in (numbers, *parts)])
        flat = [self.strategy.experimental_local_results(value) for value in tf.nest.flatten(results)]
        return [tf.nest.pack_sequence_as(results, column) for column in zip(*flat, strict=True)]

    def table(self, *values: float) -> np.ndarray:
        """What every worker says, float64 [workers, values]; all have to ask at the same point of the program, and wait for one another."""
        if self.workers == 1:
            return np.array([values], np.float64)
        return self._table(tf.constant(values, tf.float64)).numpy()

    @functools.cached_property
    def _table(self):
        def row(values):
            context = tf.distribute.get_replica_context()
            number = context.replica_id_in_sync_group
            mine = tf.one_hot(number // self.local, self.workers, dtype=tf.float64) * tf.cast(number % self.local == 0, tf.float64)
            return context.all_reduce(tf.distribute.ReduceOp.SUM, mine[:, None] * values[None])

        def gathered(values):
            return self.strategy.experimental_local_results(self.strategy.run(row, (values,)))[0]

        return tf.function(gathered, input_signature=[tf.TensorSpec((None,), tf.float64)], autograph=False)

    def barrier(self) -> None:
        """Wait until every worker is here."""
        self.table(0.0)

    @contextlib.contextmanager
    def lost(self, log):
        """If another worker is lost within the block, this one ends as if it had been interrupted."""
        try:
            yield
        except LOST as error:
            if self.workers == 1:
                raise
            log(f"another worker was lost ({type(error).__name__}): the group has to be started again")
            signals.receive(signal.SIGTERM)
            raise signals.Interrupted from error

    def part(self) -> None:
        """The end: the others stay until the chief is done, so that all can be started again if it is not. They wait in a thread, and a
        signal ends them at once."""
        if self.chief:
            with contextlib.suppress(*LOST):
                self.barrier()
            return
        ended = []
        thread = threading.Thread(target=lambda: ended.append(_outcome(self.barrier)), daemon=True)
        thread.start()
        while not ended:
            thread.join(POLL)
        if ended[0] is not None:
            raise ended[0]

    def describe(self) -> str:
        """The group in a few words; empty for a single device."""
        if not tf.distribute.has_strategy() and self.strategy is tf.distribute.get_strategy():
            return ""
        kind = "tpu" if isinstance(self.strategy, tf.distribute.TPUStrategy) else "multi_worker" if self.workers > 1 else "mirrored"
        return f"{kind}, {self.replicas} replica{'s' * (self.replicas > 1)}{f' on {self.workers} workers' * (self.workers > 1)}; "


def _outcome(call) -> BaseException | None:
    try:
        call()
    except BaseException as error:
        return error


POLL = 0.2  # seconds
CONNECT = 60  # seconds that TensorFlow has to connect workers that have met
SILENT = 100  # seconds that a worker may be silent: a machine that is moved or starved stands still for more than TensorFlow's 10
LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.DeadlineExceededError)


def join(options, log=print) -> Group:
    """The group that `options` (config.Devices) and TF_CONFIG describe. With several workers it waits for them, and has to come before
    anything else that TensorFlow does. `Refusal` (usage, environment) for what is not there."""
    kind = _kind(options)
    if options.virtual is not None:
        _make_virtual(options, kind)
    if kind == "default":
        return Group()
    if kind == "multi_worker":
        return _workers(log)
    if kind == "tpu":
        return Group(_tpu())
    return Group(tf.distribute.MirroredStrategy([f"CPU:{number}" for number in range(options.virtual)] if options.virtual else None))


def _kind(options) -> str:
    if options.strategy != "auto":
        return options.strategy
    if cluster.several():
        return "multi_worker"
    return "mirrored" if options.virtual or len(tf.config.list_physical_devices("GPU")) > 1 else "default"


def _make_virtual(options, kind: str) -> None:
    if kind != "mirrored":
        why = f"the strategy is {kind}, and logical devices of one process are for mirrored"
        raise Refusal("usage", "devices.virtual would do nothing", "devices.virtual", why, "--devices.strategy mirrored")
    wanted = [tf.config.LogicalDeviceConfiguration()] * options.virtual
    try:
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], wanted)
    except RuntimeError:  # TensorFlow is at work already
        found = len(tf.config.list_logical_devices("CPU"))
        if found < options.virtual:
            what = f"TensorFlow runs already, with {found} logical CPU devices"
            raise Refusal("environment", what, "devices.virtual", fix="ask for them in a new process") from None


def _workers(log) -> Group:
    """MultiWorkerMirroredStrategy over the workers of TF_CONFIG, once all of them are there."""
    workers = cluster.read()
    cluster.meet(workers, log)
    _be_patient()
    try:
        # If one is lost now, TensorFlow waits for it, deaf to signals and holding Python's lock: only the kernel can end that.
        with signals.alarm(CONNECT):
            strategy = tf.distribute.MultiWorkerMirroredStrategy()
    except (tf.errors.OpError, RuntimeError, ValueError) as error:
        why = str(error).partition("\n")[0]
        raise Refusal("environment", "the workers cannot be connected", "TF_CONFIG", why, "start them all anew") from error
    signals.again()  # TensorFlow has put its own handlers in place
    return Group(strategy, len(workers.addresses), workers.number)


def _be_patient() -> None:
    """What MultiWorkerMirroredStrategy sets up itself if nobody has, but for how long a worker may be silent, which has no public name. A
    worker that ends is missed at once all the same: its connection breaks."""
    workers = tf.distribute.cluster_resolver.TFConfigClusterResolver().cluster_spec()
    jobs = tf.compat.v1.ConfigProto().experimental.coordination_config.coordinated_job_list
    for name in workers.jobs:
        jobs.add(name=name, num_tasks=workers.num_tasks(name))
    leader = f"/job:{'chief' if 'chief' in workers.jobs else 'worker'}/replica:0/task:0"
    limit = 1000 * SILENT  # milliseconds
    context.context().configure_coordination_service("standalone", leader, heartbeat_timeout_in_ms=limit, coordinated_jobs=list(jobs))


def _tpu() -> tf.distribute.Strategy:
    """TPUStrategy over the TPU of this machine, or the one named by TPU_NAME. Not yet run on a TPU."""
    name = environment.tpu()
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name)
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    except (tf.errors.OpError, ValueError, RuntimeError, ImportError, OSError) as error:
        why = str(error).partition("\n")[0]
        raise Refusal("environment", "the TPU cannot be used", "devices.strategy", why, "--devices.strategy auto") from error


# ---- what there is


def policy(precision: str) -> keras.DTypePolicy:
    """The dtype policy of the networks; heads and densities are float32 whatever it is."""
    return keras.DTypePolicy(precision)


def be_deterministic() -> None:
    """Only ops whose result does not vary from run to run, for the rest of the process."""
    tf.config.experimental.enable_op_determinism()


def describe() -> dict[str, str]:
    """Versions and hardware, for the report."""
    packages = {name: environment.version(name) for name in ("keras_vae", "tensorflow", "keras", "numpy", "tensorflow-datasets")}
    return {**packages, "python": platform.python_version(), "machine": hardware()}


def accelerators() -> list[str]:
    """The names of what TensorFlow sees beside the processor."""
    return [device.name for device in tf.config.list_physical_devices() if device.device_type != "CPU"]


def memory() -> str:
    """The most memory this process has held so far, on the processor and on each accelerator."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB
    parts = [f"{peak / 2**30:.2f} GiB at most so far"]
    for name in accelerators():
        held = tf.config.experimental.get_memory_info(name.removeprefix("/physical_device:"))["peak"]
        parts.append(f"{held / 2**30:.2f} GiB on {name.removeprefix('/physical_device:')}")
    return ", ".join(parts)


def hardware() -> str:
    """The processor and the accelerators TensorFlow sees; a GPU that was asked for and is not among them is said."""
    found = accelerators()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    asked = f" (TensorFlow finds none for CUDA_VISIBLE_DEVICES={visible})" if visible not in ("", "-1") and not found else ""
    return f"{platform.machine()}, {os.cpu_count()} cores, {', '.join(found) or 'no accelerator'}{asked}"
