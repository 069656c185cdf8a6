"""MobileNet V1 and V2 in pure Keras 3, to and from reusable TensorFlow 2 SavedModels."""

from mobilenets import images
from mobilenets.blocks import DepthwiseSeparable, InvertedResidual
from mobilenets.errors import MobileNetError
from mobilenets.loading import load, module
from mobilenets.model import MobileNet
from mobilenets.saved_model import save
from mobilenets.variants import VARIANTS, Variant

__all__ = [
    "VARIANTS",
    "DepthwiseSeparable",
    "InvertedResidual",
    "MobileNet",
    "MobileNetError",
    "Variant",
    "images",
    "load",
    "module",
    "save",
]
