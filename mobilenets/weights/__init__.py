"""A MobileNet's weights from any supported format, by TF-Slim's variable names.

    with weights.open("run/model.ckpt-1450000") as found:
        variant = found.variant(image_size=192)
        values = found.values(variant)

To add a format, write a module with the interface `readers.Reader` and add it to `readers.READERS`.
"""

from mobilenets.weights.contents import SELECTIONS, Weights
from mobilenets.weights.errors import NoMobileNetError, WeightsError
from mobilenets.weights.readers import open, read

__all__ = ["SELECTIONS", "NoMobileNetError", "Weights", "WeightsError", "open", "read"]
