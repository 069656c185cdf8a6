"""Measures everything side by side and writes `benchmarks/RESULTS.md` and its chart.

    make bench [SECTIONS="training loading"]

It measures and asserts nothing. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import gc
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from convert import quiet  # noqa: F401  # before anything loads TensorFlow

# isort: split
import keras
import matplotlib

import mobilenets
from benchmarks import contenders, conversion, photographs, threads
from benchmarks.timing import Ratio, interleave, interleave_with_cpu, median, ratio

matplotlib.use("Agg")
from matplotlib import pyplot as plt

VARIANTS = (
    "mobilenet_v1_100_224",
    "mobilenet_v1_025_128",
    "mobilenet_v2_100_224",
    "mobilenet_v2_035_96",
)
BATCHES = (1, 32)
TRAINED = ("mobilenet_v1_100_160", "mobilenet_v2_100_160")
FEATURES = ("mobilenet_v1_025_128", "mobilenet_v2_035_128", "mobilenet_v1_100_224")
STEPS = 3
# At batch 1 a round is milliseconds, at batch 32 up to seconds.
ROUNDS = {1: 40, 32: 6}
# Of a process with other threads: turns, and the calls of one.
_TURNS = {1: (10, 10), 32: (3, 2)}
_HERE = Path(__file__).resolve().parent

Times = Mapping[str, list[float]]


def _measure(
    what: str, make: Callable[[], Mapping[str, Callable]], rounds: int, warmup: int = 2
) -> Times:
    print(what, flush=True)
    times = interleave(make(), rounds, warmup)
    _clear()
    return times


def _clear() -> None:
    """After each measurement, so that the next one finds a process as good as new."""
    keras.backend.clear_session()
    gc.collect()
    # What is left would be looked through in each collection of the next.
    gc.freeze()


def _table(rows: Mapping[str, Times], per: float = 1.0, base: str = "module") -> Iterator[str]:
    """Milliseconds of each contender, and after the dot the ratio to the base's."""
    names = list(next(iter(rows.values())))
    yield f"| | {' | '.join(names)} |"
    yield f"| --- |{' ---: |' * len(names)}"
    for what, times in rows.items():
        cells = []
        for name in names:
            cell = f"{median(times[name]) / per:.1f}"
            if name != base:
                cell += f" · {ratio(times[name], times[base])}"
            cells.append(cell)
        yield f"| {what} | {' | '.join(cells)} |"


def _quickest(rows: Mapping[str, Times], per: float) -> Iterator[str]:
    """The same for each contender's quickest round, which a busy machine disturbs least."""
    yield "\nThe quickest round of each contender, and its ratio to the module's quickest:\n"
    names = list(next(iter(rows.values())))
    yield f"| | {' | '.join(names)} |"
    yield f"| --- |{' ---: |' * len(names)}"
    for what, times in rows.items():
        best = {name: min(times[name]) for name in names}
        cells = [
            f"{1e3 * best[name] / per:.1f}"
            + (f" · {best[name] / best['module']:.2f}" if name != "module" else "")
            for name in names
        ]
        yield f"| {what} | {' | '.join(cells)} |"


def _environment() -> Iterator[str]:
    information = Path("/proc/cpuinfo")
    text = information.read_text() if information.exists() else ""
    model = re.search(r"model name\s*: (.*)", text)
    flags = re.search(r"flags\s*: (.*)", text)
    wanted = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    has = [flag for flag in wanted if flags and flag in flags[1].split()]
    packages = ("tensorflow", "keras", "tf_keras", "tensorflow-hub", "ai-edge-litert")
    yield f"- {datetime.date.today()}, {platform.platform()}, Python {platform.python_version()}"
    yield f"- {model[1] if model else platform.processor()}, {contenders.THREADS} cores"
    yield "- TensorFlow's default threads, one for each core, but where a table says otherwise"
    yield f"- instruction sets: {', '.join(has) or 'none of ' + ', '.join(wanted)}"
    yield "- " + ", ".join(f"{package} {version(package)}" for package in packages)


def _chart(rows: Mapping[str, Mapping[str, Ratio]], path: Path) -> None:
    """One bar for each contender: its time as a multiple of the module's."""
    names = list(next(iter(rows.values())))
    figure, axes = plt.subplots(figsize=(9, 0.7 * len(rows) + 1.6), layout="constrained")
    height = 0.8 / len(names)
    for i, name in enumerate(names):
        ratios = [row[name] for row in rows.values()]
        places = [row + (i - (len(names) - 1) / 2) * height for row in range(len(rows))]
        middle = [r.middle for r in ratios]
        spread = [[r.middle - r.low for r in ratios], [r.high - r.middle for r in ratios]]
        axes.barh(places, middle, height, xerr=spread, label=name, ecolor="0.4")
        for place, r in zip(places, ratios, strict=True):
            axes.text(r.high + 0.02, place, f"{r.middle:.2f}", va="center", fontsize=8)
    axes.axvline(1, color="black", linewidth=1, zorder=0)
    axes.set_xlim(right=1.1 * max(r.high for row in rows.values() for r in row.values()))
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("time as a multiple of the module's (1 = as fast; more is slower)")
    axes.set_title("Inference: the same network elsewhere, against hub.load(module)")
    figure.legend(loc="outside lower center", ncols=len(names), frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _inference() -> Iterator[str]:
    rows = {
        f"{name}, batch {batch}": _measure(
            f"inference {name} batch {batch}",
            functools.partial(contenders.inference, name, batch),
            ROUNDS[batch],
        )
        for name in VARIANTS
        for batch in BATCHES
    }
    ratios = {
        what: {name: ratio(times[name], times["module"]) for name in times if name != "module"}
        for what, times in rows.items()
    }
    _chart(ratios, _HERE / "inference.png")
    yield "`module` is `hub.load(dir)(images)`, also in a `tf.function`; Keras 3 and tf_keras run"
    yield "keras.applications in a compiled `tf.function`; LiteRT runs XNNPACK float32 on"
    yield f"{contenders.THREADS} threads.\n"
    yield "![ratios](inference.png)\n"
    yield from _table(rows)


def _predict() -> Iterator[str]:
    yield "Four batches each. `module` is a `hub.KerasLayer`, `native` is `mobilenets.load(dir)`.\n"
    rows = {
        f"{name}, batch 32": _measure(
            f"predict {name}", functools.partial(contenders.predictions, name, 32), 4, 1
        )
        for name in VARIANTS
    }
    yield from _table(rows, per=4)


def _steps(
    measure: Callable[..., Mapping[str, Callable]], names: Sequence[str], rounds: int
) -> Iterator[str]:
    """Steps of training: what a function of `contenders` gives for each network."""
    rows = {
        f"{name}, batch 32": _measure(
            f"{measure.__name__} {name}", functools.partial(measure, name, 32, STEPS), rounds, 1
        )
        for name in names
    }
    yield from _table(rows, per=STEPS)
    yield from _quickest(rows, per=STEPS)


def _training() -> Iterator[str]:
    yield "`model.fit`, batch 32, all variables trainable, SGD with momentum.\n"
    yield from _steps(contenders.training, TRAINED, 4)


def _bfloat16() -> Iterator[str]:
    yield "[docs/speed.md](../docs/speed.md) says how to switch it on. Below 1 is faster than"
    yield "float32.\n"
    rows = {
        f"{name}, batch {batch}": _measure(
            f"bfloat16 {name} batch {batch}",
            functools.partial(contenders.reduced_inference, name, batch),
            ROUNDS[batch],
        )
        for name in VARIANTS
        for batch in BATCHES
    }
    yield from _table(rows)
    yield "\nA training step as above:\n"
    yield from _steps(contenders.reduced_training, TRAINED[:1], 4)


def _loading() -> Iterator[str]:
    yield "`hub.KerasLayer(dir, trainable=True)`, `mobilenets.load(dir)`, `hub.load` of a module"
    yield "for serving, and `tf_keras.models.load_model` of a SavedModel of tf_keras's network.\n"
    rows = {
        name: _measure(f"loading {name}", functools.partial(contenders.loading, name), 3, 1)
        for name in VARIANTS
    }
    yield from _table(rows)


def _growth() -> Iterator[str]:
    yield "The module alone, milliseconds for an image.\n"
    yield "| mobilenet_v1_100_* | batch 1 | batch 8 | batch 32 |"
    yield "| --- | ---: | ---: | ---: |"
    for size in (128, 160, 192, 224):
        cells = []
        for batch in (1, 8, 32):
            name = f"mobilenet_v1_100_{size}"
            times = _measure(
                f"growth {name} batch {batch}",
                functools.partial(contenders.module_alone, name, batch),
                4,
            )
            cells.append(f"{median(times['module']) / batch:.2f}")
        yield f"| {size} px | {' | '.join(cells)} |"


def _threads() -> Iterator[str]:
    yield "`tf.config.threading.set_intra_op_parallelism_threads` (threads within an operation) and"
    yield "`set_inter_op_parallelism_threads` (operations at a time), each setting in a process of"
    yield "its own; the module in a `tf.function`. Below 1 is faster than TensorFlow's default.\n"
    rows = {}
    for name in VARIANTS:
        size = mobilenets.Variant.parse(name).image_size
        with threads.contenders(contenders.module(name), size) as runs:
            for batch in BATCHES:
                turns, calls = _TURNS[batch]
                asked = {each: functools.partial(run, batch, calls) for each, run in runs.items()}
                times = _measure(f"threads {name} batch {batch}", lambda asked=asked: asked, turns)
                rows[f"{name}, batch {batch}"] = {
                    each: [seconds / calls for seconds in found] for each, found in times.items()
                }
    yield from _table(rows, base="default")


def _features() -> Iterator[str]:
    folder = photographs.folder("imagenet_sample")
    if not folder.is_dir():
        yield f"Not measured: no photographs in {folder.name}."
        return
    count = sum(path.is_file() for path in folder.rglob("*"))
    yield f"From {count} photographs in files to their features, batch 32: images a second, and the"
    yield f"share of {contenders.THREADS} cores that is busy. `batches` is"
    yield "`mobilenets.images.batches` and the native model; `keras` is"
    yield "`image_dataset_from_directory` and keras.applications. The ratio is that of the times.\n"
    yield "| | batches | busy | keras | busy | ratio |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    for name in FEATURES:
        print(f"features {name}", flush=True)
        times, cpu = interleave_with_cpu(photographs.contenders(name, folder), 3, 1)
        cells = []
        for each in ("batches", "keras"):
            busy = statistics.median(
                used / seconds for used, seconds in zip(cpu[each], times[each], strict=True)
            )
            cells.append(f"{1e3 * count / median(times[each]):.0f}")
            cells.append(f"{busy / contenders.THREADS:.0%}")
        yield f"| {name} | {' | '.join(cells)} | {ratio(times['keras'], times['batches'])} |"
        _clear()


def _head() -> Iterator[str]:
    folder = photographs.folder("flowers") / "train"
    if not folder.is_dir():
        yield f"Not measured: no photographs in {folder.parent.name}."
        return
    count = sum(path.is_file() for path in folder.rglob("*"))
    yield f"Seconds from {count} photographs in files to a head that was trained for 6 epochs on a"
    yield "frozen network, in each of the turns.\n"
    yield "| | features once | in every epoch |"
    yield "| --- | ---: | ---: |"
    name = FEATURES[-1]
    times = _measure(f"head {name}", lambda: photographs.heads(name, folder, 6), 2, 0)
    cells = (", ".join(f"{seconds:.1f}" for seconds in found) for found in times.values())
    yield f"| {name} | {' | '.join(cells)} |"


def _conversion() -> Iterator[str]:
    yield "Whole processes, random weights, both kinds, verified.\n"
    yield "| work | seconds | GB |"
    yield "| --- | ---: | ---: |"
    for name in ("mobilenet_v1_100_224", "mobilenet_v2_140_224"):
        print(f"conversion {name}", flush=True)
        yield f"| `convert checkpoint`, {name} | {_figures(conversion.one(name))} |"
    sizes = (128, 160, 192, 224)
    names = [f"mobilenet_v1_025_{size}" for size in sizes]
    print(f"conversion of {len(names)}", flush=True)
    figures = conversion.all_of("mobilenet_v1_025_???", names, 2)
    yield f"| `convert all`, {len(names)} checkpoints, --jobs 2 | {_figures(figures)} |"


_SECTIONS: dict[str, tuple[str, Callable[[], Iterator[str]]]] = {
    "inference": ("Inference", _inference),
    "predict": ("model.predict", _predict),
    "training": ("A training step", _training),
    "bfloat16": ("bfloat16", _bfloat16),
    "loading": ("Loading", _loading),
    "growth": ("How inference grows", _growth),
    "threads": ("Threads", _threads),
    "features": ("Features of photographs", _features),
    "head": ("Features once", _head),
    "conversion": ("Conversion", _conversion),
}
_INTRODUCTION = """# Measured

Written by `make bench`, each section in a run of its own, in which all contenders of a table take
turns. A cell holds the median in milliseconds and, after the dot, the median of the round-by-round
ratios to `module` with its quartiles: above 1 the module is faster. Networks without logits.
What limits them: [docs/speed.md](../docs/speed.md).
"""


def _main(chosen: Sequence[str]) -> None:
    """Measures the chosen sections anew, and keeps the others as they are, absent ones too."""
    path = _HERE / "RESULTS.md"
    older = path.read_text(encoding="utf-8") if path.exists() else ""
    kept = dict(re.findall(r"^## (.*?)\n+(.*?)(?=^## |\Z)", older, re.MULTILINE | re.DOTALL))
    for name, (title, section) in _SECTIONS.items():
        if name in chosen:
            start = time.monotonic()
            kept[title] = "\n".join((*_environment(), "", *section()))
            print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
        titles = [title for title, _ in _SECTIONS.values() if title in kept]
        sections = [f"## {title}\n\n{kept[title].strip()}\n" for title in titles]
        path.write_text("\n".join((_INTRODUCTION, *sections)), encoding="utf-8")
    print(f"written to {path}")


def _figures(measured: tuple[float, float]) -> str:
    seconds, gigabytes = measured
    return f"{seconds:.1f} | {gigabytes:.2f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("sections", nargs="*", help=f"{', '.join(_SECTIONS)} (default: all)")
    sections = parser.parse_args().sections or list(_SECTIONS)
    if unknown := set(sections) - set(_SECTIONS):
        parser.error(f"no section {', '.join(sorted(unknown))}: choose from {', '.join(_SECTIONS)}")
    _main(sections)
