"""Everything that comes from elsewhere: fetched, checked and unpacked safely.

`network` alone touches the network, through pooch. What is fetched stays in a cache. The rest of
the library uses the names here.
"""

from mobilenets.fetching.archives import unpack, unpacked
from mobilenets.fetching.cache_folder import cache, locked
from mobilenets.fetching.checks import sha256
from mobilenets.fetching.errors import ArchiveError, FetchError
from mobilenets.fetching.files import fetch, first_use
from mobilenets.fetching.mirror import newest
from mobilenets.fetching.network import offline
from mobilenets.fetching.source_order import MIRROR, sources
from mobilenets.fetching.user_sources import asked_for, local

__all__ = [
    "MIRROR",
    "ArchiveError",
    "FetchError",
    "asked_for",
    "cache",
    "fetch",
    "first_use",
    "local",
    "locked",
    "newest",
    "offline",
    "sha256",
    "sources",
    "unpack",
    "unpacked",
]
