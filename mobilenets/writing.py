"""Files and folders that are either there, complete, or not there at all."""

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
    alphabetical order, the one that has the target's name last; on failure nothing is left behind,
    and the old target is in place.

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
        # Apart from what is replaced, and with the permissions of any other new folder.
        new, old = Path(temporary, "new"), Path(temporary, "old")
        new.mkdir()
        old.mkdir()
        yield new
        for path in sorted(new.iterdir(), key=lambda path: (path.name == target.name, path.name)):
            _replace(target.with_name(path.name), path, old / path.name)


def _replace(target: Path, new: Path, old: Path) -> None:
    """Moves a file or folder to where another may be, which comes back if that fails."""
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
