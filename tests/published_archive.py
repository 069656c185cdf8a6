"""An archive as it was published, on its host, and what a fetch of it leaves."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest
from local_hosts import tgz

from mobilenets import fetching
from mobilenets.fetching import FetchError, fetch
from mobilenets.published import Source

__all__ = [
    "BODY",
    "DATA",
    "INDEX",
    "NAME",
    "PUBLISHED",
    "SOURCE",
    "UNKNOWN",
    "URL",
    "WEIGHTS",
    "cached",
    "files",
    "refusal",
]

NAME = "mobilenet_v1_0.25_128"
PREFIX = f"{NAME}.ckpt"
INDEX = f"{PREFIX}.index"
DATA = f"{PREFIX}.data-00000-of-00001"
# Incompressible and several of the downloader's reads long, so that a drop comes midway.
WEIGHTS = random.Random(0).randbytes(300_000)
PUBLISHED = {f"./{DATA}": WEIGHTS, f"./{INDEX}": b"the index", f"./{PREFIX}.meta": b"a graph"}
BODY = tgz(PUBLISHED)
URL = f"http://download.tensorflow.org/models/{NAME}.tgz"
SOURCE = Source("archive", URL, hashlib.sha256(BODY).hexdigest())
UNKNOWN = Source("archive", URL)


def files(folder: Path) -> dict[str, bytes]:
    """Returns every file under a folder, with folders left out but nothing else."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or not path.is_dir()
    }


def cached() -> dict[str, bytes]:
    """Every file of the cache but locks."""
    found = files(fetching.cache()) if fetching.cache().is_dir() else {}
    return {name: content for name, content in found.items() if not name.endswith(".lock")}


def refusal(source: Source, **options: object) -> str:
    """The one line with which a fetch fails."""
    with pytest.raises(FetchError) as caught:
        fetch(source, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)
