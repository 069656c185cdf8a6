"""scikit-learn's handwritten digits as images for a MobileNet, split once and for all."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from mobilenets import MobileNetError

__all__ = ["IMAGE_SIZE", "KEPT", "NAMES", "TRAINED", "digits"]

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TRAINED = (0, 1, 2, 3, 4)
"""The digits that the sample checkpoint was trained on."""
KEPT = (5, 6, 7, 8, 9)
"""The digits that it has never seen, for transfer learning."""
IMAGE_SIZE = 64

_BRIGHTEST = 16
_HELD_OUT = 0.25
_SEED = 0


def digits(classes: Iterable[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The images and labels of some digits.

    The source is `sklearn.datasets.load_digits`: 1,797 grey images of 8 by 8 pixels, the test set
    of UCI's "Optical Recognition of Handwritten Digits". A quarter of each digit is held out.
    All ten are split before any are chosen, so an image that is held out here is held out from
    every choice of classes. The same 13 people wrote both parts.

    Args:
      classes: Digits from 0 to 9, each once; their order is that of the labels.

    Returns:
      Training images, training labels, held-out images, held-out labels. Images are
      `[number, 64, 64, 3]`, float32 in [0, 1]: grey as RGB, white on black, enlarged bilinearly.
      Labels are `[number]`, int64: the position of the digit in `classes`.

    Raises:
      MobileNetError: There are no classes, or they are not different digits.
    """
    wanted = tuple(classes)
    if not wanted or len(set(wanted)) < len(wanted) or not set(wanted) <= set(range(10)):
        raise MobileNetError(f"classes must be different digits from 0 to 9; got {list(wanted)}")
    images, targets = load_digits(return_X_y=True)
    training, held_out = train_test_split(
        np.arange(len(targets)), test_size=_HELD_OUT, stratify=targets, random_state=_SEED
    )
    parts = []
    for indices in (training, held_out):
        chosen = indices[np.isin(targets[indices], wanted)]
        labels = np.array([wanted.index(target) for target in targets[chosen]], np.int64)
        parts += [_enlarged(images[chosen]), labels]
    return parts[0], parts[1], parts[2], parts[3]


def _enlarged(images: np.ndarray) -> np.ndarray:
    grey = images.reshape(-1, 8, 8, 1).astype(np.float32) / _BRIGHTEST
    size = (IMAGE_SIZE, IMAGE_SIZE)
    return tf.image.grayscale_to_rgb(tf.image.resize(grey, size, "bilinear")).numpy()
