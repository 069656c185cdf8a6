"""The page docs/litert.md: LiteRT models of real weights, compared with their modules.

    python -m tools.litert_page MODULE… --images DIR

rewrites the table and what is before it; what follows the table stays. It needs weights and
photographs that are not part of the project, and measures the speed of the machine at hand, so no
test checks that the page is current.
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
from convert.export.litert_run import RUNS, LiteModel, Outputs, lite_outputs, source_outputs
from convert.files import load_images, write_text
from mobilenets import MobileNet

from .comparison import (
    COLUMNS,
    EXPLAINED,
    Photographs,
    calibration,
    cells,
    loaded,
    module_cells,
    photographs,
)
from .markdown_page import END, after_the_table, reported, row, shown

__all__ = ["page"]

_PAGE = Path(__file__).resolve().parents[1] / "docs" / "litert.md"
_TEXT = """# LiteRT models of the published weights

Made by `python -m tools.litert_page MODULE… --images DIR`
with ai-edge-litert {litert}, TensorFlow {tensorflow} and Python {python}, on {count} photographs
of {classes} ImageNet classes at the evaluation crop, one at a time on one thread of
{machine}, with XNNPACK.

{explained}
- ms: for one image, the median of {runs} runs.
- XNNPACK: whether XNNPACK computes all of the model.

`int8` is calibrated on {calibrated} photographs of one half and compared on the other half, and
vice versa: calibration and comparison never share a photograph. Quantops modules become `uint8`.
Modules without classes have a cosine alone.

"""
_HEADER = ("weights", "precision", "kB", *COLUMNS, "ms", "XNNPACK")


def page(sources: Sequence[str], photos: Photographs) -> Iterator[str]:
    """The page's lines up to the end of the table, each as soon as it is known.

    Args:
      sources: What `mobilenets.load` takes.
      photos: Four or more.

    Raises:
      ConvertError: A module or an image cannot be read.
    """
    yield from _TEXT.format(
        litert=version("ai-edge-litert"),
        tensorflow=version("tensorflow"),
        python=platform.python_version(),
        count=len(photos.paths),
        classes=len(np.unique(photos.labels)),
        machine=f"{platform.machine()} ({_processor()})",
        explained=EXPLAINED,
        runs=RUNS,
        calibrated=len(calibration(np.arange(len(photos.paths))[0::2])),
    ).splitlines()
    yield row(_HEADER)
    yield f"| --- | --- |{' ---: |' * (len(_HEADER) - 3)} --- |"
    for name, model in loaded(sources):
        images = load_images(photos.paths, model.variant.image_size)
        wanted = source_outputs(model, images)
        yield row((name, "module", "", *module_cells(model, wanted, photos.labels), "", ""))
        for precision in ("uint8",) if model.variant.quantized else FLOAT_PRECISIONS:
            content, found = _made(model, precision, images)
            lite = LiteModel(content)
            yield row(
                (
                    name,
                    precision,
                    f"{len(content) / 1e3:,.0f}",
                    *cells(model, found, wanted, photos.labels),
                    f"{lite.latency():.2f}",
                    "all" if lite.in_xnnpack else "in part",
                )
            )
    yield END


def _made(model: MobileNet, precision: str, images: np.ndarray) -> tuple[bytes, Outputs]:
    """A LiteRT model, and what models of its kind say of images that they do not know."""
    logits = model.num_classes is not None
    if precision != "int8":
        content = integer_model(model) if precision == "uint8" else float_model(model, precision)
        return content, lite_outputs(content, images, logits=logits)
    contents, found = [], []
    for half, other in ((0, 1), (1, 0)):
        known = calibration(images[half::2])
        contents.append(float_model(model, precision, images=known))
        found.append(lite_outputs(contents[-1], images[other::2], logits=logits))
    joined = Outputs(*(np.empty((len(images), each.shape[1])) for each in vars(found[0]).values()))
    for outputs, other in zip(found, (1, 0), strict=True):
        joined.scores[other::2], joined.features[other::2] = outputs.scores, outputs.features
    return contents[0], joined


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

    def make() -> None:
        photos = photographs(options.images)
        if len(photos.paths) < 4:
            raise ConvertError(f"{options.images}: fewer than four photographs in it")
        text = "".join(f"{line}\n" for line in shown(page(options.modules, photos)))
        write_text(options.output, text + after_the_table(options.output))

    return reported(make)


if __name__ == "__main__":
    sys.exit(_main())
