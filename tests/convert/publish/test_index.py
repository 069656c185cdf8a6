"""index.json and SHA256SUMS: written, read back, and refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from refusals import refused

from convert.errors import ConvertError
from convert.publish.index import Index
from convert.publish.modules import find
from convert.publish.publication import publish
from mobilenets import fetching


@pytest.fixture
def site(module: Callable[..., Path], tmp_path: Path) -> Path:
    module("mobilenet_v1_025_128", 1001, format=3)
    module("mobilenet_v2_035_96")
    publish(find(tmp_path / "models"), tmp_path / "site")
    return tmp_path / "site"


def test_what_is_written_is_read_back(site: Path) -> None:
    index = Index.read(site)
    first, second = index.modules
    assert (first.name, first.kind) == ("mobilenet_v1_025_128", "classification")
    assert (second.name, second.kind) == ("mobilenet_v2_035_96", "feature_vector")
    before = (site / "index.json").read_bytes()
    index.write(site)
    assert (site / "index.json").read_bytes() == before
    assert index.newest(first.name, first.kind) == first
    assert index.newest(first.name, "feature_vector") is None


def test_its_schema(site: Path) -> None:
    """Each name that docs/hosting.md describes, and no other."""
    found = json.loads((site / "index.json").read_text())
    assert list(found) == ["schema", "generator", "modules"]
    assert found["schema"] == 1
    entry = found["modules"][0]
    assert list(entry) == [
        *("name", "kind", "version", "path", "bytes", "sha256", "image_size", "classes"),
        *("features", "million_macs", "million_parameters", "top1", "top5", "quantized"),
        *("source", "parity", "files", "endpoints"),
    ]
    body = (site / entry["path"]).read_bytes()
    assert entry["path"] == "mobilenet_v1_025_128/classification/1.tar.gz"
    assert (entry["bytes"], entry["sha256"]) == (len(body), hashlib.sha256(body).hexdigest())
    assert entry["endpoints"][0] == {"name": "MobilenetV1/Conv2d_0", "shape": [1, 64, 64, 8]}
    fetching.unpack(site / entry["path"], site / "unpacked")
    for file in entry["files"]:
        content = (site / "unpacked" / file["path"]).read_bytes()
        assert (file["bytes"], file["sha256"]) == (
            len(content),
            hashlib.sha256(content).hexdigest(),
        )
    inside = (path for path in (site / "unpacked").rglob("*") if path.is_file())
    assert len(entry["files"]) == len(list(inside)) == 6


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="sha256sum is GNU's")
def test_the_sums_are_sha256sums(site: Path) -> None:
    check = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    done = subprocess.run(check, cwd=site, capture_output=True, text=True, check=True)
    assert done.stdout.count(": OK") == 2


def test_a_site_without_an_index_is_empty(tmp_path: Path) -> None:
    assert Index.read(tmp_path).modules == ()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("no JSON", "is no index of modules"),
        ("[]", "is no index of modules"),
        ('{"schema": 1, "modules": [{"name": "x"}]}', "is no index of modules"),
        ('{"schema": 2, "modules": []}', "has schema 2, expected 1"),
    ],
    ids=["text", "list", "entry", "schema"],
)
def test_another_file_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text(text)
    with refused(reason, ConvertError):
        Index.read(tmp_path)


def test_names_of_a_later_version_are_left_out(site: Path) -> None:
    found = json.loads((site / "index.json").read_text())
    found["modules"][0]["mood"] = "good"
    (site / "index.json").write_text(json.dumps(found))
    assert not hasattr(Index.read(site).modules[0], "mood")


def test_entries_are_sorted_by_number(site: Path) -> None:
    index = Index.read(site)
    first = index.modules[0]
    for version in (10, 9):
        index = index.having(dataclasses.replace(first, version=version, path=f"{version}"))
    assert [each.version for each in index.modules] == [1, 9, 10, 1]
    assert index.newest(first.name, first.kind) == index.modules[2]
