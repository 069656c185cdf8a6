"""Identifies MobileNets: the published ones by name, all others by their numbers.

A variant is a family, a depth multiplier, an image size and whether it was trained for
quantization. TensorFlow Hub and TF-Slim spell it differently; both spellings parse to the
same `Variant`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from decimal import Decimal

__all__ = ["FAMILIES", "VARIANTS", "Variant", "kind_of"]

FAMILIES = ("mobilenet_v1", "mobilenet_v2")
_FORMS: dict[bool | str, str] = {False: "", True: "quantops", "int8": "int8"}

_NAME = re.compile(
    r"""(?:.*/)?                                   # a host and publisher, if any
        (?P<family>mobilenet_v[12])
        _(?P<multiplier>\d{3}|\d+(?:\.\d+)?)       # hub: 050, Slim: 0.5
        _(?P<size>\d+)
        (?P<quantized>/quantops|_quant|[/_]int8)?
        (?:/(?:feature_vector|classification)(?:/\d+)?)?
        /?""",
    re.VERBOSE,
)
_KAGGLE = re.compile(
    r"""(?:.*/)?google/mobilenet-(?P<family>v[12])/.*?
        (?P<multiplier>\d{3})-(?P<size>\d+)(?P<quantized>-quantops)?
        -(?:feature-vector|classification)
        (?:/versions)?(?:/\d+)?/?""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class Variant:
    """The identity of one MobileNet.

    Attributes:
      family: `"mobilenet_v1"` or `"mobilenet_v2"`.
      depth_multiplier: Factor on the number of channels of every layer, above 0 and below 10.
        Published: 0.25 to 1.0 (V1), 0.35 to 1.4 (V2).
      image_size: Height and width in pixels that the network was trained at, at least 32. The
        networks accept other sizes too.
      quantized: Whether the network simulates 8-bit quantization. True has one range for all
        weights of a layer, as the published networks (hub: `quantops`, Slim: `quant`), whose
        LiteRT models are uint8. `"int8"` has a symmetric range for each output channel, as
        LiteRT's int8 models.
    """

    family: str
    depth_multiplier: float
    image_size: int
    quantized: bool | str = False

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"family must be one of {', '.join(FAMILIES)}; got {self.family!r}")
        if not 0 < self.depth_multiplier < 10:
            raise ValueError(
                f"depth_multiplier must be above 0 and below 10; got {self.depth_multiplier!r}"
            )
        if self.image_size != int(self.image_size) or self.image_size < 32:
            raise ValueError(
                f"image_size must be a whole number of pixels from 32 up; got {self.image_size!r}"
            )
        if self.quantized not in _FORMS:
            raise ValueError(f'quantized must be False, True or "int8"; got {self.quantized!r}')
        object.__setattr__(self, "depth_multiplier", float(self.depth_multiplier))
        object.__setattr__(self, "image_size", int(self.image_size))

    @property
    def name(self) -> str:
        """TensorFlow Hub's name, e.g. `mobilenet_v1_050_160` or `mobilenet_v1_050_160/quantops`.

        Multipliers that are not whole hundredths (never published) keep their decimal point.
        """
        hundredths = round(self.depth_multiplier * 100)
        exact = hundredths / 100 == self.depth_multiplier
        multiplier = f"{hundredths:03d}" if exact else self._decimal
        suffix = f"/{self.form}" if self.form else ""
        return f"{self.family}_{multiplier}_{self.image_size}{suffix}"

    @property
    def slim_name(self) -> str:
        """TF-Slim's name, e.g. `mobilenet_v1_0.5_160` or `mobilenet_v1_0.5_160_quant`."""
        suffix = f"_{self.form.replace('quantops', 'quant')}" if self.form else ""
        return f"{self.family}_{self._decimal}_{self.image_size}{suffix}"

    @property
    def form(self) -> str:
        """What the hub's name ends in: `"quantops"` or `"int8"`; empty for a float network."""
        return _FORMS[self.quantized]

    @property
    def _decimal(self) -> str:
        """The multiplier with all its digits, so that parsing gives the same value."""
        return f"{Decimal(repr(self.depth_multiplier)):f}"

    @property
    def unquantized(self) -> Variant:
        """The same network without simulated quantization."""
        return replace(self, quantized=False)

    def __str__(self) -> str:
        return self.name

    @classmethod
    def parse(cls, name: str | Variant) -> Variant:
        """The variant that a name, a hub handle or a URL denotes.

        Args:
          name: Hub name (`mobilenet_v2_035_96`), Slim name (`mobilenet_v2_0.35_96`), hub handle
            or URL (`google/imagenet/mobilenet_v1_025_192/classification/1`, also the older
            `google/image/imagenet/…` and today's Kaggle form
            `google/mobilenet-v2/tensorFlow2/035-96-feature-vector`). A `Variant` is returned as
            it is.

        Raises:
          ValueError: The text names no MobileNet V1 or V2.
        """
        if isinstance(name, Variant):
            return name
        text = str(name).strip()
        match = _NAME.fullmatch(text) or _KAGGLE.fullmatch(text)
        if match is None:
            raise ValueError(
                f"no MobileNet variant is called {text!r}: expected a name like "
                "'mobilenet_v1_050_160', 'mobilenet_v2_0.35_96' or "
                "'google/imagenet/mobilenet_v1_050_160/feature_vector/3'"
            )
        multiplier = match["multiplier"]
        family, suffix = match["family"], match["quantized"] or ""
        return cls(
            family=family if family in FAMILIES else f"mobilenet_{family}",
            depth_multiplier=int(multiplier) / 100
            if len(multiplier) == 3 and multiplier.isdigit()
            else float(multiplier),
            image_size=int(match["size"]),
            quantized="int8" if suffix.endswith("int8") else bool(suffix),
        )


def kind_of(name: str) -> str | None:
    """`"feature_vector"` or `"classification"`, as in the name, handle or URL; None without either.

    Args:
      name: As for `Variant.parse`.
    """
    found = re.search(r"[/-](feature[_-]vector|classification)(?=/|$)", name.strip())
    return found[1].replace("-", "_") if found else None


def _published() -> tuple[Variant, ...]:
    """The 54 ImageNet checkpoints of Slim's mobilenet_v1.md and its mobilenet/README.md."""
    v1 = [
        Variant("mobilenet_v1", multiplier, size)
        for multiplier in (1.0, 0.75, 0.5, 0.25)
        for size in (224, 192, 160, 128)
    ]
    v2 = [Variant("mobilenet_v2", multiplier, 224) for multiplier in (1.4, 1.3)] + [
        Variant("mobilenet_v2", multiplier, size)
        for multiplier in (1.0, 0.75, 0.5, 0.35)
        for size in (224, 192, 160, 128, 96)
    ]
    return (*v1, *(replace(variant, quantized=True) for variant in v1), *v2)


VARIANTS: tuple[Variant, ...] = _published()
"""Every published variant: 16 of V1, the same 16 quantized, 22 of V2."""
