"""LiteRT's files (`.tflite`), which are recognised to say what to use instead.

Their batch norms are folded into the convolutions, and what was folded cannot be taken apart again.
"""

from __future__ import annotations

from pathlib import Path

from mobilenets.weights.contents import Weights
from mobilenets.weights.errors import WeightsError

__all__ = ["EXPECTED", "read", "recognises"]

EXPECTED = ""

# A FlatBuffer's file identifier stands behind the offset of its root:
# tensorflow/compiler/mlir/lite/schema/schema.fbs, `file_identifier "TFL3"`.
_IDENTIFIER = slice(4, 8), b"TFL3"


def recognises(path: Path) -> bool:
    """Whether it is a file that LiteRT's schema identifies."""
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
        f"{source} is a LiteRT model, which is not read back (batch norm is folded into its "
        "weights): use the checkpoint or the SavedModel that it was made from"
    )
