"""Publishes a folder of modules: archives that are new, then the index."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConvertError
from ..files import written_beside
from . import archives, cards
from .index import Entry, File, Index
from .modules import Module

__all__ = ["Published", "publish"]


@dataclass(frozen=True)
class Published:
    """A module on the site.

    Attributes:
      entry: Its entry in the index.
      status: `"new"`, `"version N"` if an earlier version differs, or `"unchanged"`.
    """

    entry: Entry
    status: str


def publish(
    modules: list[Module],
    site: Path,
    on_module: Callable[[Published], None] = lambda published: None,
) -> tuple[Index, list[Published]]:
    """Adds modules to a site.

    A module that the site has is left alone, also if only its card would read otherwise today. A
    different one of the same name and kind becomes the next version. The index is written after
    each archive: whoever stops this may start it again.

    Args:
      modules: See `modules.find`.
      site: The folder; made if absent.
      on_module: Called with each module when it is there.

    Returns:
      The index of the site, and what became of each module.

    Raises:
      ConvertError: The site holds something else than its index says, would lie in a module, or
        cannot be written.
    """
    for module in modules:
        _check_apart(module, site)
    index = Index.read(site)
    for entry in index.modules:
        _check(site, entry)
    done = []
    for module in modules:
        newest = index.newest(module.variant.name, module.kind)
        files = module.files()
        if newest and _hashes(files) == {each.path: each.sha256 for each in _weights(newest)}:
            published = Published(newest, "unchanged")
        else:
            entry = _add(module, files, newest.version + 1 if newest else 1, site)
            index = index.having(entry)
            index.write(site)
            status = f"version {entry.version}" if newest else "new"
            published = Published(entry, status)
        done.append(published)
        on_module(published)
    return index, done


def _check_apart(module: Module, site: Path) -> None:
    """Refuses a site whose archives and pages would become files of the module."""
    folder = module.folder.resolve()
    if (site / module.variant.name / module.kind).resolve().is_relative_to(folder):
        raise ConvertError(
            f"{site} is no place for the site: archives and pages would lie among the files of "
            f"{module.folder}; name another folder"
        )


def _check(site: Path, entry: Entry) -> None:
    path = site / entry.path
    if not path.is_file():
        raise ConvertError(f"{path} is missing, but the index lists it: restore it")
    if archives.sha256(path) != entry.sha256:
        raise ConvertError(f"{path} is not the file that the index lists: restore it")


def _weights(entry: Entry) -> list[File]:
    return [each for each in entry.files if each.path != cards.CARD]


def _hashes(files: Mapping[str, Path | bytes]) -> dict[str, str]:
    return {name: archives.sha256(content) for name, content in files.items() if name != cards.CARD}


def _add(module: Module, files: dict[str, Path | bytes], version: int, site: Path) -> Entry:
    entry = module.entry(version)
    contents = {**files, cards.CARD: cards.render(entry).encode()}
    target = site / entry.path
    with written_beside(target) as folder:
        new = folder / target.name
        archives.pack(contents, new)
        sha256 = archives.sha256(new)
        if target.exists() and archives.sha256(target) != sha256:
            raise ConvertError(f"{target} exists, but the index does not list it: remove it")
        size = new.stat().st_size
    listed = (
        File(name, len(archives.bytes_of(content)), archives.sha256(content))
        for name, content in sorted(contents.items())
    )
    return dataclasses.replace(entry, bytes=size, sha256=sha256, files=tuple(listed))
