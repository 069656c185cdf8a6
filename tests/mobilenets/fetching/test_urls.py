"""URLs of hub modules are asked for as the hub wants; every URL has a place of its own."""

from __future__ import annotations

from local_hosts import Hosts
from published_archive import BODY, INDEX, files

from mobilenets.fetching import local, urls


def test_urls_of_modules_are_asked_for_as_the_hub_wants(site: Hosts) -> None:
    site.answers["https://tfhub.dev/a/b/1?tf-hub-format=compressed"] = BODY
    with local("https://tfhub.dev/a/b/1") as folder:
        assert files(folder)[INDEX] == b"the index"
    assert not folder.exists()


def test_different_urls_have_different_places() -> None:
    site = "https://a.org/models"
    different = [
        *(f"{site}/{name}.h5" for name in ("a_b", "a b", "a%20b", "a-b", ".a_b", "_a_b")),
        *(f"{site}/{folder}/m.h5" for folder in ("x_y", "x y", "x:y", "..", "_")),
        *(f"{site}/m.h5{query}" for query in ("", "?v=1", "?v=2")),
        *(f"{site}/m{query}" for query in ("", "?tf-hub-format=compressed", "?other")),
        "https://a.org",
        "https://a.org:81",
        "https://b.org",
    ]
    assert len({tuple(urls.names(url)) for url in different}) == len(different)


def test_a_place_is_called_as_the_url_is() -> None:
    found = urls.names("https://storage.googleapis.com/a/mobilenet_v1_1.0_224.tgz")
    assert found == ["storage.googleapis.com", "a", "mobilenet_v1_1.0_224.tgz"]
    assert urls.names("https://a.org/b/c/1?tf-hub-format=compressed")[-1] == "1.tar.gz"
