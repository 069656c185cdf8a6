"""LiteRT's files (`.tflite`), recognised only to say what to use instead.

Their batch norms are folded into the convolutions, which cannot be undone.
"""

from __future__ import annotations

from pathlib import Path

from mobilenets.weights.contents import Weights
from mobilenets.weights.errors import WeightsError

__all__ = ["EXPECTED", "read", "recognises"]

EXPECTED = ""

# A FlatBuffer's file identifier follows the offset of its root:
# tensorflow/compiler/mlir/lite/schema/schema.fbs, `file_identifier "TFL3"`.
_IDENTIFIER = slice(4, 8), b"TFL3"


def recognises(path: Path) -> bool:
    """Whether a file has the identifier of LiteRT's schema."""
    if not path.is_file():
        return False
    where, identifier = _IDENTIFIER
    with path.open("rb") as file:
        return file.read(8)[where] == identifier


def read(path: Path, source: str, selection: str) -> Weights:
    """Reads nothing.

    Raises:
      WeightsError: Always; it says what to use.
    """
    raise WeightsError(
        f"{source} is a LiteRT model, which cannot be read back (batch norm is folded into its "
        "weights): use the checkpoint or the SavedModel that it was made from"
    )
