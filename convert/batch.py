"""Converts the published variants, from a folder or fetched, in parallel processes."""

from __future__ import annotations

import concurrent.futures
import fnmatch
import functools
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from . import light  # noqa: F401  # before the library, in the processes that convert too

# isort: split
from mobilenets.errors import MobileNetError
from mobilenets.fetching import MIRROR, fetch, sources
from mobilenets.names import reason
from mobilenets.published import KINDS, Source, archives, by_hand

from .errors import ConvertError
from .processes import Processes

__all__ = ["Outcome", "convert_all", "matching"]


# For each module: whether it was written, and its largest difference to the reference.
_Modules = list[tuple[bool, float | None]]
# The description of a source in the user's own folder.
_OWN = "own folder"
# Weights with logits make both modules.
_FOR_BOTH = "classification"


@dataclass(frozen=True)
class Outcome:
    """The result for one variant.

    Attributes:
      variant: Hub name.
      status: `"converted"`, `"unchanged"` (converted before from the same checkpoint),
        `"fetched"` (a mirror's modules, as they are), `"missing"` (no checkpoint, none fetched) or
        `"failed"`.
      detail: The largest difference to the reference, or the error.
      origin: The source of the modules and its URL or path; empty without modules.
    """

    variant: str
    status: str
    detail: str
    origin: str = ""

    @property
    def good(self) -> bool:
        """Whether the variant's modules exist."""
        return self.status in ("converted", "fetched", "unchanged")


def matching(pattern: str | None) -> list[str]:
    """Hub names of the published variants that a glob matches, in the archive table's order.

    Raises:
      ConvertError: The glob matches none.
    """
    names = [name for name in archives() if fnmatch.fnmatchcase(name, pattern or "*")]
    if not names:
        raise ConvertError(
            f"{pattern} matches no published variant; `list` shows the names", "only"
        )
    return names


class _UnreadableError(ConvertError):
    """A source holds no readable weights; another source may."""


@dataclass
class _Attempt:
    """A variant in conversion, and the sources to try if it fails."""

    name: str
    sources: Iterator[Source]
    source: Source | None = None
    failures: list[str] = field(default_factory=list)

    @property
    def origin(self) -> str:
        if self.source is None:
            return ""
        url = self.source.url
        if self.source.what == MIRROR:
            # The folder of both kinds.
            url = url.rsplit("/", 1)[0]
        return f"{self.source.what}, {url}"


def convert_all(
    checkpoints: Path | None,
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
      checkpoints: Folder to search first for `<slim name>/`, `<slim name>.tgz` or
        `<slim name>.ckpt.index`; None for no folder. The other checkpoints come from the cache, or
        from the first source of `published.toml` that has them. A mirror holds modules: they are
        checked and copied unchanged if it has both kinds.
      output: Folder of modules.
      only: Glob over hub names; None takes all.
      jobs: Number of parallel conversions, 1 or more.
      offline: Whether to use only the folder and the cache, and fetch nothing.
      on_download: Called with the hub name, the bytes so far and the total bytes, None if unknown.
      on_outcome: Called with each outcome as it comes.

    Returns:
      An outcome for each variant, in the archive table's order.
    """
    names = matching(only)
    outcomes: dict[str, Outcome] = {}

    def settle(outcome: Outcome) -> None:
        outcomes[outcome.variant] = outcome
        on_outcome(outcome)

    pool = _pool(jobs)
    running: dict[Future[_Modules], _Attempt] = {}

    def advance(attempt: _Attempt) -> None:
        """Starts the conversion of the next available source, or gives up."""
        for source in attempt.sources:
            attempt.source = source
            try:
                files = {
                    kind: str(_obtained(each, attempt.name, offline, on_download))
                    for kind, each in _needed(source, attempt.name).items()
                }
            except MobileNetError as error:
                attempt.failures.append(f"{source.what}: {error}")
                continue
            if source.what == MIRROR:
                task = functools.partial(_place, files, str(output), attempt.name)
            else:
                task = functools.partial(
                    _convert, files[_FOR_BOTH], str(output), attempt.name, source
                )
            running[pool.submit(task)] = attempt
            return
        advice = by_hand(attempt.name, "classification")
        settle(Outcome(attempt.name, "missing", f"{'; '.join(attempt.failures)}; {advice}"))

    def finish(future: Future[_Modules]) -> None:
        attempt = running.pop(future)
        error = future.exception()
        if isinstance(error, _UnreadableError) and attempt.source != _own(
            checkpoints, attempt.name
        ):
            assert attempt.source is not None
            attempt.failures.append(f"{attempt.source.what}: {reason(error)}")
            advance(attempt)
        else:
            settle(_outcome(attempt, future))

    try:
        for name in names:
            for future in [future for future in running if future.done()]:
                finish(future)
            own = _own(checkpoints, name)
            found = [own] if own else sources(name, _FOR_BOTH)
            advance(_Attempt(name, iter(found)))
        while running:
            done, _ = concurrent.futures.wait(
                running, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for future in done:
                finish(future)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return [outcomes[name] for name in names]


def _needed(source: Source, name: str) -> dict[str, Source]:
    """What has to be there, by kind: of a mirror the modules, of others what serves for both."""
    if source.what != MIRROR:
        return {_FOR_BOTH: source}
    return {kind: each for kind in KINDS for each in sources(name, kind) if each.what == MIRROR}


def _obtained(
    source: Source,
    name: str,
    offline: bool,
    on_download: Callable[[str, int, int | None], None],
) -> Path:
    if source.what == _OWN:
        return Path(source.url)
    return fetch(
        source, progress=lambda done, total: on_download(name, done, total), offline=offline
    )


def _pool(jobs: int) -> Processes:
    # This process never loads TensorFlow.
    return Processes(jobs, [f"{__package__}.quiet", f"{__package__}.conversion"])


def _own(checkpoints: Path | None, name: str) -> Source | None:
    """The variant's checkpoint in the user's folder; None without one."""
    slim = archives()[name].slim_name
    if checkpoints is None:
        return None
    if (checkpoints / f"{slim}.ckpt.index").is_file():
        return Source(_OWN, str(checkpoints / f"{slim}.ckpt"))
    if (checkpoints / f"{slim}.tgz").is_file():
        return Source(_OWN, str(checkpoints / f"{slim}.tgz"))
    folder = checkpoints / slim
    found = folder.is_dir() and any(folder.glob("*.index"))
    return Source(_OWN, str(folder)) if found else None


def _convert(file: str, output: str, variant: str, source: Source) -> _Modules:
    """Runs in a child process; an error returns as one that can be pickled."""
    from . import quiet  # noqa: F401  # before anything loads TensorFlow

    # isort: split
    from mobilenets.weights import WeightsError

    from .conversion import convert

    try:
        return [
            (done.written, done.parity["largest_difference"])
            for done in convert(file, output, variant=variant, fetched_from=source)
        ]
    except WeightsError as error:
        raise _UnreadableError(str(error)) from error


def _place(files: Mapping[str, str], output: str, variant: str) -> _Modules:
    """The same of a mirror's modules."""
    from . import quiet  # noqa: F401  # before anything loads TensorFlow

    # isort: split
    from .conversion import place

    try:
        return [
            (done.written, done.parity.get("largest_difference"))
            for done in place(files, output, variant)
        ]
    except ConvertError:
        raise
    except (MobileNetError, OSError) as error:
        raise _UnreadableError(reason(error)) from error


def _outcome(attempt: _Attempt, future: Future[_Modules]) -> Outcome:
    name = attempt.name
    try:
        modules = future.result()
    except (MobileNetError, OSError) as error:
        return Outcome(name, "failed", str(error))
    except Exception as error:
        return Outcome(name, "failed", f"{type(error).__name__}: {error}")
    made = "fetched" if attempt.source and attempt.source.what == MIRROR else "converted"
    status = made if any(written for written, _ in modules) else "unchanged"
    differences = [difference for _, difference in modules if difference is not None]
    detail = f"{max(differences):.1e}" if differences else "not compared"
    return Outcome(name, status, detail, attempt.origin)
