"""The modules in a folder, and what is known about each."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mobilenets import Variant, architecture, published, saved_model

from ..errors import ConvertError
from ..verify import Parity
from .index import Endpoint, Entry

__all__ = ["PARITY", "Module", "endpoints", "find"]

PARITY = "parity.json"
_IMAGENET = 1001
# Without one of these a folder is no module.
_NEEDED = ("saved_model.pb", "variables/variables.index")


@dataclass(frozen=True)
class Module:
    """A module's folder.

    Attributes:
      folder: The folder.
      variant: The network.
      classes: Length of the logits; None for a feature vector.
    """

    folder: Path
    variant: Variant
    classes: int | None

    @property
    def kind(self) -> str:
        """One of `published.KINDS`."""
        return "feature_vector" if self.classes is None else "classification"

    @cached_property
    def record(self) -> dict[str, Any]:
        """What the conversion recorded, without this machine's paths; empty without one."""
        try:
            record = json.loads((self.folder / PARITY).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise ConvertError(
                f"{self.folder / PARITY} cannot be read: convert the module again"
            ) from error
        if origin := record.get("origin"):
            record["source"] = origin.get("url") or origin["file"]
        return record

    def files(self) -> dict[str, Path | bytes]:
        """What is published of the folder, by path in it; hidden files are not."""
        found: dict[str, Path | bytes] = {}
        for path in self.folder.rglob("*"):
            inside = path.relative_to(self.folder)
            if path.is_file() and not any(part.startswith(".") for part in inside.parts):
                found[inside.as_posix()] = path
        if self.record:
            text = json.dumps(self.record, indent=1, ensure_ascii=False)
            found[PARITY] = f"{text}\n".encode()
        return found

    def entry(self, version: int) -> Entry:
        """All of the module's entry in the index but for the archive's files, size and hash."""
        name = self.variant.name
        archive = published.archives().get(name)
        if self.classes not in (None, _IMAGENET):
            archive = None
        accurate = archive if archive and self._is_published(archive) else None
        parity = {field.name: self.record.get(field.name) for field in dataclasses.fields(Parity)}
        return Entry(
            name=name,
            kind=self.kind,
            version=version,
            path=f"{name}/{self.kind}/{version}.tar.gz",
            bytes=0,
            sha256="",
            image_size=self.variant.image_size,
            classes=self.classes,
            features=architecture.num_features(self.variant),
            million_macs=archive.million_macs if archive else None,
            million_parameters=archive.million_parameters if archive else None,
            top1=accurate.top1 if accurate else None,
            top5=accurate.top5 if accurate else None,
            quantized=bool(self.variant.quantized),
            source=self.record.get("origin"),
            parity=parity if self.record else None,
            files=(),
            endpoints=endpoints(self.variant, self.classes),
        )

    def _is_published(self, archive: published.Archive) -> bool:
        """Whether the weights are those that Google published, as far as their source proves it.

        The archive is known by its hash; a module of Google's by its URL, which the converter
        records only of what it fetched from there.
        """
        origin = self.record.get("origin") or {}
        if origin.get("url") in published.hub_modules(archive.name):
            return True
        averages = architecture.averages(self.variant.family)
        exported = "averages" if averages else "raw"
        return origin.get("sha256") == archive.sha256 and self.record.get("weights") == exported


def find(folder: Path) -> list[Module]:
    """The modules in a folder and its subfolders, sorted by name and kind.

    Raises:
      ConvertError: There is none, or one that cannot be published, or two of one name.
    """
    if not folder.is_dir():
        raise ConvertError(f"{folder}: no such folder")
    places = [folder, *(path for path in sorted(folder.rglob("*")) if path.is_dir())]
    found: dict[tuple[str, str], Module] = {}
    for place in places:
        if any(part.startswith(".") for part in place.relative_to(folder).parts):
            continue
        # A site holds what users load and train; a module for serving is made from it.
        if not saved_model.is_module(place) or saved_model.is_serving(place):
            continue
        module = _module(place)
        key = module.variant.name, module.kind
        if key in found:
            raise ConvertError(
                f"{place} and {found[key].folder} are both {'/'.join(key)}: publish one of them"
            )
        found[key] = module
    if not found:
        raise ConvertError(
            f"{folder} holds no modules: make some with `checkpoint` or `all`, or mobilenets.save"
        )
    return [found[key] for key in sorted(found)]


def _module(folder: Path) -> Module:
    for name in _NEEDED:
        if not (folder / name).is_file():
            raise ConvertError(f"{folder} is no whole module: {name} is missing; convert it again")
    if (folder / "fingerprint.pb").exists():
        raise ConvertError(f"{folder} was written by an earlier version: convert it again")
    try:
        config = saved_model.config(folder)
        names = config["class_names"]
        classes = config["num_classes"] if names is None else len(names)
        return Module(folder, Variant(**config["variant"]), classes)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConvertError(f"{folder} holds a damaged configuration: convert it again") from error


def endpoints(variant: Variant, classes: int | None) -> tuple[Endpoint, ...]:
    """The endpoints of a network for one image of the variant's size.

    Args:
      variant: The network.
      classes: Length of the logits; None for a feature vector.
    """
    size, channels = variant.image_size, 3
    shapes: dict[str, tuple[int, ...]] = {}
    for row in architecture.rows(variant):
        activations: dict[str, tuple[int, ...]] = {}
        for each in row.convolutions(channels):
            # SAME padding.
            size = -(-size // each.strides)
            channels = each.filters or channels
            activations[each.endpoint] = (1, size, size, channels)
        shapes |= row.endpoints(activations)
    shapes["global_pool"] = (1, 1, 1, channels)
    if classes is not None:
        shapes |= {"Logits": (1, classes), "Predictions": (1, classes)}
    scope = architecture.scope(variant.family)
    return tuple(Endpoint(f"{scope}/{name}", shape) for name, shape in shapes.items())
