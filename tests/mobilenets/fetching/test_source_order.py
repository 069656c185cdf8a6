"""A mirror comes first, with hashes of its own, then what is in the cache, then the published."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from local_hosts import Hosts
from published_archive import BODY, cached, refusal

from mobilenets import fetching
from mobilenets.fetching import fetch
from mobilenets.published import Source


class TestMirror:
    PATH = "mobilenet_v2_035_96/feature_vector/1.tar.gz"

    def laid_out(self, site: Hosts, tmp_path: Path, where: str, sums: str) -> tuple[str, Source]:
        mirror = f"{site.url}/mirror" if where == "url" else str(tmp_path / "mirror")
        if where == "url":
            site.answers[f"{mirror}/{self.PATH}"] = BODY
            site.answers[f"{mirror}/SHA256SUMS"] = sums.encode()
        else:
            (tmp_path / "mirror" / self.PATH).parent.mkdir(parents=True)
            (tmp_path / "mirror" / self.PATH).write_bytes(BODY)
            (tmp_path / "mirror" / "SHA256SUMS").write_text(sums)
        self.patch.setenv("MOBILENETS_MIRROR", f"{mirror}/")
        (source, *_) = fetching.sources("mobilenet_v2_035_96", "feature_vector")
        assert source.what == fetching.MIRROR
        return mirror, source

    @pytest.fixture(autouse=True)
    def patched(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.patch = monkeypatch

    @pytest.mark.parametrize("where", ["url", "folder"])
    @pytest.mark.parametrize("form", ["{}  {}", "{} *./{}"])
    def test_its_files_are_checked(
        self, site: Hosts, tmp_path: Path, where: str, form: str
    ) -> None:
        sums = form.format(hashlib.sha256(BODY).hexdigest(), self.PATH) + "\n"
        _, source = self.laid_out(site, tmp_path, where, "# sums\n" + sums)
        assert fetch(source).read_bytes() == BODY
        site.answers.clear()
        assert fetch(source, offline=True).read_bytes() == BODY

    @pytest.mark.parametrize("where", ["url", "folder"])
    @pytest.mark.parametrize(
        ("sums", "reason"),
        [
            ("0" * 64 + "  " + PATH, "found " + hashlib.sha256(BODY).hexdigest()),
            ("0" * 64 + "  other", "does not list mobilenet_v2_035_96"),
        ],
        ids=["other bytes", "not listed"],
    )
    def test_what_does_not_agree_is_refused(
        self, site: Hosts, tmp_path: Path, where: str, sums: str, reason: str
    ) -> None:
        assert reason in refusal(self.laid_out(site, tmp_path, where, sums)[1])
        assert cached() == {}


def test_what_is_in_the_cache_comes_first(site: Hosts) -> None:
    names = [source.what for source in fetching.sources("mobilenet_v1_025_128", "classification")]
    assert names[0] == "TF-Slim archive"
    assert names[-1] == "keras.applications file"
    last = fetching.sources("mobilenet_v1_025_128", "classification")[-1]
    site.answers[last.url] = b"\x89HDF\r\n\x1a\n"
    fetch(last)
    again = fetching.sources("mobilenet_v1_025_128", "classification")
    assert [source.what for source in again] == [names[-1], *names[:-1]]
