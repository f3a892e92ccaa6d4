"""The speed verdict: operations counted exactly, shares that add up, a remedy for what takes the time; and the loop against plain `fit`."""

import dataclasses
import importlib
import statistics
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from keras_vae import VAE, speed
from keras_vae.config import Config, override

SPEED = Path(__file__).parent.parent / "benchmarks" / "speed"


def test_operations_of_dense_layers_are_counted_exactly():
    vae = VAE("Dense(widths=(20, 12))", "Normal(size=3)", decoder="Dense(widths=(12, 20))")
    vae.build((None, 5, 5, 1))
    layers = [(25, 20), (20, 12), (12, 6), (3, 12), (12, 20), (20, 25)]
    forward = sum(2 * 7 * inside * out for inside, out in layers)
    assert speed.flops(vae, 7) == 3 * forward - 2 * 7 * 25 * 20  # x itself needs no gradient


@pytest.mark.parametrize("sides", [1, 2, 3])
def test_operations_of_convolutions_are_counted_exactly(sides):
    vae = VAE("Conv(widths=(4,), features=10)", "Normal(size=3)", decoder="Conv(widths=(4,), kernel=4, features=10)")
    vae.build((None, *(8,) * sides, 1))
    coarse, fine = 4**sides, 8**sides
    down, up = 2 * 7 * coarse * 3**sides * 1 * 4, 2 * 7 * coarse * 4**sides * 4 * 4  # a transposed one counts by the grid it starts from
    dense = sum(2 * 7 * inside * out for inside, out in [(4 * coarse, 10), (10, 6), (3, 10), (10, 4 * coarse)])
    head = 2 * 7 * fine * 4 * 1
    assert speed.flops(vae, 7) == 2 * down + 3 * (up + dense + head)


def test_a_product_reaches_a_rate_between_a_gigaflop_and_a_petaflop():
    assert 1e9 < speed.product_rate(0.05) < 1e15


FIGURES = {"images_per_second": 1e4, "batches": 10, "flops_per_step": 1, "flops_per_second": 5e10, "product_flops_per_second": 1e11}


@pytest.mark.parametrize(
    "wait, evaluate, checkpoint, reached, jit, word",
    [
        (0.30, 0.1, 0.0, 0.5, "on", "npz"),
        (0.00, 0.6, 0.0, 0.5, "on", "--training.evaluate-every 4"),
        (0.00, 0.1, 0.5, 0.5, "on", "--training.checkpoint-every 300"),
        (0.00, 0.1, 0.0, 0.5, "off", "--devices.jit auto"),
        (0.00, 0.1, 0.0, 0.1, "on", "--data.batch-size 512"),
        (0.00, 0.1, 0.0, 0.5, "on", "no option"),
    ],
)
def test_the_option_that_is_named_is_the_one_for_what_takes_the_time(wait, evaluate, checkpoint, reached, jit, word):
    config = override(override(Config(), "data.batch_size", 128), "devices.jit", jit)
    step = 1.0 - wait - evaluate - checkpoint
    shares = {"wait_share": wait, "step_share": step, "evaluate_share": evaluate, "checkpoint_share": checkpoint}
    figures = {**FIGURES, **shares, "flops_per_second": reached * FIGURES["product_flops_per_second"]}
    (_, said), (_, advice) = speed.verdict(figures, config)
    assert word in advice and f"{wait:.0%} waiting" in said and f"({reached:.0%})" in said and "10,000 records/s" in said


def test_shares_are_of_the_loop_and_add_up():
    seconds = {"wait": 1.0, "step": 6.0, "evaluate": 2.0, "checkpoint": 1.0, "compile": 50.0}
    vae = VAE("Dense(widths=(4,))", "Normal(size=2)", decoder="Dense(widths=(4,))")
    vae.build((None, 2, 2, 1))
    found = speed.measure(
        SimpleNamespace(
            seconds=seconds,
            examples_per_second=100.0,
            batch_size=10,
            batch_for=lambda batch: batch,
            dataset=SimpleNamespace(train=range(100)),
        ),
        vae,
    )
    assert found["step_share"] == 0.6 and sum(found[f"{name}_share"] for name in speed.LOOP) == pytest.approx(1.0)
    assert found["flops_per_second"] == pytest.approx(10.0 * speed.flops(vae, 10))


@pytest.mark.slow
def test_the_loop_stays_ahead_of_plain_fit_in_the_same_process(monkeypatch):
    """Pairs taken in turns, in processor time: the wall's tells little while other tests run (docs/performance.md has it)."""
    monkeypatch.syspath_prepend(str(SPEED))
    workloads = importlib.import_module("workloads")
    work = dataclasses.replace(workloads.WORKLOADS["W1"], records=12_800)
    records = workloads.pictures(work, work.records)
    weights = workloads.initial(work, records)
    racers = [
        importlib.import_module(f"contestants.{name}").Contestant(work, variant, records, weights)
        for name, variant in (("ours", "default"), ("keras_fit", "plain"))
    ]
    ratios = []
    for _ in range(9):
        taken = []
        for racer in racers:
            began = time.process_time()
            loss = racer.train(work.records)
            taken.append(time.process_time() - began)
            assert np.isfinite(loss)
        ratios.append(taken[1] / taken[0])
    for name in ("workloads", "contestants", "contestants.ours", "contestants.keras_fit"):
        sys.modules.pop(name, None)
    assert statistics.median(ratios[2:]) > 1.2  # the first two compile and warm up
