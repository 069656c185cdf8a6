"""Weights of a MobileNet, from whatever format, by the names of TF-Slim's variables.

    with weights.open("run/model.ckpt-1450000") as found:
        variant = found.variant(image_size=192)
        values = found.values(variant)

Another format is a file here that offers what `readers.Reader` says, and a line in
`readers.READERS`.
"""

from mobilenets.weights.contents import SELECTIONS, Weights
from mobilenets.weights.errors import WeightsError
from mobilenets.weights.readers import open, read

__all__ = ["SELECTIONS", "Weights", "WeightsError", "open", "read"]
