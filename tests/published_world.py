"""Three published variants with random weights, on the hosts where Google's are."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable

import pytest
from local_hosts import Hosts, hosts, tgz  # noqa: F401

from convert.export import slim
from mobilenets import MobileNet, published
from mobilenets.published import Archive

__all__ = ["QUANT", "V1", "V2", "archive", "models", "world"]

V1, V2, QUANT = "mobilenet_v1_025_128", "mobilenet_v2_035_96", "mobilenet_v1_025_128/quantops"


@pytest.fixture(scope="module")
def models(randomise: Callable) -> dict[str, MobileNet]:
    # Random ranges of activations would be none.
    quantized = MobileNet(QUANT, 1001)
    return {name: randomise(MobileNet(name, 1001)) for name in (V1, V2)} | {QUANT: quantized}


@pytest.fixture(scope="module")
def archive(
    models: dict[str, MobileNet], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., bytes]:
    """`archive(name, logits=True)`: the bytes of a `.tgz` of a checkpoint."""

    @functools.cache
    def archive(name: str, logits: bool = True) -> bytes:
        slim_name = published.archives()[name].slim_name
        folder = tmp_path_factory.mktemp("slim")
        model = models[name] if logits else models[name].with_classes(None)
        slim.export(model, folder / f"{slim_name}.ckpt")
        return tgz(folder)

    return archive


@pytest.fixture
def world(
    hosts: Hosts,  # noqa: F811
    archive: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> Hosts:
    """Google's archives of all three, with their hashes in the table."""
    table = dict(published.archives())
    for name in (V1, V2, QUANT):
        body = archive(name)
        row = vars(table[name]) | {"sha256": hashlib.sha256(body).hexdigest()}
        table[name] = Archive(**row)
        hosts.answers[table[name].url] = body
    monkeypatch.setattr(published, "archives", lambda: table)
    return hosts
