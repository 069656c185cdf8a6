"""What a URL says: whether a text is one, whether of a file, how its file may be called."""

from __future__ import annotations

import hashlib
import re
import urllib.parse

__all__ = ["HUB_QUERY", "is_file", "is_url", "names"]

_URL = re.compile(r"https?://", re.IGNORECASE)
# URLs whose path names a file; all others are those of hub modules.
_FILE = re.compile(
    r".+\.(?:tgz|tar\.gz|tar|h5|hdf5|keras|pb|safetensors|tflite|zip)", re.IGNORECASE
)
HUB_QUERY = "tf-hub-format=compressed"


def is_url(text: str) -> bool:
    """Whether a text is meant as an `http(s)://` URL, not as a path."""
    return _URL.match(text) is not None


def is_file(url: str) -> bool:
    """Whether a URL is a file's; all others without a query are hub modules'."""
    parts = urllib.parse.urlsplit(url)
    return bool(_FILE.fullmatch(parts.path) or parts.query)


def names(url: str) -> list[str]:
    """Names for a URL's folders and file, as its host and path are called; none leads upwards."""
    parts = urllib.parse.urlsplit(url)
    host = f"{parts.hostname}_{parts.port}" if parts.port else f"{parts.hostname}"
    path = [name for name in parts.path.split("/") if name] or ["index"]
    plain = [re.sub(r"[^\w.+-]", "_", name).lstrip(".") or "_" for name in path]
    ambiguous = plain != path or (parts.query != HUB_QUERY and parts.query)
    if parts.query == HUB_QUERY:
        plain[-1] += ".tar.gz"
    if ambiguous:
        plain[-1] = f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{plain[-1]}"
    return [host, *plain]
