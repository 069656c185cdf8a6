"""A mirror: modules as `<hub name>/<kind>/<version>.tar.gz`, and an `index.json` that lists them.

`python -m convert publish` writes such folders; docs/hosting.md describes the index.
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

from mobilenets.fetching import cache_folder, network, urls
from mobilenets.fetching.errors import FetchError, reason
from mobilenets.published import Source
from mobilenets.writing import temporary_folder

__all__ = ["at_hand", "newest"]

_SCHEMA = 1


def at_hand(source: Source) -> bool:
    """Whether a version of a mirror's module can be had without the network."""
    return not urls.is_url(source.url) or _cached(source) is not None


def newest(source: Source, *, offline: bool = False) -> Source:
    """The archive of a mirror's module: of the newest version in the cache, else in the index.

    Args:
      source: With an `index`; any other, and an archive, is returned as it is.
      offline: Whether only the cache counts, as with `MOBILENETS_OFFLINE=1`.

    Raises:
      FetchError: The index cannot be had or does not list the module; or no version is in the
        cache and the network is forbidden.
    """
    if source.index is None or source.sha256 is not None:
        return source
    if not urls.is_url(source.index):
        return _listed(source, Path(source.index))
    if found := _cached(source):
        return found
    if offline or network.offline():
        raise FetchError(f"{source.url} is not in the cache, and this is offline")
    with temporary_folder("mobilenet-") as folder:
        file = folder / "index.json"
        network.download(source.index, file, lambda done, total: None)
        return _listed(source, file)


def _version(source: Source, version: int, sha256: str) -> Source:
    return dataclasses.replace(source, url=f"{source.url}/{version}.tar.gz", sha256=sha256)


def _cached(source: Source) -> Source | None:
    """The newest version that was fetched before."""
    if source.sha256 is not None:
        return source if cache_folder.place(source.url).is_file() else None
    files = cache_folder.place(f"{source.url}/1.tar.gz").parent.glob("*.tar.gz")
    found = {
        int(match[1]): sha256
        for file in files
        if (match := re.fullmatch(r"(\d+)\.tar\.gz", file.name))
        and (sha256 := cache_folder.recorded(file))
    }
    return _version(source, max(found), found[max(found)]) if found else None


def _listed(source: Source, file: Path) -> Source:
    """The newest version in an index."""
    assert source.index is not None
    module = source.url.removeprefix(source.index.removesuffix("index.json"))
    try:
        index = json.loads(file.read_text(encoding="utf-8"))
        schema = index["schema"]
        if schema == _SCHEMA:
            found = {
                int(each["version"]): str(each["sha256"])
                for each in index["modules"]
                if f"{each['name']}/{each['kind']}" == module
            }
    except OSError as error:
        raise FetchError(f"cannot read {source.index}: {reason(error)}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise FetchError(f"{source.index} is no index of modules") from error
    if schema != _SCHEMA:
        raise FetchError(f"{source.index} has schema {schema}, expected {_SCHEMA}")
    if not found:
        raise FetchError(f"{source.index} does not list {module}")
    return _version(source, max(found), found[max(found)])
