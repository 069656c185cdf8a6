"""The commands: each file is one, with `HELP`, `add_arguments(parser)` and `run(options) -> int`.

A command is named after its file, with `-` for `_`. Files that begin with `_` are not commands.
Heavy imports belong in `run`: every file is imported for `--help`.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

__all__ = ["commands"]

# The order in the help; other commands follow in alphabetical order.
_FIRST = ("list", "inspect", "checkpoint", "all", "verify", "evaluate")


def commands() -> dict[str, ModuleType]:
    """The modules of the commands by the commands' names, in the order of the help."""
    found = [each.name for each in pkgutil.iter_modules(__path__) if not each.name.startswith("_")]
    found.sort(key=lambda name: (_FIRST.index(name) if name in _FIRST else len(_FIRST), name))
    return {name.replace("_", "-"): importlib.import_module(f".{name}", __name__) for name in found}
