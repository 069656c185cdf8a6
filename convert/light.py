"""Lets the command line use light modules of the library without loading TensorFlow.

`import mobilenets` registers the layers with Keras, so that `keras.models.load_model` finds them;
that loads TensorFlow. The table of published checkpoints, the downloads and the errors need none
of it, yet importing a module runs the `__init__.py` of its package first. The command line
imports this module before them: from then on `mobilenets/__init__.py` runs when one of the
package's own names, such as `mobilenets.load`, is used for the first time. Its modules are imported
alone.

This trick belongs to the tool: a program that imports the library gets the whole of it.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any

__all__: list[str] = []


class _Postponed(ModuleType):
    """A package whose `__init__.py` has not run yet."""

    def __getattr__(self, name: str) -> Any:
        # The import system asks for such names; none of them is the library's.
        if name.startswith("__") and name != "__all__":
            raise AttributeError(name)
        module = f"{self.__name__}.{name}"
        if importlib.util.find_spec(module):
            # Another module of the library asks; the whole of it could come back to that one.
            return importlib.import_module(module)
        self.__class__ = ModuleType  # type: ignore[assignment]
        spec = self.__spec__
        assert spec is not None
        assert spec.loader is not None
        try:
            spec.loader.exec_module(self)
        except BaseException:
            self.__class__ = _Postponed  # type: ignore[assignment]
            raise
        return getattr(self, name)


def _postpone(package: str) -> None:
    if package in sys.modules:
        return
    spec = importlib.util.find_spec(package)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    module.__class__ = _Postponed
    sys.modules[package] = module


_postpone("mobilenets")
