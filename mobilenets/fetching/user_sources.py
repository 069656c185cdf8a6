"""What a user gives as a source: a path, an archive, a URL or a repository, as a path to read."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import mobilenets.published as published
from mobilenets.fetching import archives, cache_folder, urls
from mobilenets.fetching.errors import FetchError
from mobilenets.fetching.files import fetch
from mobilenets.published import Source
from mobilenets.writing import temporary_folder

__all__ = ["asked_for", "local"]

_REPOSITORY = re.compile(r"hf://(\w[\w.-]*/\w[\w.-]*)/?")
_HUGGING_FACE = "Hugging Face repository"
_EXPECTED = "a variant's name, a path, a URL or hf://<owner>/<name>"


@contextlib.contextmanager
def local(source: str | os.PathLike[str]) -> Iterator[Path]:
    """The path where a source can be read until the context ends.

    Args:
      source: A path; a `.tar.gz`, `.tgz` or `.tar` file, which is unpacked to a temporary folder;
        the `http://` or `https://` URL of an archive or a file of weights, or of a TensorFlow Hub
        module, which is asked for as its hosting protocol says (`?tf-hub-format=compressed`); or
        `hf://<owner>/<name>`, a Hugging Face repository, whose folder in the cache is the path.
        See `fetch`.

    Raises:
      ArchiveError: The archive cannot be unpacked.
      FetchError: The URL cannot be fetched, or there is no space left.
      FileNotFoundError: The source is an empty or blank string.
    """
    name = os.fspath(source)
    if not name.strip():
        # As a path it is the working directory: a shell's unset variable must not read that.
        raise FileNotFoundError(f"the source is empty ({name!r}): expected {_EXPECTED}")
    if asked := asked_for(name):
        repository = asked.what == _HUGGING_FACE
        name = os.fspath(_repository(asked) if repository else fetch(asked))
    if archives.has_archive_name(name) and os.path.isfile(name):
        with temporary_folder("mobilenet-") as folder:
            archives.unpack(name, folder)
            yield archives.root(folder)
    else:
        yield Path(name)


def asked_for(source: str) -> Source | None:
    """The file to fetch for a user's URL; None for a path.

    The URL of a hub module gets the query that asks for its archive. The file of a Hugging Face
    repository is its weights; `local` fetches the files beside them too.

    Raises:
      FetchError: The source begins with `hf://` and names no repository.
    """
    if source.startswith("hf://"):
        repository = _REPOSITORY.fullmatch(source)
        if not repository:
            raise FetchError(
                f"{source} names no repository: expected hf://<owner>/<name>, such as "
                "hf://google/mobilenet_v2_1.0_224"
            )
        folder = f"https://huggingface.co/{repository[1]}/resolve/main"
        return Source(_HUGGING_FACE, f"{folder}/model.safetensors")
    if not urls.is_url(source):
        return None
    url = source if urls.is_file(source) else f"{source}?{urls.HUB_QUERY}"
    known = (archive.sha256 for archive in published.archives().values() if archive.url == url)
    return Source("URL", url, next(known, None))


def _repository(weights: Source) -> Path:
    """The folder of a Hugging Face repository's files in the cache."""
    beside = weights.url.rpartition("/")[0]
    try:
        fetch(Source(weights.what, f"{beside}/config.json"))
        # Before the weights: once they are in the cache, every file was asked for.
        if not cache_folder.place(weights.url).is_file():
            try:
                fetch(Source(weights.what, f"{beside}/preprocessor_config.json"))
            except FetchError as error:
                if not _is_absent(error):
                    raise
        return fetch(weights).parent
    except FetchError as error:
        if not _is_absent(error):
            raise
        raise FetchError(
            f"{error}; a repository needs config.json and model.safetensors: save it again in "
            "transformers (model.save_pretrained(folder)) and give the folder"
        ) from error


def _is_absent(error: FetchError) -> bool:
    """Whether the host answers that there is no such file."""
    answer = getattr(error.__cause__, "response", None)
    return getattr(answer, "status_code", None) == 404
