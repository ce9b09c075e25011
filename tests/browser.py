"""Debian's Chromium for the tests of pages, driven by Playwright."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

FLAGS = ("--disable-gpu", "--disable-quic")
"""Beside Playwright's own, with which the browser has no sandbox, and updates and synchronizes nothing."""


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser with a profile of its own, gone at the end. Without one the test is skipped; in CI it fails."""
    program = shutil.which("chromium")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("CI must not do without a browser")
        pytest.skip("no chromium on this machine")
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=program, args=FLAGS) as chromium,
    ):
        yield chromium


def watch(page: Page) -> tuple[list[str], list[str]]:
    """What a page asks of the network (URLs), and what it complains about, from now on."""
    requests: list[str] = []
    complaints: list[str] = []
    # Playwright's own event leaves out requests for a favicon.
    session = page.context.new_cdp_session(page)
    session.on("Network.requestWillBeSent", lambda event: requests.append(event["request"]["url"]))
    session.send("Network.enable")
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    return requests, complaints
