"""URLs of hub modules are asked for as the hub wants."""

from __future__ import annotations

from local_hosts import Hosts
from published_archive import BODY, INDEX, files

from mobilenets.fetching import local


def test_urls_of_modules_are_asked_for_as_the_hub_wants(site: Hosts) -> None:
    site.answers["https://tfhub.dev/a/b/1?tf-hub-format=compressed"] = BODY
    with local("https://tfhub.dev/a/b/1") as folder:
        assert files(folder)[INDEX] == b"the index"
    assert not folder.exists()
