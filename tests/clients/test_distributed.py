"""tf.distribute: two replicas do what one does with the same global batch."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from closeness import assert_close

import mobilenets
from examples import distributed_training

SCRIPT = Path(distributed_training.__file__)
ROOT = SCRIPT.parents[1]
worlds = pytest.mark.parametrize("world", ["hub", "native"])
strategies = pytest.mark.parametrize("strategy", ["mirrored", "workers"])
pytestmark = pytest.mark.slow

Results = Callable[[str], list[dict[str, np.ndarray]]]


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory, module: Callable[..., Path]) -> Results:
    """`results(strategy)`: what each of its processes wrote. Every strategy runs once."""
    known: dict[str, list[dict[str, np.ndarray]]] = {}

    def run(strategy: str) -> list[dict[str, np.ndarray]]:
        folder = tmp_path_factory.mktemp(strategy)
        if strategy == "one":
            # No devices to set up, which has to come before anything else.
            distributed_training.main("one", str(module("mobilenet_v1")), str(folder / "0.npz"))
            return [dict(np.load(folder / "0.npz"))]
        environments: list[dict[str, str]] = [{}]
        if strategy == "workers":
            cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}
            tasks = [{"type": "worker", "index": index} for index in range(2)]
            environments = [
                {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})} for task in tasks
            ]
        outputs = [folder / f"{i}.npz" for i in range(len(environments))]
        processes = [
            subprocess.Popen(
                [sys.executable, str(SCRIPT), strategy, str(module("mobilenet_v1")), str(output)],
                env={**os.environ, "PYTHONPATH": str(ROOT), "no_proxy": "*", **environment},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for environment, output in zip(environments, outputs, strict=True)
        ]
        try:
            for process in processes:
                log, _ = process.communicate(timeout=300)
                assert process.returncode == 0, f"{strategy}: {log[-3000:]}"
        finally:
            for process in processes:
                process.kill()
        return [dict(np.load(output)) for output in outputs]

    def results(strategy: str) -> list[dict[str, np.ndarray]]:
        if strategy not in known:
            known[strategy] = []
            known[strategy] = run(strategy)
        assert known[strategy], f"{strategy} failed before"
        return known[strategy]

    return results


def part(results: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {
        name.removeprefix(prefix): value
        for name, value in results.items()
        if name.startswith(prefix)
    }


@worlds
@strategies
def test_frozen_statistics_give_what_one_replica_gives(
    world: str, strategy: str, results: Results, module: Callable[..., Path]
) -> None:
    """Three steps: equal losses, equal weights, statistics that do not move."""
    expected = part(results("one")[0], f"{world}/inference/")
    start = mobilenets.load(module("mobilenet_v1")).slim_variables
    for process in results(strategy):
        found = part(process, f"{world}/inference/")
        assert list(found) == list(expected)
        np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-5)
        for name, value in expected.items():
            assert_close(found[name], value, 1e-5, name)
            if "/moving_" in name:
                np.testing.assert_array_equal(found[name], start[name].numpy(), err_msg=name)
    losses = expected["loss"]
    assert len(losses) == distributed_training.STEPS
    assert losses[-1] < losses[0]


def of_halves(module: Path) -> dict[str, np.ndarray]:
    """The mean of what each half of the batch makes of the moving statistics."""
    images, _ = distributed_training.data()
    moved = []
    for half in np.split(images, 2):
        model = mobilenets.load(module, batch_norm_momentum=distributed_training.MOMENTUM)
        model(half, training=True)
        moved.append({k: v.numpy() for k, v in model.slim_variables.items() if "/moving_" in k})
    return {name: (value + moved[1][name]) / 2 for name, value in moved[0].items()}


@worlds
@strategies
def test_statistics_are_the_mean_over_the_replicas(
    world: str, strategy: str, results: Results, module: Callable[..., Path]
) -> None:
    """After a step; the variance so misses what lies between the replicas."""
    expected = of_halves(module("mobilenet_v1"))
    one = part(results("one")[0], f"{world}/training/")
    first = "MobilenetV1/Conv2d_0/BatchNorm/moving_"
    for process in results(strategy):
        found = part(process, f"{world}/training/")
        for name, value in expected.items():
            assert_close(found[name], value, 1e-5, name)
        assert_close(found[f"{first}mean"], one[f"{first}mean"], 1e-5, "mean")
        variance = one[f"{first}variance"]
        assert np.abs(found[f"{first}variance"] - variance).max() > 1e-3 * variance.max()


@pytest.mark.parametrize("strategy", ["one", "mirrored", "workers"])
def test_both_worlds_train_alike(strategy: str, results: Results) -> None:
    """In training: with frozen batch norms Keras 3 freezes their scale and offset, too."""
    for process in results(strategy):
        hub, native = (part(process, f"{world}/training/") for world in ("hub", "native"))
        assert hub.keys() == native.keys()
        for name, value in hub.items():
            assert_close(native[name], value, 1e-4, name)


def test_workers_agree(results: Results) -> None:
    first, second = results("workers")
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)


QUANTIZED = """
import sys

import keras
import numpy as np
import tensorflow as tf

import mobilenets
from examples.distributed_training import BATCH, CLASSES, STEPS, data

(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
images, labels = data()
model = mobilenets.load(sys.argv[1]).with_classes(CLASSES)
keras.utils.set_random_seed(0)
model.logits.kernel.assign(keras.random.normal(model.logits.kernel.shape, stddev=0.1))
for strategy in (tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])):
    replicas = strategy.num_replicas_in_sync
    with strategy.scope():
        quantized = model.quantized([images], scheme="int8")
        # The replicas' batches have other ranges of activations than the whole one.
        quantized.activation_range_momentum = 1.0
        quantized.dropout_rate = 0.0
        quantized.compile(
            keras.optimizers.SGD(1e-3),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
    fitted = quantized.fit(images, labels, BATCH, STEPS, shuffle=False, verbose=0)
    values = {name: variable.numpy() for name, variable in quantized.slim_variables.items()}
    np.savez(f"{sys.argv[2]}/{replicas}.npz", losses=fitted.history["loss"], **values)
    mobilenets.save(quantized, f"{sys.argv[2]}/{replicas}")
    again = mobilenets.load(f"{sys.argv[2]}/{replicas}")
    np.testing.assert_array_equal(again(images), quantized(images))
"""


def test_int8_trains_on_two_replicas_as_on_one(module: Callable[..., Path], tmp_path: Path) -> None:
    """From its quantization to its module; ranges of weights follow the weights."""
    subprocess.run(
        [sys.executable, "-c", QUANTIZED, str(module("mobilenet_v1")), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        timeout=300,
    )
    one, two = (dict(np.load(tmp_path / f"{count}.npz")) for count in (1, 2))
    assert one.keys() == two.keys()
    np.testing.assert_allclose(two["losses"], one["losses"], rtol=1e-3)
    assert one["losses"][-1] < one["losses"][0]
    for name, value in one.items():
        assert_close(two[name], value, 1e-3, name)
    start = mobilenets.load(module("mobilenet_v1")).slim_variables
    moved = "MobilenetV1/Conv2d_13_pointwise/weights"
    assert not np.array_equal(one[moved], start[moved].numpy())
