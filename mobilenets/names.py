"""Published variants by name: what is meant as one, and the first source that has its weights."""

from __future__ import annotations

import difflib
import functools
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from mobilenets import fetching, published
from mobilenets.errors import MobileNetError
from mobilenets.published import Source
from mobilenets.variants import Variant, kind_of

__all__ = ["Name", "NotFoundError", "Origin", "first", "parse", "reason"]

_Result = TypeVar("_Result")


class NotFoundError(MobileNetError, FileNotFoundError):
    """No file and no published variant has this name."""


class Name(NamedTuple):
    """A published variant's hub name, and one of `published.KINDS` if that was said too."""

    variant: str
    kind: str | None


@dataclass(frozen=True)
class Origin:
    """Where a file that was fetched is from.

    Attributes:
      source: The place.
      file: The file on this machine.
    """

    source: Source
    file: Path

    @functools.cached_property
    def sha256(self) -> str:
        """Of the file's bytes, in hexadecimal."""
        return fetching.sha256(self.file)

    @property
    def hash_of(self) -> str:
        """Who says that the hash is right: `"published"`, `"index.json"` or `"first use"`."""
        if self.source.index:
            return "index.json"
        return "published" if self.source.sha256 else "first use"


def parse(source: str | os.PathLike[str]) -> Name | None:
    """The published variant that a source names, or None if it is not meant as a name.

    Raises:
      NotFoundError: The source is meant as a name, but no published variant has it.
    """
    text = source.strip() if isinstance(source, str) else ""
    path = Path(text)
    # A name has no empty part, unlike a URL.
    meant = re.match(r"google/|mobilenet[_-]v\d|[^/\\.~:][^/\\:]*/?$", text)
    if not meant or path.exists() or any(path.parent.glob(f"{path.name}.*")):
        return None
    try:
        variant = Variant.parse(text)
    except ValueError:
        name, reason = text, "no file, folder or published variant has this name"
    else:
        name = variant.name
        if name in published.archives():
            return Name(name, kind_of(text))
        reason = "this variant was never published"
        if variant.quantized and variant.unquantized.name in published.archives():
            if variant.quantized != "int8":
                reason = "this variant has no quantized form"
            name = variant.unquantized.name
    names = list(published.archives())
    short = re.sub(
        r"^google/(?:image/)?(?:imagenet/)?|/(?:feature_vector|classification).*", "", name
    )
    nearest = difflib.get_close_matches(short.lower(), names, n=3)
    raise NotFoundError(
        f"{text}: {reason}; "
        + (f"nearest: {', '.join(nearest)}" if nearest else "mobilenets.VARIANTS holds the names")
    )


def first(name: str, kind: str, use: Callable[[Origin], _Result]) -> _Result:
    """What can be made of the first source of a published variant that serves.

    Args:
      name: The hub's name; one of `published.archives()`.
      kind: One of `published.KINDS`.
      use: Makes it of a source's file. The next source is tried where that raises a
        MobileNetError or an OSError.

    Raises:
      FetchError: No source serves; the message lists each with its reason.
    """
    failures = []
    for source in fetching.sources(name, kind):
        try:
            found = fetching.newest(source)
            return use(Origin(found, fetching.fetch(found)))
        except (MobileNetError, OSError) as error:
            failures.append(f"{source.what}: {reason(error)}")
    raise fetching.FetchError(
        f"cannot get {name}/{kind}: {'; '.join(failures)}; {published.by_hand(name, kind)}"
    )


def reason(error: BaseException) -> str:
    """What went wrong as one line; of several faults, the first."""
    first, *others = str(error).splitlines() or [type(error).__name__]
    return f"{first} ({others[0].strip()})" if others else first
