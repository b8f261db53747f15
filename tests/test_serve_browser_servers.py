"""The web page where its server has a key, is full, goes away, or has no ears."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from browser_lab import (
    CHROMIUM,
    PROBLEM,
    STATE,
    Page,
    browsing,
    open_page,
    until_received,
    wait_ready,
    write_microphone,
)
from serve_lab import question, running
from talkers import make_talker

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here (Debian: apt-get install chromium)")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    file = tmp_path_factory.mktemp("microphone") / "speech.wav"
    with browsing(write_microphone(file, 0.3, question(1, 48_000), 30.0)) as page:
        yield page


def test_a_server_with_a_key(browser: Page) -> None:
    with running(make_talker(), api_key="correct-horse", max_columns=8) as locked:
        open_page(browser, locked)
        browser.wait_for("document.querySelector('#key-dialog').open")
        browser.type("#key", "wrong")
        browser.wait_for("document.querySelector('#key-problem').textContent.includes('not the server')")
        browser.run("document.querySelector('#key').value = ''")
        browser.type("#key", "correct-horse")
        wait_ready(browser)
        browser.type("#text", "Hello!")
        until_received(browser, "response.done")
        # A browser's WebSocket carries no other words than these.
        browser.run("import('/app.js').then(({ app }) => { app.conversation.end(); app.key = 'a/b=c'; })")
        browser.type("#text", "Hello!")
        browser.wait_for("document.querySelector('#key-problem').textContent.includes(\"can't send\")")
        browser.run("sessionStorage.clear()")
        browser.open("about:blank")


def test_a_full_server_and_a_lost_one(browser: Page) -> None:
    with running(make_talker(), max_sessions=1, max_columns=8) as small:
        open_page(browser, small)
        wait_ready(browser)
        with small.state.admission.place():
            browser.type("#text", "Hello!")
            assert "All places" in browser.wait_for(PROBLEM)
        assert browser.run("document.querySelector('#text').value") == "Hello!"
        browser.click("#problem-action")
        browser.wait_for(f"{STATE} === 'ready'")
        browser.type("#text", "")
        until_received(browser, "response.done")
    assert "shutting down" in browser.wait_for(PROBLEM)
    assert "end of this conversation" in browser.text("#turns")
    browser.click("#problem-action")
    browser.wait_for(f"({PROBLEM} || '').includes('answer')")
    browser.open("about:blank")


def test_a_talker_without_ears(browser: Page) -> None:
    with running(make_talker(ears=False), max_columns=8) as deaf:
        open_page(browser, deaf)
        wait_ready(browser)
        browser.wait_for("document.querySelector('#talk').disabled")
        assert "doesn't hear" in browser.text("#hint")
        browser.type("#text", "Hello!")
        until_received(browser, "response.done")
        browser.open("about:blank")
