"""Fixtures for all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """The folder of reference data, which is never committed; without it the test is skipped."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("MOBILENETS_REFERENCE_DATA") or beside)
    if not folder.is_dir():
        pytest.skip(f"reference data absent: {folder} (or set MOBILENETS_REFERENCE_DATA)")
    return folder
