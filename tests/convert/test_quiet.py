"""TensorFlow's start-up chatter: kept from users, but not what went wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_PROJECT = Path(__file__).resolve().parents[2]
_TALKATIVE = """
import os

os.write(2, b"chatter of libraries\\n")


class config:
    def list_physical_devices():
        os.write(2, b"no driver\\n")
"""


def _run(
    folder: Path, tensorflow: str, code: str = "", level: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs code after the import, with a stand-in for TensorFlow."""
    (folder / "tensorflow.py").write_text(tensorflow)
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    environment["PYTHONPATH"] = str(folder)
    if level is not None:
        environment["TF_CPP_MIN_LOG_LEVEL"] = level
    return subprocess.run(
        [sys.executable, "-c", f"from convert import quiet\n{code}"],
        cwd=_PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_chatter_is_held_back_and_what_follows_is_shown(tmp_path: Path) -> None:
    code = "import os, sys; print('python', file=sys.stderr, flush=True); os.write(2, b'C++')"
    run = _run(tmp_path, _TALKATIVE, code)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "python\nC++")


def test_error_after_the_import_is_shown(tmp_path: Path) -> None:
    run = _run(tmp_path, _TALKATIVE, "raise ValueError('genuine')")
    assert run.returncode == 1
    assert run.stderr.endswith("ValueError: genuine\n")
    assert "chatter" not in run.stderr


def test_failing_import_shows_what_was_held_back(tmp_path: Path) -> None:
    run = _run(tmp_path, _TALKATIVE + "raise ImportError('no such library')")
    assert run.returncode == 1
    assert run.stderr.startswith("chatter of libraries\nTraceback")
    assert run.stderr.endswith("ImportError: no such library\n")


def test_level_0_holds_nothing_back(tmp_path: Path) -> None:
    run = _run(tmp_path, _TALKATIVE, level="0")
    assert run.stderr == "chatter of libraries\nno driver\n"


@pytest.mark.parametrize(
    ("given", "expected"), [(None, "2"), ("0", "0"), ("1", "1"), ("3", "3")], ids=str
)
def test_the_users_log_level_stays(tmp_path: Path, given: str | None, expected: str) -> None:
    code = "import os; print(os.environ['TF_CPP_MIN_LOG_LEVEL'])"
    assert _run(tmp_path, _TALKATIVE, code, given).stdout == f"{expected}\n"


def test_warning_about_pkg_resources_is_ignored(tmp_path: Path) -> None:
    code = (
        "import warnings\n"
        "warnings.warn('pkg_resources is deprecated as an API. See …', UserWarning)\n"
        "warnings.warn('something else', UserWarning)\n"
    )
    run = _run(tmp_path, _TALKATIVE, code)
    assert "something else" in run.stderr
    assert "pkg_resources" not in run.stderr


@pytest.mark.slow
def test_the_real_tensorflow_is_silent() -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    run = subprocess.run(
        [sys.executable, "-c", "from convert import quiet, verify\nverify.keras.ops.ones(3) + 1"],
        cwd=_PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
