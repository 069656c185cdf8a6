"""`hf://<owner>/<name>`, against Hugging Face's host on loopback."""
# The fixture is imported, and is an argument of the same name.
# ruff: noqa: F811

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from local_hosts import Hosts, hosts  # noqa: F401
from slim_checkpoints import network
from weight_formats import hugging_face, plausible

import mobilenets
from mobilenets import fetching
from mobilenets.fetching import FetchError
from mobilenets.weights import WeightsError

NAME = "hf://google/mobilenet_v1_0.25_128"
URL = "https://huggingface.co/google/mobilenet_v1_0.25_128/resolve/main/"
VALUES = plausible(network("mobilenet_v1", 0.25, 3))


@pytest.fixture
def repository(hosts: Hosts, tmp_path: Path) -> Hosts:
    """The repository; its weights are redirected to, as large files are there."""
    folder = hugging_face(tmp_path / "made", VALUES, image_size=128)
    for file in folder.iterdir():
        hosts.answers[URL + file.name] = file.read_bytes()
    hosts.answers[f"{hosts.url}/large"] = hosts.answers[f"{URL}model.safetensors"]
    hosts.answers[f"{URL}model.safetensors"] = f"{hosts.url}/large"
    return hosts


def test_it_is_fetched_once(repository: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    model = mobilenets.load(NAME)
    assert (model.variant.name, model.num_classes) == ("mobilenet_v1_025_128", 3)
    for name, variable in model.slim_variables.items():
        np.testing.assert_array_equal(variable.numpy(), VALUES[name])
    files = ["config.json", "preprocessor_config.json", "model.safetensors"]
    assert repository.asked == [*(URL + file for file in files), f"{repository.url}/large"]
    repository.asked.clear()
    assert mobilenets.load(f"{NAME}/").variant == model.variant
    monkeypatch.setenv("MOBILENETS_OFFLINE", "1")
    assert mobilenets.load(NAME).variant == model.variant
    assert repository.asked == []


@pytest.mark.slow
def test_the_tool_takes_it(
    repository: Hosts, command: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    code, out, err = command("inspect", NAME, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    url = f"{URL}model.safetensors"
    assert found["from"] == {"what": "Hugging Face repository", "url": url}
    body = repository.answers[f"{repository.url}/large"]
    assert isinstance(body, bytes)
    assert (found["sha256"], found["hash"]) == (hashlib.sha256(body).hexdigest(), "first use")
    output = tmp_path / "models"
    arguments = ("checkpoint", NAME, "--output", output, "--kind", "feature_vector", "--json")
    code, out, err = command(*arguments)
    assert (code, err) == (0, "")
    assert json.loads(out)[0]["parity"]["source"] == NAME
    code, _, err = command("verify", output / "mobilenet_v1_025_128" / "feature_vector")
    assert (code, err) == (0, "")


def test_how_images_are_scaled_counts(repository: Hosts) -> None:
    repository.answers[f"{URL}preprocessor_config.json"] = b'{"image_mean": 0.4}'
    with pytest.raises(WeightsError, match=r"takes other images .* 0\.4 instead of 0\.5"):
        mobilenets.load(NAME)


def test_a_preprocessor_that_cannot_be_fetched_is_no_absent_one(repository: Hosts) -> None:
    repository.answers[f"{URL}preprocessor_config.json"] = 403
    with pytest.raises(FetchError, match=r"preprocessor_config\.json: HTTP status 403"):
        mobilenets.load(NAME)


@pytest.mark.parametrize("lacking", ["config.json", "model.safetensors"])
def test_a_repository_that_lacks_a_file(repository: Hosts, lacking: str) -> None:
    del repository.answers[URL + lacking]
    message = rf"\A[^\n]*{URL}{lacking}: HTTP status 404 [^\n]*; a repository needs [^\n]*\Z"
    with pytest.raises(FetchError, match=message):
        mobilenets.load(NAME)


@pytest.mark.parametrize("status", [401, 403])
def test_one_that_is_closed(repository: Hosts, status: int) -> None:
    repository.answers[f"{URL}config.json"] = status
    with pytest.raises(FetchError, match=rf"config\.json: HTTP status {status} \w+$"):
        mobilenets.load(NAME)


@pytest.mark.parametrize("name", ["hf://", "hf://a", "hf://a/b/c", "hf://../..", "hf://a/b?x"])
def test_no_repository(hosts: Hosts, name: str) -> None:
    for function in (mobilenets.load, mobilenets.weights.open(name).__enter__):
        with pytest.raises(FetchError, match="names no repository: expected hf://<owner>/<name>"):
            function(*[name] if function is mobilenets.load else [])
    assert not fetching.cache().exists()
