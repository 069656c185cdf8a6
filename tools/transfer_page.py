"""The page docs/transfer.md: transfer learning on photographs, three ways, by one recipe.

    python -m tools.transfer_page SOURCE… --training DIR --held-out DIR --runs FILE

trains every network in every way from several seeds, each in a process of its own. `--image-size`
takes other photographs than those of the network's own size. FILE keeps one JSON object a line for
each run; what it holds is not trained again, so an interrupted command continues. Then the page's
table is rewritten, and what is before it; what follows the table stays. Without SOURCE the page is
made of what FILE holds. The photographs are in folders named after their classes. They and the
weights are not part of the project, and the times are those of the machine at hand, so no test
checks that the page is current.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from convert import quiet  # noqa: F401
from convert.errors import ConvertError
from convert.files import load_module, values_by_name, write_text
from convert.labelled import labelled
from convert.references import applications
from mobilenets import save
from mobilenets.images import load_batch

from .markdown_page import END, after_the_table, reported, row

__all__ = ["Run", "page"]

_PAGE = Path(__file__).resolve().parents[1] / "docs" / "transfer.md"
BATCH = 32
HEAD_RATE, HEAD_EPOCHS = 1e-3, 50
RATE, EPOCHS = 3e-5, 8
_TEXT = """# Transfer learning on photographs

Made by `python -m tools.transfer_page SOURCE… --training DIR --held-out DIR --runs FILE` with
TensorFlow {tensorflow}, Keras {keras} and Python {python}, on {cores} of {machine}.

{training} photographs of {classes} classes to learn from, {held_out} held out.

- Accuracy: the share of the held-out photographs that is recognised: the mean over the seeds, and
  the lowest and highest of them. The {held_out} photographs are a sample too: the standard error of
  a share of 85 % is {error:.1f} points.
- Seconds: of training, the head's included, without loading TensorFlow and the photographs.
- MB: the process's largest resident memory until then, the photographs included.

"""
_HEADER = ("network", "pixels", "way", "trained", "accuracy", "seeds", "seconds", "MB")


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one training gave.

    Attributes:
      network: The variant's name.
      image_size: Height and width of the photographs in pixels.
      way: One of `WAYS`.
      tuned: Whether the network was fine-tuned after the head.
      seed: Of the order of the photographs and their augmentation.
      right: How many of the held-out photographs are recognised.
      held_out: Of how many.
      training: Number of photographs to learn from.
      classes: Number of classes.
      seconds: Of training.
      megabytes: Largest resident memory so far.
      cores: How many the process may use.
    """

    network: str
    image_size: int
    way: str
    tuned: bool
    seed: int
    right: int
    held_out: int
    training: int
    classes: int
    seconds: float
    megabytes: float
    cores: int


@dataclass(frozen=True)
class _Learner:
    """A frozen network with a new head, in one of the Keras libraries.

    Attributes:
      library: Keras 3 or tf_keras.
      features: Maps images `[batch, size, size, 3]` in [0, 1] to features.
      head: Maps features to logits; part of the model.
      model: Maps images to logits.
      thaw: Makes all of the model trainable, but for the batch norms' statistics.
    """

    library: Any
    features: Callable[[Any], Any]
    head: Any
    model: Any
    thaw: Callable[[], None]


def _hub(source: str, size: int, names: Sequence[str]) -> _Learner:
    import tensorflow_hub as hub
    import tf_keras

    network = load_module(source).with_classes()
    with tempfile.TemporaryDirectory() as folder:
        save(network, Path(folder) / "module")
        layer = hub.KerasLayer(f"{folder}/module", trainable=True)
    inputs = tf_keras.Input((size, size, 3))
    head = tf_keras.Sequential([tf_keras.layers.Dense(len(names), kernel_initializer="zeros")])
    # In tf_keras what is said here holds in `fit` too: the statistics stay.
    model = tf_keras.Model(inputs, head(layer(inputs, training=False)))
    return _Learner(tf_keras, layer, head, model, lambda: None)


def _native(source: str, size: int, names: Sequence[str]) -> _Learner:
    import keras

    network = load_module(source)
    network.trainable = False
    model = network.with_classes(class_names=names)
    assert model.logits is not None

    def thaw() -> None:
        model.trainable = True
        for convolution in model.convolutions:
            convolution.batch_norm.trainable = False

    return _Learner(keras, network.with_classes(), keras.Sequential([model.logits]), model, thaw)


def _application(source: str, size: int, names: Sequence[str]) -> _Learner:
    import keras

    ours = load_module(source)
    variant = dataclasses.replace(ours.variant, image_size=size)
    network = applications.reference(variant, values_by_name(ours), None)
    inputs = keras.Input((size, size, 3))
    features = keras.Sequential([keras.layers.Rescaling(2, offset=-1), network])
    head = keras.Sequential([keras.layers.Dense(len(names), kernel_initializer="zeros")])
    model = keras.Model(inputs, head(features(inputs)))

    def thaw() -> None:
        for layer in network.layers:
            layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)

    return _Learner(keras, features, head, model, thaw)


WAYS = {"hub.KerasLayer": _hub, "native": _native, "keras.applications": _application}


def _trained(
    source: str, size: int, way: str, seed: int, training: Path, held_out: Path
) -> list[Run]:
    """The run of the head alone, and the one of the whole network after it."""
    import tensorflow as tf

    variant = load_module(source).variant
    names = _classes(training)
    images, labels = _photographs(training, names, size)
    new_images, new_labels = _photographs(held_out, names, size)
    learner = WAYS[way](source, size, names)
    library = learner.library
    library.utils.set_random_seed(seed)
    photos = tf.data.Dataset.from_tensor_slices((images, labels))
    runs = []
    start = time.perf_counter()

    def note(tuned: bool) -> None:
        nonlocal start
        stop, megabytes = time.perf_counter(), _resident()
        seconds = stop - start
        found = learner.model.predict(new_images, verbose=0).argmax(axis=1)
        # Recognising is no part of the training.
        start += time.perf_counter() - stop
        runs.append(
            Run(
                network=str(variant),
                image_size=size,
                way=way,
                tuned=tuned,
                seed=seed,
                right=int(np.sum(found == new_labels)),
                held_out=len(new_labels),
                training=len(labels),
                classes=len(names),
                seconds=round(seconds, 1),
                megabytes=round(megabytes),
                cores=len(os.sched_getaffinity(0)),
            )
        )

    def fit(model: Any, batches: Any, rate: float, epochs: int) -> None:
        schedule = library.optimizers.schedules.CosineDecay(rate, epochs * len(batches))
        model.compile(
            library.optimizers.Adam(schedule),
            library.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        model.fit(batches, epochs=epochs, verbose=0)

    once = photos.batch(BATCH).map(lambda images, labels: (learner.features(images), labels))
    features, _ = zip(*once.as_numpy_iterator(), strict=True)
    cached = tf.data.Dataset.from_tensor_slices((np.concatenate(features), labels))
    fit(learner.head, cached.shuffle(len(labels), seed=seed).batch(BATCH), HEAD_RATE, HEAD_EPOCHS)
    note(tuned=False)
    augment = library.Sequential(
        [
            library.layers.RandomFlip("horizontal"),
            library.layers.RandomTranslation(0.1, 0.1),
            library.layers.RandomZoom((-0.2, 0.1)),
        ]
    )
    batches = photos.shuffle(len(labels), seed=seed).batch(BATCH)
    augmented = batches.map(lambda images, labels: (augment(images, training=True), labels))
    learner.thaw()
    fit(learner.model, augmented.prefetch(1), RATE, EPOCHS)
    note(tuned=True)
    return runs


def _classes(directory: Path) -> list[str]:
    if not directory.is_dir():
        raise ConvertError(f"{directory}: no such folder")
    return sorted(path.name for path in directory.iterdir() if path.is_dir())


def _photographs(directory: Path, names: Sequence[str], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Images `[count, size, size, 3]` in [0, 1] and the position of each one's class."""
    found = labelled(directory, len(names), names)
    try:
        return load_batch(found.paths, size, crop=None).numpy(), np.array(found.labels)
    except ValueError as error:
        raise ConvertError(str(error)) from error


def _resident() -> float:
    """Largest resident memory of this process, in MB.

    `getrusage` would hand on that of the process that started this one.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1e3


def page(runs: Sequence[Run]) -> list[str]:
    """The page's lines up to the end of the table.

    Raises:
      ConvertError: There are no runs, or they differ in their photographs or number of cores.
    """
    if not runs:
        raise ConvertError("there are no runs to make the page of: name a SOURCE to train")
    kinds = {(run.training, run.held_out, run.classes, run.cores) for run in runs}
    if len(kinds) != 1:
        raise ConvertError(f"{len(kinds)} kinds of runs: expected the same photographs and cores")
    ((training, held_out, classes, cores),) = kinds
    lines = _TEXT.format(
        tensorflow=version("tensorflow"),
        keras=version("keras"),
        python=platform.python_version(),
        cores="one core" if cores == 1 else f"{cores} cores",
        machine=platform.machine(),
        training=training,
        classes=classes,
        held_out=held_out,
        error=100 * np.sqrt(0.85 * 0.15 / held_out),
    ).splitlines()
    lines += [row(_HEADER), f"| --- | ---: | --- | --- |{' ---: |' * 4}"]
    rows: dict[tuple[object, ...], list[Run]] = {}
    ways = list(WAYS)
    for run in sorted(runs, key=lambda run: (run.network, run.image_size, ways.index(run.way))):
        rows.setdefault((run.network, run.image_size, run.way, run.tuned), []).append(run)
    lines += map(_row, rows.values())
    return [*lines, END]


def _row(runs: Sequence[Run]) -> str:
    """The runs of one network in one way, over the seeds."""
    shares = [100 * run.right / run.held_out for run in runs]
    return row(
        (
            f"`{runs[0].network}`",
            str(runs[0].image_size),
            runs[0].way,
            "all" if runs[0].tuned else "head",
            f"{np.mean(shares):.1f} % ({min(shares):.1f} to {max(shares):.1f})",
            str(len(runs)),
            f"{np.mean([run.seconds for run in runs]):.0f}",
            f"{max(run.megabytes for run in runs):,.0f}",
        )
    )


def _missing(
    sources: Iterable[str], image_size: int | None, seeds: int, runs: Iterable[Run]
) -> Iterator[tuple[str, int, str, int]]:
    """Source, image size, way and seed of what has not been trained; seed after seed."""
    variants = {source: load_module(source).variant for source in sources}
    done = {(run.network, run.image_size, run.way, run.seed) for run in runs}
    for seed in range(seeds):
        for source, variant in variants.items():
            size = image_size or variant.image_size
            for way in WAYS:
                if (str(variant), size, way, seed) not in done:
                    yield source, size, way, seed


def _alone(function: Callable[..., list[Run]], *arguments: Any) -> list[Run]:
    """Calls in a process of its own."""
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as executor:
        return executor.submit(function, *arguments).result()


def _read(file: Path) -> list[Run]:
    if not file.exists():
        return []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
        return [Run(**json.loads(line)) for line in lines]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, TypeError) as error:
        raise ConvertError(f"{file} is not a file of runs: {error}") from None


def _main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.transfer_page", description=__doc__)
    parser.add_argument("sources", nargs="*", metavar="SOURCE")
    parser.add_argument("--training", required=True, type=Path, metavar="DIR")
    parser.add_argument("--held-out", required=True, type=Path, metavar="DIR")
    parser.add_argument("--runs", required=True, type=Path, metavar="FILE")
    parser.add_argument("--image-size", type=int, metavar="PIXELS")
    parser.add_argument("--seeds", type=int, default=3, metavar="N")
    parser.add_argument("--output", type=Path, default=_PAGE, metavar="FILE")
    options = parser.parse_args(arguments)

    def make() -> None:
        runs = _read(options.runs)
        for task in _missing(options.sources, options.image_size, options.seeds, runs):
            fresh = _alone(_trained, *task, options.training, options.held_out)
            with options.runs.open("a", encoding="utf-8") as file:
                for run in fresh:
                    line = json.dumps(dataclasses.asdict(run))
                    print(line, flush=True)
                    file.write(f"{line}\n")
            runs += fresh
        text = "".join(f"{line}\n" for line in page(runs))
        write_text(options.output, text + after_the_table(options.output))

    return reported(make)


if __name__ == "__main__":
    sys.exit(_main())
