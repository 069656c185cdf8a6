"""Where models come from: folders, archives and URLs, all brought to a local path."""

from __future__ import annotations

import contextlib
import gzip
import os
import re
import tarfile
import tempfile
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

__all__ = ["local"]

_URL = re.compile(r"https?://", re.IGNORECASE)
_ARCHIVE = re.compile(r".+\.(?:tgz|tar\.gz|tar)", re.IGNORECASE)
_DAMAGED = (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError)


@contextlib.contextmanager
def local(source: str | os.PathLike[str]) -> Iterator[Path]:
    """The path where a source can be read until the context ends.

    Args:
      source: A path; a `.tar.gz`, `.tgz` or `.tar` file, which is unpacked to a temporary folder;
        or an `http://` or `https://` URL of such an archive or of a TensorFlow Hub module, which
        `hub.resolve` fetches into its cache (`TFHUB_CACHE_DIR`) unless it is there.

    Raises:
      ValueError: The archive cannot be read.
      OSError: The URL cannot be fetched, or there is no space left.
    """
    name = os.fspath(source)
    if _URL.match(name):
        yield _root(_fetched(name))
    elif _ARCHIVE.fullmatch(name) and os.path.isfile(name):
        with tempfile.TemporaryDirectory(prefix="mobilenet-") as folder:
            try:
                with tarfile.open(name) as archive:
                    archive.extractall(folder, filter="data")
            except _DAMAGED as error:
                raise ValueError(
                    f"{name} cannot be unpacked ({_reason(error)}); download or pack it again"
                ) from error
            yield _root(Path(folder))
    else:
        yield Path(name)


def _fetched(url: str) -> Path:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "pkg_resources is deprecated")
        # Only here: it loads tf_keras.
        import tensorflow_hub as hub
    try:
        return Path(hub.resolve(url))
    except Exception as error:
        # Servers, archives and file systems fail in classes that have nothing in common.
        raise OSError(f"cannot fetch {url}: {_reason(error)}") from error


def _root(folder: Path) -> Path:
    """The folder that was packed: archives hold its files, or the folder itself."""
    while True:
        inside = [path for path in folder.iterdir() if not path.name.startswith(".")]
        if len(inside) != 1 or not inside[0].is_dir():
            return folder
        folder = inside[0]


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
