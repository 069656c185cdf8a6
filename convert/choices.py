"""The names that commands and functions offer to choose from, where loading them costs nothing."""

from __future__ import annotations

__all__ = ["CROPS", "FLOAT_PRECISIONS", "INTERFACES", "KINDS", "PRECISIONS", "WEIGHTS"]

KINDS = ("feature_vector", "classification")
"""What a checkpoint converts to."""
WEIGHTS = ("auto", "raw", "averages")
"""Which variables of a checkpoint count; the same as `mobilenets.weights.contents.SELECTIONS`."""
FLOAT_PRECISIONS = ("float32", "float16", "dynamic", "int8")
"""What the weights of a float module's LiteRT model, and with `int8` the activations too, are
stored as."""
PRECISIONS = (*FLOAT_PRECISIONS, "uint8")
"""Those of all LiteRT models: quantops modules become uint8."""
INTERFACES = ("float32", "uint8", "int8")
"""What an `int8` model takes and gives."""
CROPS = ("central", "none")
"""What of an image is evaluated."""
