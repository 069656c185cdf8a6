"""`index.json`: what a site holds. docs/hosting.md describes it for those who read it."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobilenets._version import __version__

from ..errors import ConvertError
from ..files import written_beside

__all__ = ["INDEX", "SCHEMA", "SUMS", "Endpoint", "Entry", "File", "Index"]

SCHEMA = 1
"""Version of the file's format; raised when a reader of this one would go wrong."""

INDEX = "index.json"
SUMS = "SHA256SUMS"


@dataclass(frozen=True)
class File:
    """A file in an archive.

    Attributes:
      path: Its path in the archive.
      bytes: Its size.
      sha256: Its hash, in hexadecimal.
    """

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Endpoint:
    """An activation that a module returns on request.

    Attributes:
      name: The hub's name of it.
      shape: `(1, height, width, channels)` for one image of the module's size; of the last ones of
        a classification `(1, classes)`.
    """

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Entry:
    """One version of a module.

    Attributes:
      name: Hub name of the variant.
      kind: One of `published.KINDS`.
      version: From 1.
      path: Of the archive, relative to the site.
      bytes: Size of the archive.
      sha256: Hash of the archive, in hexadecimal.
      image_size: Height and width in pixels that the network was trained at.
      classes: Length of the logits; None for a feature vector.
      features: Length of the feature vector.
      million_macs: Published multiply-adds for one image with ImageNet's logits, in millions; None
        for a network that was not published.
      million_parameters: Published parameters with ImageNet's logits, in millions; or None.
      top1: Published top-1 accuracy on ImageNet's validation images, in percent; None unless the
        weights are the published ones.
      top5: The same for the five best classes.
      quantized: Whether the network simulates 8-bit quantization.
      source: What the weights were read from, with `what`, `sha256`, and `url` or `file`; None if
        no conversion recorded it.
      parity: How the module compares with a reference, see `verify.Parity`; or None.
      files: Of the archive.
      endpoints: In the network's order.
    """

    name: str
    kind: str
    version: int
    path: str
    bytes: int
    sha256: str
    image_size: int
    classes: int | None
    features: int
    million_macs: int | None
    million_parameters: float | None
    top1: float | None
    top5: float | None
    quantized: bool
    source: dict[str, str] | None
    parity: dict[str, Any] | None
    files: tuple[File, ...]
    endpoints: tuple[Endpoint, ...]

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Entry:
        """The entry of an object in `index.json`; what this version does not know is left out."""
        known = {each.name: value[each.name] for each in dataclasses.fields(cls)}
        known["files"] = tuple(File(**each) for each in value["files"])
        known["endpoints"] = tuple(
            Endpoint(each["name"], tuple(each["shape"])) for each in value["endpoints"]
        )
        return cls(**known)


@dataclass(frozen=True)
class Index:
    """The contents of `index.json`.

    Attributes:
      modules: Every version, sorted by name, kind and version.
      generator: The program that wrote the index.
    """

    modules: tuple[Entry, ...] = ()
    generator: str = f"mobilenets-tf2 {__version__}"

    @classmethod
    def read(cls, site: Path) -> Index:
        """The index of a site; an empty one if the site has none.

        Raises:
          ConvertError: The index cannot be read, or is of another schema.
        """
        path = site / INDEX
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["schema"] != SCHEMA:
                raise ConvertError(
                    f"{path} has schema {found['schema']}, expected {SCHEMA}: publish to another "
                    "folder"
                )
            return cls(tuple(map(Entry.from_json, found["modules"])))
        except FileNotFoundError:
            return cls()
        except OSError as error:
            raise ConvertError(f"{path} cannot be read: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, ConvertError):
                raise
            raise ConvertError(
                f"{path} is no index of modules ({type(error).__name__}): restore it, or publish "
                "to another folder"
            ) from error

    def write(self, site: Path) -> None:
        """Writes the index and `SHA256SUMS`, the index last.

        Raises:
          ConvertError: They cannot be written; older ones stay as they are.
        """
        value = {"schema": SCHEMA, "generator": self.generator}
        modules = [dataclasses.asdict(entry) for entry in self.modules]
        text = json.dumps({**value, "modules": modules}, indent=1, ensure_ascii=False)
        sums = "".join(f"{entry.sha256}  {entry.path}\n" for entry in self.modules)
        with written_beside(site / INDEX) as folder:
            (folder / INDEX).write_text(f"{text}\n", encoding="utf-8")
            (folder / SUMS).write_text(sums, encoding="utf-8")

    def newest(self, name: str, kind: str) -> Entry | None:
        """The last version of a module; None if there is none."""
        return next(
            (each for each in reversed(self.modules) if (each.name, each.kind) == (name, kind)),
            None,
        )

    def having(self, entry: Entry) -> Index:
        """The index with one more entry."""
        modules = [*self.modules, entry]
        modules.sort(key=lambda each: (each.name, each.kind, each.version))
        return dataclasses.replace(self, modules=tuple(modules))
