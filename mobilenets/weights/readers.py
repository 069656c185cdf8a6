"""The formats that weights are read from, and how a source is opened."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from mobilenets import fetching
from mobilenets.weights import frozen_graph, hugging_face, keras_files, lite, slim, tf2_module
from mobilenets.weights.contents import Weights
from mobilenets.weights.errors import WeightsError

__all__ = ["READERS", "Reader", "open", "read"]


class Reader(Protocol):
    """The interface of a module that reads one format.

    Attributes:
      EXPECTED: Description of the format in errors: "expected <EXPECTED>". Empty for a format that
        is recognised only to say what to use instead.
    """

    EXPECTED: str

    def recognises(self, path: Path, /) -> bool:
        """Whether a file, a folder or a checkpoint's prefix has this format, by its content.

        True also if it is damaged or incomplete but clearly meant to be; `read` then says so.
        """
        ...

    def read(self, path: Path, source: str, selection: str, /) -> Weights:
        """Opens a path that `recognises` accepts.

        Args:
          path: The file, folder or prefix.
          source: The path as the user named it.
          selection: One of `SELECTIONS`; raises WeightsError if the format does not have it.
        """
        ...


READERS: tuple[Reader, ...] = (
    # The first that recognises a source reads it.
    lite,
    frozen_graph,
    hugging_face,
    tf2_module,
    keras_files,
    slim,
)


@contextlib.contextmanager
def open(source: str | os.PathLike[str], selection: str = "auto") -> Iterator[Weights]:
    """Opens the weights at a source; they can be read until the context ends.

    Args:
      source: A file, a folder or a checkpoint's prefix; an archive of any of these, which is
        unpacked to a temporary folder; or a URL, see `fetching.local`.
      selection: `"raw"` takes the variables themselves, `"averages"` the moving averages of those
        that have one, `"auto"` what the published modules hold.

    Raises:
      WeightsError: There is no such file, or it holds no weights, or several networks' weights; or
        it is incomplete or damaged.
      MobileNetError: The archive cannot be unpacked, or the URL cannot be fetched.
    """
    with contextlib.ExitStack() as stack:
        try:
            path = stack.enter_context(fetching.local(source))
            found = read(path, os.fspath(source), selection)
        except fetching.FetchError:
            raise
        except OSError as error:
            raise WeightsError(f"cannot read {source}: {error.strerror or error}") from error
        yield found


def read(path: Path, source: str, selection: str = "auto") -> Weights:
    """Opens the weights at a local path.

    Args:
      path: A file, a folder or a checkpoint's prefix. In a folder that was unpacked from an
        archive or fetched, the weights may lie in any subfolder.
      source: The path as the user named it.
      selection: See `open`.

    Raises:
      WeightsError: As `open` does.
    """
    found = _found([path])
    if not found and path != Path(source) and path.is_dir():
        inside = sorted(path.rglob("*"))
        found = _found(each for each in inside if each.is_dir())
        found = found or _found(each for each in inside if each.is_file())
    if len(found) > 1:
        names = " and ".join(str(place.relative_to(path)) for place, _ in found[:3])
        raise WeightsError(f"{source} holds several checkpoints ({names}); unpack it and name one")
    if found:
        place, reader = found[0]
        return reader.read(place, source, selection)
    expected = "; ".join(reader.EXPECTED for reader in READERS if reader.EXPECTED)
    if path.is_dir():
        raise WeightsError(f"{source} holds no checkpoint; expected {expected}")
    if path.exists():
        raise WeightsError(f"{source} is not a checkpoint; expected {expected}")
    raise WeightsError(f"{source}: no such file; expected {expected}")


def _found(places: Iterable[Path]) -> list[tuple[Path, Reader]]:
    """The places that hold weights, each with its reader, without places inside other ones."""
    found: list[tuple[Path, Reader]] = []
    for place in places:
        if not any(outer in place.parents for outer, _ in found):
            reader = next((reader for reader in READERS if reader.recognises(place)), None)
            found += [(place, reader)] if reader else []
    return found
