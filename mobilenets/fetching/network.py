"""The network: a URL's bytes go to a file, or it is said why not.

The only module that touches it, through pooch. It knows neither the cache nor what the bytes
should be.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mobilenets.fetching.errors import FetchError, reason

if TYPE_CHECKING:
    import requests

__all__ = ["download", "offline"]

# More than any MobileNet's weights.
_CEILING = 2 << 30
_CHUNK = 1 << 14
# Seconds without a byte, and seconds within which a chunk has to come.
_TIMEOUT = 30.0
_SLOWEST = 60.0
# Seconds to wait before each further attempt.
_DELAYS = (1.0, 3.0)


def offline() -> bool:
    """Whether `MOBILENETS_OFFLINE` forbids to touch the network; an empty value and 0 do not."""
    return os.environ.get("MOBILENETS_OFFLINE", "") not in ("", "0")


class _InterruptedTransfer(Exception):
    """A transfer that another attempt may complete."""


def download(url: str, target: Path, progress: Callable[[int, int | None], None] | None) -> None:
    """Fetches a URL to a file, in as many attempts as there are delays, plus one.

    Raises:
        FetchError: No attempt got to the end, or another one would not help.
        OSError: The file cannot be written.
    """
    with contextlib.nullcontext(progress) if progress else _bar(target.name) as told:
        for delay in (*_DELAYS, None):
            try:
                return _transfer(url, target, told)
            except _InterruptedTransfer as error:
                if delay is None:
                    raise FetchError(f"cannot download {url}: {error}; run again") from error
            time.sleep(delay)


def _transfer(url: str, target: Path, progress: Callable[[int, int | None], None]) -> None:
    import pooch
    import requests
    from urllib3.exceptions import MaxRetryError

    watch = _Watch()
    downloader = pooch.HTTPDownloader(
        progressbar=_Bounded(url, progress, watch),
        chunk_size=_CHUNK,
        timeout=_TIMEOUT,
        # A compressed transfer would not be what the hash is of.
        headers={"User-Agent": "mobilenets", "Accept-Encoding": "identity"},
        hooks={"response": watch.begin},
    )
    passing = (
        requests.ConnectionError,
        requests.Timeout,
        requests.exceptions.ChunkedEncodingError,
    )
    try:
        with watch:
            downloader(_elsewhere(url), str(target), None)
    except (FetchError, _InterruptedTransfer):
        raise
    except requests.HTTPError as error:
        answer = error.response
        status = 0 if answer is None else answer.status_code
        answered = f"HTTP status {status} {'' if answer is None else answer.reason or ''}".strip()
        if status in {408, 429} or status >= 500:
            raise _InterruptedTransfer(answered) from error
        raise FetchError(f"cannot download {url}: {answered}") from error
    except requests.RequestException as error:
        reached = not (error.args and isinstance(error.args[0], MaxRetryError))
        if reached and isinstance(error, passing):
            raise _InterruptedTransfer(_cause(error)) from error
        raise FetchError(
            f"cannot reach {url}: {_cause(error)}; check the connection and the proxy settings"
        ) from error
    except ValueError as error:
        raise FetchError(f"cannot download {url}: {reason(error)}") from error


class _Watch:
    """Ends a transfer that drips: every byte would put off the timeout of silence."""

    def __init__(self) -> None:
        self._shutdown: Callable[[], None] | None = None
        self._came, self._ended = threading.Event(), False
        self._slow = False
        self._thread = threading.Thread(target=self._wait, daemon=True)

    def begin(self, response: requests.Response, *_: object, **__: object) -> None:
        """What requests calls with each response, before its body."""
        self._shutdown = response.raw.shutdown
        self.came()

    def came(self) -> None:
        """Another chunk is here; after a shutdown it is what had come before, or comes late.

        Raises:
            _InterruptedTransfer: It came too late.
        """
        self._came.set()
        if self._slow:
            raise _InterruptedTransfer(f"fewer than {_CHUNK >> 10} KiB came in {_SLOWEST:g} s")

    def _wait(self) -> None:
        while not self._ended:
            if self._came.wait(_SLOWEST):
                self._came.clear()
            elif self._shutdown and not self._ended:
                self._slow = True
                # The connection may have ended by itself.
                with contextlib.suppress(OSError, RuntimeError, ValueError):
                    self._shutdown()
                return

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._ended = True
        self._came.set()
        self._thread.join()
        # Without a length, the end of a connection looks like the end of the file.
        self.came()


class _Bounded:
    """The progress bar that pooch is given: it passes on what comes, and stops what is endless."""

    def __init__(
        self, url: str, progress: Callable[[int, int | None], None], watch: _Watch
    ) -> None:
        self._url, self._progress, self._done = url, progress, 0
        self._watch = watch
        self.total = 0

    def update(self, count: int) -> None:
        self._watch.came()
        self._done += count
        if max(self._done, self.total) > _CEILING:
            raise FetchError(f"{self._url} is larger than 2 GiB: not a MobileNet's weights")
        # pooch counts whole chunks.
        self._progress(min(self._done, self.total or self._done), self.total or None)

    def reset(self) -> None:
        self._done = 0

    def close(self) -> None:
        pass


@contextlib.contextmanager
def _bar(name: str) -> Iterator[Callable[[int, int | None], None]]:
    """A bar on standard error, if that is a terminal."""
    if not (sys.stderr and sys.stderr.isatty()):
        yield lambda done, total: None
        return
    from tqdm import tqdm

    with tqdm(unit="B", unit_scale=True, desc=name[-40:], leave=False) as bar:

        def told(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield told


def _elsewhere(url: str) -> str:
    """The URL that stands for another: `MOBILENETS_HOSTS` is a list of `<beginning>=<other>`.

    For tests, and for companies whose computers reach the hosts through a repository of their own.
    """
    for pair in os.environ.get("MOBILENETS_HOSTS", "").split():
        beginning, _, other = pair.partition("=")
        if beginning and url.startswith(beginning):
            return other + url.removeprefix(beginning)
    return url


def _cause(error: BaseException) -> str:
    """What the system said, beneath the layers of the libraries above it."""
    text, seen = reason(error), {id(error)}
    pending: list[object] = [error]
    while pending:
        one = pending.pop(0)
        if isinstance(one, OSError) and one.strerror:
            return reason(one)
        if isinstance(one, TimeoutError) or "Timeout" in type(one).__name__:
            text = "timed out"
        if not isinstance(one, BaseException):
            continue
        inner = (*one.args, getattr(one, "reason", None), one.__cause__, one.__context__)
        for each in inner:
            if isinstance(each, BaseException) and id(each) not in seen:
                seen.add(id(each))
                pending.append(each)
    return text
