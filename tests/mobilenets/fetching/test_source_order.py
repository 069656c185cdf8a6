"""A mirror comes first, with hashes of its own, then what is in the cache, then the published."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from local_hosts import Hosts, tgz
from mirrors import index_of
from published_archive import BODY, cached, refusal

from mobilenets import fetching
from mobilenets.fetching import fetch
from mobilenets.published import Source

NAME, KIND = "mobilenet_v2_035_96", "feature_vector"
OTHER = tgz({"other": b"bytes"})


def path(version: int) -> str:
    return f"{NAME}/{KIND}/{version}.tar.gz"


class TestMirror:
    @pytest.fixture(params=["url", "folder"])
    def mirror(
        self,
        request: pytest.FixtureRequest,
        site: Hosts,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> Callable[..., str]:
        """`mirror(archives, index)`: lays them out, and returns the mirror's URL or path."""
        url, folder = f"{site.url}/mirror", tmp_path / "mirror"
        at = url if request.param == "url" else str(folder)
        monkeypatch.setenv("MOBILENETS_MIRROR", f"{at}/")

        def mirror(archives: dict[str, bytes], index: str) -> str:
            for name, body in {**archives, "index.json": index.encode()}.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(body)
                site.answers[f"{url}/{name}"] = body
            return at

        return mirror

    def source(self) -> Source:
        (source,) = (each for each in fetching.sources(NAME, KIND) if each.what == fetching.MIRROR)
        return source

    def test_it_comes_first(self, mirror: Callable[..., str]) -> None:
        at = mirror({}, index_of({}))
        first, *_ = fetching.sources(NAME, KIND)
        assert first == Source("mirror", f"{at}/{NAME}/{KIND}", index=f"{at}/index.json")

    def test_the_newest_version_is_taken(self, mirror: Callable[..., str]) -> None:
        archives = {path(9): OTHER, path(10): BODY, "mobilenet_v2_035_96/classification/11": b""}
        at = mirror(archives, index_of({path(10): BODY, path(9): OTHER}))
        found = fetching.newest(self.source())
        assert found.url == f"{at}/{path(10)}"
        assert found.sha256 == hashlib.sha256(BODY).hexdigest()
        assert fetching.newest(found) == found
        assert fetch(self.source()) == fetch(found)
        assert fetch(found).read_bytes() == BODY

    @pytest.mark.parametrize("mirror", ["url"], indirect=True)
    def test_what_is_in_the_cache_stays(self, mirror: Callable[..., str], site: Hosts) -> None:
        """Without the network, and though the mirror has a newer version."""
        mirror({path(1): BODY}, index_of({path(1): BODY}))
        file = fetch(self.source())
        mirror({path(2): OTHER}, index_of({path(1): BODY, path(2): OTHER}))
        site.asked.clear()
        assert fetch(self.source()) == fetch(self.source(), offline=True) == file
        assert fetching.newest(self.source()).sha256 == hashlib.sha256(BODY).hexdigest()
        assert site.asked == []
        # Fetched by its URL.
        newer = fetch(Source("URL", f"{self.source().url}/2.tar.gz"))
        assert fetch(self.source()) == fetch(self.source(), offline=True) == newer
        newer.unlink()
        file.unlink()
        assert "is not in the cache, and this is offline" in refusal(self.source(), offline=True)
        assert fetch(self.source()).read_bytes() == OTHER

    @pytest.mark.parametrize("mirror", ["url"], indirect=True)
    def test_what_is_damaged_in_the_cache_is_fetched_again(
        self, mirror: Callable[..., str]
    ) -> None:
        mirror({path(1): BODY}, index_of({path(1): BODY}))
        file = fetch(self.source())
        file.write_bytes(BODY[:-1])
        assert "is not in the cache" in refusal(self.source(), offline=True)
        assert fetch(self.source()).read_bytes() == BODY

    @pytest.mark.parametrize(
        ("index", "reason"),
        [
            (index_of({path(1): OTHER}), f"found {hashlib.sha256(BODY).hexdigest()}"),
            (index_of({"mobilenet_v2_035_96/classification/1.tar.gz": BODY}), "does not list"),
            (index_of({path(2): BODY}), "2.tar.gz"),
            ('{"schema": 2, "modules": []}', "has schema 2, expected 1"),
            ('{"schema": 1, "modules": [{"name": "x"}]}', "is no index of modules"),
            ("[]", "is no index of modules"),
            ("<html>sign in</html>", "is no index of modules"),
        ],
        ids=["bytes", "not listed", "absent", "schema", "entries", "list", "page"],
    )
    def test_what_does_not_agree_is_refused(
        self, mirror: Callable[..., str], index: str, reason: str
    ) -> None:
        mirror({path(1): BODY}, index)
        assert reason in refusal(self.source())
        assert cached() == {}

    def test_it_needs_an_index(self, mirror: Callable[..., str], site: Hosts) -> None:
        at = mirror({path(1): BODY}, "")
        del site.answers[f"{site.url}/mirror/index.json"]
        (Path(at) / "index.json").unlink(missing_ok=True)
        assert f"{at}/index.json: " in refusal(self.source())


def test_what_is_in_the_cache_comes_first(site: Hosts) -> None:
    names = [source.what for source in fetching.sources("mobilenet_v1_025_128", "classification")]
    assert names[0] == "TF-Slim archive"
    assert names[-1] == "keras.applications file"
    last = fetching.sources("mobilenet_v1_025_128", "classification")[-1]
    site.answers[last.url] = b"\x89HDF\r\n\x1a\n"
    fetch(last)
    again = fetching.sources("mobilenet_v1_025_128", "classification")
    assert [source.what for source in again] == [names[-1], *names[:-1]]
