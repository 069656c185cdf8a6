"""Several at once: threads with one model, processes with one cache and one output folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from local_hosts import Hosts, hosts  # noqa: F401
from published_archive import BODY, URL
from slim_checkpoints import network
from weight_formats import plausible

import mobilenets
from convert.export.bundle import write

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["native", "module"])
def test_eight_threads_get_equal_results(how: str, module: Callable[..., Path]) -> None:
    folder = module("mobilenet_v1", 7)
    call = mobilenets.load(folder) if how == "native" else tf.saved_model.load(str(folder))
    batches = [
        np.random.default_rng(n).uniform(size=(2, 64, 64, 3)).astype(np.float32) for n in range(8)
    ]
    expected = [np.asarray(call(batch)) for batch in batches]
    with ThreadPoolExecutor(8) as threads:
        for _ in range(5):
            found = threads.map(lambda batch: np.asarray(call(batch)), batches)
            for one, other in zip(found, expected, strict=True):
                np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


FETCH = """
import sys
from convert import light
from mobilenets import fetching
from mobilenets.published import Source
print(fetching.fetch(Source("archive", sys.argv[1])))
"""


def test_four_processes_fetch_once(
    hosts: Hosts,  # noqa: F811
) -> None:
    hosts.answers[URL] = BODY
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", FETCH, URL], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    printed = {process.communicate()[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0] * 4
    (path,) = printed
    assert Path(path).read_bytes() == BODY
    assert hosts.asked == [URL]


@pytest.mark.slow
def test_two_conversions_into_one_folder(tmp_path: Path) -> None:
    """While somebody reads."""
    checkpoints, output = tmp_path / "checkpoints", tmp_path / "models"
    for size in (128, 160):
        values = plausible(network("mobilenet_v1", 0.25, 1001))
        write(checkpoints / f"mobilenet_v1_0.25_{size}.ckpt", values)
    program = (
        *(sys.executable, "-m", "convert", "all", "--checkpoints", checkpoints),
        *("--output", output, "--offline", "--only", "mobilenet_v1_025_1[26][08]"),
    )
    environment = {**os.environ, "MOBILENETS_CACHE": str(tmp_path / "cache")}
    runs = [
        subprocess.Popen(program, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
        for _ in range(2)
    ]
    read = 0
    while any(run.poll() is None for run in runs):
        for folder in output.glob("*/*"):
            if not folder.name.startswith("."):
                assert mobilenets.load(folder).num_classes in (None, 1001)
                read += 1
    assert [run.returncode for run in runs] == [0, 0]
    assert read
    found = sorted(path.relative_to(output).as_posix() for path in output.glob("*/*"))
    kinds = ("classification", "feature_vector")
    assert found == [f"mobilenet_v1_025_{size}/{kind}" for size in (128, 160) for kind in kinds]
