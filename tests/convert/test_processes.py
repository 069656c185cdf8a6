"""Tasks in processes of their own: what comes back, and what happens to those that die."""

import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_tasks import PRELOADED, die, gpus, is_preloaded, refuse, refuse_oddly

from convert.processes import ProcessDiedError, Processes

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pool():
    with Processes(2, [PRELOADED]) as pool:
        yield pool


def test_each_task_has_a_process(pool):
    found = [pool.submit(os.getpid) for _ in range(3)]
    assert len({os.getpid(), *(each.result() for each in found)}) == 4


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux's processes are forks")
def test_processes_start_with_the_modules_loaded_and_without_gpus(pool):
    assert pool.submit(is_preloaded).result()
    assert pool.submit(gpus).result() == "-1"
    assert not is_preloaded()


def test_processes_look_for_garbage_rarely_and_not_in_what_was_imported(pool):
    pythons_own = 700
    assert pool.submit(gc.get_threshold).result()[0] > pythons_own
    assert pool.submit(gc.get_freeze_count).result() > 0


def test_errors_come_back(pool):
    with pytest.raises(OSError, match="no space") as caught:
        pool.submit(refuse).result()
    assert caught.value.errno == 28


def test_an_error_that_cannot_be_pickled_comes_back_in_words(pool):
    with pytest.raises(RuntimeError, match=r"^OddError: no space$"):
        pool.submit(refuse_oddly).result()


def test_a_process_that_dies_is_an_error_and_the_others_go_on(pool):
    died, alive = pool.submit(die), pool.submit(os.getpid)
    with pytest.raises(ProcessDiedError, match="perhaps for lack of memory"):
        died.result()
    assert alive.result()
    assert pool.submit(os.getpid).result()


def test_processes_end_with_a_killed_parent():
    program = (
        "import os, sys\n"
        "from convert.processes import Processes\n"
        "from small_tasks import announce\n"
        "if __name__ == '__main__':\n"
        "    Processes(1, []).submit(announce).result()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        worker = int(parent.stdout.readline())
        parent.kill()
    for _ in range(600):
        if not is_running(worker):
            return
        time.sleep(0.05)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker goes on")


def is_running(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
