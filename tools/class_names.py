"""Writes `mobilenets/class_names.txt`: `background`, then the classes of ILSVRC-2012.

The names are WordNet's, as the package timm publishes them (Apache-2.0): the class order is
`timm/data/_info/imagenet_synsets.txt`, the lemmas `timm/data/_info/imagenet_synset_to_lemma.txt`.
The file in the repository was made from timm 1.0.31:

    pip download --no-deps timm==1.0.31
    python -m tools.class_names timm-1.0.31-py3-none-any.whl > class_names.txt
    mv class_names.txt mobilenets/
"""

from __future__ import annotations

import sys
import zipfile
from collections import Counter
from collections.abc import Sequence

from convert.errors import ConvertError

__all__ = ["choose", "main", "read_lemmas"]

_FOLDER = "timm/data/_info/"


def read_lemmas(wheel: str) -> list[list[str]]:
    """The lemmas of each of the 1,000 classes, in the order of the published checkpoints.

    Raises:
      ConvertError: The file is not a timm wheel, or does not list 1,000 sorted, named synsets.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            synsets = archive.read(f"{_FOLDER}imagenet_synsets.txt").decode().split()
            table = archive.read(f"{_FOLDER}imagenet_synset_to_lemma.txt").decode()
    except (OSError, KeyError, zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise ConvertError(f"{wheel} is not a wheel of timm: {error}") from None
    lemmas = dict(line.split("\t", 1) for line in table.splitlines() if "\t" in line)
    if len(synsets) != 1000 or synsets != sorted(set(synsets)) or not lemmas.keys() >= {*synsets}:
        raise ConvertError(f"{wheel} does not list ILSVRC-2012's 1,000 synsets, sorted and named")
    return [[lemma.strip() for lemma in lemmas[synset].split(",")] for synset in synsets]


def choose(lemmas: Sequence[Sequence[str]]) -> list[str]:
    """One name for each class: its first lemma, as TensorFlow's label files have it.

    A class that shares its first lemma with another takes its second one if it has one (`tank
    suit` beside `maillot`). The two classes `crane`, bird and machine, have no other lemma.
    """
    shared = Counter(first.lower() for first, *_ in lemmas)
    return [
        others[0] if others and shared[first.lower()] > 1 else first for first, *others in lemmas
    ]


def main(arguments: Sequence[str]) -> int:
    """Prints the 1,001 names, one per line; on an error prints one line to stderr and returns 2."""
    if len(arguments) != 1:
        print("usage: python -m tools.class_names TIMM_WHEEL", file=sys.stderr)
        return 2
    try:
        names = choose(read_lemmas(arguments[0]))
    except ConvertError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("background", *names, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
