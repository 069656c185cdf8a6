"""A headless Chromium, the system's own, and the sites that it visits."""

from __future__ import annotations

import contextlib
import functools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from site_index import all_published
from static_site import serving

from convert.publish import site

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
# Without a sandbox, since CI may run as root; without services that call home.
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
OPTIONS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
WIDTHS = {"desktop": 1280, "tablet": 768, "phone": 390, "small phone": 360}


@pytest.fixture(scope="session")
def served() -> Iterator[Callable[[Path], str]]:
    """`served(folder)`: the URL of a folder, on loopback and not at the server's top."""
    with contextlib.ExitStack() as stack:

        @functools.cache
        def served(folder: Path) -> str:
            return f"{stack.enter_context(serving(folder.parent)).url}/{folder.name}/"

        yield served


@pytest.fixture(scope="session")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of all published modules; its archives hold cards alone."""
    folder = tmp_path_factory.mktemp("catalogue")
    site.write(folder, all_published(folder))
    return folder


# Not for the session: while it runs, no other test could run an event loop.
@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """The browser; without it the test is skipped."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="Playwright is not installed: pip install playwright"
    )
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Any) -> Iterator[Callable[..., Any]]:
    """`visit(url, width="desktop", scheme="light", **options)`: a page in a window of its own.

    At the end of the test no page may have reported an error or asked another host.
    """
    problems: list[str] = []
    contexts = []

    def visit(url: str, width: str = "desktop", scheme: str = "light", **options: Any) -> Any:
        phone = "phone" in width
        context = chromium.new_context(
            viewport={"width": WIDTHS[width], "height": 800},
            color_scheme=scheme,
            is_mobile=phone,
            has_touch=phone,
            **options,
        )
        context.set_default_timeout(10_000)
        contexts.append(context)
        page = context.new_page()
        origin = "/".join(url.split("/")[:3])

        def asked(request: Any) -> None:
            if not request.url.startswith((f"{origin}/", "data:", "blob:")):
                problems.append(f"asked for {request.url}")

        def failed(request: Any) -> None:
            # A page that is left drops what it still loads.
            if request.failure != "net::ERR_ABORTED":
                problems.append(f"{request.url}: {request.failure}")

        page.on("request", asked)
        page.on("requestfailed", failed)
        page.on("pageerror", lambda error: problems.append(f"uncaught: {error}"))
        page.on(
            "console",
            lambda message: problems.append(message.text) if message.type == "error" else None,
        )
        page.goto(url)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not problems
