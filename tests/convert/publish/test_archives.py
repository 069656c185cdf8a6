"""Equal files give equal archives, which unpack to the files."""

from __future__ import annotations

import hashlib
import os
import tarfile
from pathlib import Path

import pytest

from convert.publish import archives
from mobilenets import fetching


@pytest.fixture
def contents(tmp_path: Path) -> dict[str, Path | bytes]:
    weights = tmp_path / "weights"
    weights.write_bytes(os.urandom(2_000_000))
    return {
        "saved_model.pb": b"graph" * 1000,
        "variables/variables.data-00000-of-00001": weights,
        "README.md": b"# card",
        "assets.extra/mobilenet.json": b"{}",
    }


def test_order_time_mode_and_owner_do_not_matter(
    contents: dict[str, Path | bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    archives.pack(contents, tmp_path / "1.tar.gz")
    weights = contents["variables/variables.data-00000-of-00001"]
    assert isinstance(weights, Path)
    other = weights.rename(tmp_path / "elsewhere" / "other")
    os.utime(other, (1, 1))
    other.chmod(0o600)
    monkeypatch.setattr("time.time", lambda: 2e9)
    again = {**contents, "variables/variables.data-00000-of-00001": other}
    archives.pack(dict(reversed(again.items())), tmp_path / "elsewhere" / "2.tar.gz")
    one, two = tmp_path / "1.tar.gz", tmp_path / "elsewhere" / "2.tar.gz"
    assert one.read_bytes() == two.read_bytes()


def test_members(contents: dict[str, Path | bytes], tmp_path: Path) -> None:
    archives.pack(contents, tmp_path / "1.tar.gz")
    with tarfile.open(tmp_path / "1.tar.gz") as tar:
        members = tar.getmembers()
    assert [(member.name, member.mode) for member in members] == [
        ("README.md", 0o644),
        ("assets.extra", 0o755),
        ("assets.extra/mobilenet.json", 0o644),
        ("saved_model.pb", 0o644),
        ("variables", 0o755),
        ("variables/variables.data-00000-of-00001", 0o644),
    ]
    for member in members:
        owner = member.uid, member.gid, member.uname, member.gname
        assert (*owner, member.mtime) == (0, 0, "", "", 0)


def test_it_unpacks_to_the_files(contents: dict[str, Path | bytes], tmp_path: Path) -> None:
    archives.pack(contents, tmp_path / "1.tar.gz")
    fetching.unpack(tmp_path / "1.tar.gz", tmp_path / "unpacked")
    for name, content in contents.items():
        found = (tmp_path / "unpacked" / name).read_bytes()
        assert found == archives.bytes_of(content)
        assert hashlib.sha256(found).hexdigest() == archives.sha256(content)
