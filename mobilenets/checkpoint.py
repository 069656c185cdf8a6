"""Reads TF-Slim checkpoints, and decides which of their variables count."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import tensorflow as tf

from mobilenets import architecture
from mobilenets.variants import FAMILIES, VARIANTS, Variant

__all__ = [
    "WEIGHTS",
    "Checkpoint",
    "CheckpointError",
    "Selection",
    "find",
    "identify",
    "num_classes",
    "select",
]

WEIGHTS = ("auto", "raw", "averages")
"""What `select` can be asked for."""

_ARCHIVE = re.compile(r".+\.(?:tgz|tar\.gz)", re.IGNORECASE)
_SHARD = re.compile(r"\.data-\d{5}-of-\d{5}")
_FILE_OF_CHECKPOINT = re.compile(rf"(?P<prefix>.+?)(?:\.index|\.meta|{_SHARD.pattern})")

_AVERAGE = "/ExponentialMovingAverage"
_VARIABLE = (
    r"(?:weights|depthwise_weights|biases|BatchNorm/(?:gamma|beta|moving_mean|moving_variance)"
    r"|(?:weights|act)_quant/(?:min|max))"
)
_RANGE = re.compile(r".*/(?:weights|act)_quant/(?:min|max)")
_LOSS = re.compile(r"(?:.*/)?(?:\w*loss(?:_\d+)?|value)")

# What else training leaves behind, by key. The optimizers are those that Slim's
# train_image_classifier offers; TensorFlow 1 names a slot `<variable>/<optimizer>[_<number>]`.
# Zero-debiased moving averages, such as those of contrib.quantize, count in `biased` and
# `local_step`.
_LEFTOVERS = {
    "global_step": re.compile("global_step"),
    "optimizer slots": re.compile(
        r".*/(?:Adadelta|Adagrad|Adam|Ftrl|Momentum|RMSProp)(?:_\d+)?"
        r"|(?:.*/)?beta[12]_power(?:_\d+)?"
    ),
    "moving-average bookkeeping": re.compile(rf".*/(?:biased|local_step)(?:{_AVERAGE})?"),
}
_LOSSES = "averages of losses"
_NOT_EXPORTED = "averages not exported"
_REPLACED = "raw variables replaced by averages"

_NAME = re.compile(
    r"mobilenet_v[12]_(?:\d{3}|\d(?:\.\d+)?)_\d{2,4}(?!\d)(?:_quantops|/quantops|_quant)?"
)
# What may stand behind the name: the rest of the file's or folder's, then a hub module's path.
_BEHIND_THE_NAME = re.compile(
    r"[^/]*(?:/feature_vector|/classification)?(?:/\d+)?(?:/variables){0,2}"
)


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message says what is wrong, where, and what to do."""


class Checkpoint:
    """A TensorBundle, open for reading: `<prefix>.index` and `<prefix>.data-NNNNN-of-NNNNN`.

    Values are read when asked for, never before; an unreadable entry that nobody asks for does
    no harm.

    Attributes:
      prefix: Path without `.index`.
      source: What the user called it.
      shapes: Shape of every variable by key, in sorted order.
      dtypes: NumPy's name of its dtype by key, e.g. `"float32"`.

    Raises:
      CheckpointError: A file of the checkpoint is missing, or the index is damaged.
    """

    def __init__(self, prefix: str | os.PathLike[str], source: str | None = None) -> None:
        self.prefix = Path(prefix)
        self.source = source or str(prefix)
        self._files = _files(self.prefix, self.source)
        try:
            self._reader = tf.compat.v1.train.NewCheckpointReader(str(self.prefix))
            shapes = self._reader.get_variable_to_shape_map()
            dtypes = self._reader.get_variable_to_dtype_map()
        except _UNREADABLE as error:
            raise CheckpointError(
                f"{self.source}: {self._files[0].name} is damaged or no checkpoint's index "
                f"({_reason(error)}); copy or download it again"
            ) from error
        self.shapes: dict[str, tuple[int, ...]] = {
            key: tuple(shapes[key]) for key in sorted(shapes)
        }
        self.dtypes: dict[str, str] = {key: dtypes[key].name for key in self.shapes}

    def read(self, keys: Iterable[str]) -> dict[str, np.ndarray]:
        """The values of these variables, and of no others.

        Raises:
          CheckpointError: Variables are not there, or their bytes are incomplete or fail their
            checksum.
        """
        values, unreadable, reason = {}, [], ""
        for key in keys:
            if key not in self.shapes:
                raise CheckpointError(f"{self.source} holds no variable {key}")
            try:
                values[key] = np.asarray(self._reader.get_tensor(key))
            except _UNREADABLE as error:
                unreadable.append(key)
                reason = reason or _reason(error)
        if unreadable:
            raise CheckpointError(
                f"{self.source}: cannot read {_first_few(unreadable)}: the data file is "
                f"incomplete or damaged ({reason}); copy or download it again"
            )
        return values

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, over the bytes of the index and then of the data files.

        Raises:
          CheckpointError: A file cannot be read.
        """
        digest = hashlib.sha256()
        try:
            for path in self._files:
                with path.open("rb") as file:
                    while chunk := file.read(1 << 20):
                        digest.update(chunk)
        except OSError as error:
            raise CheckpointError(f"{self.source}: cannot read {path}: {error.strerror}") from error
        return digest.hexdigest()


# get_tensor raises IndexError where the data file ends too early.
_UNREADABLE = (tf.errors.OpError, IndexError, RuntimeError, ValueError)


def _reason(error: Exception) -> str:
    text = error.message if isinstance(error, tf.errors.OpError) else str(error)
    return " ".join(text.split())


def _first_few(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _files(prefix: Path, source: str) -> list[Path]:
    """The index, then the data files in order."""
    index = Path(f"{prefix}.index")
    if not index.is_file():
        raise CheckpointError(f"{source}: the checkpoint's index {index.name} is missing")
    shards = sorted(
        path
        for path in index.parent.iterdir()
        if path.name.startswith(prefix.name) and _SHARD.fullmatch(path.name, len(prefix.name))
    )
    lacking: list[str] = []
    # Shards of two counts may lie there if a checkpoint was overwritten; the index knows which.
    for count in sorted({int(path.name[-5:]) for path in shards} or {1}):
        wanted = [Path(f"{prefix}.data-{shard:05}-of-{count:05}") for shard in range(count)]
        missing = [path.name for path in wanted if path not in shards]
        if not missing:
            return [index, *shards]
        lacking = lacking or missing
    raise CheckpointError(f"{source}: the checkpoint's data file {_first_few(lacking)} is missing")


def find(path: str | os.PathLike[str]) -> Path:
    """The prefix of the checkpoint that a path speaks of.

    Args:
      path: A checkpoint's prefix (`run/model.ckpt-1450000`) or one of its files; a folder that
        holds one checkpoint, or several and a `checkpoint` file that says which is the latest; or
        the folder of a TF1 hub module or another SavedModel.

    Raises:
      CheckpointError: There is no such file, or no checkpoint, or several.
    """
    path = Path(path)
    if path.is_dir():
        return _prefix_in(path)
    file = _FILE_OF_CHECKPOINT.fullmatch(path.name)
    if file and path.is_file():
        return path.with_name(file["prefix"])
    if Path(f"{path}.index").is_file():
        return path
    if path.is_file():
        raise CheckpointError(
            f"{path} is no checkpoint: expected the prefix of an .index and a .data file "
            "(TensorFlow's TensorBundle format), a folder or a .tgz"
        )
    if path.parent.is_dir() and any(
        (match := _FILE_OF_CHECKPOINT.fullmatch(other)) and match["prefix"] == path.name
        for other in os.listdir(path.parent)
    ):
        return path
    raise CheckpointError(
        f"{path}: no such file; expected a checkpoint's prefix, a folder or .tgz that holds one, "
        "or a TF1 hub module"
    )


def _prefix_in(folder: Path) -> Path:
    prefixes = sorted(path.with_suffix("") for path in folder.glob("*.index") if path.is_file())
    if not prefixes and (folder / "variables").is_dir():
        return folder / "variables" / "variables"
    if len(prefixes) > 1 and (state := tf.train.get_checkpoint_state(str(folder))):
        # The state file may say where the checkpoint was written, not where it is now.
        latest = folder / Path(state.model_checkpoint_path).name
        if latest in prefixes:
            return latest
    if len(prefixes) > 1:
        names = _first_few([prefix.name for prefix in prefixes])
        raise CheckpointError(f"{folder} holds several checkpoints: {names}; name one of them")
    if not prefixes:
        data = sorted(path.name for path in folder.glob("*.data-?????-of-?????"))
        if data:
            index = _SHARD.sub(".index", data[0])
            raise CheckpointError(f"{folder}: the checkpoint's index {index} is missing")
        raise CheckpointError(f"{folder} holds no checkpoint: it has no file called *.index")
    return prefixes[0]


@dataclass(frozen=True)
class Selection:
    """Which of a checkpoint's variables are exported, and what the others are.

    Attributes:
      family: `"mobilenet_v1"` or `"mobilenet_v2"`.
      keys: For every variable of the network, by its Slim name, in sorted order, the checkpoint's
        key whose value is exported: the name itself, or its moving average's.
      averaged: How many of the keys are moving averages.
      leftovers: The keys that training left behind, by what they are, e.g. `"optimizer slots"`.
      unknown: All other keys.
    """

    family: str
    keys: dict[str, str]
    averaged: int
    leftovers: dict[str, list[str]]
    unknown: list[str]

    @property
    def quantized(self) -> bool:
        """Whether there are ranges of simulated quantization."""
        return any(_RANGE.fullmatch(name) for name in self.keys)


def select(checkpoint: Checkpoint, weights: str = "auto") -> Selection:
    """Decides which variables are exported.

    Args:
      checkpoint: Where from. Only its keys are looked at.
      weights: `"raw"` takes the variables themselves. `"averages"` takes the
        `ExponentialMovingAverage` of every variable that has one, batch norm's statistics too, and
        the variable itself of the others. `"auto"` does as Google exported its modules: raw for
        V1 (the constants of its frozen graphs are the raw variables, by checksum), averages for
        V2 where there are any.

    Raises:
      CheckpointError: The checkpoint is not a MobileNet V1's or V2's, or averages are demanded and
        there are none.
    """
    if weights not in WEIGHTS:
        raise CheckpointError(f"weights must be one of {', '.join(WEIGHTS)}; got {weights!r}")
    family = _family(checkpoint)
    scope = architecture.scope(family)
    variable = re.compile(f"{scope}/.+/{_VARIABLE}")
    raw: dict[str, str] = {}
    averages: dict[str, str] = {}
    leftovers: dict[str, list[str]] = {}
    unknown: list[str] = []
    for key in checkpoint.shapes:
        name = key.removesuffix(_AVERAGE)
        if variable.fullmatch(name):
            (raw if name == key else averages)[name] = key
            continue
        category = next((c for c, form in _LEFTOVERS.items() if form.fullmatch(key)), None)
        if name != key and not key.startswith(f"{scope}/") and _LOSS.fullmatch(name):
            category = _LOSSES
        (unknown if category is None else leftovers.setdefault(category, [])).append(key)

    if weights == "averages" and not averages:
        raise CheckpointError(
            f"{checkpoint.source} holds no moving averages ({_AVERAGE.strip('/')}) of variables; "
            "take the raw ones (weights: raw)"
        )
    averaging = weights == "averages" or (weights == "auto" and family == "mobilenet_v2")
    if averaging:
        replaced = [raw[name] for name in averages if name in raw]
        leftovers |= {_REPLACED: replaced} if replaced else {}
    elif averages:
        leftovers[_NOT_EXPORTED] = list(averages.values())
    chosen = raw | averages if averaging else raw
    return Selection(
        family=family,
        keys={name: chosen[name] for name in sorted(chosen)},
        averaged=len(averages) if averaging else 0,
        leftovers={category: leftovers[category] for category in sorted(leftovers)},
        unknown=unknown,
    )


def _family(checkpoint: Checkpoint) -> str:
    scopes = Counter(key.partition("/")[0] for key in checkpoint.shapes if "/" in key)
    families = [family for family in FAMILIES if architecture.scope(family) in scopes]
    if len(families) == 1:
        return families[0]
    expected = " or ".join(f"{architecture.scope(family)}/…" for family in FAMILIES)
    if families:
        raise CheckpointError(f"{checkpoint.source} holds both {expected.replace(' or ', ' and ')}")
    if "_CHECKPOINTABLE_OBJECT_GRAPH" in checkpoint.shapes:
        found = "TensorFlow 2's object names"
    else:
        found = _first_few([f"{scope}/…" for scope, _ in scopes.most_common()]) or "no such scope"
    raise CheckpointError(
        f"{checkpoint.source} is not a Slim MobileNet's checkpoint: expected variables called "
        f"{expected}, found {found}"
    )


def num_classes(checkpoint: Checkpoint, selection: Selection) -> int | None:
    """Length of the logits, background class included where it was trained; None without logits."""
    scope = architecture.scope(selection.family)
    key = selection.keys.get(f"{scope}/Logits/Conv2d_1c_1x1/weights")
    shape = checkpoint.shapes[key] if key else ()
    return shape[-1] if shape else None


def identify(
    checkpoint: Checkpoint,
    selection: Selection,
    variant: Variant | str | None = None,
    image_size: int | None = None,
) -> Variant:
    """Finds out which network a checkpoint is of.

    What is said outright counts, then what the file, the archive or the folder is called (in
    TF-Slim's or TensorFlow Hub's way). Without either, the shapes give the depth multiplier: a
    multiple of 0.05 (as the published ones) if one has these widths, else one of 0.01, up to 4.
    The shapes do not tell the image size.

    Args:
      checkpoint: The checkpoint.
      selection: What is exported from it.
      variant: Which network it is said to be; None if nothing is said.
      image_size: Height and width in pixels that it was trained at; None takes the name's.

    Raises:
      CheckpointError: The variant does not exist, the checkpoint is another network than it is said
        or called to be, or name and shapes do not tell which it is.
    """
    source = checkpoint.source
    if variant is not None:
        try:
            claimed: Variant | None = Variant.parse(variant)
        except ValueError as error:
            raise CheckpointError(str(error)) from error
    else:
        claimed = _named(checkpoint)
    if variant is not None and claimed and image_size not in (None, claimed.image_size):
        raise CheckpointError(
            f"the variant {claimed} says {claimed.image_size} pixels, the image size {image_size}: "
            "give one of them"
        )
    if claimed:
        advice = (
            "if only its name is wrong, give the variant"
            if variant is None
            else "correct the variant, or leave it out"
        )
        _check_agreement(checkpoint, selection, claimed, advice)
        multiplier = claimed.depth_multiplier
    else:
        multiplier = _inferred_multiplier(checkpoint, selection)
    size = claimed.image_size if claimed and image_size is None else image_size
    if size is None:
        raise CheckpointError(
            f"{source} is {_title(selection.family)} with depth multiplier {multiplier:g}, but "
            "nothing says which image size it was trained at: give that, or the variant"
        )
    if selection.quantized and selection.family != "mobilenet_v1":
        raise CheckpointError(f"{source} is a quantized MobileNet V2: only V1's were published")
    try:
        return Variant(selection.family, multiplier, size, selection.quantized)
    except ValueError as error:
        raise CheckpointError(f"{source}: {error}") from error


def _title(family: str) -> str:
    return f"MobileNet {family[-2:].upper()}"


def _named(checkpoint: Checkpoint) -> Variant | None:
    """The variant that the checkpoint's file, its archive or its folder is named after."""
    path = Path(os.path.abspath(checkpoint.source))
    names = [checkpoint.prefix.name, path.as_posix()]
    if not path.is_dir() and not _ARCHIVE.fullmatch(path.name):
        names.append(path.parent.as_posix())
    for name in names:
        for match in reversed(list(_NAME.finditer(name))):
            if not _BEHIND_THE_NAME.fullmatch(name, match.end()):
                break
            with contextlib.suppress(ValueError):
                return Variant.parse(match[0].replace("_quantops", "_quant"))
    return None


def _check_agreement(
    checkpoint: Checkpoint, selection: Selection, claimed: Variant, advice: str
) -> None:
    """Raises CheckpointError if the checkpoint is of another network than it is claimed to be.

    A checkpoint that is of no network at all passes: the mapping lists what is wrong with it.
    """
    source = checkpoint.source
    if claimed.family != selection.family:
        raise CheckpointError(
            f"{source} is not {claimed}: expected {_title(claimed.family)}, found "
            f"{_title(selection.family)} (variables called "
            f"{architecture.scope(selection.family)}/…); {advice}"
        )
    if claimed.quantized != selection.quantized:
        ranges = "ranges of simulated quantization"
        if claimed.quantized:
            scope = architecture.scope(selection.family)
            state = f"{ranges} ({scope}/{scope}/Conv2d_0/weights_quant/min, …), found none"
        else:
            state = f"no {ranges}, found {next(filter(_RANGE.fullmatch, selection.keys))}"
        raise CheckpointError(f"{source} is not {claimed}: expected {state}; {advice}")
    shapes = _kernel_shapes(checkpoint, selection)
    wrong = _misfits(shapes, selection.family, claimed.depth_multiplier)
    if wrong and (fitting := _fitting_multipliers(shapes, selection.family)):
        raise CheckpointError(
            f"{source} is not {claimed}: expected depth multiplier {claimed.depth_multiplier:g}, "
            f"found {' or '.join(f'{m:g}' for m in fitting)} ({wrong[0]}); {advice}"
        )


def _inferred_multiplier(checkpoint: Checkpoint, selection: Selection) -> float:
    shapes = _kernel_shapes(checkpoint, selection)
    fitting = _fitting_multipliers(shapes, selection.family)
    if len(fitting) == 1:
        return fitting[0]
    title = _title(selection.family)
    if fitting:
        raise CheckpointError(
            f"{checkpoint.source} is {title} with depth multiplier "
            f"{' or '.join(f'{m:g}' for m in fitting)}: they have the same widths; give "
            "the variant"
        )
    misfits = {m: _misfits(shapes, selection.family, m) for m in _published(selection.family)}
    nearest = min(misfits, key=lambda m: len(misfits[m]))
    raise CheckpointError(
        f"{checkpoint.source}: no depth multiplier gives {title} these widths; the nearest, "
        f"{nearest:g}, differs in {len(misfits[nearest])} of {len(shapes)} convolutions "
        f"({misfits[nearest][0]}); give the variant to have all differences listed"
    )


def _kernel_shapes(checkpoint: Checkpoint, selection: Selection) -> dict[str, tuple[int, ...]]:
    """The shapes of the convolutions' kernels by name, as far as the checkpoint has them."""
    shapes = {
        name: checkpoint.shapes[selection.keys[name]]
        for name in _expected_kernel_shapes(selection.family, 1.0)
        if name in selection.keys
    }
    if not shapes:
        raise CheckpointError(
            f"{checkpoint.source} holds none of {_title(selection.family)}'s convolutions"
        )
    return shapes


def _expected_kernel_shapes(family: str, multiplier: float) -> dict[str, tuple[int, ...]]:
    """What TF-Slim names the kernels of the convolutions before the logits, and their shapes."""
    scope, channels = architecture.scope(family), 3
    shapes: dict[str, tuple[int, ...]] = {}
    for line in architecture.convolutions(Variant(family, multiplier, 224)):
        depthwise = line.kind == "depthwise"
        name = f"{scope}/{line.scope}/{'depthwise_weights' if depthwise else 'weights'}"
        kernel = (line.kernel_size, line.kernel_size)
        shapes[name] = (*kernel, channels, 1 if depthwise else line.filters)
        channels = line.filters
    return shapes


def _misfits(shapes: Mapping[str, tuple[int, ...]], family: str, multiplier: float) -> list[str]:
    """Which kernels have other shapes than a multiplier gives them, said in words."""
    expected = _expected_kernel_shapes(family, multiplier)
    return [
        f"{name}: expected {list(expected[name])}, found {list(shape)}"
        for name, shape in shapes.items()
        if shape != expected[name]
    ]


def _fitting_multipliers(shapes: Mapping[str, tuple[int, ...]], family: str) -> list[float]:
    """The depth multipliers that give a family these shapes; of those, only the roundest.

    Rounding to multiples of 8 gives a thin V2 the same widths at several multipliers, 0.35 and
    0.36 for instance. The published ones are all multiples of 0.05.
    """
    for parts in (20, 100):
        multipliers = [i / parts for i in range(1, 4 * parts + 1)]
        if fitting := [m for m in multipliers if not _misfits(shapes, family, m)]:
            return fitting
    return []


def _published(family: str) -> list[float]:
    return sorted({v.depth_multiplier for v in VARIANTS if v.family == family})
