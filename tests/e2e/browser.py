"""The real Chromium, where it is installed, and pages in it that are watched for faults."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

NEEDED = "needs a browser: apt-get install --no-install-recommends chromium"
PATIENCE_MS = 30_000
"""How long a page may take to show what it is to show, in milliseconds."""


@contextlib.contextmanager
def running_browser() -> Iterator[Browser]:
    """Starts Chromium; without it a test is skipped, in CI it fails."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        if os.environ.get("CI") == "true":
            pytest.fail(NEEDED)
        pytest.skip(NEEDED)
    expect.set_options(timeout=PATIENCE_MS)
    # Its sandbox needs rights that a container's root does not have.
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, chromium_sandbox=False)
        yield browser
        browser.close()


@contextlib.contextmanager
def watched_page(browser: Browser, origin: str, **options: Any) -> Iterator[Page]:
    """Opens ``origin`` in a page with a storage of its own.

    In the end it must not have asked any other origin for anything, nor have had an error that the
    policy of its contents or a script caused. What the server refused is no such error.
    """
    context = browser.new_context(**options)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(origin)
    yield page
    context.close()
    assert [fault for fault in faults if "Failed to load resource" not in fault] == []
    own = (origin.rstrip("/") + "/", "blob:")
    assert [url for url in asked if not url.startswith(own)] == []
