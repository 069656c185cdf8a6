"""Commands whose files must not be written: one line, and nothing has changed.

Root may write everywhere; the commands run without this capability.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from local_hosts import Hosts, hosts, tgz  # noqa: F401
from programs import SAMPLE, in_turn, writers

pytestmark = pytest.mark.slow


def without_override() -> None:
    """Takes CAP_DAC_OVERRIDE from the program that starts next."""
    drop_from_bounding_set, dac_override = 24, 1
    ctypes.CDLL(None).prctl(drop_from_bounding_set, dac_override, 0, 0, 0)


def files(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def lock(folder: Path, mode: int = 0o555) -> None:
    for path in [*folder.rglob("*"), folder]:
        if path.is_dir():
            path.chmod(mode)


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Path]:
    """A folder, to be locked; it can be removed afterwards."""
    folder = tmp_path / "locked"
    folder.mkdir()
    yield folder
    lock(folder, 0o755)


def refusals(commands: dict[str, tuple], **environment: str) -> dict[str, str]:
    """What each prints on standard error; all exit with 2."""
    done = in_turn(commands.values(), without_override, **environment)
    assert done.returncode == 0, done.stderr
    *parts, rest = re.split(r"<end (\d+)>", done.stderr)
    assert rest == ""
    said = dict(zip(commands, parts[::2], strict=True))
    assert dict(zip(commands, parts[1::2], strict=True)) == dict.fromkeys(commands, "2")
    return said


def may_write(folder: Path) -> bool:
    """Whether the commands could, as the system sees it."""
    program = f"import os; print(os.access({os.fspath(folder)!r}, os.W_OK))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        preexec_fn=without_override,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout == "True\n"


@pytest.mark.parametrize("state", ["empty", "with an earlier output"])
def test_the_output_s_folder(state: str, photos: Path, locked: Path, command: Callable) -> None:
    models = photos.with_name("models")
    labels = SAMPLE.with_name("labels.txt")
    assert command("checkpoint", SAMPLE, "--labels", labels, "--output", models)[0] == 0
    commands = writers(models, photos, locked)
    if state != "empty":
        for arguments in commands.values():
            assert command(*arguments)[0] == 0
        # Or nothing would be left to write.
        shutil.rmtree(locked / "made" / "mobilenet_v1_025_64" / "classification")
        (locked / "site" / "index.json").unlink()
    before = files(locked)
    lock(locked)
    if may_write(locked):
        pytest.skip("this system lets the user write to a folder without permission")
    for name, said in refusals(commands).items():
        assert said.count("error: ") == 1, (name, said)
        assert said.splitlines()[-1].startswith("error: "), (name, said)
        assert "Permission denied" in said, (name, said)
    assert files(locked) == before


def test_the_cache(locked: Path, hosts: Hosts) -> None:  # noqa: F811
    parts = {f"m.ckpt{s}": Path(f"{SAMPLE}{s}") for s in (".index", ".data-00000-of-00001")}
    url = f"{hosts.url}/m.tgz"
    hosts.answers[url] = tgz({name: path.read_bytes() for name, path in parts.items()})
    lock(locked)
    commands = {"inspect": ("inspect", url)}
    (said,) = refusals(commands, MOBILENETS_CACHE=os.fspath(locked)).values()
    assert "Permission denied" in said
    assert files(locked) == {}
