"""The command line as users start it, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

__all__ = ["as_program"]

ROOT = Path(__file__).resolve().parents[1]


def as_program(*arguments: object) -> subprocess.CompletedProcess[str]:
    """What `python -m convert` prints and exits with."""
    return subprocess.run(
        [sys.executable, "-m", "convert", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
