"""What all exports share: what goes in, what is returned, and how it is written.

Every format is a module with a function

    export(source, output, …) -> Export

that takes a `Source`, writes beside and renames (an older file is replaced, on failure nothing is
left behind), compares what it wrote with the source, and raises `ConvertError`.
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
    """What was written. Each format adds its details.

    Attributes:
      path: The file, or the prefix of several.
      bytes: Their size in all.
    """

    path: str
    bytes: int
