"""The formats that weights are read from, and how a source is opened."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from mobilenets import fetching, names
from mobilenets.names import Name, Origin
from mobilenets.weights import frozen_graph, hugging_face, keras_files, lite, slim, tf2_module
from mobilenets.weights.contents import Weights
from mobilenets.weights.errors import NoMobileNetError, WeightsError

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
        unpacked to a temporary folder; a URL, see `fetching.local`; or the name of a published
        variant, whose weights then come from the first source that has them.
      selection: `"raw"` takes the variables themselves, `"averages"` the moving averages of those
        that have one, `"auto"` what the published modules hold.

    Raises:
      WeightsError: There is no such file, or it holds no weights, or several networks' weights; or
        it is incomplete or damaged.
      MobileNetError: The archive cannot be unpacked, the URL cannot be fetched, or no place has the
        weights of the name; or there is no such name (`names.NotFoundError`).
    """
    with contextlib.ExitStack() as stack:
        if name := names.parse(source):
            kind = name.kind or "classification"
            yield names.first(
                name.variant, kind, lambda origin: _named(name, kind, origin, selection, stack)
            )
            return
        try:
            path = stack.enter_context(fetching.local(source))
            found = read(path, os.fspath(source), selection)
            if asked := fetching.asked_for(os.fspath(source)):
                origin = Origin(asked, fetching.fetch(asked))
                found = dataclasses.replace(found, origin=origin)
        except fetching.FetchError:
            raise
        except OSError as error:
            raise WeightsError(f"cannot read {source}: {error.strerror or error}") from error
        yield found


def _named(
    name: Name, kind: str, origin: Origin, selection: str, stack: contextlib.ExitStack
) -> Weights:
    """The weights of a name in a file of a source, if they are all there; open as the stack is."""
    with contextlib.ExitStack() as attempt:
        path = attempt.enter_context(fetching.local(origin.file))
        found = read(path, origin.source.url, selection)
        found = dataclasses.replace(found, name=name, origin=origin)
        found.values(found.variant())
        if kind == "classification" and found.num_classes is None:
            raise WeightsError("it has no logits")
        stack.enter_context(attempt.pop_all())
        return found


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
        raise NoMobileNetError(f"{source} holds no checkpoint; expected {expected}")
    if path.exists():
        raise NoMobileNetError(f"{source} is not a checkpoint; expected {expected}")
    raise NoMobileNetError(f"{source}: no such file; expected {expected}")


def _found(places: Iterable[Path]) -> list[tuple[Path, Reader]]:
    """The places that hold weights, each with its reader, without places inside other ones."""
    found: list[tuple[Path, Reader]] = []
    for place in places:
        if not any(outer in place.parents for outer, _ in found):
            reader = next((reader for reader in READERS if reader.recognises(place)), None)
            found += [(place, reader)] if reader else []
    return found
