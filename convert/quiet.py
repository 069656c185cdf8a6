"""TensorFlow without its chatter: command-line programs import this module before all others.

Loading TensorFlow 2.21 prints lines about oneDNN and CUDA that `TF_CPP_MIN_LOG_LEVEL` does not
reach: its C++ libraries write them straight to file descriptor 2 while their log is not set up
yet. So that descriptor leads to a temporary file while TensorFlow is imported and while it looks
for devices, where it logs an error on every machine without a CUDA driver. From then on
`TF_CPP_MIN_LOG_LEVEL=2` keeps information and warnings of the C++ side away.

Errors are shown as usual; if the import fails, the held-back output is shown too. With
`TF_CPP_MIN_LOG_LEVEL=0` in the environment nothing is held back at all.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator

__all__ = ["held_back"]

_STDERR = 2


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Holds back output to standard error, also by C++; shows it if the block fails."""
    sys.stderr.flush()
    stderr = os.dup(_STDERR)
    try:
        with tempfile.TemporaryFile() as kept:
            os.dup2(kept.fileno(), _STDERR)
            try:
                yield
            except BaseException:
                sys.stderr.flush()
                kept.seek(0)
                with open(stderr, "wb", closefd=False) as shown:
                    shutil.copyfileobj(kept, shown)
                raise
            finally:
                sys.stderr.flush()
                os.dup2(stderr, _STDERR)
    finally:
        os.close(stderr)


# The processes that a command starts inherit the variable: whether it is set says nothing.
_talkative = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2") == "0"
# setuptools warns tensorflow_hub; its users can do nothing about it.
warnings.filterwarnings("ignore", "pkg_resources is deprecated")
with contextlib.nullcontext() if _talkative else held_back():
    import tensorflow as tf

    tf.config.list_physical_devices()
    if not _talkative:
        # The Python side's warnings, such as of functions that it takes for one.
        logging.getLogger("tensorflow").setLevel(logging.ERROR)
    if "mobilenets" in sys.modules:
        # `light` may have postponed the library; a module of it that came first would be half
        # imported when the others ask for it.
        getattr(sys.modules["mobilenets"], "__all__", None)
