"""The same network in every form that people run: this project's, Keras 3's, tf_keras's, LiteRT's.

All have the same weights: random ones, with batch norms that fit them. Activations that fade from
layer to layer end as denormal numbers, which take some kernels ten times as long.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_hub as hub
import tf_keras
from ai_edge_litert.interpreter import Interpreter
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

import mobilenets
from convert.references import applications

__all__ = [
    "THREADS",
    "inference",
    "loading",
    "module_alone",
    "predictions",
    "reduced_inference",
    "reduced_training",
    "serving",
    "training",
]

THREADS = os.cpu_count() or 1
_FOLDER = Path(tempfile.gettempdir()) / "mobilenets-benchmarks"


def module(name: str) -> Path:
    """The feature vector module of a variant, written at the first call."""
    directory = _FOLDER / name / "feature_vector"
    if not directory.exists():
        model = mobilenets.MobileNet(name)
        size = model.variant.image_size
        model(images(32, size), training=True, batch_norm_momentum=0.0)
        mobilenets.save(model, directory)
    return directory


def serving(name: str) -> Path:
    """The same weights as a module for serving."""
    directory = _FOLDER / name / "feature_vector-serving"
    if not directory.exists():
        mobilenets.save(mobilenets.load(module(name)), directory, trainable=False)
    return directory


def images(batch: int, size: int) -> np.ndarray:
    """`[batch, size, size, 3]` float32 in [0, 1]."""
    return np.random.default_rng(0).uniform(size=(batch, size, size, 3)).astype(np.float32)


def application(kerases: Any, name: str) -> Any:
    """keras.applications' feature extractor, of Keras 3 or tf_keras, inputs in [0, 1]."""
    variant = mobilenets.Variant.parse(name)
    network = applications.build(variant, None, library=kerases)
    ours = mobilenets.load(module(name)).slim_variables
    values = {scope: value.numpy() for scope, value in ours.items()}
    network.set_weights(applications.reference(variant, values, None).get_weights())
    return kerases.Sequential(
        [
            kerases.layers.Input(network.input_shape[1:]),
            kerases.layers.Rescaling(2.0, offset=-1.0),
            network,
        ]
    )


def _lite(name: str, batch: int) -> Callable[[np.ndarray], np.ndarray]:
    model = mobilenets.load(module(name))
    size = model.variant.image_size
    # Unfrozen, the converter would leave batch norms and variables in the model; and at sizes that
    # are known, our layers make matrix products, where XNNPACK has its own ways.
    free = tf.function(lambda inputs: model(inputs, training=False))
    frozen = convert_variables_to_constants_v2(
        free.get_concrete_function(tf.TensorSpec([batch, None, None, 3], tf.float32))
    )
    fixed = tf.function(lambda inputs: frozen(inputs)[0]).get_concrete_function(
        tf.TensorSpec([batch, size, size, 3], tf.float32)
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions([fixed], tf.Module())
    interpreter = Interpreter(model_content=converter.convert(), num_threads=THREADS)
    interpreter.allocate_tensors()
    (given,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(inputs: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(given["index"], inputs)
        interpreter.invoke()
        return interpreter.get_tensor(result["index"])

    return run


def inference(name: str, batch: int) -> dict[str, Callable[[], object]]:
    """One call of each contender on the same batch; Keras models as compiled functions."""
    inputs = images(batch, mobilenets.Variant.parse(name).image_size)
    tensor = tf.constant(inputs)
    ours = hub.load(str(module(name)))
    constant = hub.load(str(serving(name)))

    def compiled(model: Any) -> Callable[[], object]:
        function = tf.function(lambda x: model(x, training=False))
        return lambda: function(tensor).numpy()

    lite = _lite(name, batch)
    inside = tf.function(lambda x: ours(x))
    served = tf.function(lambda x: constant(x))
    return {
        "module": lambda: ours(tensor).numpy(),
        "in a tf.function": lambda: inside(tensor).numpy(),
        "for serving, in a tf.function": lambda: served(tensor).numpy(),
        "keras": compiled(application(keras, name)),
        "tf_keras": compiled(application(tf_keras, name)),
        "LiteRT": lambda: lite(inputs),
    }


def module_alone(name: str, batch: int) -> dict[str, Callable[[], object]]:
    """One call of the module."""
    tensor = tf.constant(images(batch, mobilenets.Variant.parse(name).image_size))
    ours = hub.load(str(module(name)))
    return {"module": lambda: ours(tensor).numpy()}


def predictions(name: str, batch: int) -> dict[str, Callable[[], object]]:
    """`model.predict` of each Keras contender; the module is a hub.KerasLayer."""
    size = mobilenets.Variant.parse(name).image_size
    inputs = images(4 * batch, size)
    layer = hub.KerasLayer(str(module(name)))
    ours = tf_keras.Sequential([tf_keras.layers.Input((size, size, 3)), layer])

    def predict(model: Any) -> Callable[[], object]:
        return lambda: model.predict(inputs, batch_size=batch, verbose=0)

    return {
        "module": predict(ours),
        "native": predict(mobilenets.load(module(name))),
        "keras": predict(application(keras, name)),
        "tf_keras": predict(application(tf_keras, name)),
    }


def _fit(kerases: Any, name: str, features: Any, batch: int, steps: int) -> Callable[[], object]:
    """An epoch of `steps` steps of `model.fit` with a new head, all variables trainable."""
    size = mobilenets.Variant.parse(name).image_size
    inputs = images(steps * batch, size)
    labels = np.arange(steps * batch) % 10
    model = kerases.Sequential(
        [kerases.layers.Input((size, size, 3)), features, kerases.layers.Dense(10)]
    )
    loss = kerases.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(kerases.optimizers.SGD(0.01, momentum=0.9), loss)
    return lambda: model.fit(inputs, labels, batch_size=batch, shuffle=False, verbose=0)


def training(name: str, batch: int, steps: int) -> dict[str, Callable[[], object]]:
    """An epoch of `steps` steps for each contender."""
    layer = hub.KerasLayer(str(module(name)), trainable=True)
    return {
        "module": _fit(tf_keras, name, layer, batch, steps),
        "native": _fit(keras, name, mobilenets.load(module(name)), batch, steps),
        "keras": _fit(keras, name, application(keras, name), batch, steps),
        "tf_keras": _fit(tf_keras, name, application(tf_keras, name), batch, steps),
    }


def _switched(run: Callable[[], object]) -> Callable[[], object]:
    """With TensorFlow's bfloat16 pass: which functions it changes is decided at each call."""

    def switched() -> object:
        tf.config.optimizer.set_experimental_options({"auto_mixed_precision_onednn_bfloat16": True})
        try:
            return run()
        finally:
            tf.config.optimizer.set_experimental_options(
                {"auto_mixed_precision_onednn_bfloat16": False}
            )

    return switched


def _mixed(name: str) -> mobilenets.MobileNet:
    """The native model, whose variables are float32 and whose arithmetic is bfloat16's."""
    weights = mobilenets.load(module(name)).get_weights()
    model = mobilenets.MobileNet(name, dtype="mixed_bfloat16")
    model.set_weights(weights)
    return model


def reduced_inference(name: str, batch: int) -> dict[str, Callable[[], object]]:
    """One call in float32, and two ways in bfloat16."""
    tensor = tf.constant(images(batch, mobilenets.Variant.parse(name).image_size))
    ours, other = hub.load(str(module(name))), hub.load(str(module(name)))
    native = _mixed(name)
    mixed = tf.function(lambda x: native(x, training=False))
    return {
        "module": lambda: ours(tensor).numpy(),
        "module, bfloat16 pass": _switched(lambda: other(tensor).numpy()),
        "native, mixed_bfloat16": lambda: mixed(tensor).numpy(),
    }


def reduced_training(name: str, batch: int, steps: int) -> dict[str, Callable[[], object]]:
    """An epoch of `steps` steps in float32, and two ways in bfloat16."""

    def layer() -> hub.KerasLayer:
        return hub.KerasLayer(str(module(name)), trainable=True)

    return {
        "module": _fit(tf_keras, name, layer(), batch, steps),
        "module, bfloat16 pass": _switched(_fit(tf_keras, name, layer(), batch, steps)),
        "native, mixed_bfloat16": _fit(keras, name, _mixed(name), batch, steps),
    }


def loading(name: str) -> dict[str, Callable[[], object]]:
    """From a folder to something that can be fine-tuned."""
    saved = _FOLDER / name / "tf_keras"
    if not saved.exists():
        application(tf_keras, name).save(saved)
    return {
        "module": lambda: hub.KerasLayer(str(module(name)), trainable=True),
        "native": lambda: mobilenets.load(module(name)),
        "for serving": lambda: hub.load(str(serving(name))),
        "tf_keras": lambda: tf_keras.models.load_model(saved),
    }
