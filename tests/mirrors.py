"""What a mirror's `index.json` says of archives, as far as the library reads it."""

from __future__ import annotations

import hashlib
import json

__all__ = ["index_of"]


def index_of(archives: dict[str, bytes]) -> str:
    """The index of archives by path, `<hub name>/<kind>/<version>.tar.gz`."""
    modules = []
    for path, body in archives.items():
        name, kind, file = path.rsplit("/", 2)
        version = int(file.removesuffix(".tar.gz"))
        sha256 = hashlib.sha256(body).hexdigest()
        modules.append({"name": name, "kind": kind, "version": version, "sha256": sha256})
    return json.dumps({"schema": 1, "modules": modules})
