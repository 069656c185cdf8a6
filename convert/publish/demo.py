"""The demo of a classification: LiteRT for the web beside the site, and the module's own model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConvertError
from ..files import written_beside
from .archives import sha256

__all__ = ["Model", "model", "runtime"]

# What a page loads, and the licence's statement; in the site's folder, and in `node_modules`. The
# two builds are for browsers with and without relaxed SIMD.
_RUNTIME = {
    "core/index.js": "@litertjs/core/dist/index.js",
    "core/package.json": "@litertjs/core/package.json",
    "wasm-utils/index.js": "@litertjs/wasm-utils/dist/index.js",
    "wasm-utils/package.json": "@litertjs/wasm-utils/package.json",
    **{
        f"wasm/litert_wasm_{build}.{end}": f"@litertjs/core/wasm/litert_wasm_{build}.{end}"
        for build in ("internal", "compat_internal")
        for end in ("js", "wasm")
    },
}


@dataclass(frozen=True)
class Model:
    """A LiteRT model that a page offers; all files are beside the module's archive.

    Attributes:
      file: Name of the `.tflite`.
      bytes: Its size.
      dtype: Type of its input, `"float32"` or `"uint8"`.
      description: Name of the JSON file with what the page has to know of it.
      labels: Name of the file of class names; None where they are not known.
    """

    file: str
    bytes: int
    dtype: str
    description: str
    labels: str | None


def runtime(packages: Path) -> dict[str, Path]:
    """The files of LiteRT for the web by the names that the pages know.

    Args:
      packages: A folder where npm has installed `@litertjs/core`.

    Raises:
      ConvertError: The folder lacks a file.
    """
    modules = packages / "node_modules"
    found = {name: modules / path for name, path in _RUNTIME.items()}
    missing = [path for path in found.values() if not path.is_file()]
    if missing:
        raise ConvertError(
            f"{missing[0]} is missing: install LiteRT for the web with "
            f"`npm install --prefix {packages} @litertjs/core`",
            "demo",
        )
    return found


def model(archive: Path, archive_sha256: str) -> Model:
    """Writes the LiteRT model of a published classification beside its archive.

    Files that were made of the same archive stay as they are.

    Args:
      archive: The module, such as `1.tar.gz`. The model is `1.tflite`, with uint8 input and output
        for a quantized module and float32 for others, as `convert.export` makes it, but of one
        image: LiteRT for the web runs no model with a free batch size.
      archive_sha256: The archive's SHA-256.

    Raises:
      ConvertError: The archive cannot be read, or the files cannot be written.
    """
    file = archive.with_name(f"{archive.name.removesuffix('.tar.gz')}.tflite")
    description = archive.with_name(f"{file.name}.json")
    written = _description(description)
    same = written.get("archive_sha256") == archive_sha256 and file.is_file()
    if not same or sha256(file) != written["sha256"]:
        with written_beside(description) as folder:
            new = folder / file.name
            written = _exported(archive, new)
            written |= {"archive_sha256": archive_sha256, "sha256": sha256(new)}
            text = json.dumps(written, indent=1, ensure_ascii=False)
            (folder / description.name).write_text(f"{text}\n", encoding="utf-8")
    return Model(
        file=file.name,
        bytes=written["bytes"],
        dtype=written["input"]["dtype"],
        description=description.name,
        labels=f"{file.name}.labels.txt" if written["classes"] else None,
    )


def _description(path: Path) -> dict[str, Any]:
    """What an earlier run wrote; empty if there is none that can be read."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _exported(archive: Path, file: Path) -> dict[str, Any]:
    """Writes the model and the names of its classes; what the page has to know of it."""
    from ..export import litert_float, litert_quantops
    from ..export.litert_graph import LiteGraph
    from ..export.litert_source import opened

    source = opened(archive)
    dtype, output = "float32", {"scale": 1.0, "zero_point": 0}
    if source.scheme:
        integer = litert_quantops.export(source, file, interface="uint8")
        dtype, output = "uint8", {"scale": integer.scale, "zero_point": integer.zero_point}
    else:
        litert_float.export(source, file)
    graph = LiteGraph(file.read_bytes())
    graph.fix_batch()
    file.write_bytes(graph.packed())
    return {
        "file": file.name,
        "bytes": file.stat().st_size,
        "image_size": source.image_size,
        "input": {"dtype": dtype},
        "output": output,
        "classes": source.class_names,
    }
