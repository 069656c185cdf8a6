"""Converts a checkpoint to modules: writes them, verifies them, renames them into place."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobilenets import Variant, fetching, published, saved_model
from mobilenets.loading import check_module
from mobilenets.published import Source
from mobilenets.saved_model import FORMAT
from mobilenets.weights import Weights
from mobilenets.weights import open as open_weights
from mobilenets.writing import written_beside

from . import verify
from .choices import KINDS
from .errors import ConvertError
from .labels import read_labels

__all__ = ["KINDS", "Conversion", "convert", "place", "verify_module"]

PARITY = "parity.json"
_SERVING = "serving"
# What it says of a module's making.
_MADE_FROM = ("format", "source", "fingerprint", "variant", "weights", "kind", "class_names")


@dataclass(frozen=True)
class Conversion:
    """One module that was written or existed already.

    Attributes:
      variant: Hub name.
      kind: `"feature_vector"` or `"classification"`.
      directory: The module's folder.
      written: False if the same checkpoint had been converted before.
      parity: The contents of `parity.json`.
    """

    variant: str
    kind: str
    directory: str
    written: bool
    parity: dict[str, Any]


def convert(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    variant: str | None = None,
    image_size: int | None = None,
    kinds: Sequence[str] | None = None,
    weights: str = "auto",
    labels: str | os.PathLike[str] | None = None,
    serving: bool = False,
    fetched_from: Source | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> list[Conversion]:
    """Converts a checkpoint to `output/<hub name>/<kind>`.

    Args:
      source: What `mobilenets.weights.open` opens.
      output: Folder of modules; made if absent.
      variant: Hub or Slim name; None reads it from the file name or the shapes.
      image_size: In pixels, if the checkpoint's name does not tell; None takes the name's.
      kinds: Of `KINDS`; None writes all that the checkpoint allows.
      weights: `"raw"`, `"averages"`, or `"auto"` for what the published modules hold.
      labels: Text file of class names, see `labels.read_labels`; None takes the source's, or
        ImageNet's for 1001 classes.
      serving: Whether to write modules for serving, see `mobilenets.save`: to
        `output/<hub name>/<kind>-serving`.
      fetched_from: The place of a source that is a file in the cache; None if `source` says it.
      report: Called with a line on each step and on what was left out.

    Raises:
      MobileNetError: The checkpoint cannot be converted; nothing is left of the failed module.
    """
    with open_weights(source, weights) as found:
        network = found.variant(variant, image_size)
        wanted = list(kinds or KINDS)
        if found.num_classes is None and "classification" in wanted:
            if wanted == ["classification"]:
                raise ConvertError(
                    f"{found.source} has no logits: it converts only to a feature_vector"
                )
            wanted.remove("classification")
        names = found.class_names
        if labels is not None:
            if "classification" not in wanted or found.num_classes is None:
                raise ConvertError(
                    "labels need a classification module, but only a feature vector is being made"
                )
            names = read_labels(labels, found.num_classes)

        origin = {
            "format": FORMAT,
            "source": found.source if "://" in found.source else str(Path(found.source).resolve()),
            "fingerprint": found.fingerprint,
            "variant": network.name,
            "weights": "averages" if found.averaged else "raw",
        }
        needed: tuple[verify.Original, saved_model.Writer] | None = None
        conversions = []
        for kind in wanted:
            classified = kind == "classification"
            made_from = {
                **origin,
                "kind": kind,
                "class_names": list(names or ()) if classified else [],
                **({_SERVING: True} if serving else {}),
            }
            directory = Path(output) / network.name / (f"{kind}-serving" if serving else kind)
            parity = _already(directory, made_from)
            written = parity is None
            if parity is None:
                if needed is None:
                    report(f"{network.name}: reading {found.source}")
                    values = found.values(network)
                    arguments: dict[str, Any] = {"variant": network, **found.settings}
                    if "classification" in wanted:
                        arguments |= {"num_classes": found.num_classes, "class_names": names}
                    needed = (
                        verify.Original(network, values, found.num_classes),
                        saved_model.Writer(arguments, values, trainable=not serving),
                    )
                report(f"{network.name}/{kind}: writing")
                recorded = {**made_from, "origin": _origin(found, fetched_from)}
                parity = _write(*needed, directory, recorded, report)
            conversions.append(Conversion(network.name, kind, str(directory), written, parity))
        return conversions


def _origin(found: Weights, place: Source | None) -> dict[str, str]:
    """What the weights were read from; the same wherever the file lies on this machine."""
    path = Path(found.origin.file if found.origin else found.source)
    sha256 = fetching.sha256(path) if path.is_file() else found.fingerprint
    for archive in published.archives().values():
        if archive.sha256 == sha256:
            return {"what": "TF-Slim archive", "url": archive.url, "sha256": sha256}
    if place is None and found.origin:
        place = found.origin.source
    if place and "://" in place.url:
        return {"what": place.what, "url": place.url, "sha256": sha256}
    what = "file" if path.is_file() else "checkpoint"
    return {"what": what, "file": path.name, "sha256": sha256}


def place(
    modules: Mapping[str, str | os.PathLike[str]], output: str | os.PathLike[str], variant: str
) -> list[Conversion]:
    """Puts modules that were converted elsewhere to `output/<hub name>/<kind>`, as they are.

    Args:
      modules: For each kind the archive of the module.
      output: Folder of modules; made if absent.
      variant: Hub name.

    Raises:
      ConvertError: There is another module already, and nothing was put there; or the folder
        cannot be written.
      MobileNetError: An archive holds another module or none; nothing was put there.
    """
    for kind, archive in modules.items():
        check_module(archive, variant, kind)
    known = {}
    for kind, archive in modules.items():
        directory = Path(output) / variant / kind
        with fetching.local(archive) as folder:
            known[kind] = _parity(folder), _is_there(folder, directory)
    for kind, archive in modules.items():
        if not known[kind][1]:
            try:
                fetching.unpacked(archive, Path(output) / variant / kind)
            except fetching.FetchError as error:
                raise ConvertError(str(error)) from error
    return [
        Conversion(variant, kind, str(Path(output) / variant / kind), not there, parity)
        for kind, (parity, there) in known.items()
    ]


def _is_there(module: Path, directory: Path) -> bool:
    """Whether a module is there already; an error if another one is."""
    if parity := _parity(module):
        return _already(directory, {key: parity.get(key) for key in _MADE_FROM}) is not None
    if not directory.exists() or not any(directory.iterdir()):
        return False
    if _contents(module) != _contents(directory):
        raise ConvertError(
            f"{directory} holds something else than the mirror's module: remove it or choose "
            "another output folder"
        )
    return True


def _contents(folder: Path) -> dict[str, str]:
    """The hash of each file in a folder by its path there."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): fetching.sha256(path) for path in files}


def _parity(directory: Path) -> dict[str, Any]:
    """What the module's `parity.json` says; nothing if there is none that can be read."""
    try:
        parity = json.loads((directory / PARITY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return parity if isinstance(parity, dict) else {}


def _already(directory: Path, made_from: Mapping[str, Any]) -> dict[str, Any] | None:
    """The parity of an existing module; None without one, or if its format is another.

    Raises:
      ConvertError: The folder holds something else, or a module made from another source.
    """
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return None
    parity = _parity(directory)
    # The same checkpoint may have another path now.
    differing = {key for key, value in made_from.items() if parity.get(key) != value} - {"source"}
    if not differing:
        return parity
    if differing == {"format"} and "format" in parity:
        return None
    if not parity:
        raise ConvertError(
            f"{directory} exists and is not a converted module: choose another output folder"
        )
    raise ConvertError(
        f"{directory} was converted from another source ({parity.get('source')}, "
        f"{parity.get('weights')} weights): remove it or choose another output folder"
    )


def _write(
    original: verify.Original,
    writer: saved_model.Writer,
    directory: Path,
    made_from: Mapping[str, Any],
    report: Callable[[str], None],
) -> dict[str, Any]:
    kind = made_from["kind"]
    try:
        with written_beside(directory) as folder:
            beside = folder / directory.name
            writer.write(beside, classes=kind == "classification")
            report(f"{made_from['variant']}/{kind}: verifying")
            compared = original.compare(beside, kind, trainable=not made_from.get(_SERVING))
            parity = {**made_from, **dataclasses.asdict(compared)}
            text = json.dumps(parity, indent=1, ensure_ascii=False)
            (beside / PARITY).write_text(f"{text}\n", encoding="utf-8")
    except OSError as error:
        raise ConvertError(f"{directory} cannot be written: {error.strerror or error}") from error
    finally:
        # A failed variant leaves no empty folder.
        with contextlib.suppress(OSError):
            directory.parent.rmdir()
    return parity


def verify_module(
    directory: str | os.PathLike[str], source: str | os.PathLike[str] | None = None
) -> Conversion:
    """Compares a module with the checkpoint it was converted from, as its conversion did.

    Args:
      directory: The module.
      source: The checkpoint; None takes the source that `parity.json` names.

    Raises:
      MobileNetError: The module or the checkpoint cannot be read, or they differ.
    """
    directory = Path(directory)
    if not directory.exists():
        raise ConvertError(f"{directory}: no such folder")
    parity = _parity(directory)
    if not {"source", "weights", "fingerprint"} <= parity.keys():
        raise ConvertError(f"{directory} is not a converted module: it has no readable {PARITY}")
    with open_weights(source or parity["source"], parity["weights"]) as found:
        if found.fingerprint != parity["fingerprint"]:
            raise ConvertError(
                f"{found.source} is not the checkpoint that {directory} was converted from"
            )
        variant = Variant.parse(parity["variant"])
        original = verify.Original(variant, found.values(variant), found.num_classes)
    compared = original.compare(directory, parity["kind"], trainable=not parity.get(_SERVING))
    parity |= dataclasses.asdict(compared)
    return Conversion(variant.name, parity["kind"], str(directory), False, parity)
