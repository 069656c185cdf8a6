"""The console command `mobilenets`, which says what to install if its extra is missing."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> int:
    """Runs the command line; returns its exit code."""
    try:
        from .__main__ import main as run

        return run()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in ("mobilenets", __package__):
            raise
        print(
            f"error: the command needs {error.name}: pip install 'mobilenets-tf2[tool]'",
            file=sys.stderr,
        )
        return 2
