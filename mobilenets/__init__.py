"""MobileNet V1 and V2 in pure Keras 3, to and from reusable TensorFlow 2 SavedModels."""

from mobilenets import images
from mobilenets.blocks import DepthwiseSeparable, InvertedResidual
from mobilenets.model import MobileNet
from mobilenets.saved_model import load, save
from mobilenets.variants import VARIANTS, Variant

__all__ = [
    "VARIANTS",
    "DepthwiseSeparable",
    "InvertedResidual",
    "MobileNet",
    "Variant",
    "images",
    "load",
    "save",
]
