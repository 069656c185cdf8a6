"""Finds the layers of a MobileNet in a Keras file, by their names or by their order."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from mobilenets import architecture
from mobilenets.model import MobileNet
from mobilenets.variants import FAMILIES, Variant
from mobilenets.weights.identify import multiplier_of
from mobilenets.weights.keras_layout import Layer, Saved

__all__ = ["Network", "application_layers", "find", "is_v3", "last_kernel", "logits_names"]

_STATISTICS = ("gamma", "beta", "moving_mean", "moving_variance")


@dataclass(frozen=True)
class Network:
    """A MobileNet among a file's layers.

    Attributes:
      family: `"mobilenet_v1"` or `"mobilenet_v2"`.
      keys: Dataset's key by Slim name.
      layers: The layers of the variables.
      by_name: Whether the file has the layers' names.
      numbered: Name of the hub.KerasLayer whose variables have numbers instead of names; None
        without one.
      places: The models that enclose the layers, see `Layer.where`.
      twice: Slim names that a second network in the file has too.
    """

    family: str
    keys: Mapping[str, str]
    layers: tuple[Layer, ...]
    by_name: bool = False
    numbered: str | None = None
    twice: tuple[str, ...] = ()
    places: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "places", frozenset(layer.where for layer in self.layers))


def find(saved: Saved) -> list[Network]:
    """The MobileNets of a file: first those found by layer names, then those found by order."""
    networks = [found for family in FAMILIES if (found := _by_names(saved, family))]
    taken = {id(layer) for network in networks for layer in network.layers}
    free = [layer for layer in saved.layers if id(layer) not in taken]
    for layer in free:
        if numbered := _by_number(saved, layer):
            networks.append(numbered)
    places: dict[str, list[Layer]] = {}
    for layer in free:
        places.setdefault(layer.where, []).append(layer)
    for layers in places.values():
        networks += [found for family in FAMILIES if (found := _by_order(saved, layers, family))][
            :1
        ]
    return networks


def is_v3(saved: Saved) -> bool:
    """Whether the layers are those of keras.applications' MobileNetV3, or of a module of it."""
    texts = [*saved.names, *(layer.path for layer in saved.layers)]
    if any("squeeze_excite" in text or "mobilenetv3" in text.lower() for text in texts):
        return True
    # Without layer names: V3 Small and Large have 11 and 15 depthwise convolutions, and 16 filters
    # in the first convolution at any alpha.
    for place in {layer.where for layer in saved.layers}:
        kinds = _kinds(saved, [layer for layer in saved.layers if layer.where == place])
        first = [saved.shapes[key] for key in kinds["convolution"].values()][:1]
        if len(kinds["depthwise"]) in (11, 15) and first == [(3, 3, 3, 16)]:
            return True
    return False


def last_kernel(family: str) -> str:
    """Slim's name of the kernel that gives the features."""
    return _slim(family, _lines(family)[-1])[0]


def logits_names(family: str) -> tuple[str, str]:
    """Slim's names of the logits' weights and biases."""
    scope = f"{architecture.scope(family)}/Logits/Conv2d_1c_1x1"
    return f"{scope}/weights", f"{scope}/biases"


def application_layers(scope: str) -> tuple[str, str]:
    """The keras.applications layers of a Slim scope: the convolution and its batch norm.

    Args:
      scope: Without the network's own, e.g. `Conv2d_1_depthwise` or `expanded_conv_3/expand`.
    """
    block, _, part = scope.partition("/")
    if scope.startswith("Conv2d_"):
        _, number, *kind = scope.split("_")
        layer = f"conv_{'dw' if kind == ['depthwise'] else 'pw'}_{number}" if kind else "conv1"
        return layer, f"{layer}_bn"
    if not block.startswith("expanded_conv"):
        return {"Conv": ("Conv1", "bn_Conv1"), "Conv_1": ("Conv_1", "Conv_1_bn")}[block]
    number = block.removeprefix("expanded_conv").removeprefix("_")
    layer = f"block_{number}_{part}" if number else f"expanded_conv_{part}"
    return layer, f"{layer}_BN"


@functools.cache
def _lines(family: str) -> tuple[architecture.Line, ...]:
    return architecture.convolutions(Variant(family, 1.0, 224))


def _slim(family: str, line: architecture.Line) -> tuple[str, tuple[str, ...]]:
    """Slim's names of a convolution's kernel, and of its batch norm's variables."""
    scope = f"{architecture.scope(family)}/{line.scope}"
    kernel = "depthwise_weights" if line.kind == "depthwise" else "weights"
    return f"{scope}/{kernel}", tuple(f"{scope}/BatchNorm/{name}" for name in _STATISTICS)


@functools.cache
def _names(family: str) -> Mapping[str, str]:
    """Slim name by the names of the last layers and the name or number of the variable.

    Covers keras.applications, MobileNets of this package, and hub modules (Slim's names).
    """
    known: dict[str, str] = {}
    for line in _lines(family):
        layer, norm = application_layers(line.scope)
        kernel, statistics = _slim(family, line)
        # Keras 2 and tf_keras have another name for a depthwise kernel than Keras 3.
        known |= {f"{layer}/{name}": kernel for name in ("kernel", "depthwise_kernel", "0")}
        for number, name in enumerate(_STATISTICS):
            known |= {f"{norm}/{each}": statistics[number] for each in (name, str(number))}
    # An int8 network has the names of a uint8 one, and more.
    for quantized in (False, "int8"):
        model = MobileNet(Variant(family, 0.25, 32, quantized), 1)
        owners: dict[str, int] = {}
        for slim, variable in model.slim_variables.items():
            path = variable.path.removeprefix(f"{model.name}/")
            owner, _, _ = path.rpartition("/")
            number = owners[owner] = owners.get(owner, -1) + 1
            known |= {slim: slim, path: slim, f"{owner}/{number}": slim}
    return known


def _by_names(saved: Saved, family: str) -> Network | None:
    known = _names(family)
    longest = 1 + max(name.count("/") for name in known)
    found: dict[str, list[str]] = {}
    layers = []
    for layer in saved.layers:
        for variable, key in layer.variables.items():
            parts = [*layer.path.split("/"), variable]
            ends = ("/".join(parts[-length:]) for length in range(longest, 1, -1))
            if slim := next((known[end] for end in ends if end in known), None):
                found.setdefault(slim, []).append(key)
                layers.append(layer)
    kernels = [_slim(family, line)[0] for line in _lines(family)]
    if sum(kernel in found for kernel in kernels) < len(kernels) / 2:
        return None
    return Network(
        family=family,
        keys={name: keys[0] for name, keys in found.items()},
        layers=tuple({id(layer): layer for layer in layers}.values()),
        by_name=True,
        twice=tuple(name for name, keys in found.items() if len(keys) > 1),
    )


def _kinds(saved: Saved, layers: Sequence[Layer]) -> dict[str, dict[int, str]]:
    """The key of the kernel (gamma for batch norms) by the layer's position, for each kind."""
    kinds: dict[str, dict[int, str]] = {"convolution": {}, "depthwise": {}, "norm": {}}
    for place, layer in enumerate(layers):
        keys = list(layer.variables.values())
        shapes = [saved.shapes[key] for key in keys]
        if len(shapes) == 1 and len(shapes[0]) == 4:
            depthwise = "depthwise" in f"{layer.name}/{next(iter(layer.variables))}"
            kinds["depthwise" if depthwise or shapes[0][-1] == 1 else "convolution"][place] = keys[
                0
            ]
        elif len(shapes) == 4 and len(set(shapes)) == 1 and len(shapes[0]) == 1:
            kinds["norm"][place] = keys[0]
    return kinds


def _windows(sequence: Sequence[int], length: int) -> Iterator[Sequence[int]]:
    return (sequence[start : start + length] for start in range(len(sequence) - length + 1))


def _by_order(saved: Saved, layers: Sequence[Layer], family: str) -> Network | None:
    """Finds the network by the kinds and order of layers, all that tf_keras's `.weights.h5` keeps.

    Keras itself loads these files by order alone, and so its published files with other layer
    names. Layers before and after the network are skipped by their shapes.
    """
    lines = _lines(family)
    full = [line for line in lines if line.kind == "convolution"]
    depthwise = [line for line in lines if line.kind == "depthwise"]
    kinds = _kinds(saved, layers)
    pairs = itertools.product(
        _windows(list(kinds["convolution"]), len(full)),
        _windows(list(kinds["depthwise"]), len(depthwise)),
    )
    for fulls, depthwises in pairs:
        firsts = [saved.shapes[kinds["convolution"][fulls[0]]]]
        firsts += [saved.shapes[kinds["depthwise"][depthwises[0]]]]
        if firsts[0][:3] != (3, 3, 3) or firsts[1][2] != firsts[0][3]:
            continue
        iterators = {"convolution": iter(fulls), "depthwise": iter(depthwises)}
        places = [next(iterators[line.kind]) for line in lines]
        keys = {
            _slim(family, line)[0]: kinds[line.kind][place]
            for line, place in zip(lines, places, strict=True)
        }
        if multiplier_of(family, {name: saved.shapes[key] for name, key in keys.items()}) is None:
            continue
        widths = [
            saved.shapes[key][2 if line.kind == "depthwise" else 3]
            for line, key in zip(lines, keys.values(), strict=True)
        ]
        for norms in _windows(list(kinds["norm"]), len(lines)):
            if [saved.shapes[kinds["norm"][place]][0] for place in norms] != widths:
                continue
            for line, place in zip(lines, norms, strict=True):
                names = _ordered(layers[place].variables)
                keys |= dict(zip(_slim(family, line)[1], names, strict=True))
            used = sorted([*places, *norms])
            return Network(family, keys, tuple(layers[place] for place in used))
    return None


def _ordered(variables: Mapping[str, str]) -> list[str]:
    """A batch norm's keys as gamma, beta, mean, variance: by name, or in the order of the file."""
    if set(variables) == set(_STATISTICS):
        return [variables[name] for name in _STATISTICS]
    return list(variables.values())


def _by_number(saved: Saved, layer: Layer) -> Network | None:
    """The network of a hub.KerasLayer, whose variables have only numbers in tf_keras's own formats.

    The numbers follow the module's list, trainable variables first. This package's modules list
    the variables in Slim's order; whether another module does is checked by the shapes.
    """
    if not all(name.isdecimal() for name in layer.variables):
        return None
    shapes = [saved.shapes[key] for key in layer.variables.values()]
    for family in FAMILIES:
        kernels = [_slim(family, line)[0] for line in _lines(family)]
        if len(shapes) < 5 * len(kernels):
            continue
        for classes, simulates in itertools.product((None, 1), (False, True, "int8")):
            order = _trained_first(family, simulates, classes)
            if len(order) != len(shapes):
                continue
            keys = dict(zip(order, layer.variables.values(), strict=True))
            known = {name: saved.shapes[keys[name]] for name in kernels}
            if all(len(shape) == 4 for shape in known.values()) and multiplier_of(family, known):
                return Network(family, keys, (layer,), numbered=layer.name)
    return None


@functools.cache
def _trained_first(family: str, quantized: bool | str, num_classes: int | None) -> list[str]:
    """Slim's names of a network's variables, the trainable ones first."""
    model = MobileNet(Variant(family, 0.25, 32, quantized), num_classes)
    variables = model.slim_variables
    trained = {id(variable) for variable in model.trainable_variables}
    first = [name for name, variable in variables.items() if id(variable) in trained]
    return first + [name for name in variables if name not in set(first)]
