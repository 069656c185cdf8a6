"""Identifies the network of weights: by an explicit variant, by names, and by kernel shapes.

Independent of file formats: shapes are given by Slim name.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from mobilenets import architecture
from mobilenets.variants import FAMILIES, VARIANTS, Variant
from mobilenets.weights.errors import NoMobileNetError, WeightsError, first_few, shape_text

__all__ = ["family_of", "identify", "is_range", "is_variable", "multiplier_of"]

Shapes = Mapping[str, tuple[int, ...]]

_QUANTIZERS = f"(?:weights_quant|act_quant|{architecture.SUM_QUANT})"
_VARIABLE = re.compile(
    r".+/(?:weights|depthwise_weights|biases|BatchNorm/(?:gamma|beta|moving_mean|moving_variance)"
    rf"|{_QUANTIZERS}/(?:min|max))|{architecture.POOL_QUANT}/(?:min|max)"
)
_RANGE = re.compile(rf".*/(?:{_QUANTIZERS}|{architecture.POOL_QUANT})/(?:min|max)")
_ARCHIVE = re.compile(r".+\.(?:tgz|tar\.gz|tar)", re.IGNORECASE)
_NAME = re.compile(
    r"mobilenet_v[12]_(?:\d{3}|\d(?:\.\d+)?)_\d{2,4}(?!\d)"
    r"(?:_quantops|/quantops|_quant|[/_]int8)?"
)
# Names of keras.applications' files: mobilenet_2_5_128_tf_no_top.h5 is V1 0.25 at 128 pixels.
_APPLICATION_NAMES = (
    re.compile(r"(?P<family>mobilenet)_(?P<multiplier>\d_\d)_(?P<size>\d+)_tf(?:_no_top)?\.h5"),
    re.compile(
        r"(?P<family>mobilenet_v2)_weights_tf_dim_ordering_tf_kernels"
        r"_(?P<multiplier>\d\.\d+)_(?P<size>\d+)(?:_no_top)?\.h5"
    ),
)
_APPLICATION_MULTIPLIERS = {"1_0": 1.0, "7_5": 0.75, "5_0": 0.5, "2_5": 0.25}
# What may follow the name: the rest of the file's or folder's name, then a hub module's path.
_BEHIND_THE_NAME = re.compile(
    r"[^/]*(?:/feature_vector|/classification)?(?:/\d+)?(?:/variables){0,2}"
)


def is_range(name: str) -> bool:
    """Whether a Slim name is that of a range's bound in simulated quantization."""
    return _RANGE.fullmatch(name) is not None


def is_variable(family: str, name: str) -> bool:
    """Whether a name is one of TF-Slim's variable names of a family, in any layer."""
    scope = f"{architecture.scope(family)}/"
    return name.startswith(scope) and _VARIABLE.fullmatch(name, len(scope)) is not None


def family_of(source: str, names: Iterable[str], what: str, found: str = "") -> str:
    """The family whose Slim scope names begin with: `"mobilenet_v1"` or `"mobilenet_v2"`.

    Args:
      source: The source's name in errors.
      names: Names of variables.
      what: What the source is expected to be, e.g. `"a Slim MobileNet's checkpoint"`.
      found: What the error says was found; empty takes the names' outermost scopes.

    Raises:
      NoMobileNetError: The names belong to neither family.
      WeightsError: The names belong to both families, or to MobileNet V3.
    """
    names = list(names)
    scopes = Counter(name.partition("/")[0] for name in names if "/" in name)
    families = [family for family in FAMILIES if architecture.scope(family) in scopes]
    if len(families) == 1:
        return families[0]
    expected = " or ".join(f"{architecture.scope(family)}/…" for family in FAMILIES)
    if families:
        raise WeightsError(f"{source} holds both {expected.replace(' or ', ' and ')}")
    # Only V3 has squeeze-and-excitation; keras.applications' V3 has no scope of its own.
    if any("MobilenetV3/" in name or "/squeeze_excite/" in name for name in names):
        raise WeightsError(f"{source}: this is MobileNet V3; only V1 and V2 are supported")
    found = found or first_few([f"{scope}/…" for scope, _ in scopes.most_common()])
    raise NoMobileNetError(
        f"{source} is not {what}: expected variables called {expected}, "
        f"found {found or 'no such scope'}"
    )


def identify(
    *,
    source: str,
    file: str,
    family: str,
    shapes: Shapes,
    variant: Variant | str | None = None,
    image_size: int | None = None,
    known_image_size: int | None = None,
    fallback_image_size: int | None = None,
) -> Variant:
    """Identifies the network of weights.

    An explicit `variant` wins, then a name found in the path (TF-Slim's, TensorFlow Hub's, or that
    of a published file of keras.applications). Without either, the depth multiplier is the roundest
    that gives these shapes, see `multiplier_of`. Shapes do not tell the image size.

    Args:
      source: The file, archive, folder or URL as the user named it.
      file: Name of the file within it that holds the weights.
      family: `"mobilenet_v1"` or `"mobilenet_v2"`.
      shapes: Shape of every variable of the network by Slim name.
      variant: The expected variant; None infers it.
      image_size: Height and width in pixels that the network was trained at; None takes the
        name's, or the file's.
      known_image_size: The image size in the file's contents, in pixels; None without one.
      fallback_image_size: The image size if nothing else tells it, in pixels; None raises an error.

    Raises:
      WeightsError: The variant does not exist, the weights are of another network than the variant
        or the path says, or neither names nor shapes tell the network.
    """
    if variant is not None:
        try:
            claimed: Variant | None = Variant.parse(variant)
        except ValueError as error:
            raise WeightsError(str(error)) from error
    else:
        claimed = _named(source, file)
    if variant is not None and claimed and image_size not in (None, claimed.image_size):
        raise WeightsError(
            f"the variant {claimed} has {claimed.image_size} pixels, but the image size is "
            f"{image_size}: give only one of them"
        )
    quantized = _quantized(shapes)
    if claimed:
        advice = (
            "if only its name is wrong, give the variant"
            if variant is None
            else "correct the variant, or leave it out"
        )
        _check_agreement(source, family, shapes, claimed, advice)
        multiplier = claimed.depth_multiplier
    else:
        multiplier = _inferred_multiplier(source, family, shapes)
    if image_size is not None:
        size: int | None = image_size
    elif claimed and (variant is not None or known_image_size is None):
        size = claimed.image_size
    else:
        size = known_image_size
    if size is None:
        size = fallback_image_size
    if size is None:
        raise WeightsError(
            f"{source} is {_title(family)} with depth multiplier {multiplier:g}, but its image "
            "size is unknown: give the image size or the variant",
            "image_size",
        )
    try:
        return Variant(family, multiplier, size, quantized)
    except ValueError as error:
        raise WeightsError(f"{source}: {error}") from error


def _quantized(shapes: Shapes) -> bool | str:
    """A variant's `quantized`: in int8 the range of weights has an entry for each channel."""
    ranges = {name: shape for name, shape in shapes.items() if is_range(name)}
    by_channel = any(shape for name, shape in ranges.items() if "/weights_quant/" in name)
    return "int8" if by_channel else bool(ranges)


def _title(family: str) -> str:
    return f"MobileNet {family[-2:].upper()}"


def _named(source: str, file: str) -> Variant | None:
    """The variant after which the file, its archive or its folder is named."""
    path = Path(os.path.abspath(source))
    for name in (file, path.name):
        for form in _APPLICATION_NAMES:
            match = form.fullmatch(name)
            if match and (application := _application(match)):
                return application
    names = [file, path.as_posix()]
    if not path.is_dir() and not _ARCHIVE.fullmatch(path.name):
        names.append(path.parent.as_posix())
    for name in names:
        for match in reversed(list(_NAME.finditer(name))):
            if not _BEHIND_THE_NAME.fullmatch(name, match.end()):
                break
            with contextlib.suppress(ValueError):
                return Variant.parse(match[0].replace("_quantops", "_quant"))
    return None


def _application(match: re.Match[str]) -> Variant | None:
    family = "mobilenet_v1" if match["family"] == "mobilenet" else match["family"]
    text = match["multiplier"]
    multiplier = _APPLICATION_MULTIPLIERS.get(text) if "_" in text else float(text)
    with contextlib.suppress(ValueError):
        return Variant(family, multiplier, int(match["size"])) if multiplier else None
    return None


def _check_agreement(
    source: str, family: str, shapes: Shapes, claimed: Variant, advice: str
) -> None:
    """Raises WeightsError if the weights are of another network than claimed.

    Weights that fit no network pass: the mapping lists what is wrong with them.
    """
    if claimed.family != family:
        raise WeightsError(
            f"{source} is not {claimed}: expected {_title(claimed.family)}, found "
            f"{_title(family)} (variables called {architecture.scope(family)}/…); {advice}"
        )
    found = next(filter(is_range, shapes), None)
    if bool(claimed.quantized) != (found is not None):
        ranges = "ranges of simulated quantization"
        if claimed.quantized:
            first = next(filter(is_range, architecture.variables(claimed)))
            state = f"{ranges} ({first}, …), found none"
        else:
            state = f"no {ranges}, found {found}"
        raise WeightsError(f"{source} is not {claimed}: expected {state}; {advice}")
    if claimed.quantized != _quantized(shapes):
        forms = ["one range for all weights of a layer", "a range for each channel of the weights"]
        expected, other = forms[:: -1 if claimed.quantized == "int8" else 1]
        raise WeightsError(
            f"{source} is not {claimed}: expected {expected}, found {other}; {advice}"
        )
    kernels = _kernel_shapes(source, family, shapes)
    wrong = _misfits(kernels, family, claimed.depth_multiplier)
    if wrong and (fitting := multiplier_of(family, kernels)):
        raise WeightsError(
            f"{source} is not {claimed}: expected depth multiplier {claimed.depth_multiplier:g}, "
            f"found {fitting:g} ({wrong[0]}); {advice}"
        )


def _inferred_multiplier(source: str, family: str, shapes: Shapes) -> float:
    kernels = _kernel_shapes(source, family, shapes)
    fitting = multiplier_of(family, kernels)
    if fitting is not None:
        return fitting
    misfits = {m: _misfits(kernels, family, m) for m in _published(family)}
    nearest = min(misfits, key=lambda m: len(misfits[m]))
    raise WeightsError(
        f"{source}: no depth multiplier gives {_title(family)} these widths; the nearest published "
        f"one, {nearest:g}, differs in {len(misfits[nearest])} of {len(kernels)} convolutions "
        f"({misfits[nearest][0]}); give the variant to list all differences"
    )


def _kernel_shapes(source: str, family: str, shapes: Shapes) -> Shapes:
    """The shapes of the convolution kernels that are present, by name."""
    kernels = {
        name: shapes[name] for name in _expected_kernel_shapes(family, 1.0) if name in shapes
    }
    if not kernels:
        raise WeightsError(f"{source} holds none of {_title(family)}'s convolutions")
    return kernels


def _expected_kernel_shapes(family: str, multiplier: float) -> dict[str, tuple[int, ...]]:
    """TF-Slim's names of the convolution kernels before the logits, and their shapes."""
    scope, channels = architecture.scope(family), 3
    shapes: dict[str, tuple[int, ...]] = {}
    for line in architecture.convolutions(Variant(family, multiplier, 224)):
        depthwise = line.kind == "depthwise"
        name = f"{scope}/{line.scope}/{'depthwise_weights' if depthwise else 'weights'}"
        kernel = (line.kernel_size, line.kernel_size)
        shapes[name] = (*kernel, channels, 1 if depthwise else line.filters)
        channels = line.filters
    return shapes


def _misfits(shapes: Shapes, family: str, multiplier: float) -> list[str]:
    """Describes the kernels whose shapes differ from those of a multiplier."""
    expected = _expected_kernel_shapes(family, multiplier)
    return [
        f"{name}: expected {shape_text(expected[name])}, found {shape_text(shape)}"
        for name, shape in shapes.items()
        if shape != expected[name]
    ]


# Variant's bounds are 0 and 10; at the lower bound here every width already has its minimum.
_LEAST, _MOST = 1e-5, math.nextafter(10, 0)
# Denominators n of multiples of 1 / n, the roundest first.
_PARTS = (4, 10, 20, 40, 100, 200, *(n * 10**k for k in range(3, 10) for n in (1, 2)))


def multiplier_of(family: str, kernels: Shapes) -> float | None:
    """The roundest depth multiplier that gives a family exactly these shapes; None if none does.

    Widths grow with the multiplier in steps, so the multipliers that fit form an interval, and all
    of them give the same network. A published multiplier is taken first, then the smallest multiple
    of 0.25, of 0.1, of 0.05, 0.025, 0.01, 0.005, 0.001, and so on.

    Args:
      family: `"mobilenet_v1"` or `"mobilenet_v2"`.
      kernels: Shapes by Slim name of convolutions before the logits, at least one.
    """

    def fits(multiplier: float) -> bool:
        return not _misfits(kernels, family, multiplier)

    def compared(multiplier: float) -> list[tuple[int, int]]:
        """Each dimension of the kernels: expected for the multiplier, and found."""
        expected = _expected_kernel_shapes(family, multiplier)
        return [
            pair
            for name, shape in kernels.items()
            for pair in zip(expected[name], shape, strict=True)
        ]

    for multiplier in _published(family):
        if fits(multiplier):
            return multiplier
    if any(len(shape) != 4 for shape in kernels.values()):
        return None
    low = _first(lambda m: all(wide >= found for wide, found in compared(m)))
    if low is None or not fits(low):
        return None
    for parts in _PARTS:
        whole = math.floor(low * parts)
        for multiplier in (whole / parts, (whole + 1) / parts):
            if low <= multiplier <= _MOST and fits(multiplier):
                return multiplier
    return low


def _first(holds: Callable[[float], bool]) -> float | None:
    """The least multiplier that meets a condition, which all greater ones meet too; or None."""
    below, at = _LEAST, _MOST
    if holds(below):
        return below
    if not holds(at):
        return None
    while below < (middle := (below + at) / 2) < at:
        if holds(middle):
            at = middle
        else:
            below = middle
    return at


def _published(family: str) -> list[float]:
    return sorted({v.depth_multiplier for v in VARIANTS if v.family == family})
