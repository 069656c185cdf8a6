"""The page docs/litert.md: LiteRT models of real weights, compared with what they are made of.

    python -m convert.lite_page MODULE… --images DIR

writes it anew. It needs weights and photographs that are not part of the project, and says how
fast the models are on the machine at hand: no test holds that it is fresh.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from convert import quiet  # noqa: F401
from convert.errors import ConvertError
from convert.files import load_module, written_beside
from convert.lite import integer_model
from convert.lite_float import PRECISIONS, float_model
from convert.lite_run import LiteModel, probabilities
from mobilenets import MobileNet
from mobilenets.images import load_batch

__all__ = ["page"]

_PAGE = Path(__file__).resolve().parents[1] / "docs" / "litert.md"
_TEXT = """# LiteRT models of the published weights

Made by `python -m convert.lite_page MODULE… --images DIR`, with {count} photographs at the
evaluation crop, the interpreter of ai-edge-litert with XNNPACK on, and one thread of
{machine}.

- Size: of the classification's file, and of the feature vector's.
- Top-1: photographs with the same most probable class as the module says.
- Probability: the largest difference of one, over all classes and photographs.
- Cosine: between both feature vectors, of the photograph where it is least.
- Time: for one image through the classification (else the feature vector).

`int8` takes the ranges of its activations from half of the photographs and is compared on the
other half, and the other way round: no photograph is compared that was calibrated on.

"""
_HEADER = ("weights", "precision", "kB", "kB, features", "top-1", "probability", "cosine", "ms")


def page(sources: Sequence[str], photos: Sequence[Path]) -> Iterator[str]:
    """The page's lines, each as soon as it is known.

    Args:
      sources: What `mobilenets.load` takes.
      photos: Image files, two or more.

    Raises:
      ConvertError: A module or an image cannot be read.
    """
    machine = f"{platform.machine()} ({_processor()})"
    yield from _TEXT.format(count=len(photos), machine=machine).splitlines()
    yield f"| {' | '.join(_HEADER)} |"
    yield f"| --- | --- |{' ---: |' * (len(_HEADER) - 2)}"
    named: set[str] = set()
    for source in sources:
        model = load_module(source)
        name = f"`{model.variant}`"
        if name in named:
            name += f", {Path(source).resolve().parent.name}"
        named.add(name)
        try:
            images = load_batch(photos, model.variant.image_size).numpy()
        except ValueError as error:
            raise ConvertError(str(error)) from error
        for precision in ("uint8",) if model.variant.quantized else PRECISIONS:
            yield f"| {' | '.join((name, precision, *_cells(model, precision, images)))} |"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(": ")[2] for line in lines if "model name" in line), "unknown")


def _cells(model: MobileNet, precision: str, images: np.ndarray) -> list[str]:
    features = model.with_classes()
    size, found, milliseconds = _run(features, precision, images)
    wanted = features(images, training=False).numpy()
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
    cosine = f"{((found * wanted).sum(1) / lengths).min():.5f}"
    if model.num_classes is None:
        return ["", f"{size / 1e3:,.0f}", "", "", cosine, f"{milliseconds:.2f}"]
    whole, found, milliseconds = _run(model, precision, images)
    found, wanted = probabilities(found), probabilities(model(images, training=False).numpy())
    same = int((found.argmax(1) == wanted.argmax(1)).sum())
    return [
        f"{whole / 1e3:,.0f}",
        f"{size / 1e3:,.0f}",
        f"{same} of {len(images)}",
        f"{np.abs(found - wanted).max():.1e}",
        cosine,
        f"{milliseconds:.2f}",
    ]


def _run(model: MobileNet, precision: str, images: np.ndarray) -> tuple[int, np.ndarray, float]:
    """The file's size in bytes, its outputs for the images, and how long one takes."""
    everything = slice(None)
    folds = [(everything, everything)]
    if precision == "int8":
        folds = [(slice(1, None, 2), slice(0, None, 2)), (slice(0, None, 2), slice(1, None, 2))]
    outputs: dict[int, np.ndarray] = {}
    positions = np.arange(len(images))
    for calibrated, compared in folds:
        if precision == "uint8":
            content = integer_model(model)
        else:
            content = float_model(model, precision, images=images[calibrated])
        running = LiteModel(content)
        for i in positions[compared]:
            (outputs[int(i)],) = running.run(images[i])
    stacked = np.stack([outputs[int(i)] for i in positions])
    return len(content), stacked, running.latency()


def _main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m convert.lite_page", description=__doc__)
    parser.add_argument("modules", nargs="+", metavar="MODULE")
    parser.add_argument("--images", required=True, type=Path, metavar="DIR")
    parser.add_argument("--output", type=Path, default=_PAGE, metavar="FILE")
    options = parser.parse_args(arguments)
    kinds = (".bmp", ".jpeg", ".jpg", ".png")
    photos = sorted(path for path in options.images.rglob("*") if path.suffix.lower() in kinds)
    try:
        if len(photos) < 2:
            raise ConvertError(f"--images {options.images}: fewer than two images in it")
        lines = []
        for line in page(options.modules, photos):
            print(line, flush=True)
            lines.append(f"{line}\n")
        with written_beside(options.output) as folder:
            (folder / options.output.name).write_text("".join(lines), encoding="utf-8")
    except ConvertError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(_main())
