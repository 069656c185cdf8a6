"""The page docs/litert.md: LiteRT models of real weights, compared with their modules.

    python -m tools.litert_page MODULE… --images DIR

rewrites it. It needs weights and photographs that are not part of the project, and measures the
speed of the machine at hand, so no test checks that the page is current.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

from convert import quiet  # noqa: F401
from convert.choices import FLOAT_PRECISIONS
from convert.errors import ConvertError
from convert.export.litert_float import float_model
from convert.export.litert_quantops import integer_model
from convert.export.litert_run import RUNS, compare
from convert.files import load_images, load_module, write_text
from convert.image_files import given_images
from mobilenets import MobileNet

__all__ = ["page"]

_PAGE = Path(__file__).resolve().parents[1] / "docs" / "litert.md"
_TEXT = """# LiteRT models of the published weights

Made by `python -m tools.litert_page MODULE… --images DIR`
with ai-edge-litert {litert}, TensorFlow {tensorflow} and Python {python}, on {count} photographs
at the evaluation crop, one at a time on one thread of {machine}, with XNNPACK.

- Top-1: photographs whose most probable class is the module's.
- Cosine: the lowest between the model's features and the module's, over all photographs.
- Probability: the largest difference of a probability, over all classes and photographs.
- ms: for one image, the median of {runs} runs.
- XNNPACK: whether XNNPACK computes all of the model.

`int8` is calibrated on one half of the photographs and compared on the other, and vice versa:
calibration and comparison never share a photograph. Half of these photographs are few for a
calibration: take a hundred. Quantops modules become `uint8`.

"""
_HEADER = ("weights", "precision", "kB", "top-1", "cosine", "probability", "ms", "XNNPACK")


def page(sources: Sequence[str], photos: Sequence[Path]) -> Iterator[str]:
    """The page's lines, each as soon as it is known.

    Args:
      sources: What `mobilenets.load` takes.
      photos: Image files, two or more.

    Raises:
      ConvertError: A module or an image cannot be read.
    """
    yield from _TEXT.format(
        litert=version("ai-edge-litert"),
        tensorflow=version("tensorflow"),
        python=platform.python_version(),
        count=len(photos),
        machine=f"{platform.machine()} ({_processor()})",
        runs=RUNS,
    ).splitlines()
    yield f"| {' | '.join(_HEADER)} |"
    yield f"| --- | --- |{' ---: |' * (len(_HEADER) - 3)} --- |"
    named: set[str] = set()
    for source in sources:
        model = load_module(source)
        name = f"`{model.variant}`"
        if name in named:
            name += f", {Path(source).resolve().parent.name}"
        named.add(name)
        images = load_images(photos, model.variant.image_size)
        for precision in ("uint8",) if model.variant.quantized else FLOAT_PRECISIONS:
            yield f"| {' | '.join((name, precision, *_cells(model, precision, images)))} |"


def _cells(model: MobileNet, precision: str, images: np.ndarray) -> list[str]:
    if precision == "int8":
        halves = (images[0::2], images[1::2])
        contents = [float_model(model, precision, images=half) for half in halves]
        found = [
            compare(content, model, half)
            for content, half in zip(contents, reversed(halves), strict=True)
        ]
    else:
        if precision == "uint8":
            contents = [integer_model(model)]
        else:
            contents = [float_model(model, precision)]
        found = [compare(contents[0], model, images)]
    top1, probability = "", ""
    if model.num_classes is not None:
        same = sum(round(each.images * (each.top1 or 0)) for each in found)
        top1 = f"{same} of {len(images)}"
        probability = f"{max(each.difference for each in found):.1e}"
    return [
        f"{len(contents[0]) / 1e3:,.0f}",
        top1,
        f"{min(each.cosine for each in found):.5f}",
        probability,
        f"{min(each.milliseconds for each in found):.2f}",
        "all" if all(each.in_xnnpack for each in found) else "in part",
    ]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(": ")[2] for line in lines if "model name" in line), "unknown")


def _main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.litert_page", description=__doc__)
    parser.add_argument("modules", nargs="+", metavar="MODULE")
    parser.add_argument("--images", required=True, type=Path, metavar="DIR")
    parser.add_argument("--output", type=Path, default=_PAGE, metavar="FILE")
    options = parser.parse_args(arguments)
    try:
        photos = given_images(options.images, "images")
        if len(photos) < 2:
            raise ConvertError(f"{options.images}: fewer than two images in it")
        lines = []
        for line in page(options.modules, photos):
            print(line, flush=True)
            lines.append(f"{line}\n")
        write_text(options.output, "".join(lines))
    except ConvertError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(_main())
