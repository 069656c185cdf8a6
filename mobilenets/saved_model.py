"""The reusable SavedModel: what `hub.KerasLayer`, `hub.load` and TF Serving use.

The interface is that of TF2 SavedModels on TensorFlow Hub
(https://www.tensorflow.org/hub/reusable_saved_models): a callable with `training`, the variables,
the regularization losses. What goes beyond it: any image size, endpoints, the signatures of the
TF1 modules, class names as an asset, and the way back to a native Keras 3 model.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from mobilenets import checkpoint, mapping
from mobilenets.checkpoint import CheckpointError
from mobilenets.images import class_names
from mobilenets.layers import L2, MOMENTUM
from mobilenets.model import MobileNet
from mobilenets.quantization import RANGE_MOMENTUM
from mobilenets.sources import local
from mobilenets.variants import Variant

__all__ = ["load", "save"]

_CONFIG = Path("assets.extra") / "mobilenet.json"
_CLASS_NAMES = "class_names.txt"


def save(model: MobileNet, directory: str | os.PathLike[str]) -> None:
    """Writes a model as a reusable SavedModel, in float32 and wholly trainable.

    `hub.KerasLayer(directory)` maps `[batch, height, width, 3]` images, RGB float32 in [0, 1], to
    features or logits as the model does. Its function takes
    `(inputs, training=False, return_endpoints=False, batch_norm_momentum=0.99)`; that of a
    quantized variant, whose batch norms' statistics stay, has `activation_range_momentum=0.999`
    in place of the last.

    Signatures, all with the input `images` and the output `default`: `serving_default` gives what
    the model gives, `image_feature_vector` the features and, with classes,
    `image_classification` the logits.

    Args:
      model: What to write; it is not changed.
      directory: A folder that does not exist, is empty, or holds a module that `save` wrote,
        which is replaced.

    Raises:
      FileExistsError: The folder holds something else.
      OSError: The disk is full or not writable. Nothing is left half-written.
    """
    target = Path(directory)
    if target.exists() and not (
        target.is_dir() and (not any(target.iterdir()) or (target / _CONFIG).is_file())
    ):
        raise FileExistsError(f"{target} holds something that is not a MobileNet module")
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        _write(model, beside)
        # mkdtemp's folders are private.
        beside.chmod(0o777 & ~_umask())
        _replace(target, beside)
    except tf.errors.OpError as error:
        # "<path>; No space left on device": the path is that of a temporary file.
        reason = error.message.split(";")[-1].strip()
        raise OSError(errno.EIO, reason, str(target)) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _replace(target: Path, new: Path) -> None:
    """Moves a folder to where another may be, which comes back if that fails."""
    if not target.exists():
        new.rename(target)
        return
    old = new.with_name(f"{new.name}.old")
    target.rename(old)
    try:
        new.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _write(model: MobileNet, directory: Path) -> None:
    config = {
        key: value
        for key, value in model.get_config().items()
        if key not in ("name", "trainable", "dtype")
    }
    # A copy: it has no frozen blocks, no reduced precision and no distribution strategy.
    with tf.variable_creator_scope(_synchronized_when_read):
        copy = MobileNet(**config, dtype="float32")
    for ours, theirs in zip(
        copy.slim_variables.values(), model.slim_variables.values(), strict=True
    ):
        ours.assign(theirs.numpy())
    (directory / _CONFIG).parent.mkdir(parents=True)
    (directory / _CONFIG).write_text(
        json.dumps(config, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )

    module = tf.train.Checkpoint()
    # Lists, not dicts: the order is part of the interface.
    module.variables = [v.value for v in copy.slim_variables.values()]
    module.trainable_variables = [v.value for v in copy.slim_variables.values() if v.trainable]
    module.regularization_losses = [
        _l2_loss(variable.value)
        for variable in copy.slim_variables.values()
        if variable.regularizer is not None
    ]
    with tempfile.TemporaryDirectory() as temporary:
        if copy.class_names:
            path = Path(temporary) / _CLASS_NAMES
            path.write_text("".join(f"{name}\n" for name in copy.class_names), encoding="utf-8")
            module.class_names = tf.saved_model.Asset(str(path))
        module.__call__ = _callable(copy)
        tf.saved_model.save(module, str(directory), signatures=_signatures(copy, module.__call__))


def _synchronized_when_read(create: Callable, **arguments) -> tf.Variable:
    """Creates a variable; a statistic so that several replicas can move it in a loaded module.

    A function of a SavedModel assigns to its own replica's copy alone. Reading these gives the
    mean of all copies; the default, copies that are kept equal, would give the first.
    """
    if arguments["aggregation"] == tf.VariableAggregation.MEAN:
        arguments["synchronization"] = tf.VariableSynchronization.ON_READ
    return create(**arguments)


def _l2_loss(kernel: tf.Variable) -> Callable[[], tf.Tensor]:
    return tf.function(lambda: L2 * tf.reduce_sum(tf.square(kernel)), input_signature=[])


def _callable(model: MobileNet) -> tf.types.experimental.PolymorphicFunction:
    if model.variant.quantized:

        @tf.function
        def call(
            inputs, training=False, return_endpoints=False, activation_range_momentum=RANGE_MOMENTUM
        ):
            return model(
                inputs,
                training=training,
                return_endpoints=return_endpoints,
                activation_range_momentum=activation_range_momentum,
            )
    else:

        @tf.function
        def call(inputs, training=False, return_endpoints=False, batch_norm_momentum=MOMENTUM):
            return model(
                inputs,
                training=training,
                return_endpoints=return_endpoints,
                batch_norm_momentum=batch_norm_momentum,
            )

    return call


def _signatures(
    model: MobileNet, call: tf.types.experimental.PolymorphicFunction
) -> dict[str, Callable]:
    """The signatures, which also trace the callable when they are traced.

    That is within `tf.saved_model.save`, which would trace again what was traced before. They call
    its traces, rather than bring networks of their own.
    """
    images = tf.TensorSpec([None, None, None, 3], tf.float32, name="images")

    @tf.function(input_signature=[images])
    def default(images):
        return {"default": _inference(call, model, return_endpoints=False)(images)}

    if model.num_classes is None:
        return {"serving_default": default, "image_feature_vector": default}

    @tf.function(input_signature=[images])
    def image_feature_vector(images):
        endpoints = _inference(call, model, return_endpoints=True)(images)
        return {"default": tf.squeeze(endpoints[f"{model.name}/global_pool"], [1, 2])}

    return {
        "serving_default": default,
        "image_classification": default,
        "image_feature_vector": image_feature_vector,
    }


def _inference(
    call: tf.types.experimental.PolymorphicFunction, model: MobileNet, return_endpoints: bool
) -> Callable[[tf.Tensor], tf.Tensor | dict[str, tf.Tensor]]:
    """Traces the callable in all ways, and returns the trace for inference at any size."""
    momentum = "activation_range_momentum" if model.variant.quantized else "batch_norm_momentum"

    def trace(size: int | None, training: bool, return_endpoints: bool) -> Callable:
        return call.get_concrete_function(
            tf.TensorSpec([None, size, size, 3], tf.float32, name="inputs"),
            training=training,
            return_endpoints=return_endpoints,
            **{momentum: tf.TensorSpec([], tf.float32, name=momentum)},
        )

    # The first trace tells the image size: TF Hub's make_image_classifier reads it from there.
    trace(model.variant.image_size, False, False)
    inference = {endpoints: trace(None, False, endpoints) for endpoints in (False, True)}
    for endpoints in (False, True):
        trace(None, True, endpoints)
    traced = inference[return_endpoints]
    return lambda images: traced(inputs=images, **{momentum: tf.constant(0.0)})


def load(
    source: str | os.PathLike[str],
    *,
    variant: Variant | str | None = None,
    trainable: bool = True,
    batch_norm_momentum: float | None = None,
    activation_range_momentum: float | None = None,
) -> MobileNet:
    """A native Keras 3 model of a module that `save` wrote, or of a TF-Slim checkpoint.

    A checkpoint fills every variable of the network, or is refused: what is missing, left over or
    of another shape is listed. As in the published modules, the values are those of the variables
    for V1, and of their moving averages for V2 where there are any. The model has logits if the
    checkpoint does; `MobileNet.with_classes` changes that.

    Args:
      source: The module's folder; a checkpoint's prefix (`run/model.ckpt-1450000`), or a folder
        that holds one, such as a TF1 hub module; a `.tar.gz` or `.tgz` of any of these; or the
        `http(s)://` URL of such an archive or TF1 hub module, which tensorflow_hub fetches once
        and keeps in its cache (`TFHUB_CACHE_DIR`).
      variant: Which network a checkpoint is of, e.g. `"mobilenet_v2_035_96"`; None reads it from
        the names of the file, the archive and the folder.
      trainable: Whether the model's weights are to be trained.
      batch_norm_momentum: In [0, 1]: the share of the moving statistics that a training step
        keeps; None takes the saved model's, and 0.99 for a checkpoint.
      activation_range_momentum: In [0, 1], for quantized variants: the share of the activations'
        ranges that a step keeps; None takes the saved model's, and 0.999 for a checkpoint.

    Raises:
      FileNotFoundError: There is nothing of that name.
      OSError: The URL cannot be fetched.
      ValueError: The source holds neither a module that `save` wrote nor a MobileNet's checkpoint
        (then it is a `mobilenets.checkpoint.CheckpointError`), or is another variant.
    """
    with local(source) as path:
        if (path / _CONFIG).is_file():
            config = json.loads((path / _CONFIG).read_text(encoding="utf-8"))
            if variant is not None and Variant.parse(variant) != Variant(**config["variant"]):
                found = Variant(**config["variant"])
                raise ValueError(f"{source} is {found}, not {variant}: leave the variant out")
            values = None
        else:
            config, values = _from_checkpoint(path, source, variant)
        if batch_norm_momentum is not None:
            config["batch_norm_momentum"] = batch_norm_momentum
        if activation_range_momentum is not None:
            config["activation_range_momentum"] = activation_range_momentum
        model = MobileNet(**config, trainable=trainable)
        if values is None:
            module = tf.train.Checkpoint(variables=[v.value for v in model.slim_variables.values()])
            restored = module.restore(str(path / "variables" / "variables"))
            restored.assert_existing_objects_matched().expect_partial()
        else:
            mapping.assign(model, values)
    return model


def _from_checkpoint(
    path: Path, source: str | os.PathLike[str], variant: Variant | str | None
) -> tuple[dict, dict[str, np.ndarray]]:
    """The model's configuration and its variables by Slim name."""
    if path.is_dir():
        modules = sorted(each.name for each in path.iterdir() if (each / _CONFIG).is_file())
        if modules:
            raise ValueError(f"{source} holds several modules: name {' or '.join(modules)} in it")
    elif not (path.exists() or any(path.parent.glob(f"{path.name}.*"))):
        raise FileNotFoundError(f"no folder {source}, nor an archive or a checkpoint")
    try:
        found = checkpoint.Checkpoint(checkpoint.find(path), os.fspath(source))
        selection = checkpoint.select(found)
    except CheckpointError as error:
        if not path.is_dir():
            raise
        raise CheckpointError(
            f"{source} was not written by mobilenets.save: it has no {_CONFIG}, and is no Slim "
            f"checkpoint either ({error}); hub.KerasLayer loads other SavedModels"
        ) from error
    network = checkpoint.identify(found, selection, variant)
    classes = checkpoint.num_classes(found, selection)
    names = class_names() if classes == len(class_names()) else None
    config = {"variant": network, "num_classes": classes, "class_names": names}
    return config, mapping.read(found, selection, network, classes)
