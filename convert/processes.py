"""Runs each task in a process of its own, which ends with the task and gives back its memory."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.forkserver
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from typing import Any, TypeVar

from . import light  # noqa: F401  # before the library, in the processes too

# isort: split
from .errors import ConvertError
from .garbage import collect_rarely

__all__ = ["ProcessDiedError", "Processes"]

_Result = TypeVar("_Result")


class ProcessDiedError(ConvertError):
    """The process of a task ended without an answer."""


class Processes(ThreadPoolExecutor):
    """A pool whose tasks run in processes; a thread here waits for each.

    On Linux the processes are forks of one that has loaded TensorFlow and computed nothing, so that
    only one of them takes the seconds of the import. They compute on the processor alone: a fork
    cannot use a GPU that the first process has seen.

    Args:
      jobs: How many tasks run at a time.
      preload: The modules that the tasks need.
    """

    def __init__(self, jobs: int, preload: list[str]) -> None:
        super().__init__(jobs)
        self._context = _context(preload)

    def submit(  # type: ignore[override]
        self, task: Callable[[], _Result], /
    ) -> Future[_Result]:
        """Starts a task when a process is free.

        Args:
          task: A function that can be pickled, as can what it returns.

        Returns:
          Its result. The exception is the task's, a `RuntimeError` with its name and message if it
          cannot be pickled, or a `ProcessDiedError` if the process ended before.
        """
        return super().submit(_answer, self._context, task)


def _context(preload: list[str]) -> BaseContext:
    # Other systems' libraries do not survive a fork.
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(preload)
    with _hidden_gpus():
        multiprocessing.forkserver.ensure_running()
    return context


@contextlib.contextmanager
def _hidden_gpus() -> Iterator[None]:
    name = "CUDA_VISIBLE_DEVICES"
    before = os.environ.get(name)
    os.environ[name] = "-1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _answer(context: Any, task: Callable[[], Any]) -> Any:
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(task, sender))
    process.start()
    sender.close()
    try:
        good, answer = receiver.recv()
    except EOFError:
        raise ProcessDiedError("its process died, perhaps for lack of memory") from None
    finally:
        process.join()
        receiver.close()
    if good:
        return answer
    raise answer


def _run(task: Callable[[], Any], sender: Connection) -> None:
    _end_with_parent()
    collect_rarely()
    try:
        answer = True, task()
    except BaseException as error:
        answer = False, error
    try:
        sender.send(answer)
    except Exception:
        # Neither can be pickled.
        sender.send((False, RuntimeError(f"{type(answer[1]).__name__}: {answer[1]}")))


def _end_with_parent() -> None:
    """Ends this process when its parent is killed: nobody would take the answer."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
