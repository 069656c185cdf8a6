"""TensorFlow 2's bundles: TF2 Hub modules, SavedModels of tf_keras models, `tf.train.Checkpoint`s.

The keys of such a bundle are paths through Python objects, but its object graph
(tensorflow/core/protobuf/trackable_object_graph.proto) gives every variable's `full_name` beside
its key. In Google's TF2 Hub modules, in ours, and in models trained with a `hub.KerasLayer` of
either, these are Slim's names. Variables are matched by name, since their order is arbitrary. The
SavedModel is not loaded, so none of its functions is run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2, struct_pb2, trackable_object_graph_pb2

from mobilenets import architecture
from mobilenets.variants import Variant
from mobilenets.weights import bundle
from mobilenets.weights.bundle import Checkpoint
from mobilenets.weights.contents import Weights
from mobilenets.weights.errors import NoMobileNetError, WeightsError, first_few
from mobilenets.weights.identify import family_of, is_variable

__all__ = ["EXPECTED", "read", "recognises"]

EXPECTED = "a TF2 hub module, or a SavedModel or tf.train.Checkpoint of a model with a MobileNet"

_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_SLOT = "/.OPTIMIZER_SLOT/"

# Attributes that tell an optimizer from other objects: tf_keras's, Keras 3's and
# tf_keras.optimizers.legacy's.
_OPTIMIZERS = ({"_iterations", "_learning_rate"}, {"iter", "decay"}, {"iter", "learning_rate"})

# Where Keras 3's `model.export` lists every variable a second time.
_COPIES = "_all_variables/"

_LAYERS = "layers outside the network"
_SLOTS = "optimizer slots"
_DESCRIPTIONS = "descriptions of objects"
_SECOND_LIST = "second list of the variables"


def recognises(path: Path) -> bool:
    """Whether there is a bundle with an object graph, whatever the objects are."""
    if not bundle.is_there(path):
        return False
    try:
        return _OBJECT_GRAPH in Checkpoint(bundle.find(path)).shapes
    except WeightsError:
        # Damaged or incomplete, which the reader of all other bundles says.
        return False


def read(path: Path, source: str, selection: str) -> Weights:
    """Opens the network among the saved objects.

    A single Dense layer with the kernel `[features, classes]` becomes the logits, if the network
    has none and no other layer outside it has variables. Bundles do not describe layers without
    variables, so the Dense layer is assumed to follow the features directly, or after dropout.
    Otherwise the layers outside are left out and listed, and the network is a feature vector.

    Args:
      path: A path that `recognises` accepts.
      source: The path as the user named it.
      selection: `"averages"` is refused: there are none beside the variables.

    Raises:
      WeightsError: Moving averages are requested; or the bundle is damaged, or holds no MobileNet
        V1 or V2, or several, or only a part of one.
    """
    if selection == "averages":
        raise WeightsError(
            f"{source} holds no moving averages of variables; take the raw variables (weights: raw)"
        )
    checkpoint = Checkpoint(bundle.find(path, source), source)
    saved = _saved(checkpoint)
    folder = _saved_model_of(checkpoint)
    # TensorFlow counts what it saved.
    if folder and all(variable.shape == () for variable in saved):
        raise NoMobileNetError(
            f"{source} has no variables, like a module for serving: give the module or the weights "
            "that it was made from"
        )
    family = family_of(
        source, (each.name for each in saved), "a MobileNet's TensorFlow 2 checkpoint"
    )
    scope = architecture.scope(family)

    keys: dict[str, str] = {}
    leftovers: dict[str, list[str]] = {}
    unknown: dict[str, tuple[int, ...]] = {}
    layers: list[_Variable] = []
    for variable in saved:
        if is_variable(family, variable.name):
            if variable.name in keys:
                raise WeightsError(
                    f"{source} holds several MobileNets: {variable.name} is in "
                    f"{keys[variable.name]} and in {variable.key}; save only one of them"
                )
            keys[variable.name] = variable.key
        elif category := _category(variable):
            leftovers.setdefault(category, []).append(variable.key)
        elif variable.name.startswith(f"{scope}/"):
            unknown[variable.key] = checkpoint.shapes[variable.key]
        else:
            layers.append(variable)
    named = {variable.key for variable in saved}
    for key in checkpoint.shapes:
        if key not in named:
            category = _SECOND_LIST if key.startswith(_COPIES) else _DESCRIPTIONS
            leftovers.setdefault(category, []).append(key)

    shapes = {name: checkpoint.shapes[key] for name, key in keys.items()}
    logits = _logits(family, shapes, layers, checkpoint)
    keys |= {name: key for name, (key, _) in logits.items()}
    shapes |= {name: shape for name, (_, shape) in logits.items()}
    if layers and not logits:
        leftovers[_LAYERS] = [variable.key for variable in layers]

    def values(names: Iterable[str]) -> dict[str, np.ndarray]:
        wanted = {name: keys[name] for name in names}
        found = checkpoint.read(wanted.values())
        return {
            # Only the kernel of a Dense layer has another shape: [features, classes].
            name: found[key].reshape(shapes[name]) if name in logits else found[key]
            for name, key in wanted.items()
        }

    kernel = shapes.get(f"{scope}/Logits/Conv2d_1c_1x1/weights")
    return Weights(
        source=source,
        file=checkpoint.prefix.name,
        family=family,
        entries=len(checkpoint.shapes),
        keys={name: keys[name] for name in sorted(keys)},
        shapes={name: shapes[name] for name in sorted(keys)},
        leftovers={category: leftovers[category] for category in sorted(leftovers)},
        unknown=unknown,
        image_size=_image_size(folder, source) if folder else None,
        class_names=_class_names(folder, kernel[-1]) if folder and kernel else None,
        read=values,
        digest=lambda: checkpoint.fingerprint,
    )


@dataclass(frozen=True)
class _Variable:
    """A variable of the object graph: TensorFlow's name, key, shape and NumPy dtype.

    Its place is on the shortest path through the objects that passes no optimizer; None for an
    optimizer's own variable. Keys may lead through an optimizer, which holds the variables that it
    trains.
    """

    name: str
    key: str
    shape: tuple[int, ...]
    dtype: str
    place: _Place | None


class _Place(NamedTuple):
    """The number of the object that holds an object, and the name of the attribute there."""

    owner: int
    attribute: str


def _saved(checkpoint: Checkpoint) -> list[_Variable]:
    """The variables of the object graph.

    Raises:
      WeightsError: The graph cannot be read, or refers to missing keys.
    """
    graph = trackable_object_graph_pb2.TrackableObjectGraph()
    try:
        graph.ParseFromString(checkpoint.read_bytes(_OBJECT_GRAPH))
    except DecodeError as error:
        raise WeightsError(
            f"{checkpoint.source}: the object graph is damaged; copy or download it again"
        ) from error
    places = _places(graph)
    variables: dict[str, _Variable] = {}
    missing: list[str] = []
    for number, node in enumerate(graph.nodes):
        for value in node.attributes:
            key = value.checkpoint_key
            if not key.endswith(_VALUE):
                continue
            if key not in checkpoint.shapes:
                missing.append(key)
                continue
            shape, dtype = checkpoint.shapes[key], checkpoint.dtypes[key]
            variables[key] = _Variable(value.full_name, key, shape, dtype, places.get(number))
    if missing:
        raise WeightsError(
            f"{checkpoint.source}: the object graph refers to missing variables: "
            f"{first_few(missing)}; copy or download it again"
        )
    return _without_copies(list(variables.values()))


def _without_copies(variables: list[_Variable]) -> list[_Variable]:
    """The variables without Keras's second list of them, if it has nothing of its own."""
    copies = [each for each in variables if each.key.startswith(_COPIES)]
    others = [each for each in variables if not each.key.startswith(_COPIES)]
    listed = {(each.name, each.shape) for each in others}
    return others if all((each.name, each.shape) in listed for each in copies) else variables


def _places(graph: trackable_object_graph_pb2.TrackableObjectGraph) -> dict[int, _Place]:
    """Where each object outside optimizers is, by its number."""
    found = {0: _Place(0, "")}
    level = [0] if graph.nodes else []
    while level:
        below = []
        for number in level:
            for child in graph.nodes[number].children:
                if child.node_id in found or not 0 <= child.node_id < len(graph.nodes):
                    continue
                if not _is_optimizer(graph.nodes[child.node_id]):
                    found[child.node_id] = _Place(number, child.local_name)
                    below.append(child.node_id)
        level = below
    return found


def _is_optimizer(
    node: trackable_object_graph_pb2.TrackableObjectGraph.TrackableObject,
) -> bool:
    names = {child.local_name for child in node.children}
    return bool(node.slot_variables) or any(each <= names for each in _OPTIMIZERS)


def _category(variable: _Variable) -> str | None:
    """The category of a variable that training left behind; None for a layer's variable."""
    if _SLOT in variable.key or variable.place is None:
        return _SLOTS
    if "keras_api/metrics/" in variable.key or (
        variable.shape == () and variable.name.rpartition("/")[2] in ("total", "count")
    ):
        return "metrics"
    if not variable.dtype.startswith(("float", "bfloat")):
        return "counters and random generators"
    return None


def _logits(
    family: str,
    shapes: Mapping[str, tuple[int, ...]],
    layers: list[_Variable],
    checkpoint: Checkpoint,
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Key and Slim's shape of the logits' variables by Slim name, from a single Dense layer.

    Empty if the network has logits of its own, or if other layers have variables.
    """
    scope = architecture.scope(family)
    logits = f"{scope}/Logits/Conv2d_1c_1x1"
    last = architecture.convolutions(Variant(family, 1.0, 224))[-1].scope
    features = shapes.get(f"{scope}/{last}/weights", (0,))[-1]
    if f"{logits}/weights" in shapes:
        return {}
    parts = {_part(each): each for each in layers}
    named = {part[1]: each for part, each in parts.items() if part}
    if len(layers) != 2 or named.keys() != {"kernel", "bias"}:
        return {}
    one = len({part[0] for part in parts if part}) == 1
    kernel, bias = named["kernel"], named["bias"]
    if not one or len(bias.shape) != 1 or kernel.shape != (features, *bias.shape):
        return {}
    return {
        f"{logits}/weights": (kernel.key, (1, 1, *kernel.shape)),
        f"{logits}/biases": (bias.key, bias.shape),
    }


def _part(variable: _Variable) -> tuple[int | str, str] | None:
    """A variable's layer, and what it is there, such as `kernel`; None for an optimizer's own."""
    if variable.place is None:
        return None
    owner, attribute = variable.place
    if attribute.isdigit():
        # In a list, as in Keras 3's exports: the name says what it is.
        scope, _, name = variable.name.rpartition("/")
        return scope, name
    # Keras 3 tracks a Dense layer's kernel as `_kernel`.
    return owner, re.sub("^_", "", attribute)


def _saved_model_of(checkpoint: Checkpoint) -> Path | None:
    """The SavedModel's folder whose variables the bundle holds."""
    folder = checkpoint.prefix.absolute().parent.parent
    variables = folder / "variables" / "variables"
    return folder if variables == checkpoint.prefix.absolute() and _file(folder).is_file() else None


def _file(folder: Path) -> Path:
    return folder / "saved_model.pb"


def _image_size(folder: Path, source: str) -> int | None:
    """Height and width in pixels, if the signatures or else the traced functions fix one size.

    Published TF2 modules of a fixed size trace their function at it, and ours trace it first; for a
    Keras model `serving_default` has the size that it was built with.

    Raises:
      WeightsError: The SavedModel cannot be parsed.
    """
    model = saved_model_pb2.SavedModel()
    try:
        model.ParseFromString(_file(folder).read_bytes())
    except DecodeError as error:
        raise WeightsError(
            f"{source}: {_file(folder).name} is damaged; copy or download it again"
        ) from error
    signatures: set[int] = set()
    functions: set[int] = set()
    for graph in model.meta_graphs:
        for signature in graph.signature_def.values():
            for given in signature.inputs.values():
                signatures |= _square([dim.size for dim in given.tensor_shape.dim])
        for function in graph.object_graph_def.concrete_functions.values():
            functions |= set(_sizes(function.canonicalized_input_signature))
    for sizes in (signatures, functions):
        if sizes:
            return sizes.pop() if len(sizes) == 1 else None
    return None


def _sizes(value: struct_pb2.StructuredValue) -> Iterator[int]:
    """The fixed image sizes among a function's arguments, in pixels."""
    for inner in (*value.tuple_value.values, *value.list_value.values):
        yield from _sizes(inner)
    for inner in value.dict_value.fields.values():
        yield from _sizes(inner)
    yield from _square([dim.size for dim in value.tensor_spec_value.shape.dim])


def _square(shape: list[int]) -> set[int]:
    """The size of images of a fixed square shape `[batch, size, size, 3]`."""
    images = len(shape) == 4 and shape[3] == 3 and shape[1] == shape[2]
    return {shape[1]} if images and shape[1] >= 32 else set()


def _class_names(folder: Path, classes: int) -> tuple[str, ...] | None:
    """The lines of the only asset with one line per class; None without one."""
    assets = folder / "assets"
    found = []
    for path in sorted(assets.iterdir()) if assets.is_dir() else ():
        # A file of names takes some bytes per class; a much longer file is something else.
        if not path.is_file() or path.stat().st_size > 1000 * classes:
            continue
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        if len(lines) == classes and all(map(str.strip, lines)):
            found.append(tuple(lines))
    return found[0] if len(found) == 1 else None
