"""One checkpoint in, its modules out: written, verified, then renamed into place."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convert import verify
from convert.checkpoint import identify, num_classes, open_source, select
from convert.errors import ConvertError
from mobilenets import MobileNet, Variant, images, mapping, save

__all__ = ["KINDS", "Conversion", "convert", "verify_module"]

KINDS = ("feature_vector", "classification")
PARITY = "parity.json"
# Part of what a module is made from: a change in how modules are written raises it.
_FORMAT = 1
_IMAGENET_CLASSES = 1001


@dataclass(frozen=True)
class Conversion:
    """One module that was written, or was there already.

    Attributes:
      variant: Hub name.
      kind: `"feature_vector"` or `"classification"`.
      directory: Where it is.
      written: False if the same checkpoint had been converted before.
      parity: What `parity.json` says, as a dict.
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
    report: Callable[[str], None] = lambda line: None,
) -> list[Conversion]:
    """Converts a checkpoint to `output/<hub name>/<kind>`.

    Args:
      source: What `checkpoint.open_source` opens.
      output: Folder of modules; made if absent.
      variant: Hub or Slim name; None reads it from the file name or the shapes.
      image_size: In pixels, where the checkpoint's name does not say; None takes the name's.
      kinds: Of `KINDS`; None writes all that the checkpoint allows.
      weights: `"raw"`, `"averages"`, or `"auto"` for what the published modules hold.
      labels: Text file with a class name a line; None takes ImageNet's for 1001 classes.
      report: Told in a line what is being done, and what was left out.

    Raises:
      ConvertError: The checkpoint cannot be converted; nothing of the module at fault is left.
    """
    with open_source(source) as checkpoint:
        selection = select(checkpoint, weights)
        found = identify(checkpoint, selection, variant=variant, image_size=image_size)
        classes = num_classes(checkpoint, selection)
        wanted = list(kinds or KINDS)
        if classes is None and "classification" in wanted:
            if wanted == ["classification"]:
                raise ConvertError(
                    f"{checkpoint.source} has no logits: it converts to a feature_vector alone"
                )
            wanted.remove("classification")
        names = None
        if "classification" in wanted:
            names = _class_names(labels, classes)
        elif labels is not None:
            raise ConvertError("--labels names the classes of a classification, and none is made")

        origin = {
            "format": _FORMAT,
            "source": str(Path(source).resolve()),
            "fingerprint": checkpoint.fingerprint,
            "variant": found.name,
            "weights": "averages" if selection.averaged else "raw",
        }
        values: dict[str, np.ndarray] | None = None
        conversions = []
        for kind in wanted:
            classified = kind == "classification"
            made_from = {
                **origin,
                "kind": kind,
                "class_names": list(names or ()) if classified else [],
            }
            directory = Path(output) / found.name / kind
            parity = _already(directory, made_from)
            written = parity is None
            if parity is None:
                if values is None:
                    report(f"{found.name}: reading {checkpoint.source}")
                    values = mapping.read(checkpoint, selection, found, classes)
                report(f"{found.name}/{kind}: writing")
                model = MobileNet(
                    found, classes if classified else None, names if classified else None
                )
                parity = _write(model, values, directory, made_from, report)
            conversions.append(Conversion(found.name, kind, str(directory), written, parity))
        return conversions


def _class_names(
    labels: str | os.PathLike[str] | None, classes: int | None
) -> tuple[str, ...] | None:
    if labels is None:
        return images.class_names() if classes == _IMAGENET_CLASSES else None
    try:
        names = tuple(Path(labels).read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise ConvertError(f"--labels {labels} cannot be read: {error}") from error
    if len(names) != classes:
        raise ConvertError(
            f"--labels {labels} has {len(names)} lines, but the checkpoint has {classes} classes"
        )
    return names


def _already(directory: Path, made_from: Mapping[str, Any]) -> dict[str, Any] | None:
    """What is known of the module if it was made from the same; an error if it was not."""
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return None
    try:
        parity = json.loads((directory / PARITY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        parity = {}
    # The same bytes may lie elsewhere today.
    if all(parity.get(key) == value for key, value in made_from.items() if key != "source"):
        return parity
    if not parity:
        raise ConvertError(
            f"{directory} holds something else than a converted module: choose another --output"
        )
    raise ConvertError(
        f"{directory} was converted from something else ({parity.get('source')}, "
        f"{parity.get('weights')} weights): remove it or choose another --output"
    )


def _write(
    model: MobileNet,
    values: Mapping[str, np.ndarray],
    directory: Path,
    made_from: Mapping[str, Any],
    report: Callable[[str], None],
) -> dict[str, Any]:
    mapping.assign(model, values)
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f".{directory.name}.", dir=directory.parent
        ) as temporary:
            beside = Path(temporary) / directory.name
            save(model, beside)
            report(f"{made_from['variant']}/{made_from['kind']}: verifying")
            kept = {name: values[name] for name in model.slim_variables}
            compared = verify.compare(beside, model.variant, kept, model.num_classes)
            parity = {**made_from, **dataclasses.asdict(compared)}
            (beside / PARITY).write_text(json.dumps(parity, indent=1, ensure_ascii=False) + "\n")
            if directory.exists():
                directory.rmdir()
            beside.rename(directory)
    except OSError as error:
        raise ConvertError(f"{directory} cannot be written: {error.strerror or error}") from error
    finally:
        # No empty folder stays where a variant failed.
        with contextlib.suppress(OSError):
            directory.parent.rmdir()
    return parity


def verify_module(
    directory: str | os.PathLike[str], source: str | os.PathLike[str] | None = None
) -> Conversion:
    """Compares a module with the checkpoint it was converted from, as its conversion did.

    Args:
      directory: The module.
      source: The checkpoint; None takes the place that `parity.json` names.

    Raises:
      ConvertError: The module or the checkpoint cannot be read, or they differ.
    """
    directory = Path(directory)
    try:
        parity = json.loads((directory / PARITY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ConvertError(
            f"{directory} is not a converted module: it has no readable {PARITY}"
        ) from None
    with open_source(source or parity["source"]) as checkpoint:
        if checkpoint.fingerprint != parity["fingerprint"]:
            raise ConvertError(
                f"{checkpoint.source} is not the checkpoint that {directory} was converted from"
            )
        selection = select(checkpoint, parity["weights"])
        variant = Variant.parse(parity["variant"])
        classes = num_classes(checkpoint, selection)
        values = mapping.read(checkpoint, selection, variant, classes)
    if parity["kind"] == "feature_vector" and classes is not None:
        classes = None
        names = MobileNet(variant).slim_variables
        values = {name: values[name] for name in names}
    compared = verify.compare(directory, variant, values, classes)
    parity |= dataclasses.asdict(compared)
    return Conversion(variant.name, parity["kind"], str(directory), False, parity)
