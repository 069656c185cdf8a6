"""MobileNet as a Keras 3 model: images -> endpoints -> feature vector -> logits."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain

import keras
import numpy as np
import tensorflow as tf

from mobilenets import architecture
from mobilenets.blocks import block
from mobilenets.channel_scaling import factors, scale_channels
from mobilenets.channel_statistics import MOST_IMAGES
from mobilenets.layers import MOMENTUM, ConvBatchNorm
from mobilenets.logits import Logits, QuantizedLogits
from mobilenets.mean_correction import correct_means
from mobilenets.parts import Part, asserted, checked, share
from mobilenets.quantization import (
    RANGE_MOMENTUM,
    FakeQuantization,
    quantize_activations,
    quantize_images,
    range_variables,
    silence,
)
from mobilenets.spare_channels import repeat_channels
from mobilenets.variants import Variant
from mobilenets.weight_limits import limit_weights
from mobilenets.weight_rounding import round_weights

__all__ = ["SHARES", "MobileNet"]

SHARES = ("batch_norm_momentum", "activation_range_momentum", "dropout_rate")
"""Arguments of `MobileNet` that are in [0, 1]."""

# Of `2 x - 1`, over a batch of images x.
_MEAN_SQUARE = 2.0
_NO_IMAGES = (
    "images must be floats in [0, 1]: divide pixels in 0 to 255 by 255, and take x / 2 + 0.5 of "
    "pixels in [-1, 1]"
)
# To a variant's `quantized`.
_SCHEMES: dict[str, bool | str] = {"uint8": True, "int8": "int8"}


@keras.saving.register_keras_serializable("mobilenets")
class MobileNet(Part, keras.Model):
    """MobileNet V1 or V2, of any depth multiplier and image size.

    Without classes it maps images to feature vectors, with classes to logits. Input: RGB images
    `[batch, height, width, 3]`, float32 with values in [0, 1], 32 pixels or more on each side (the
    variant's `image_size` is what the network was trained at). Output: float
    `[batch, num_features]`, or `[batch, num_classes]` logits.

    A quantized variant simulates 8-bit weights and activations in float32. Training keeps the batch
    norms' moving statistics and updates the quantization ranges instead. Other image sizes work
    too, but the ranges were trained at the variant's size.

    Args:
      variant: A `Variant` or anything that `Variant.parse` reads, e.g. `"mobilenet_v2_035_96"`.
      num_classes: Length of the logits, 1 or more; None builds the feature vector alone, unless
        `class_names` says how many.
      class_names: One name for each logit; None for unnamed classes.
      batch_norm_momentum: In [0, 1]: the share of the moving statistics that a training step
        keeps, unless the call overrides it.
      dropout_rate: Share of features dropped before the logits in training; None takes Slim's:
        0.001 for V1, 0.2 for V2.
      activation_range_momentum: In [0, 1], for quantized variants: the share of the activation
        ranges that a training step keeps, unless the call overrides it.

    Raises:
      ValueError: The variant does not exist; the number of classes is not 1 or more, or differs
        from the number of names; the names are one text; a momentum or the dropout rate is not in
        [0, 1]; the variant is quantized, with another dtype than float32; or the weights are not
        float32.
    """

    def __init__(
        self,
        variant: Variant | str | dict,
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
        batch_norm_momentum: float = MOMENTUM,
        dropout_rate: float | None = None,
        activation_range_momentum: float = RANGE_MOMENTUM,
        **kwargs,
    ) -> None:
        variant = Variant(**variant) if isinstance(variant, dict) else Variant.parse(variant)
        scope = architecture.scope(variant.family)
        kwargs.setdefault("name", scope)
        if variant.quantized and kwargs.get("dtype") is None:
            kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        if self.dtype_policy.variable_dtype != "float32":
            reduced = self.dtype_policy.name
            raise ValueError(
                f"weights are float32; got dtype {reduced!r}: pass 'mixed_bfloat16' or "
                "'mixed_float16' for reduced precision"
            )
        if variant.quantized and self.dtype_policy.name != "float32":
            raise ValueError(
                f"{variant} simulates 8-bit quantization in float32; got dtype "
                f"{self.dtype_policy.name!r}: pass dtype='float32'"
            )
        self.variant = variant
        if isinstance(class_names, str):
            raise ValueError(f"class_names must be one name for each class; got {class_names!r}")
        self.class_names = None if class_names is None else tuple(map(str, class_names))
        if self.class_names is not None and num_classes not in (None, len(self.class_names)):
            raise ValueError(
                f"num_classes is {num_classes}, but class_names has {len(self.class_names)} names"
            )
        self.num_classes = num_classes if self.class_names is None else len(self.class_names)
        if self.num_classes is not None and not (
            isinstance(self.num_classes, int | np.integer) and self.num_classes >= 1
        ):
            raise ValueError(f"num_classes must be 1 or more, or None; got {self.num_classes!r}")
        self.num_features = architecture.num_features(variant)
        self.dropout_rate = (
            architecture.dropout_rate(variant.family) if dropout_rate is None else dropout_rate
        )
        # As given: a variable's value may change.
        self.batch_norm_momentum = batch_norm_momentum
        self.activation_range_momentum = activation_range_momentum
        for name in SHARES:
            share(name, getattr(self, name))
        self.blocks: list[keras.layers.Layer] = [
            block(row, scope, variant.quantized, self.dtype_policy)
            for row in architecture.rows(variant)
        ]
        int8 = variant.quantized == "int8"
        self.pool_quant: FakeQuantization | None = None
        if int8:
            self.pool_quant = FakeQuantization(0.0, name=architecture.POOL_QUANT, dtype="float32")
        self.logits = None
        if self.num_classes is not None:
            given = {"scope": f"{scope}/Logits/Conv2d_1c_1x1", "name": "Logits"}
            given["dtype"] = self.dtype_policy
            self.logits = (
                QuantizedLogits(self.num_classes, per_channel=int8, **given)
                if variant.quantized
                else Logits(self.num_classes, **given)
            )
        # The model takes any size; this one decides which operations are the fastest.
        self.build((None, variant.image_size, variant.image_size, 3))
        # Set again, now that there are inner layers to pass it on to.
        self.trainable = kwargs.get("trainable", True)
        self.restore_settings()

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name == "trainable":
            # Keras skips layers that already have the value, and so inner layers that differ.
            for layer in self._flatten_layers(include_self=False):
                layer.trainable = value

    def build(self, input_shape: Sequence[int | None]) -> None:
        if self.built:
            return
        shape = tuple(input_shape)
        for layer in self.blocks:
            layer.build(shape)
            shape = layer.compute_output_shape(shape)
        if self.pool_quant is not None:
            with tf.name_scope(f"{architecture.scope(self.variant.family)}/"):
                self.pool_quant.build()
        if self.logits is not None:
            self.logits.build((None, self.num_features))

    @property
    def convolutions(self) -> list[ConvBatchNorm]:
        """Every convolution with batch norm, in order."""
        return [
            convolution
            for block in self.blocks
            for convolution in getattr(block, "convolutions", (block,))
        ]

    @property
    def slim_variables(self) -> dict[str, keras.Variable]:
        """Every variable by its Slim name, in the order in which Slim creates them."""
        named: dict[str, keras.Variable] = {}
        for layer in self.blocks:
            named |= layer.slim_variables
        if self.pool_quant is not None:
            scope = architecture.scope(self.variant.family)
            named |= range_variables(scope, [self.pool_quant])
        if self.logits is not None:
            named |= self.logits.slim_variables
        return named

    def make_constant(self) -> None:
        """From now on inference has the weights of today as constants, with batch norms folded.

        For what is traced afterwards and never trained, such as a module for serving.
        """
        for layer in self.blocks:
            layer.make_constant()
        if self.pool_quant is not None:
            self.pool_quant.make_constant()
        if self.logits is not None:
            self.logits.make_constant()

    def call(
        self,
        inputs: tf.Tensor,
        training: bool | None = None,
        return_endpoints: bool = False,
        batch_norm_momentum: float | tf.Tensor | None = None,
        activation_range_momentum: float | tf.Tensor | None = None,
    ) -> tf.Tensor | dict[str, tf.Tensor]:
        """Computes the feature vector or the logits.

        Args:
          inputs: `[batch, height, width, 3]`, RGB with values in [0, 1].
          training: Whether batch norms use the batch's statistics and update the moving ones, and
            dropout is on. `keras.Model.fit` always passes True, whatever a functional model was
            built with; a model, block or `batch_norm` of `model.convolutions` with
            `trainable=False` keeps its statistics even then. A quantized variant updates its ranges
            and keeps the batch norms' statistics. An empty batch updates nothing.
          return_endpoints: Whether to return every named activation.
          batch_norm_momentum: In [0, 1]; None takes the model's.
          activation_range_momentum: In [0, 1], for quantized variants; None takes the model's.

        Returns:
          `[batch, num_features]` features or `[batch, num_classes]` logits. With
          `return_endpoints` a dict: that output as `default`, and under their hub names
          (`MobilenetV1/Conv2d_6_depthwise`, `MobilenetV2/layer_3/expansion_output`, …) the
          activations `[batch, height, width, channels]`, `…/global_pool`
          `[batch, 1, 1, num_features]` and, with classes, `…/Logits` and `…/Predictions`
          (probabilities), `[batch, num_classes]`.

        Raises:
          TypeError: The images are integers.
          ValueError: The images are not `[batch, height, width, 3]`, or not in [0, 1]: the mean
            square of `2 x - 1` over the batch, at most 1 for such images, is above 2 or NaN. In
            graphs `tf.errors.InvalidArgumentError`. Or the momentum is not in [0, 1].
        """
        given = activation_range_momentum if self.variant.quantized else batch_norm_momentum
        arguments = bool(training), self._momentum if given is None else given
        features, endpoints = self.call_features(inputs, *arguments, return_endpoints)
        outputs, classified = self.call_head(features, *arguments)
        return {"default": outputs} | endpoints | classified if return_endpoints else outputs

    def call_features(
        self,
        inputs: tf.Tensor,
        training: bool,
        momentum: float | tf.Tensor,
        return_endpoints: bool,
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Computes the features: the first part of `call`, whose arguments these are.

        Args:
          inputs: `[batch, height, width, 3]`, RGB with values in [0, 1].
          training: As for `call`.
          momentum: In [0, 1], of the batch norms' statistics, or of a quantized variant's ranges.
          return_endpoints: As for `call`.

        Returns:
          `[batch, num_features]` features, and the activations by hub name up to `…/global_pool`;
          none without `return_endpoints`.

        Raises:
          TypeError: As for `call`.
          ValueError: As for `call`.
        """
        images = self._images(inputs)
        batch = _Batch(images)
        outputs = 2 * batch.images - 1
        if training:
            momentum = _unless_empty(share("the momentum", momentum), images)
        arguments = {"training": training, "momentum": _if_in_range(outputs, momentum)}
        if self.variant.quantized:
            outputs = quantize_images(outputs)
        endpoints: dict[str, tf.Tensor] = {}
        for layer, row in zip(self.blocks, architecture.rows(self.variant), strict=True):
            if return_endpoints:
                activations = layer(outputs, return_endpoints=batch.split, **arguments)
                endpoints |= row.endpoints(activations)
                outputs = batch.occupied(list(activations.values())[-1])
            else:
                outputs = layer(outputs, **arguments)
        outputs = tf.reduce_mean(outputs, [1, 2])
        if self.pool_quant is not None:
            adapt = training and self.trainable
            outputs = quantize_activations(self.pool_quant, outputs, adapt, momentum)
        outputs = batch.restored(outputs)
        if return_endpoints:
            endpoints["global_pool"] = outputs[:, tf.newaxis, tf.newaxis]
        return outputs, self._scoped(endpoints)

    def call_head(
        self, features: tf.Tensor, training: bool, momentum: float | tf.Tensor
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Computes the logits: the part of `call` after `call_features`.

        Args:
          features: `[batch, num_features]`.
          training: As for `call`.
          momentum: As for `call_features`.

        Returns:
          `[batch, num_classes]` logits, and `…/Logits` and `…/Predictions` by hub name. Without
          classes the features, and no endpoints.
        """
        if self.logits is None:
            return features, {}
        if training and self.dropout_rate:
            features = tf.nn.dropout(features, self.dropout_rate)
        if training:
            momentum = _unless_empty(momentum, features)
        outputs = self.logits(features, training=training, momentum=momentum)
        return outputs, self._scoped({"Logits": outputs, "Predictions": tf.nn.softmax(outputs)})

    def _scoped(self, endpoints: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        scope = architecture.scope(self.variant.family)
        return {f"{scope}/{name}": activation for name, activation in endpoints.items()}

    def _images(self, inputs: tf.Tensor | np.ndarray) -> tf.Tensor:
        """Images in float32; raises what `call` says."""
        images = checked(tf.convert_to_tensor(inputs), 3, self.name)
        if not images.dtype.is_floating:
            raise TypeError(
                f"images must be floats in [0, 1]; got {images.dtype.name}: divide by 255"
            )
        return tf.cast(images, tf.float32)

    @property
    def _momentum(self) -> float:
        """The momentum of what training updates: activation ranges, or batch norms' statistics."""
        if self.variant.quantized:
            return self.activation_range_momentum
        return self.batch_norm_momentum

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        return (input_shape[0], self.num_classes or self.num_features)

    def compute_output_spec(self, *args, **kwargs) -> keras.KerasTensor | dict:
        # Traced: the shape does not tell whether the result is an output or a dict of endpoints.
        return keras.Operation.compute_output_spec(self, *args, **kwargs)

    def with_classes(
        self, num_classes: int | None = None, class_names: Sequence[str] | None = None
    ) -> MobileNet:
        """A copy for other classes: the weights up to the features, and new, untrained logits.

        The new logits' weights are zeros: all classes are equally probable until they are trained.
        Random weights would keep their noise where few images are learned from.

        What is frozen stays frozen in the copy, but the new logits are trainable: in the copy of a
        frozen model, only they train.

        Args:
          num_classes: Length of the logits, 1 or more; None builds the feature vector alone,
            unless `class_names` says how many.
          class_names: One name for each logit; None for unnamed classes.
        """
        frozen = {
            path: values
            for path, values in self.settings(trainable=True).items()
            if path.partition("/")[0] != "Logits"
        }
        classes = {"num_classes": num_classes, "class_names": class_names}
        copy = type(self).from_config(
            {**self.get_config(), **classes, "trainable": True, "inside": frozen}
        )
        for ours, theirs in zip(self.blocks, copy.blocks, strict=True):
            theirs.set_weights(ours.get_weights())
        if copy.logits is not None:
            copy.logits.kernel.assign(tf.zeros(copy.logits.kernel.shape))
        if self.pool_quant is not None:
            copy.pool_quant.set_weights(self.pool_quant.get_weights())
        return copy

    def quantized(
        self, images: Iterable[tf.Tensor | np.ndarray], scheme: str = "uint8"
    ) -> MobileNet:
        """A copy with simulated 8-bit quantization, to fine-tune before it becomes a LiteRT model.

        The copy is made to be rounded: its kernels are not this model's, nor are the activations
        among its endpoints. Its features and logits are this model's, but for rounding.

        `"uint8"` has one range for all weights of a layer, as Google's quantops, and what would
        stretch it is taken away. Channels that are constant get weights of 0. Channels that ReLU6
        does not clip are scaled, and the weights that read them inversely, so that the channels of
        a layer have weights of similar size. Channels that it clips get smaller weights where
        rounding then costs less. `"int8"` has a symmetric range for each output channel, and rounds
        the pooled features too, as LiteRT's int8 models.

        In both, channels of the first layers that are 0 for every image repeat others, a part of
        an 8-bit step apart. Kernels are rounded for the inputs that the images give them, so that
        the errors of the weights make up for one another.

        The weights' ranges are those of the weights with the batch norms folded in. A range of
        activations is the mean of the batches' ranges. The logits' range is the one whose rounding
        changes their softmax least: it reaches the largest logit, and may clip low ones.
        The offsets (`beta`) are corrected so that each channel's mean over the first images is the
        float model's: rounded weights shift it. What is frozen stays frozen.

        Args:
          images: Batches `[batch, height, width, 3]`, RGB float32 in [0, 1], such as a
            `tf.data.Dataset` of them: some hundred images like those that the network will see, at
            its size. The activations' ranges are measured on them, what else is measured on the
            first 64.
          scheme: `"uint8"` or `"int8"`: what the LiteRT model will compute in.

        Returns:
          A float32 model of the variant's quantized form with this model's classes.

        Raises:
          TypeError: The images are integers, or a batch holds labels too.
          ValueError: The model is quantized already, there is no such scheme, there are no images,
            they never end, or they are not `[batch, height, width, 3]`.
        """
        if scheme not in _SCHEMES:
            raise ValueError(f"scheme must be one of {', '.join(_SCHEMES)}; got {scheme!r}")
        if self.variant.quantized:
            raise ValueError(f"{self.variant} is quantized already")
        batches = _given(images)
        first = list(_first(batches, MOST_IMAGES))
        if not first:
            raise ValueError("there are no images to measure ranges of activations on")
        measured = tf.concat([self._images(batch) for batch in first], 0)[:MOST_IMAGES]
        normalized = 2 * measured - 1
        config = {
            **self.get_config(),
            "variant": dataclasses.replace(self.variant, quantized=_SCHEMES[scheme]),
            "dtype": "float32",
        }
        # Frozen layers would keep the ranges that they start from.
        copy = type(self).from_config({**config, "trainable": True, "inside": None})
        exact = self._repeating()
        for name, variable in exact.slim_variables.items():
            copy.slim_variables[name].assign(variable.numpy())
        if scheme == "uint8":
            for convolution in copy.convolutions:
                silence(convolution)
            scale_channels(copy.convolutions, factors(exact.blocks, copy.convolutions, normalized))
            limit_weights(exact.blocks, copy.convolutions, normalized)
        # It would move the logits' range.
        copy.dropout_rate = 0.0
        logits = []
        for count, batch in enumerate(chain(first, batches), 1):
            # The momentum of a mean: 0, 1/2, 2/3, …
            copy(batch, training=True, activation_range_momentum=1 - 1 / count)
            if self.logits is not None:
                logits.append(tf.cast(self(batch), tf.float32))
        if logits:
            copy.logits.fit_range(tf.concat(logits, 0))
        rounding = partial(round_weights, images=len(measured))
        correct_means(copy.blocks, exact.blocks, quantize_images(normalized), normalized, rounding)
        calibrated = type(self).from_config(config)
        calibrated.set_weights(copy.get_weights())
        return calibrated

    def correct_means(self, model: MobileNet, images: tf.Tensor | np.ndarray) -> None:
        """Gives the channels of a quantized model the means that they have in a float model.

        Rounded weights shift the means, and other weights shift them otherwise. `quantized` takes
        the shifts back once; a student of the float model does so after each epoch. Only `beta`
        changes, layer after layer.

        Args:
          model: The float model that this one was made of.
          images: `[number, height, width, 3]`, RGB in [0, 1]; the first 64 are measured.

        Raises:
          TypeError: The images are integers.
          ValueError: This model is not the quantized form of the other, or the images are not
            `[number, height, width, 3]`.
        """
        if not self.variant.quantized or model.variant != self.variant.unquantized:
            raise ValueError(f"{self.variant} is not the quantized form of {model.variant}")
        normalized = 2 * self._images(images[:MOST_IMAGES]) - 1
        exact = model._repeating().blocks
        correct_means(self.blocks, exact, quantize_images(normalized), normalized)

    def _repeating(self) -> MobileNet:
        """A copy in whose dead channels live ones are repeated, as in the quantized form."""
        copy = type(self).from_config(self.get_config())
        copy.set_weights(self.get_weights())
        repeat_channels(copy.convolutions)
        return copy

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "variant": dataclasses.asdict(self.variant),
            "num_classes": self.num_classes,
            "class_names": self.class_names,
            "batch_norm_momentum": self.batch_norm_momentum,
            "dropout_rate": self.dropout_rate,
            "activation_range_momentum": self.activation_range_momentum,
        }


def _given(images: Iterable[tf.Tensor | np.ndarray]) -> Iterator[tf.Tensor | np.ndarray]:
    """The batches that have images."""
    if isinstance(images, tf.data.Dataset) and images.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError("the images never end: give some hundred of them, images.take(20)")
    for batch in images:
        if isinstance(batch, tuple | dict):
            raise TypeError(
                f"a batch must be images alone; got a {type(batch).__name__}: leave the labels "
                "out, images.map(lambda images, labels: images)"
            )
        if len(batch):
            yield batch


def _first(batches: Iterator[tf.Tensor], count: int) -> Iterator[tf.Tensor]:
    """Batches until this many images are among them, or there are no more."""
    found = 0
    while found < count and (batch := next(batches, None)) is not None:
        found += len(batch)
        yield batch


class _Batch:
    """A batch, padded to one image if it is empty, and how to undo the padding.

    A replica's batch or the last batch may be empty. TensorFlow's convolutions give an empty batch
    a wrong shape, and its statistics are NaN. So the network sees one black image, which updates
    nothing and is not returned.
    """

    def __init__(self, images: tf.Tensor) -> None:
        self._may_be_empty = not images.shape[0]
        if self._may_be_empty:
            count = tf.shape(images)[:1]
            rows = tf.cast(tf.equal(count, 0), tf.int32)
            self._paddings = rows * tf.constant([[0, 1], [0, 0], [0, 0], [0, 0]])
            # For all activations: `activation[:count]` would make such tensors anew for each.
            self._given = tf.constant([0]), count, tf.constant([1])
        self.images = self.occupied(images)

    def occupied(self, activation: tf.Tensor) -> tf.Tensor:
        """`[batch, height, width, channels]` with a row of zeros if there are no images."""
        if not self._may_be_empty:
            return activation
        # TensorFlow's graph optimizer passes the tensor on if the padding is 0.
        padded = tf.pad(activation, self._paddings)
        padded.set_shape([None, *activation.shape[1:]])
        return padded

    def restored(self, activation: tf.Tensor) -> tf.Tensor:
        """An activation without the padding."""
        if not self._may_be_empty:
            return activation
        return tf.strided_slice(activation, *self._given)

    def split(self, activation: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The activation to return, and the activation to pass on through the network.

        The second is computed from the first, so that the first has gradients.
        """
        restored = self.restored(activation)
        return restored, self.occupied(restored)


def _if_in_range(scaled: tf.Tensor, momentum: float | tf.Tensor) -> float | tf.Tensor:
    """The momentum, if images, given as `2 x - 1`, can be in [0, 1]; if not, they are refused.

    One sum tells: values in [-1, 1] have a mean square of 1 at most, and 2 leaves room for noise
    and contrast that augment images. Batches of photographs in [-1, 1] have some 2.6, standardised
    ones 5.
    """
    # A sum of squares, of which TensorFlow's operation returns half.
    found = 2 * tf.nn.l2_loss(scaled)
    plausible = found <= _MEAN_SQUARE * tf.cast(tf.size(scaled), tf.float32)
    if not tf.executing_eagerly():
        # What moves waits for the check; the network need not.
        return asserted(momentum, plausible, _NO_IMAGES)
    if not plausible:
        low, high = (float(reduce(scaled)) / 2 + 0.5 for reduce in (tf.reduce_min, tf.reduce_max))
        raise ValueError(f"{_NO_IMAGES}; these have values from {low:g} to {high:g}")
    return momentum


def _unless_empty(momentum: float | tf.Tensor, batch: tf.Tensor) -> float | tf.Tensor:
    """The momentum of the moving averages; 1 if the batch is empty."""
    if batch.shape[0]:
        return momentum
    return tf.where(tf.equal(tf.shape(batch)[0], 0), 1.0, momentum)


# The legacy .h5 format names a model by its class alone.
keras.saving.get_custom_objects()[MobileNet.__name__] = MobileNet
