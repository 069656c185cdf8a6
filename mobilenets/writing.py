"""Writes files and folders atomically: complete or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["written_beside"]


@contextlib.contextmanager
def written_beside(target: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary folder beside a target; its entries move to the target's folder at the end.

    The entries, files or folders, keep their names and replace older ones. They move in
    alphabetical order, the target itself last; on failure nothing is left behind and the old target
    stays.

    Args:
      target: The file or folder to write, as `folder / target.name`; its parents are created.

    Raises:
      OSError: The entries cannot be written or moved.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=f".{target.name}.", dir=target.parent, ignore_cleanup_errors=True
    ) as temporary:
        # Subfolders: `new` has a new folder's usual permissions, and `old` keeps what is replaced.
        new, old = Path(temporary, "new"), Path(temporary, "old")
        new.mkdir()
        old.mkdir()
        yield new
        for path in sorted(new.iterdir(), key=lambda path: (path.name == target.name, path.name)):
            _replace(target.with_name(path.name), path, old / path.name)


def _replace(target: Path, new: Path, old: Path) -> None:
    """Moves a file or folder over another, which is restored if the move fails."""
    if not target.is_dir() or target.is_symlink():
        os.replace(new, target)
        return
    target.rename(old)
    try:
        new.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
