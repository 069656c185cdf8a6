"""The converter's command line: `python -m convert --help`."""
# PYTHON_ARGCOMPLETE_OK

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from convert.batch import Outcome, convert_all, matching
from convert.download import archives
from convert.errors import ConvertError

if TYPE_CHECKING:
    from convert.conversion import Conversion
    from convert.lite import Export as IntegerExport
    from convert.lite_float import Export as FloatExport
    from mobilenets import MobileNet

_KINDS = ("feature_vector", "classification")
_PRECISIONS = ("float32", "float16", "dynamic", "int8", "uint8")
# Wide where nobody reads it as it comes: a pipe must not lose the end of a name.
_out = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
# Progress and errors leave standard output to the tables and to --json.
_err = Console(stderr=True, highlight=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Returns:
      0 where all went well, 1 where some of several did not, 2 for a user's mistake.
    """
    parser = _parser()
    try:
        import argcomplete

        argcomplete.autocomplete(parser)
    except ImportError:
        pass
    options = parser.parse_args(arguments)
    try:
        return options.run(options)
    except ConvertError as error:
        return _fail(str(error))
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}")
    except KeyboardInterrupt:
        _err.print("stopped", style="red")
        return 130


def _fail(message: str) -> int:
    _err.print(f"[red]error:[/red] {_plain(message)}", soft_wrap=True)
    return 2


def _plain(text: str) -> str:
    return text.replace("[", r"\[")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m convert",
        description="Original TF-Slim MobileNet checkpoints to reusable TensorFlow 2 SavedModels.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("list", help="the published variants")
    command.add_argument("--only", metavar="GLOB", help="of hub names, e.g. 'mobilenet_v2_*_96'")
    _add_json(command)
    command.set_defaults(run=_list)

    command = commands.add_parser(
        "inspect", help="what a checkpoint holds, and what would be exported from where"
    )
    _add_source(command)
    _add_weights(command)
    _add_json(command)
    command.set_defaults(run=_inspect)

    command = commands.add_parser("checkpoint", help="convert one checkpoint")
    _add_source(command)
    command.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="modules go here"
    )
    names = [name for a in archives().values() for name in (a.name, a.slim_name)]
    command.add_argument(
        "--variant", metavar="NAME", help="hub or Slim name; default: from the checkpoint"
    ).completer = lambda **_: names  # type: ignore[attr-defined]
    command.add_argument(
        "--image-size", type=int, metavar="PIXELS", help="where the checkpoint's name has none"
    )
    command.add_argument(
        "--kind", action="append", choices=_KINDS, help="may be repeated; default: both"
    )
    _add_weights(command)
    command.add_argument(
        "--labels",
        type=Path,
        metavar="FILE",
        help="a class name a line; default: ImageNet's where there are 1001",
    )
    _add_json(command)
    command.set_defaults(run=_checkpoint)

    command = commands.add_parser("all", help="convert every published checkpoint")
    command.add_argument(
        "--checkpoints",
        required=True,
        type=Path,
        metavar="DIR",
        help="looked for here, and fetched into here",
    )
    command.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="modules go here"
    )
    command.add_argument("--jobs", type=_count, default=1, metavar="N", help="at the same time")
    command.add_argument(
        "--only", metavar="GLOB", help="of hub names, e.g. 'mobilenet_v1_025_*'"
    ).completer = lambda **_: list(archives())  # type: ignore[attr-defined]
    command.add_argument("--offline", action="store_true", help="fetch nothing")
    _add_json(command)
    command.set_defaults(run=_all)

    command = commands.add_parser(
        "verify", help="compare modules with their checkpoints and with keras.applications"
    )
    command.add_argument("modules", nargs="+", type=Path, metavar="MODULE")
    command.add_argument(
        "--checkpoint", type=Path, metavar="SOURCE", help="default: where it was converted from"
    )
    _add_json(command)
    command.set_defaults(run=_verify)

    command = commands.add_parser(
        "lite", help="a LiteRT model of a module, or of a classifier on a quantops module"
    )
    command.add_argument(
        "module",
        metavar="MODULE",
        help="a module's folder or whatever else mobilenets.load takes; for a classifier on a "
        "quantops module, its SavedModel's folder or .keras file",
    )
    command.add_argument(
        "--output", required=True, type=Path, metavar="FILE", help="the .tflite file to write"
    )
    command.add_argument(
        "--precision",
        choices=_PRECISIONS,
        help="of a float module's model, float32 by default; that of a quantops module is uint8",
    )
    command.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="images, in any subfolder, to find the ranges of the activations with, which int8 "
        "needs; of a quantops classifier's own layers, which have bounds without them",
    )
    command.add_argument(
        "--image-size", type=int, metavar="PIXELS", help="default: the module's own"
    )
    command.add_argument(
        "--input-output",
        choices=("float", "uint8", "int8"),
        help="of an int8 model, float by default; uint8 takes pixels as they are",
    )
    command.add_argument(
        "--report",
        nargs="?",
        type=Path,
        const=True,
        metavar="DIR",
        help="run both on the images in DIR, by default those of --images, and say how they "
        "compare, how long it takes and whether XNNPACK computes all of it",
    )
    _add_json(command)
    command.set_defaults(run=_lite)

    command = commands.add_parser("keras-weights", help="a module's weights for keras.applications")
    _add_module(command)
    command.add_argument(
        "--output",
        required=True,
        type=Path,
        metavar="FILE",
        help="NAME.weights.h5 in Keras 3's format, or NAME.h5 in that of Keras 2; "
        "Keras 3 and tf_keras load both",
    )
    command.add_argument(
        "--no-top", action="store_true", help="without the logits, for include_top=False"
    )
    _add_json(command)
    command.set_defaults(run=_keras_weights)

    command = commands.add_parser("slim", help="a module back to a TF-Slim checkpoint")
    _add_module(command)
    command.add_argument(
        "--output",
        required=True,
        metavar="PREFIX",
        help="gives PREFIX.index and PREFIX.data-00000-of-00001",
    )
    _add_json(command)
    command.set_defaults(run=_slim)
    return parser


def _add_module(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "module",
        metavar="MODULE",
        help="a module's folder, or anything else that mobilenets.load takes",
    )


def _add_source(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "source",
        metavar="SOURCE",
        help="a .ckpt prefix, a folder or .tgz that holds one, or a TF1 hub module's folder",
    )


def _add_weights(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--weights",
        choices=("auto", "raw", "averages"),
        default="auto",
        help="auto, as the published modules: V1 raw, V2 moving averages where there are any",
    )


def _add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="for programs, on standard output")


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 up")
    return int(text)


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        name, marked, _ = column.partition(">")
        table.add_column(name, justify="right" if marked else "left", overflow="fold")
    return table


def _print_json(value: object) -> None:
    # Not through rich, which would wrap lines.
    print(json.dumps(value, indent=1, ensure_ascii=False))


def _list(options: argparse.Namespace) -> int:
    rows = [archives()[name] for name in matching(options.only)]
    if options.json:
        _print_json([dataclasses.asdict(row) for row in rows])
        return 0
    table = _table("hub name", "Slim name", "MACs (M)>", "params (M)>", "top-1 %>", "top-5 %>")
    for row in rows:
        table.add_row(
            row.name,
            row.slim_name,
            str(row.million_macs),
            f"{row.million_parameters:.2f}",
            f"{row.top1:.1f}",
            f"{row.top5:.1f}",
        )
    _out.print(table)
    return 0


def _inspect(options: argparse.Namespace) -> int:
    from convert import quiet  # noqa: F401  # before anything loads TensorFlow
    from convert.checkpoint import identify, num_classes, open_source, select

    with open_source(options.source) as checkpoint:
        selection = select(checkpoint, options.weights)
        try:
            variant: str | None = identify(checkpoint, selection).name
            reason = None
        except ConvertError as error:
            variant, reason = None, str(error)
        classes = num_classes(checkpoint, selection)
        shapes = checkpoint.shapes
        if options.json:
            _print_json(
                {
                    "source": str(checkpoint.source),
                    "variant": variant,
                    "num_classes": classes,
                    "exported": {
                        name: {"from": key, "shape": shapes[key]}
                        for name, key in selection.keys.items()
                    },
                    "leftovers": selection.leftovers,
                    "unknown": list(selection.unknown),
                }
            )
            return 0
    _out.print(f"{checkpoint.source}: {len(shapes)} entries", soft_wrap=True)
    _out.print(f"variant: {variant or _plain(reason or '')}", soft_wrap=True)
    _out.print(f"classes: {classes if classes is not None else 'none (feature vector alone)'}")
    table = _table("what", "entries>", "for example")
    averaged = [key for name, key in selection.keys.items() if key != name]
    raw = [key for name, key in selection.keys.items() if key == name]
    for what, keys in (
        ("exported, raw", raw),
        ("exported, moving averages", averaged),
        *((f"left: {category}", keys) for category, keys in selection.leftovers.items()),
        ("unknown (conversion refuses these)", list(selection.unknown)),
    ):
        if keys:
            table.add_row(what, str(len(keys)), keys[0])
    _out.print(table)
    return 0


def _checkpoint(options: argparse.Namespace) -> int:
    with _err.status("loading TensorFlow") as status:
        from convert import quiet  # noqa: F401
        from convert.conversion import convert

        conversions = convert(
            options.source,
            options.output,
            variant=options.variant,
            image_size=options.image_size,
            kinds=options.kind,
            weights=options.weights,
            labels=options.labels,
            report=lambda line: status.update(_plain(line)),
        )
    if not options.kind and len(conversions) < len(_KINDS):
        _err.print("The checkpoint has no logits: a feature vector alone.")
    _print_conversions(conversions, options.json)
    return 0


def _print_conversions(conversions: Sequence[Conversion], as_json: bool) -> None:
    if as_json:
        _print_json([dataclasses.asdict(conversion) for conversion in conversions])
        return
    table = _table("module", "", "equal variables>", "difference>", "of outputs to>")
    for done in conversions:
        parity = done.parity
        table.add_row(
            f"{done.variant}/{done.kind}",
            "written" if done.written else "unchanged",
            str(parity["variables"]),
            _figure(parity["largest_difference"], ".1e"),
            _figure(parity["largest_output"], ".3g"),
        )
    _out.print(table)
    for reference in {done.parity["reference"] for done in conversions}:
        if reference:
            _out.print(f"Outputs compared with {reference}.", soft_wrap=True)
        else:
            _out.print("No other implementation has this network: outputs not compared.")


def _figure(value: float | None, spec: str) -> str:
    return "-" if value is None else format(value, spec)


def _verify(options: argparse.Namespace) -> int:
    from convert import quiet  # noqa: F401
    from convert.conversion import verify_module

    conversions = []
    failed = False
    for module in options.modules:
        try:
            with _err.status(f"verifying {module}"):
                conversions.append(verify_module(module, options.checkpoint))
        except ConvertError as error:
            failed = True
            _fail(str(error))
    if conversions or options.json:
        _print_conversions(conversions, options.json)
    return 2 if failed else 0


def _lite(options: argparse.Namespace) -> int:
    images = None if options.images is None else _image_files(options.images, "--images")
    compared = None
    if options.report is True:
        compared = images
        if images is None:
            raise ConvertError("--report needs images to compare on: --report DIR or --images DIR")
    elif options.report:
        compared = _image_files(options.report, "--report")
    with _err.status("loading TensorFlow") as status:
        from convert import quiet  # noqa: F401
        from convert.files import load_module

        status.update(f"reading {_plain(options.module)}")
        path = Path(options.module)
        source = path if _is_classifier(path) else load_module(options.module)
    if isinstance(source, Path) or source.variant.quantized:
        return _lite_integer(options, source, images, compared)
    if options.precision == "uint8":
        raise ConvertError(
            f"{options.module} is a float module: uint8 models are made of quantops modules; "
            "take --precision int8 --images DIR"
        )
    if images and options.precision != "int8" and compared is not images:
        raise ConvertError("--images is for --precision int8, or to compare on with --report")
    with _err.status(f"converting {_plain(options.module)}"):
        from convert.lite_float import export

        done = export(
            source,
            options.output,
            options.precision or "float32",
            images=images,
            image_size=options.image_size,
            interface=(options.input_output or "float").replace("float", "float32"),
            compared=compared,
        )
    row = {
        "file": done.path,
        "bytes>": f"{done.bytes:,}",
        "precision": done.precision,
        "input": f"{done.interface} {done.image_size} px",
    }
    _print_lite(options, done, row)
    if done.calibrated and not options.json:
        same = ", the same ones" if compared is images else ""
        _out.print(
            f"The ranges of the activations are from {done.calibrated} images in "
            f"{_plain(str(options.images))}{same}.",
            soft_wrap=True,
        )
    return 0


def _is_classifier(path: Path) -> bool:
    """Whether it is a saved model, though none that `mobilenets.save` wrote."""
    if path.suffix == ".keras":
        return True
    return (path / "saved_model.pb").is_file() and not (
        (path / "assets.extra" / "mobilenet.json").is_file() or (path / "tfhub_module.pb").is_file()
    )


def _lite_integer(
    options: argparse.Namespace,
    source: MobileNet | Path,
    images: Sequence[Path] | None,
    compared: Sequence[Path] | None,
) -> int:
    for asked in (options.precision, options.input_output):
        if asked not in (None, "uint8"):
            raise ConvertError(
                f"{options.module} is quantized: its LiteRT model is uint8 throughout, not "
                f"{asked}; leave --precision and --input-output out"
            )
    with _err.status(f"converting {_plain(options.module)}"):
        from convert.lite import export

        done = export(
            source,
            options.output,
            images=images,
            image_size=options.image_size,
            compared=compared,
        )
    row = {
        "file": done.path,
        "bytes>": f"{done.bytes:,}",
        "input": f"uint8 {done.image_size} px",
        "output = scale * (q - zero)": f"{done.scale:.6g} * (q - {done.zero_point})",
    }
    if compared is None:
        row |= {"top-1 equal>": f"{done.agreement:.1%}", "steps>": f"{done.difference:.2f}"}
    _print_lite(options, done, row)
    if options.json:
        return 0
    if compared is None:
        what = "images" if options.images else "patterns"
        _out.print(
            f"Compared with {_plain(options.module)} on {done.images} {what}; steps: the outputs' "
            "mean difference.",
            soft_wrap=True,
        )
    if done.ranges == "bounds":
        _out.print("The layers after the module have bounds as ranges; --images gives finer ones.")
    return 0


def _print_lite(
    options: argparse.Namespace, done: FloatExport | IntegerExport, row: dict[str, str]
) -> None:
    """The table of a model that was written, and of how it compares with what it is of."""
    if options.json:
        _print_json(dataclasses.asdict(done))
        return
    found = done.comparison
    if found:
        row |= {
            "top-1 equal>": _figure(found.top1, ".1%"),
            "cosine>": f"{found.cosine:.5f}",
            "difference>": f"{found.difference:.1e}",
            "ms>": f"{found.milliseconds:.2f}",
            "XNNPACK": "all" if found.in_xnnpack else "in part",
        }
    table = _table(*row)
    table.add_row(*row.values())
    _out.print(table)
    if found:
        _out.print(
            f"Compared with {_plain(options.module)} on {found.images} images; cosine: of the "
            "features, where it is least; difference: the largest, of a probability, or of a "
            "feature where there are no classes; ms: for an image on one thread.",
            soft_wrap=True,
        )
    if done.labels:
        _out.print(f"Class names: {_plain(done.labels)}", soft_wrap=True)


def _image_files(folder: Path, option: str) -> list[Path]:
    if not folder.is_dir():
        raise ConvertError(f"{option} {folder}: no such folder")
    kinds = {".bmp", ".gif", ".jpeg", ".jpg", ".png"}
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in kinds)
    if not files:
        raise ConvertError(f"{option} {folder}: no {', '.join(sorted(kinds))} in it")
    return files


def _all(options: argparse.Namespace) -> int:
    names = matching(options.only)
    progress = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[amount]}"),
        TimeElapsedColumn(),
        console=_err,
    )
    outcomes: list[Outcome] = []
    with progress:
        overall = progress.add_task("checkpoints", total=len(names), amount=f"0/{len(names)}")
        transfers: dict[str, TaskID] = {}

        def on_download(name: str, done: int, total: int | None) -> None:
            if name not in transfers:
                transfers[name] = progress.add_task(f"fetching {name}", total=total, amount="")
            amount = f"{done / 1e6:.1f}" + (f"/{total / 1e6:.1f}" if total else "") + " MB"
            progress.update(transfers[name], completed=done, total=total, amount=amount)
            if done == total:
                progress.update(transfers[name], visible=False)

        def on_outcome(outcome: Outcome) -> None:
            if outcome.variant in transfers:
                progress.update(transfers[outcome.variant], visible=False)
            outcomes.append(outcome)
            progress.update(overall, advance=1, amount=f"{len(outcomes)}/{len(names)}")

        outcomes = convert_all(
            options.checkpoints,
            options.output,
            only=options.only,
            jobs=options.jobs,
            offline=options.offline,
            on_download=on_download,
            on_outcome=on_outcome,
        )
    if options.json:
        _print_json([dataclasses.asdict(outcome) for outcome in outcomes])
    else:
        table = _table("variant", "", "largest difference, or what went wrong")
        for outcome in outcomes:
            table.add_row(
                outcome.variant,
                outcome.status,
                _plain(outcome.detail),
                style="" if outcome.good else "yellow" if outcome.status == "missing" else "red",
            )
        _out.print(table)
        counts = Counter(outcome.status for outcome in outcomes)
        _out.print(", ".join(f"{count} {status}" for status, count in counts.items()))
    return 0 if all(outcome.good for outcome in outcomes) else 1


def _keras_weights(options: argparse.Namespace) -> int:
    with _err.status(f"exporting {_plain(str(options.module))}"):
        from convert import quiet  # noqa: F401
        from convert.keras_weights import export

        done = export(options.module, options.output, top=not options.no_top)
    if options.json:
        _print_json({**dataclasses.asdict(done), "call": done.call})
        return 0
    table = _table("file", "classes>", "difference>", "of outputs to>")
    table.add_row(
        done.file,
        _figure(done.classes, "d"),
        _figure(done.largest_difference, ".1e"),
        _figure(done.largest_output, ".3g"),
    )
    _out.print(table)
    _out.print(_plain(done.call), soft_wrap=True)
    return 0


def _slim(options: argparse.Namespace) -> int:
    with _err.status(f"exporting {_plain(str(options.module))}"):
        from convert import quiet  # noqa: F401
        from convert.slim import export

        values = export(options.module, options.output)
    if options.json:
        _print_json({"prefix": options.output, "variables": list(values)})
    else:
        _out.print(f"{_plain(options.output)}: {len(values)} variables", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
