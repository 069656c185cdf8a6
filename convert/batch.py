"""Every published checkpoint in a folder, or fetched into it, converted by a few processes."""

from __future__ import annotations

import concurrent.futures
import fnmatch
import functools
import multiprocessing
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from convert.download import archives, fetch
from convert.errors import ConvertError

__all__ = ["Outcome", "convert_all", "matching"]


# For each module: whether it was written, and its largest difference to the reference.
_Modules = list[tuple[bool, float | None]]


@dataclass(frozen=True)
class Outcome:
    """What became of one variant.

    Attributes:
      variant: Hub name.
      status: `"converted"`, `"unchanged"` (converted before from the same checkpoint),
        `"missing"` (no checkpoint, none fetched) or `"failed"`.
      detail: The largest difference to the reference, or the error.
    """

    variant: str
    status: str
    detail: str

    @property
    def good(self) -> bool:
        """Whether the variant's modules are there."""
        return self.status in ("converted", "unchanged")


def matching(pattern: str | None) -> list[str]:
    """Hub names of the published variants that a glob matches, in the archive table's order.

    Raises:
      ConvertError: None does.
    """
    names = [name for name in archives() if fnmatch.fnmatchcase(name, pattern or "*")]
    if not names:
        raise ConvertError(f"--only {pattern} matches no published variant; `list` shows the names")
    return names


def convert_all(
    checkpoints: Path,
    output: Path,
    *,
    only: str | None = None,
    jobs: int = 1,
    offline: bool = False,
    on_download: Callable[[str, int, int | None], None] = lambda name, done, total: None,
    on_outcome: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """Converts the published variants; one failure does not stop the rest.

    Args:
      checkpoints: Folder where each is looked for, as `<slim name>/`, `<slim name>.tgz` or
        `<slim name>.ckpt.index`, and into which the others are fetched.
      output: Folder of modules.
      only: Glob over hub names; None takes all.
      jobs: Processes that convert at the same time, 1 or more.
      offline: Fetch nothing.
      on_download: Told a hub name, the bytes that are there and the bytes in all, if known.
      on_outcome: Told each outcome as it comes.

    Returns:
      An outcome for each variant, in the archive table's order.
    """
    names = matching(only)
    outcomes: dict[str, Outcome] = {}

    def settle(outcome: Outcome) -> None:
        outcomes[outcome.variant] = outcome
        on_outcome(outcome)

    pool = _pool(jobs)
    running: dict[Future[_Modules], str] = {}
    try:
        for name in names:
            for future in [future for future in running if future.done()]:
                settle(_outcome(running.pop(future), future))
            try:
                source = _find(checkpoints, name) or _fetched(
                    checkpoints, name, offline, on_download
                )
            except ConvertError as error:
                settle(Outcome(name, "missing", str(error)))
                continue
            task = functools.partial(_convert, str(source), str(output), name)
            try:
                future = pool.submit(task)
            except BrokenProcessPool:
                pool = _pool(jobs)
                future = pool.submit(task)
            running[future] = name
        for future in concurrent.futures.as_completed(running):
            settle(_outcome(running[future], future))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return [outcomes[name] for name in names]


def _pool(jobs: int) -> ProcessPoolExecutor:
    # Not forked: TensorFlow's threads do not survive that. This process itself never loads it.
    return ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"))


def _find(checkpoints: Path, name: str) -> Path | None:
    slim = archives()[name].slim_name
    if (checkpoints / f"{slim}.ckpt.index").is_file():
        return checkpoints / f"{slim}.ckpt"
    if (checkpoints / f"{slim}.tgz").is_file():
        return checkpoints / f"{slim}.tgz"
    folder = checkpoints / slim
    return folder if folder.is_dir() and any(folder.glob("*.index")) else None


def _fetched(
    checkpoints: Path,
    name: str,
    offline: bool,
    on_download: Callable[[str, int, int | None], None],
) -> Path:
    archive = archives()[name]
    if offline:
        raise ConvertError(f"no {archive.slim_name} in {checkpoints}, and --offline fetches none")
    return fetch(archive, checkpoints, progress=lambda done, total: on_download(name, done, total))


def _convert(source: str, output: str, variant: str) -> _Modules:
    """Runs in a process of its own; an error comes back as one that can be pickled."""
    from convert import quiet  # noqa: F401
    from convert.conversion import convert

    return [
        (done.written, done.parity["largest_difference"])
        for done in convert(source, output, variant=variant)
    ]


def _outcome(name: str, future: Future[_Modules]) -> Outcome:
    try:
        modules = future.result()
    except (ConvertError, OSError) as error:
        return Outcome(name, "failed", str(error))
    except BrokenProcessPool:
        return Outcome(name, "failed", "the converting process died, perhaps for lack of memory")
    except Exception as error:
        return Outcome(name, "failed", f"{type(error).__name__}: {error}")
    status = "converted" if any(written for written, _ in modules) else "unchanged"
    differences = [difference for _, difference in modules if difference is not None]
    return Outcome(name, status, f"{max(differences):.1e}" if differences else "not compared")
