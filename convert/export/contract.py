"""What all exports share: the source, the result, and how files are written.

Every format is a module with a function

    export(source, output, …) -> Export

that takes a `Source`, writes a temporary file and renames it (an older file is replaced; on failure
nothing is left behind), compares the result with the source, and raises `ConvertError`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TypeAlias

from mobilenets import MobileNet

__all__ = ["Export", "Source"]

Source: TypeAlias = str | os.PathLike[str] | MobileNet
"""A loaded model, or anything that `mobilenets.load` takes."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """The result of an export. Each format adds its details.

    Attributes:
      path: The file, or the prefix of several.
      bytes: The size of all files.
    """

    path: str
    bytes: int
