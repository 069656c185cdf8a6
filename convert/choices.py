"""The choices of commands and functions, in a module that loads nothing else."""

from __future__ import annotations

__all__ = ["CROPS", "FLOAT_PRECISIONS", "INTERFACES", "KINDS", "PRECISIONS", "WEIGHTS"]

KINDS = ("feature_vector", "classification")
"""The kinds of modules."""
WEIGHTS = ("auto", "raw", "averages")
"""Which variables of a checkpoint to export; equal to `mobilenets.weights.contents.SELECTIONS`."""
FLOAT_PRECISIONS = ("float32", "float16", "dynamic", "int8")
"""Precisions of a float module's LiteRT model: of its weights, and with `int8` its activations."""
PRECISIONS = (*FLOAT_PRECISIONS, "uint8")
"""Precisions of all LiteRT models; quantops modules become uint8."""
INTERFACES = ("float32", "uint8", "int8")
"""Input and output types of an `int8` model."""
CROPS = ("central", "none")
"""The part of an image to evaluate."""
