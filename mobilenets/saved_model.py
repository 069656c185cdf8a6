"""The reusable SavedModel: what `hub.KerasLayer`, `hub.load` and TF Serving use.

The interface is that of TF2 SavedModels on TensorFlow Hub
(https://www.tensorflow.org/hub/reusable_saved_models): a callable with `training`, the variables,
the regularization losses. Modules add to it: any image size, endpoints, the signatures of the TF1
modules, class names as an asset, and a configuration for `read`, which gives a Keras 3 model.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from mobilenets import weights
from mobilenets.canonical import canonicalize
from mobilenets.errors import MobileNetError, not_written
from mobilenets.layers import MOMENTUM
from mobilenets.model import SHARES, MobileNet
from mobilenets.parts import L2, asserted
from mobilenets.quantization import RANGE_MOMENTUM
from mobilenets.variants import Variant
from mobilenets.weights import mapping
from mobilenets.writing import temporary_folder, written_beside

__all__ = ["FORMAT", "Writer", "config", "is_module", "is_serving", "read", "save"]

FORMAT = 6
"""Version of the modules' format; raise it when modules are written differently (a test checks).

A module in another format is converted again.
"""

_CONFIG = Path("assets.extra") / "mobilenet.json"
_CLASS_NAMES = "class_names.txt"
# TF Hub's make_image_classifier reads the image size from the first trace's signature. TensorFlow
# calls the first trace that fits, and images of unknown size would fit this one. Its own value of
# `return_endpoints`, which no caller passes, keeps all calls away from it.
_IMAGE_SIZE = "size"
_IMAGES = tf.TensorSpec([None, None, None, 3], tf.float32, name="inputs")
_SERVING = "serving"
_NOT_TRAINABLE = (
    "this module is for serving and cannot be trained: take the module that it was made from, or "
    "mobilenets.save(model, folder) without trainable=False"
)


def save(model: MobileNet, directory: str | os.PathLike[str], *, trainable: bool = True) -> None:
    """Writes a model as a reusable SavedModel, in float32.

    `hub.KerasLayer(directory)` maps `[batch, height, width, 3]` images, RGB float32 in [0, 1], to
    features or logits as the model does. Its function takes
    `(inputs, training=False, return_endpoints=False, batch_norm_momentum=0.99)`. For a quantized
    variant, whose batch norms keep their statistics, the last argument is
    `activation_range_momentum=0.999`.

    Signatures, all with the input `images` and the output `default`: `serving_default` returns the
    model's output, `image_feature_vector` the features and, with classes, `image_classification`
    the logits.

    With `trainable=False` the module is for serving: the weights are constants with the batch norms
    folded, so it loads faster, and small networks run faster on one image. It takes the same calls,
    but for `training=True`, and has no variables; `load` cannot read it.

    Args:
      model: What to write; it is not changed.
      directory: A folder that does not exist, is empty, or holds a module that `save` wrote,
        which is replaced.
      trainable: Whether the module can be fine-tuned.

    Raises:
      FileExistsError: The folder holds something else.
      OSError: The disk is full or not writable, or the path ends in no name, such as `.`. Nothing
        is left half-written.
      TypeError: The model is not a `MobileNet`, but contains one, say.
      ValueError: A variable holds NaN or infinity: training diverged. In a graph, TensorFlow's
        fused ReLU6 can turn NaN into numbers that look like results.
    """
    if not isinstance(model, MobileNet):
        raise TypeError(
            f"mobilenets.save takes a MobileNet; got {type(model).__name__}: give the MobileNet "
            "within it, or use the model's own save or export"
        )
    values = {name: variable.numpy() for name, variable in model.slim_variables.items()}
    strange = [name for name, value in values.items() if not np.isfinite(value).all()]
    if strange:
        raise ValueError(
            f"{len(strange)} of {len(values)} variables hold NaN or infinity, the first is "
            f"{strange[0]}: training diverged; save the weights of an earlier epoch"
        )
    Writer(_arguments(model), values, trainable=trainable).write(directory)


class Writer:
    """Writes modules of a network with given weights, as `save` does.

    The modules with and without classes share the network and its traces.

    Args:
      arguments: Arguments of `MobileNet`, but for `trainable`, `dtype` and `name`.
      values: Value of every variable by Slim name; others are ignored.
      trainable: As for `save`.
    """

    def __init__(
        self,
        arguments: Mapping[str, Any],
        values: Mapping[str, np.ndarray],
        *,
        trainable: bool = True,
    ) -> None:
        # A network of its own: no frozen blocks, no reduced precision and no distribution strategy.
        with tf.variable_creator_scope(_synchronized_when_read):
            self._network = MobileNet(**arguments, dtype="float32")
        for name, variable in self._network.slim_variables.items():
            variable.assign(values[name])
        self._trainable = trainable
        self._losses = {
            name: _l2_loss(variable.value)
            for name, variable in self._network.slim_variables.items()
            if trainable and variable.regularizer is not None
        }
        if not trainable:
            self._network.make_constant()
        self._features = _features(self._network, trainable)

    def write(self, directory: str | os.PathLike[str], *, classes: bool = True) -> None:
        """Writes a module.

        Args:
          directory: As for `save`.
          classes: Whether the module ends in the logits, if the network has them.

        Raises:
          FileExistsError: As `save` does.
          OSError: As `save` does.
        """
        target = Path(directory)
        if target.exists() and not (
            target.is_dir() and (not any(target.iterdir()) or (target / _CONFIG).is_file())
        ):
            raise FileExistsError(f"{target} holds something that is not a MobileNet module")
        try:
            with written_beside(target) as folder:
                self._write(folder / target.name, classes)
        except tf.errors.OpError as error:
            raise OSError(errno.EIO, not_written(error.message), str(target)) from error

    def _write(self, directory: Path, classes: bool) -> None:
        network = self._network
        classes = classes and network.logits is not None
        named = network.slim_variables
        arguments = _arguments(network)
        if network.logits is not None and not classes:
            for name in network.logits.slim_variables:
                del named[name]
            arguments |= {"num_classes": None, "class_names": None}
        (directory / _CONFIG).parent.mkdir(parents=True)
        written = {**({} if self._trainable else {_SERVING: True}), **arguments}
        (directory / _CONFIG).write_text(
            json.dumps(written, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )

        module = tf.train.Checkpoint()
        variables = list(named.values()) if self._trainable else []
        # Lists, not dicts: the order is part of the interface.
        module.variables = [v.value for v in variables]
        module.trainable_variables = [v.value for v in variables if v.trainable]
        module.regularization_losses = [
            loss for name, loss in self._losses.items() if name in named
        ]
        with temporary_folder("mobilenet-") as temporary:
            if names := arguments["class_names"]:
                path = temporary / _CLASS_NAMES
                path.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
                module.class_names = tf.saved_model.Asset(str(path))
            module.__call__ = self._features
            if classes:
                module.__call__ = _classification(network, self._features, self._trainable)
            tf.saved_model.save(
                module,
                str(directory),
                signatures=self._signatures(module.__call__, classes),
                # There are none; TensorFlow would look for them at every operation.
                options=tf.saved_model.SaveOptions(experimental_custom_gradients=False),
            )
        canonicalize(directory)

    def _signatures(
        self, call: tf.types.experimental.PolymorphicFunction, classes: bool
    ) -> dict[str, Callable]:
        """The signatures; tracing them also traces the callable, and what it calls.

        This happens in `tf.saved_model.save`, which would repeat earlier traces. The signatures
        call the callable's traces and so contain no network of their own.
        """
        images = tf.TensorSpec([None, None, None, 3], tf.float32, name="images")
        variant, scope = self._network.variant, self._network.name

        @tf.function(input_signature=[images], autograph=False)
        def default(images):
            # First: a module is the same whether or not another one was written before.
            _trace_all(self._features, variant)
            for loss in self._losses.values():
                loss.get_concrete_function()
            _trace_all(call, variant)
            outputs = _trace(call, variant, None, False, False)(images, tf.constant(0.0))
            return {"default": outputs}

        if not classes:
            return {"serving_default": default, "image_feature_vector": default}

        @tf.function(input_signature=[images], autograph=False)
        def image_feature_vector(images):
            endpoints = _trace(call, variant, None, False, True)(images, tf.constant(0.0))
            return {"default": tf.squeeze(endpoints[f"{scope}/global_pool"], [1, 2])}

        return {
            "serving_default": default,
            "image_classification": default,
            "image_feature_vector": image_feature_vector,
        }


def _arguments(model: MobileNet) -> dict[str, Any]:
    return {
        key: value
        for key, value in model.get_config().items()
        if key not in ("requires", "name", "trainable", "dtype", "inside")
    }


def _synchronized_when_read(create: Callable, **arguments) -> tf.Variable:
    """Creates a variable; a statistic is synchronized when read, so that all replicas count.

    A function of a SavedModel assigns only to its own replica's copy. Reading a statistic gives the
    mean of all copies; the default assumes that the copies are equal and would give the first.
    """
    if arguments["aggregation"] == tf.VariableAggregation.MEAN:
        arguments["synchronization"] = tf.VariableSynchronization.ON_READ
    return create(**arguments)


def _l2_loss(kernel: tf.Variable) -> tf.types.experimental.PolymorphicFunction:
    return tf.function(
        lambda: L2 * tf.reduce_sum(tf.square(kernel)), input_signature=[], autograph=False
    )


_Run = Callable[[tf.Tensor, bool, bool, tf.Tensor], tf.Tensor | dict[str, tf.Tensor]]


def _features(network: MobileNet, trainable: bool) -> tf.types.experimental.PolymorphicFunction:
    """The callable of a module without classes; one with classes calls its traces.

    Args:
      network: What to trace.
      trainable: Whether there is a network for each way to call it; if not, one serves all.
    """

    # For the trace that tells the size and that for any size, or for all. TensorFlow computes no
    # endpoint that is not returned.
    @tf.function(input_signature=[_IMAGES], autograph=False)
    def inference(inputs):
        return network.call_features(inputs, False, 1.0, not trainable)

    def run(inputs, training, return_endpoints, momentum):
        if training and not trainable:
            inputs = asserted(inputs, False, _NOT_TRAINABLE)
        if trainable and (training or return_endpoints):
            outputs, endpoints = network.call_features(inputs, training, momentum, return_endpoints)
        else:
            outputs, endpoints = inference(inputs)
        return {"default": outputs} | endpoints if return_endpoints else outputs

    return _callable(run, network.variant)


def _classification(
    network: MobileNet, features: tf.types.experimental.PolymorphicFunction, trainable: bool
) -> tf.types.experimental.PolymorphicFunction:
    """The callable of a module with classes."""

    def run(inputs, training, return_endpoints, momentum):
        trace = _trace(features, network.variant, None, training, return_endpoints)
        found = trace(inputs, momentum)
        outputs = found.pop("default") if return_endpoints else found
        outputs, classified = network.call_head(outputs, training and trainable, momentum)
        return {"default": outputs} | found | classified if return_endpoints else outputs

    return _callable(run, network.variant)


def _callable(run: _Run, variant: Variant) -> tf.types.experimental.PolymorphicFunction:
    """A module's callable, which gives what `run` computes."""

    def checked(inputs, training, return_endpoints, momentum):
        # A loaded function does not check images of unknown rank.
        inputs = tf.ensure_shape(inputs, [None, None, None, 3])
        return_endpoints = bool(return_endpoints) and return_endpoints != _IMAGE_SIZE
        return run(inputs, bool(training), return_endpoints, tf.convert_to_tensor(momentum))

    if variant.quantized:

        @tf.function(autograph=False)
        def call(
            inputs, training=False, return_endpoints=False, activation_range_momentum=RANGE_MOMENTUM
        ):
            return checked(inputs, training, return_endpoints, activation_range_momentum)
    else:

        @tf.function(autograph=False)
        def call(inputs, training=False, return_endpoints=False, batch_norm_momentum=MOMENTUM):
            return checked(inputs, training, return_endpoints, batch_norm_momentum)

    return call


def _momentum(variant: Variant) -> str:
    return "activation_range_momentum" if variant.quantized else "batch_norm_momentum"


def _trace(
    call: tf.types.experimental.PolymorphicFunction,
    variant: Variant,
    size: int | None,
    training: bool,
    return_endpoints: bool | str,
) -> tf.types.experimental.ConcreteFunction:
    return call.get_concrete_function(
        tf.TensorSpec([None, size, size, 3], tf.float32, name="inputs"),
        training=training,
        return_endpoints=return_endpoints,
        **{_momentum(variant): tf.TensorSpec([], tf.float32, name=_momentum(variant))},
    )


def _trace_all(call: tf.types.experimental.PolymorphicFunction, variant: Variant) -> None:
    """Traces a callable for all arguments."""
    _trace(call, variant, variant.image_size, False, _IMAGE_SIZE)
    for training, return_endpoints in product((False, True), repeat=2):
        _trace(call, variant, None, training, return_endpoints)


def is_module(path: str | os.PathLike[str]) -> bool:
    """Whether a folder holds a module that `save` wrote."""
    return (Path(path) / _CONFIG).is_file()


def config(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """The arguments of `MobileNet` for the model of a module that `save` wrote.

    Raises:
      MobileNetError: The configuration is damaged.
    """
    path = Path(directory)
    try:
        found = json.loads((path / _CONFIG).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "it is not JSON") from error
    if not isinstance(found, dict) or not isinstance(found.get("variant"), dict):
        raise _damaged(path, "it has no variant")
    return found


def _damaged(directory: Path, reason: object) -> MobileNetError:
    text = " ".join(str(reason).split())
    return MobileNetError(
        f"{directory}: {_CONFIG.name} is damaged ({text}); copy or download the module again"
    )


def is_serving(directory: str | os.PathLike[str]) -> bool:
    """Whether a module that `save` wrote is for serving."""
    return bool(config(directory).get(_SERVING))


def read(
    directory: str | os.PathLike[str],
    *,
    trainable: bool = True,
    batch_norm_momentum: float | None = None,
    activation_range_momentum: float | None = None,
) -> MobileNet:
    """The native Keras 3 model of a module that `save` wrote.

    Args:
      directory: The module's folder, of which `is_module` is true.
      trainable: Whether the model's weights are trainable.
      batch_norm_momentum: In [0, 1]; None takes the saved model's.
      activation_range_momentum: In [0, 1], for quantized variants; None takes the saved model's.

    Raises:
      MobileNetError: The module is for serving, or damaged; or its variables are not those of the
        network that it says it is (`weights.WeightsError`).
    """
    path = Path(directory)
    arguments = config(path)
    if arguments.pop(_SERVING, False):
        raise MobileNetError(
            f"{path} is a module for serving, without variables: load the module or the weights "
            "that it was made from"
        )
    # Before the network is built, which may be of any size.
    variant, values = _contents(path, arguments)
    if batch_norm_momentum is not None:
        arguments["batch_norm_momentum"] = batch_norm_momentum
    if activation_range_momentum is not None:
        arguments["activation_range_momentum"] = activation_range_momentum
    try:
        model = MobileNet(**{**arguments, "variant": variant}, trainable=trainable)
    except (TypeError, ValueError) as error:
        raise _damaged(path, error) from error
    mapping.assign(model, values)
    return model


def _contents(path: Path, arguments: dict[str, Any]) -> tuple[Variant, dict[str, np.ndarray]]:
    """The network that a module's configuration speaks of, and the variables' values for it."""
    try:
        variant = Variant(**arguments["variant"])
        shares = [arguments.get(name) for name in SHARES]
        if not all(share is None or 0 <= share <= 1 for share in shares):
            raise ValueError(f"{', '.join(SHARES)} must be in [0, 1]")
        names = arguments.get("class_names")
        if not (names is None or isinstance(names, list)):
            raise ValueError("class_names must be a list")
    except (TypeError, ValueError, OverflowError) as error:
        raise _damaged(path, error) from error
    if not (path / "variables" / "variables.index").is_file():
        raise MobileNetError(
            f"{path}: variables/variables.index is missing; copy or download the module again"
        )
    found = weights.read(path, os.fspath(path))
    classes = arguments.get("num_classes") if names is None else len(names)
    if found.num_classes != classes:
        raise _damaged(path, f"it speaks of {classes} classes; there are {found.num_classes}")
    return variant, found.values(found.variant(variant))
