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
    import requests
    from urllib3.exceptions import MaxRetryError

    passing = (
        requests.ConnectionError,
        requests.Timeout,
        requests.exceptions.ChunkedEncodingError,
    )
    try:
        _Attempt(url, target).run(progress)
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


class _Attempt:
    """A transfer in a thread of its own, which `run` leaves when the server drips.

    Every byte would put off the timeout of silence, and nothing reaches the connection before the
    header is complete. pooch takes this object for its file and its progress bar.
    """

    def __init__(self, url: str, target: Path) -> None:
        self._url, self._target = url, target
        self._shutdown: Callable[[], None] | None = None
        self._error: BaseException | None = None
        self._came, self._ended, self._left = threading.Event(), False, False
        self._done = self.total = 0
        self._told: tuple[int, int | None] | None = None

    def run(self, progress: Callable[[int, int | None], None]) -> None:
        """Transfers, and tells how far.

        Raises:
            _InterruptedTransfer: The server was too slow.
            Exception: Whatever ended the transfer.
        """
        thread = threading.Thread(target=self._transfer, daemon=True)
        thread.start()
        try:
            while not self._ended:
                if not self._came.wait(_SLOWEST):
                    raise _InterruptedTransfer(
                        f"fewer than {_CHUNK >> 10} KiB came in {_SLOWEST:g} s"
                    )
                self._came.clear()
                if self._told:
                    progress(*self._told)
        finally:
            self._left = True
            if self._shutdown:
                # The connection may have ended by itself.
                with contextlib.suppress(OSError, RuntimeError, ValueError):
                    self._shutdown()
                # It may be at the header that follows a redirect.
                thread.join(1)
        if self._error:
            raise self._error

    def _transfer(self) -> None:
        import pooch

        downloader = pooch.HTTPDownloader(
            progressbar=self,
            chunk_size=_CHUNK,
            timeout=_TIMEOUT,
            # A compressed transfer would not be what the hash is of.
            headers={"User-Agent": "mobilenets", "Accept-Encoding": "identity"},
            hooks={"response": self._begin},
        )
        try:
            with self._target.open("wb") as self._file:
                downloader(_elsewhere(self._url), self, None)
        except BaseException as error:
            self._error = error
        finally:
            self._ended = True
            self._came.set()

    def _begin(self, response: requests.Response, *_: object, **__: object) -> None:
        """What requests calls with each response, before its body."""
        self._shutdown = response.raw.shutdown
        self._go_on()

    def _go_on(self) -> None:
        if self._left:
            raise _InterruptedTransfer("given up")
        self._came.set()

    def write(self, chunk: bytes) -> None:
        # Another attempt may have begun, in the same file.
        self._go_on()
        self._file.write(chunk)

    def flush(self) -> None:
        self._file.flush()

    def update(self, count: int) -> None:
        self._done += count
        if max(self._done, self.total) > _CEILING:
            raise FetchError(f"{self._url} is larger than 2 GiB: not a MobileNet's weights")
        if self._done:
            # pooch counts whole chunks.
            self._told = min(self._done, self.total or self._done), self.total or None
        self._go_on()

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
