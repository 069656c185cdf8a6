"""A source's file comes once, is checked at every use, and is kept or refused."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest
from local_hosts import Hosts, tgz
from published_archive import (
    BODY,
    DATA,
    NAME,
    SOURCE,
    UNKNOWN,
    URL,
    WEIGHTS,
    cached,
    refusal,
)

from mobilenets import fetching
from mobilenets.errors import MobileNetError
from mobilenets.fetching import fetch, local, network
from mobilenets.published import Source

PAGE = b"<!DOCTYPE html><title>Sign in to the network</title>"


def test_the_file_gets_its_place_and_nothing_else_is_left(site: Hosts) -> None:
    path = fetch(SOURCE)
    assert path.read_bytes() == BODY
    place = f"files/download.tensorflow.org/models/{NAME}.tgz"
    assert path == fetching.cache() / place
    assert cached() == {place: BODY}
    assert site.asked == [URL]


def test_what_is_there_is_not_fetched_again(site: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    for source in (SOURCE, UNKNOWN):
        fetch(source)
    assert site.asked == [URL]
    monkeypatch.setenv("MOBILENETS_OFFLINE", "1")
    assert fetch(SOURCE, offline=True).read_bytes() == BODY


@pytest.mark.parametrize("how", ["argument", "variable"])
def test_offline_touches_no_network(site: Hosts, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if how == "variable":
        monkeypatch.setenv("MOBILENETS_OFFLINE", "1")
    message = refusal(SOURCE, offline=how == "argument")
    assert message.startswith(f"{URL} is not in the cache")
    assert site.asked == []
    monkeypatch.setenv("MOBILENETS_OFFLINE", "0")
    assert fetch(SOURCE)


def test_other_bytes_than_published_are_refused(site: Hosts) -> None:
    for body in (PAGE, tgz({DATA: WEIGHTS[::-1]})):
        site.answers[URL] = body
        message = refusal(SOURCE)
        assert "expected the SHA-256 published" in message
        assert hashlib.sha256(body).hexdigest() in message
        assert cached() == {}


@pytest.mark.parametrize("suffix", [".tgz", ".h5", "?tf-hub-format=compressed", ".pb"])
def test_a_page_is_refused_where_no_hash_is_known(site: Hosts, suffix: str) -> None:
    url = f"https://tfhub.dev/weights{suffix}"
    site.answers[url] = PAGE
    assert "perhaps a page that asks to sign in" in refusal(Source("file", url))
    assert cached() == {}


def test_the_hash_of_the_first_use_counts(site: Hosts) -> None:
    path = fetch(UNKNOWN)
    first = hashlib.sha256(BODY).hexdigest()
    assert fetching.first_use(UNKNOWN) == first
    assert fetching.first_use(SOURCE) is None
    path.unlink()
    other = tgz({DATA: WEIGHTS[::-1]})
    site.answers[URL] = other
    message = refusal(UNKNOWN)
    assert f"recorded at first use, {first}, found {hashlib.sha256(other).hexdigest()}" in message
    assert f"delete {path}.sha256" in message
    assert not path.exists()
    Path(f"{path}.sha256").unlink()
    assert fetch(UNKNOWN).read_bytes() == other


@pytest.mark.parametrize("source", [SOURCE, UNKNOWN], ids=["published", "first use"])
def test_a_damaged_file_is_fetched_again(site: Hosts, source: Source) -> None:
    path = fetch(source)
    path.write_bytes(BODY[:-1] + b"?")
    assert fetch(source).read_bytes() == BODY
    path.write_bytes(b"")
    assert "not in the cache" in refusal(source, offline=True)


def test_a_file_that_the_user_put_there(site: Hosts) -> None:
    place = fetching.cache() / "files" / "download.tensorflow.org" / "models" / f"{NAME}.tgz"
    place.parent.mkdir(parents=True)
    place.write_bytes(BODY)
    assert fetch(UNKNOWN, offline=True) == place
    assert fetching.first_use(UNKNOWN) == hashlib.sha256(BODY).hexdigest()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_reported(site: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    real = network._transfer
    monkeypatch.setattr(
        network, "_transfer", lambda url, target, told: real(url, Path("/dev/full"), told)
    )
    message = refusal(SOURCE)
    assert os.strerror(errno.ENOSPC) in message
    assert "free some space" in message
    assert cached() == {}


def test_a_cache_that_cannot_be_written_is_reported(
    site: Hosts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MOBILENETS_CACHE", str(tmp_path / "file" / "cache"))
    assert refusal(SOURCE).startswith(f"cannot write {tmp_path}")


def test_what_cannot_be_fetched_is_an_oserror_too(site: Hosts) -> None:
    """As `mobilenets.load` says of a URL."""
    with pytest.raises(OSError, match=r"^cannot download ") as caught, local(f"{site.url}/x.tgz"):
        pass
    assert isinstance(caught.value, MobileNetError)
