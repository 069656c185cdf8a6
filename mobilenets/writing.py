"""Writes files and folders atomically: complete or not at all."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["remove_abandoned", "temporary_folder", "written_beside"]

# Of folders that are removed if nobody holds their lock.
_SUFFIX = ".partial"


@contextlib.contextmanager
def written_beside(target: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary folder beside a target; its entries move to the target's folder at the end.

    The entries, files or folders, keep their names and replace older ones. They move in
    alphabetical order, the target itself last; on failure nothing is left behind and the old target
    stays. What a killed process leaves beside the target goes when this is next called for it.

    Args:
      target: The file or folder to write, as `folder / target.name`; its parents are created.

    Raises:
      OSError: The entries cannot be written or moved; the target is a device, say, which would be
        replaced, or has no name to write, such as `.` and the empty path.
    """
    target = Path(target)
    if target.name in ("", ".."):
        raise IsADirectoryError(errno.EISDIR, "the path ends in no name", str(target))
    if target.exists() and not (target.is_file() or target.is_dir()):
        raise FileExistsError(errno.EEXIST, "neither a file nor a folder", str(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(f".{target.name}.", target.parent) as temporary:
        # Subfolders: `new` has a new folder's usual permissions, and `old` keeps what is replaced.
        new, old = temporary / "new", temporary / "old"
        new.mkdir()
        old.mkdir()
        yield new
        for path in sorted(new.iterdir(), key=lambda path: (path.name == target.name, path.name)):
            _replace(target.with_name(path.name), path, old / path.name)


@contextlib.contextmanager
def temporary_folder(prefix: str, parent: str | os.PathLike[str] | None = None) -> Iterator[Path]:
    """A folder that is gone at the end; after a kill it goes when the next one is made.

    The kernel holds a lock on it for as long as the process lives.

    Args:
      prefix: What its name begins with.
      parent: Where it is; None takes the system's folder for temporary files.

    Raises:
      OSError: There cannot be a folder.
    """
    parent = Path(parent or tempfile.gettempdir())
    remove_abandoned(prefix, parent)
    folder, lock = _held(prefix, parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def remove_abandoned(prefix: str, parent: Path) -> None:
    """Removes the temporary folders of killed processes, and of no other.

    What was about to be replaced when the process was killed goes back to its place, if that is
    empty. Where there are no such locks (Windows), nothing is removed.
    """
    with contextlib.suppress(OSError):
        for path in list(parent.iterdir()):
            if path.name.startswith(prefix) and path.name.endswith(_SUFFIX):
                with contextlib.suppress(OSError):
                    _remove_if_abandoned(path)


def _remove_if_abandoned(folder: Path) -> None:
    lock = _locked(folder)
    if lock is None:
        return
    try:
        old = folder / "old"
        for path in old.iterdir() if old.is_dir() else ():
            if not os.path.lexists(folder.with_name(path.name)):
                path.rename(folder.with_name(path.name))
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


def _held(prefix: str, parent: Path) -> tuple[Path, int | None]:
    """A new folder and the descriptor of its lock; None where there are no locks."""
    while True:
        folder = Path(tempfile.mkdtemp(_SUFFIX, prefix, parent))
        try:
            lock = _locked(folder)
            if lock is None or os.path.samestat(os.stat(folder), os.fstat(lock)):
                return folder, lock
            os.close(lock)
        except (BlockingIOError, FileNotFoundError):
            # Another process took it for abandoned, before it had its lock.
            continue


def _locked(folder: Path) -> int | None:
    """The descriptor of a folder's lock; None where there are no locks.

    Raises:
      BlockingIOError: A process that lives has it.
      OSError: The folder cannot be opened.
    """
    if fcntl is None:
        return None
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException as error:
        os.close(descriptor)
        if not isinstance(error, OSError) or isinstance(error, BlockingIOError):
            raise
        return None
    return descriptor


def _replace(target: Path, new: Path, old: Path) -> None:
    """Moves a file or folder over another, which is restored if the move fails."""
    if not target.is_dir() or target.is_symlink():
        os.replace(new, target)
        return
    if _exchanged(target, new):
        return
    target.rename(old)
    try:
        new.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchanges two paths in one step; False where the system cannot."""
    if sys.platform != "linux":
        return False
    exchange = getattr(ctypes.CDLL(None), "renameat2", None)
    at_working_folder, in_one_step = -100, 2
    return exchange is not None and not exchange(
        at_working_folder, os.fsencode(one), at_working_folder, os.fsencode(other), in_one_step
    )
