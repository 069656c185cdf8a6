"""A small published folder: archives that hold a card and nothing else, and their index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from convert.publish.archives import pack, sha256
from convert.publish.cards import SITE
from convert.publish.index import Entry, File, Index
from mobilenets.published import KINDS, archives
from mobilenets.variants import VARIANTS

__all__ = ["CARD", "all_published", "module"]

CARD = """---
license: apache-2.0
---
# {name}/{kind}

A network.

## Use

```python
import tensorflow_hub as hub

layer = hub.KerasLayer("{site}/{path}", trainable=True)
```

| what | how |
| --- | --- |
| input | RGB in [0, 1] |
"""


def module(
    site: Path, name: str, kind: str, version: int = 1, card: str = CARD, **more: Any
) -> Entry:
    """An entry of the index, its archive written."""
    path = f"{name}/{kind}/{version}.tar.gz"
    for field, value in {"name": name, "kind": kind, "path": path, "site": SITE}.items():
        card = card.replace(f"{{{field}}}", value)
    target = site / path
    target.parent.mkdir(parents=True, exist_ok=True)
    pack({"README.md": card.encode()}, target)
    files = (
        File("saved_model.pb", 1234567, "0" * 64),
        File("variables/variables.index", 5, "1" * 64),
    )
    known: dict[str, Any] = {
        "name": name,
        "kind": kind,
        "version": version,
        "path": path,
        "bytes": target.stat().st_size,
        "sha256": sha256(target),
        "image_size": 128,
        "classes": 1001 if kind == "classification" else None,
        "features": 256,
        "quantized": name.endswith("/quantops"),
        "files": files,
        "endpoints": (),
        **dict.fromkeys(("million_macs", "million_parameters", "top1", "top5")),
        **dict.fromkeys(("source", "parity")),
    }
    return Entry(**{**known, **more})


def all_published(site: Path) -> Index:
    """Both modules of each of the 54 published variants."""
    rows = archives()
    return Index(
        tuple(
            module(
                site,
                variant.name,
                kind,
                image_size=variant.image_size,
                features=int(1024 * variant.depth_multiplier),
                bytes=int(1e6 * rows[variant.name].million_parameters * 4),
                **{
                    key: getattr(rows[variant.name], key)
                    for key in ("million_macs", "million_parameters", "top1", "top5")
                },
            )
            for variant in VARIANTS
            for kind in KINDS
        )
    )
