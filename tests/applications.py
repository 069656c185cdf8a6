"""Networks of `keras.applications` for tests."""

from __future__ import annotations

import keras

__all__ = ["of_any_size"]


def of_any_size(network: keras.Model) -> keras.Model:
    """The network with the same layers, for images of any size."""
    return keras.Model(*_called_anew(network))


def _called_anew(network: keras.Model) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    inputs = keras.Input((None, None, 3))
    made = {id(network.inputs[0]): inputs}
    for layer in network.layers[1:]:
        (node,) = layer._inbound_nodes
        given = [made[id(tensor)] for tensor in node.input_tensors]
        (output,) = node.output_tensors
        made[id(output)] = layer(given if len(given) > 1 else given[0])
    return inputs, made[id(network.outputs[0])]
