"""Trains small networks under a strategy and writes the results; its test runs it.

    python examples/distributed_training.py STRATEGY MODULE OUTPUT

STRATEGY is `one`, `mirrored` (two logical CPUs) or `workers` (as TF_CONFIG says). OUTPUT becomes an
.npz of losses, weights and moving statistics.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
import tensorflow_hub as hub
import tf_keras

import mobilenets

SIZE, BATCH, STEPS, CLASSES = 32, 8, 3, 3
RATE, MOMENTUM = 0.01, 0.9


def data() -> tuple[np.ndarray, np.ndarray]:
    """One global batch, whose halves differ."""
    random = np.random.default_rng(0)
    brightness = np.linspace(0.2, 1, BATCH).reshape(-1, 1, 1, 1)
    images = random.uniform(size=(BATCH, SIZE, SIZE, 3)) * brightness
    return images.astype(np.float32), np.arange(BATCH) % CLASSES


def head(features: int) -> list[np.ndarray]:
    random = np.random.default_rng(1)
    kernel = random.normal(0, 0.1, (features, CLASSES)).astype(np.float32)
    return [kernel, np.zeros(CLASSES, np.float32)]


def build(world: str, module: str, training: bool):
    """A compiled model, and its backbone's variables by Slim name."""
    api = {"hub": tf_keras, "native": keras}[world]
    inputs = api.Input((SIZE, SIZE, 3))
    if world == "hub":
        arguments = {"batch_norm_momentum": MOMENTUM}
        backbone = hub.KerasLayer(module, trainable=True, arguments=arguments)
        features = backbone(inputs) if training else backbone(inputs, training=False)
        variables = {v.name.removesuffix(":0"): v for v in backbone.variables}
    else:
        backbone = mobilenets.load(module, batch_norm_momentum=MOMENTUM)
        if not training:
            for convolution in backbone.convolutions:
                convolution.batch_norm.trainable = False
        features = backbone(inputs)
        variables = backbone.slim_variables
    dense = api.layers.Dense(CLASSES)
    model = api.Model(inputs, dense(features))
    dense.set_weights(head(features.shape[-1]))
    loss = api.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(api.optimizers.SGD(RATE), loss)
    return model, variables


def batches() -> tf.data.Dataset:
    dataset = tf.data.Dataset.from_tensor_slices(data()).batch(BATCH)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return dataset.with_options(options)


def trained(
    world: str, module: str, training: bool, strategy: tf.distribute.Strategy
) -> dict[str, np.ndarray]:
    """One step with the batch's statistics, or three with frozen ones."""
    with strategy.scope():
        model, variables = build(world, module, training)
    epochs = 1 if training else STEPS
    if world == "native" and isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        losses = loop(model, epochs, strategy)
    else:
        losses = model.fit(batches(), epochs=epochs, verbose=0).history["loss"]
    results = {name: variable.numpy() for name, variable in variables.items()}
    return {"loss": np.array(losses), **results}


def loop(model: keras.Model, epochs: int, strategy: tf.distribute.Strategy) -> list[float]:
    """Trains without Keras 3's `fit`, which does not accept the batches of several workers."""

    def on_replica(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            logits = model(images, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.nn.compute_average_loss(losses, global_batch_size=BATCH)
            loss += tf.nn.scale_regularization_loss(model.losses)
        variables = model.trainable_variables
        model.optimizer.apply(tape.gradient(loss, [v.value for v in variables]), variables)
        return loss

    @tf.function
    def step(batch: tuple) -> tf.Tensor:
        return strategy.reduce("SUM", strategy.run(on_replica, batch), axis=None)

    with strategy.scope():
        model.optimizer.build(model.trainable_variables)
    distributed = strategy.experimental_distribute_dataset(batches())
    return [float(step(batch)) for _ in range(epochs) for batch in distributed]


def main(name: str, module: str, output: str) -> None:
    if name == "workers":
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    elif name == "mirrored":
        (cpu,) = tf.config.list_physical_devices("CPU")
        halves = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, halves)
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    else:
        strategy = tf.distribute.get_strategy()
    assert strategy.num_replicas_in_sync == (1 if name == "one" else 2)
    results = {
        f"{world}/{mode}/{key}": value
        for world in ("hub", "native")
        for mode in ("inference", "training")
        for key, value in trained(world, module, mode == "training", strategy).items()
    }
    np.savez(output, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
