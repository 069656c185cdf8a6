"""The result of every weights reader, which hides the format from the rest of the code."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from mobilenets import architecture, images
from mobilenets.names import Name, Origin
from mobilenets.variants import Variant
from mobilenets.weights import mapping
from mobilenets.weights.errors import WeightsError
from mobilenets.weights.identify import identify, is_range

__all__ = ["SELECTIONS", "Weights"]

SELECTIONS = ("auto", "raw", "averages")
"""Which variables to read from a source that also holds their moving averages."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A MobileNet's weights by Slim name, from any format; values are read on request.

    Attributes:
      source: The file, archive, folder or URL as the user named it.
      file: Name of the file within it that holds the weights.
      family: `"mobilenet_v1"` or `"mobilenet_v2"`.
      keys: The source's name of every variable of the network, by Slim name.
      shapes: Shape of each variable by Slim name.
      averaged: Slim names of the variables whose values are moving averages.
      leftovers: The source's names of the entries that conversions leave out, by category, e.g.
        `"optimizer slots"`.
      unknown: Shapes of all other entries by the source's name; `values` refuses them.
      entries: Number of entries in the source.
      image_size: Height and width in pixels that the network was trained at, if the source's
        contents tell; names do not count.
      pads_as_slim: Whether the source's network gives what Slim's gives at this image size.
      settings: Momenta and dropout rate of the source's `mobilenets.MobileNet`, as its arguments;
        empty without one.
      class_names: One name for each logit, if known: from the source or, for as many logits as
        ImageNet's networks have, ImageNet's.
      read: Reads the values of the given variables, and no others, by Slim name. Raises
        WeightsError for unreadable ones.
      digest: Computes the SHA-256 over the bytes that hold the weights, in hexadecimal.
      name: The published name that the user gave instead of a file; None for a file.
      origin: The place that the file was fetched from; None for a file of the user's own.
    """

    source: str
    file: str
    family: str
    keys: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[Iterable[str]], dict[str, np.ndarray]] = field(repr=False)
    digest: Callable[[], str] = field(repr=False)
    entries: int
    averaged: Collection[str] = frozenset()
    leftovers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    unknown: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    image_size: int | None = None
    pads_as_slim: bool = True
    settings: Mapping[str, float] = field(default_factory=dict)
    class_names: tuple[str, ...] | None = None
    name: Name | None = None
    origin: Origin | None = None

    def __post_init__(self) -> None:
        imagenet = images.class_names()
        if self.class_names is None and self.num_classes == len(imagenet):
            object.__setattr__(self, "class_names", imagenet)

    @property
    def num_classes(self) -> int | None:
        """Length of the logits, a background class included; None without logits."""
        scope = architecture.scope(self.family)
        shape = self.shapes.get(f"{scope}/Logits/Conv2d_1c_1x1/weights")
        return shape[-1] if shape else None

    @property
    def quantized(self) -> bool:
        """Whether the weights have ranges of simulated quantization."""
        return any(map(is_range, self.keys))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, over the bytes that hold the weights.

        Raises:
          WeightsError: A file cannot be read.
        """
        return self.digest()

    def variant(
        self,
        claimed: Variant | str | None = None,
        image_size: int | None = None,
        fallback_image_size: int | None = None,
    ) -> Variant:
        """The network of the weights; see `identify.identify`.

        Args:
          claimed: The expected variant; None takes the one that the user named, or infers it from
            names and shapes.
          image_size: Height and width in pixels that it was trained at; None takes the name's.
          fallback_image_size: The image size if nothing else tells it; None raises an error.

        Raises:
          WeightsError: The weights are of another network than claimed, or of an unknown one, or
            neither a variant nor an image size is given for weights of a network that pads images
            of its size otherwise.
        """
        if self.name is not None:
            if claimed is not None:
                raise WeightsError(f"{self.name.variant} is a name already: leave the variant out")
            claimed = self.name.variant
        if not self.pads_as_slim and claimed is None and image_size is None:
            raise WeightsError(
                f"{self.source} takes {self.image_size}-pixel images, where keras.applications "
                "pads odd activations otherwise than this network, whose outputs would differ: "
                "give the image size or the variant to take the weights nevertheless",
                "image_size",
            )
        return identify(
            source=self.source,
            file=self.file,
            family=self.family,
            shapes=self.shapes,
            variant=claimed,
            image_size=image_size,
            known_image_size=self.image_size,
            fallback_image_size=fallback_image_size,
        )

    def values(self, variant: Variant) -> dict[str, np.ndarray]:
        """Every variable of the network, logits included where there are any.

        Args:
          variant: The network that the values are to fill.

        Returns:
          Slim variable name to float32 value, in Slim's order.

        Raises:
          WeightsError: Variables are missing, left over, mis-shaped, not finite or unreadable, or
            8 bits cannot quantize a range; the message lists every one.
        """
        return mapping.checked(
            self.source, self.shapes, self.unknown, self.read, variant, self.num_classes
        )
