"""TensorFlow without its chatter: what runs from the command line imports this before all else.

Loading TensorFlow 2.21 prints lines about oneDNN and CUDA that `TF_CPP_MIN_LOG_LEVEL` does not
reach: its C++ libraries write them straight to file descriptor 2 while their log is not set up
yet. So that descriptor leads to a temporary file while TensorFlow is imported and while it looks
for devices, where it logs an error on every machine without a CUDA driver. From then on
`TF_CPP_MIN_LOG_LEVEL=2` keeps information and warnings of the C++ side away.

Errors are shown as ever; if the import fails, so is what was held back. With
`TF_CPP_MIN_LOG_LEVEL=0` in the environment nothing is held back at all.
"""

from __future__ import annotations

import contextlib
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
    """Holds back what is written to standard error, by C++ too; shows it if the block fails."""
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
# Told to tensorflow_hub by setuptools; nobody here can do anything about it.
warnings.filterwarnings("ignore", "pkg_resources is deprecated")
with contextlib.nullcontext() if _talkative else held_back():
    import tensorflow as tf

    tf.config.list_physical_devices()
