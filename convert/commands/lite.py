"""`lite`: a LiteRT model of a module or classifier."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .. import console
from ..choices import INTERFACES, PRECISIONS
from ..errors import ConvertError
from ..image_files import given_images
from . import _arguments

if TYPE_CHECKING:
    from ..export.litert import LiteRTExport
    from ..export.litert_source import Inference

HELP = "export a module, or a classifier built on a module, as a LiteRT model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "module",
        metavar="MODULE",
        help="a module's folder, anything else that mobilenets.load takes, or a classifier built "
        "on a module (a SavedModel's folder or a .keras file)",
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="FILE", help="the .tflite file to write"
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="precision of a float module's model (default: float32); a quantized module's is the "
        "one that it simulates",
    )
    parser.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="calibration images (searched recursively); required for int8 of float modules, "
        "optional for classifiers on quantized ones",
    )
    parser.add_argument(
        "--image-size",
        type=int,
        metavar="PIXELS",
        help="image size of the model (default: the module's own)",
    )
    parser.add_argument(
        "--input-output",
        dest="interface",
        choices=INTERFACES,
        help="input and output type of an int8 model (default: float32); uint8 input is raw pixels",
    )
    parser.add_argument(
        "--report",
        nargs="?",
        type=Path,
        const=True,
        metavar="DIR",
        help="compare model and module on the images in DIR (default: --images): agreement, "
        "latency, XNNPACK coverage",
    )
    _arguments.json(parser)


def run(options: argparse.Namespace) -> int:
    images = None if options.images is None else given_images(options.images, "images")
    compared = _compared(options, images)
    with console.status("loading TensorFlow") as status:
        from .. import quiet  # noqa: F401  # before anything loads TensorFlow
        from ..export.litert_source import opened

        status.update(f"reading {console.plain(options.module)}")
        source = opened(options.module, options.image_size)
        scheme = source.scheme
    (_integer if scheme else _float)(options, source, images, compared)
    return 0


def _compared(options: argparse.Namespace, images: Sequence[Path] | None) -> Sequence[Path] | None:
    """The image files to compare on."""
    if options.report is True:
        if images is None:
            raise ConvertError("--report needs images to compare on: --report DIR or --images DIR")
        return images
    return given_images(options.report, "report") if options.report else None


def _float(
    options: argparse.Namespace,
    source: Inference,
    images: Sequence[Path] | None,
    compared: Sequence[Path] | None,
) -> None:
    if options.precision == "uint8":
        raise ConvertError(
            f"{options.module} is a float module, and only quantops modules become uint8; "
            "use --precision int8 --images DIR"
        )
    if images and options.precision != "int8" and compared is not images:
        raise ConvertError(
            "--images needs --precision int8 (to calibrate) or --report (to compare)"
        )
    with console.status(f"converting {options.module}"):
        from ..export.litert_float import export

        done = export(
            source,
            options.output,
            options.precision or "float32",
            images=images,
            interface=options.interface or "float32",
            compared=compared,
        )
    if options.json:
        console.print_json(done)
        return
    row = {
        "file": done.path,
        "bytes>": f"{done.bytes:,}",
        "precision": done.precision,
        "input": f"{done.interface} {done.image_size} px",
    }
    _print(options, done, row)
    if done.calibrated:
        same = ", which are also compared" if compared is images else ""
        console.say(
            f"Activation ranges were calibrated on {done.calibrated} images in {{}}{same}.",
            options.images,
        )


def _integer(
    options: argparse.Namespace,
    source: Inference,
    images: Sequence[Path] | None,
    compared: Sequence[Path] | None,
) -> None:
    if source.scheme == "uint8":
        for asked in (options.precision, options.interface):
            if asked not in (None, "uint8"):
                raise ConvertError(
                    f"{options.module} is quantized: its LiteRT model is uint8 throughout, not "
                    f"{asked}; omit --precision and --input-output"
                )
    elif options.precision not in (None, "int8"):
        raise ConvertError(
            f"{options.module} is quantized: its LiteRT model is int8, not {options.precision}; "
            "omit --precision"
        )
    with console.status(f"converting {options.module}"):
        from ..export.litert_quantops import export

        done = export(
            source,
            options.output,
            images=images,
            interface=options.interface,
            compared=compared,
        )
    if options.json:
        console.print_json(done)
        return
    row = {
        "file": done.path,
        "bytes>": f"{done.bytes:,}",
        "precision": done.precision,
        "input": f"{done.interface} {done.image_size} px",
        "output = scale * (q - zero)": f"{done.scale:.6g} * (q - {done.zero_point})",
    }
    if done.interface == "float32":
        del row["output = scale * (q - zero)"]
    if compared is None:
        if done.agreement is not None:
            row["top-1 equal>"] = f"{done.agreement:.1%}"
        row["steps>"] = f"{done.difference:.2f}"
    _print(options, done, row)
    if compared is None:
        what = "images" if options.images else "patterns"
        console.say(
            "Compared with {} on {} {}; steps: mean difference of the outputs, in 8-bit steps.",
            *(options.module, done.images, what),
        )
    if done.ranges == "bounds":
        console.say(
            "The layer after the module has a worst-case range; --images gives a tighter range."
        )


def _print(options: argparse.Namespace, done: LiteRTExport, row: dict[str, str]) -> None:
    """Prints the table of a written model, and its comparison with the source."""
    found = done.comparison
    if found:
        row |= {
            "top-1 equal>": console.figure(found.top1, ".1%"),
            "cosine>": f"{found.cosine:.5f}",
            "difference>": f"{found.difference:.1e}",
            "ms>": f"{found.milliseconds:.2f}",
            "XNNPACK": "all" if found.in_xnnpack else "in part",
        }
    table = console.table(*row)
    table.add_row(*map(console.plain, row.values()))
    console.print_table(table)
    if found:
        console.say(
            "Compared with {} on {} images; cosine: the lowest of the features; difference: the "
            "largest of a probability (without classes: of a feature); ms: for one image on one "
            "thread.",
            *(options.module, found.images),
        )
    if done.labels:
        console.say("Class names: {}", done.labels)
