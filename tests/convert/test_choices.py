"""Names that are offered without loading what they are the names of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from convert import choices
from mobilenets.weights.contents import SELECTIONS

ROOT = Path(__file__).resolve().parents[2]


def test_weights_are_the_librarys() -> None:
    assert choices.WEIGHTS == SELECTIONS


def test_they_cost_nothing() -> None:
    program = "import sys, convert.choices; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0
