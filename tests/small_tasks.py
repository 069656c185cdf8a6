"""Tasks for processes of their own; what imports this module imports no TensorFlow."""

import os
import signal
import sys
import time

__all__ = ["PRELOADED", "announce", "die", "gpus", "is_preloaded", "refuse", "refuse_oddly"]

# A small module that nothing else imports.
PRELOADED = "tabnanny"


def is_preloaded() -> bool:
    return PRELOADED in sys.modules


def gpus() -> str | None:
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def refuse() -> None:
    raise OSError(28, "no space")


def refuse_oddly() -> None:
    class OddError(Exception):
        """Of no module that another process could import it from."""

    raise OddError("no space")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def announce() -> None:
    print(os.getpid(), flush=True)
    time.sleep(100)
