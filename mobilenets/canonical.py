"""SavedModels that depend on nothing but the model: equal models give equal files.

TensorFlow sorts the maps in `saved_model.pb`. What it takes from the process and the machine is
settled here: it numbers functions and captured tensors by a counter of the process, orders
functions by a hash of these names, records the process's configuration with every call and its seed
with every random number, and writes a random number to `fingerprint.pb`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from tensorflow.core.framework import function_pb2, node_def_pb2
from tensorflow.core.protobuf import config_pb2, saved_model_pb2, saved_object_graph_pb2

__all__ = ["canonicalize"]

_ARGUMENT = "_user_specified_name"
# TensorFlow's own configuration of a call. A process's differs by its devices and threads, and by
# its optimizers: a switch to bfloat16 would go with the module.
_CALL = config_pb2.ConfigProto(
    allow_soft_placement=True, experimental=config_pb2.ConfigProto.Experimental()
).SerializeToString(deterministic=True)


def canonicalize(directory: str | os.PathLike[str]) -> None:
    """Rewrites a SavedModel in place.

    Functions are numbered and sorted in the order in which they were traced. `fingerprint.pb` is
    removed, since it describes the file before; TensorFlow does without it.

    Args:
      directory: A folder that `tf.saved_model.save` wrote.
    """
    path = Path(directory, "saved_model.pb")
    saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    for graph in saved.meta_graphs:
        functions = sorted(graph.graph_def.library.function, key=_number)
        names = {
            function.signature.name: f"{function.signature.name.rpartition('_')[0]}_{number}"
            for number, function in enumerate(functions)
        }
        for function in functions:
            _rename_function(function, names)
        for node in _nodes(graph.graph_def.node, functions):
            _settle(node, names)
        del graph.graph_def.library.function[:]
        graph.graph_def.library.function.extend(functions)
        _rename_objects(graph.object_graph_def, names)
    path.write_bytes(saved.SerializeToString(deterministic=True))
    (path.parent / "fingerprint.pb").unlink(missing_ok=True)


def _number(function: function_pb2.FunctionDef) -> int:
    """The process's counter when the function was traced."""
    return int(function.signature.name.rpartition("_")[2])


def _rename_function(function: function_pb2.FunctionDef, names: dict[str, str]) -> None:
    function.signature.name = names[function.signature.name]
    for index, argument in function.arg_attr.items():
        # A captured tensor is called by its number in the process.
        if _ARGUMENT in argument.attr and argument.attr[_ARGUMENT].s.isdigit():
            argument.attr[_ARGUMENT].s = str(index).encode()


def _nodes(
    outer: Iterator[node_def_pb2.NodeDef], functions: list[function_pb2.FunctionDef]
) -> Iterator[node_def_pb2.NodeDef]:
    yield from outer
    for function in functions:
        yield from function.node_def


def _settle(node: node_def_pb2.NodeDef, names: dict[str, str]) -> None:
    if "f" in node.attr:
        node.attr["f"].func.name = names[node.attr["f"].func.name]
        node.attr["config_proto"].s = _CALL
    # Of the process: with one, every load of the module would drop the same features.
    for seed in ("seed", "seed2"):
        node.attr.pop(seed, None)


def _rename_objects(
    objects: saved_object_graph_pb2.SavedObjectGraph, names: dict[str, str]
) -> None:
    for node in objects.nodes:
        if node.HasField("function"):
            traces = node.function.concrete_functions
            traces[:] = [names[name] for name in traces]
        elif node.HasField("bare_concrete_function"):
            trace = node.bare_concrete_function
            trace.concrete_function_name = names[trace.concrete_function_name]
    old = saved_object_graph_pb2.SavedObjectGraph()
    old.concrete_functions.MergeFrom(objects.concrete_functions)
    objects.concrete_functions.clear()
    for name, function in old.concrete_functions.items():
        objects.concrete_functions[names[name]].CopyFrom(function)
