"""Fixtures of what comes from elsewhere."""

from __future__ import annotations

import pytest
from local_hosts import Hosts, hosts  # noqa: F401
from published_archive import BODY, URL


@pytest.fixture
def site(hosts: Hosts) -> Hosts:  # noqa: F811
    """The hosts, with the archive."""
    hosts.answers[URL] = BODY
    return hosts
