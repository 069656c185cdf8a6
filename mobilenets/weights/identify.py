"""Which network weights are of: from what is said, from names, and from the kernels' shapes.

Knows nothing of files: shapes are given by Slim name, whatever format they were read from.
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
from mobilenets.weights.errors import WeightsError, first_few

__all__ = ["family_of", "identify", "is_range", "is_variable", "multiplier_of"]

Shapes = Mapping[str, tuple[int, ...]]

_VARIABLE = re.compile(
    r".+/(?:weights|depthwise_weights|biases|BatchNorm/(?:gamma|beta|moving_mean|moving_variance)"
    r"|(?:weights|act)_quant/(?:min|max))"
)
_RANGE = re.compile(r".*/(?:weights|act)_quant/(?:min|max)")
_ARCHIVE = re.compile(r".+\.(?:tgz|tar\.gz|tar)", re.IGNORECASE)
_NAME = re.compile(
    r"mobilenet_v[12]_(?:\d{3}|\d(?:\.\d+)?)_\d{2,4}(?!\d)(?:_quantops|/quantops|_quant)?"
)
# As keras.applications publishes weights: mobilenet_2_5_128_tf_no_top.h5 is V1 0.25 at 128 pixels.
_APPLICATION_NAMES = (
    re.compile(r"(?P<family>mobilenet)_(?P<multiplier>\d_\d)_(?P<size>\d+)_tf(?:_no_top)?\.h5"),
    re.compile(
        r"(?P<family>mobilenet_v2)_weights_tf_dim_ordering_tf_kernels"
        r"_(?P<multiplier>\d\.\d+)_(?P<size>\d+)(?:_no_top)?\.h5"
    ),
)
_APPLICATION_MULTIPLIERS = {"1_0": 1.0, "7_5": 0.75, "5_0": 0.5, "2_5": 0.25}
# What may stand behind the name: the rest of the file's or folder's, then a hub module's path.
_BEHIND_THE_NAME = re.compile(
    r"[^/]*(?:/feature_vector|/classification)?(?:/\d+)?(?:/variables){0,2}"
)


def is_range(name: str) -> bool:
    """Whether a variable, by its Slim name, is a bound of a range of simulated quantization."""
    return _RANGE.fullmatch(name) is not None


def is_variable(family: str, name: str) -> bool:
    """Whether a name is that of a variable as TF-Slim names a family's, whichever the layer."""
    scope = f"{architecture.scope(family)}/"
    return name.startswith(scope) and _VARIABLE.fullmatch(name, len(scope)) is not None


def family_of(source: str, names: Iterable[str], what: str, found: str = "") -> str:
    """The family whose Slim scope names begin with: `"mobilenet_v1"` or `"mobilenet_v2"`.

    Args:
      source: What errors call it.
      names: Names of variables.
      what: What the source is expected to be, e.g. `"a Slim MobileNet's checkpoint"`.
      found: What the error says was found; empty takes the names' outermost scopes.

    Raises:
      WeightsError: The names are of neither family, or of both; or they are MobileNet V3's.
    """
    names = list(names)
    scopes = Counter(name.partition("/")[0] for name in names if "/" in name)
    families = [family for family in FAMILIES if architecture.scope(family) in scopes]
    if len(families) == 1:
        return families[0]
    expected = " or ".join(f"{architecture.scope(family)}/…" for family in FAMILIES)
    if families:
        raise WeightsError(f"{source} holds both {expected.replace(' or ', ' and ')}")
    # Squeeze-and-excitation is V3's alone; keras.applications' V3 has no scope of its own.
    if any("MobilenetV3/" in name or "/squeeze_excite/" in name for name in names):
        raise WeightsError(f"{source}: this is MobileNet V3; V1 and V2 are read")
    found = found or first_few([f"{scope}/…" for scope, _ in scopes.most_common()])
    raise WeightsError(
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
    """Finds out which network weights are of.

    An explicit `variant` wins, then a name found in the path (TF-Slim's,
    TensorFlow Hub's or that of a published file of keras.applications).
    Without either, the shapes give the depth multiplier: of those that give a network these very
    shapes the roundest, see `multiplier_of`. The shapes do not tell the image size.

    Args:
      source: What the user called the file, archive, folder or URL.
      file: Name of the file within it that holds the weights.
      family: `"mobilenet_v1"` or `"mobilenet_v2"`.
      shapes: Shape of every variable of the network by Slim name.
      variant: The expected variant; None infers it.
      image_size: Height and width in pixels that the network was trained at; None takes the
        name's, or what the file knows.
      known_image_size: What the file knows of it, in pixels; None if it knows nothing.
      fallback_image_size: What is taken where nothing says it, in pixels; None raises an error.

    Raises:
      WeightsError: The variant does not exist, the weights are of another network than the variant
        or the path says, or names and shapes do not tell of which.
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
            f"the variant {claimed} says {claimed.image_size} pixels, the image size {image_size}: "
            "give one of them"
        )
    quantized = any(map(is_range, shapes))
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
            f"{source} is {_title(family)} with depth multiplier {multiplier:g}, but "
            "nothing says which image size it was trained at: give that, or the variant"
        )
    if quantized and not architecture.quantizable(family):
        raise WeightsError(f"{source} is a quantized MobileNet V2: only V1's were published")
    try:
        return Variant(family, multiplier, size, quantized)
    except ValueError as error:
        raise WeightsError(f"{source}: {error}") from error


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
    """Raises WeightsError if the weights are of another network than they are claimed to be.

    Weights that are of no network at all pass: the mapping lists what is wrong with them.
    """
    if claimed.family != family:
        raise WeightsError(
            f"{source} is not {claimed}: expected {_title(claimed.family)}, found "
            f"{_title(family)} (variables called {architecture.scope(family)}/…); {advice}"
        )
    found = next(filter(is_range, shapes), None)
    if claimed.quantized != (found is not None):
        ranges = "ranges of simulated quantization"
        if claimed.quantized:
            scope = architecture.scope(family)
            state = f"{ranges} ({scope}/{scope}/Conv2d_0/weights_quant/min, …), found none"
        else:
            state = f"no {ranges}, found {found}"
        raise WeightsError(f"{source} is not {claimed}: expected {state}; {advice}")
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
        f"({misfits[nearest][0]}); give the variant to have all differences listed"
    )


def _kernel_shapes(source: str, family: str, shapes: Shapes) -> Shapes:
    """The shapes of the convolutions' kernels by name, as far as there are any."""
    kernels = {
        name: shapes[name] for name in _expected_kernel_shapes(family, 1.0) if name in shapes
    }
    if not kernels:
        raise WeightsError(f"{source} holds none of {_title(family)}'s convolutions")
    return kernels


def _expected_kernel_shapes(family: str, multiplier: float) -> dict[str, tuple[int, ...]]:
    """What TF-Slim names the kernels of the convolutions before the logits, and their shapes."""
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
    """Which kernels have other shapes than a multiplier gives them, said in words."""
    expected = _expected_kernel_shapes(family, multiplier)
    return [
        f"{name}: expected {list(expected[name])}, found {list(shape)}"
        for name, shape in shapes.items()
        if shape != expected[name]
    ]


# Variant's bounds are 0 and 10; every width is at its minimum long before the lower one here.
_LEAST, _MOST = 1e-5, math.nextafter(10, 0)
# Multiples of 1 / n count as rounder the earlier n stands here.
_PARTS = (4, 10, 20, 40, 100, 200, *(n * 10**k for k in range(3, 10) for n in (1, 2)))


def multiplier_of(family: str, kernels: Shapes) -> float | None:
    """The roundest depth multiplier that gives a family these very shapes; None if none does.

    Every width grows with the multiplier, in steps: the multipliers that fit are an interval, and
    all of them are the same network. A published one is taken first, then the smallest multiple
    of 0.25, of 0.1, of 0.05, 0.025, 0.01, 0.005, 0.001, and so on.

    Args:
      family: `"mobilenet_v1"` or `"mobilenet_v2"`.
      kernels: Shapes by Slim name of convolutions before the logits, at least one.
    """

    def fits(multiplier: float) -> bool:
        return not _misfits(kernels, family, multiplier)

    def compared(multiplier: float) -> list[tuple[int, int]]:
        """Each of the kernels' dimensions: as the multiplier gives it, and as it was found."""
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
    """The least multiplier for which a condition holds that, once true, stays true; or None."""
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
