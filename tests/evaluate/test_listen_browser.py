"""The listening page in a headless Chromium, by keyboard and by four raters at once.

Needs playwright and a Chromium (the distribution's, or `playwright install chromium`):
python -m pytest -m browser tests/evaluate
"""

import json
import re
import shutil

import pytest
from noise2music.evaluate.listen.server import Server
from test_listen import CAPTION, make_study

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    with api.sync_playwright() as playwright:
        try:
            made = playwright.chromium.launch(
                executable_path=path,
                args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"],
            )
        except api.Error as error:
            pytest.skip(f"no Chromium: {error}")
        yield made
        made.close()


@pytest.fixture
def server(tmp_path):
    made = Server(make_study(tmp_path, items=2), seconds=1.0, key="key")
    made.start()
    yield made
    made.shutdown()
    made.server_close()


def enter(browser, server, name):
    page = browser.new_page()
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("dialog", lambda dialog: errors.append(f"dialog: {dialog.message}"))
    page.goto(server.url)
    until(page, "document.activeElement.id === 'rater'")  # given when the page is first drawn
    page.keyboard.type(name)
    page.keyboard.press("Enter")
    page.wait_for_selector("#trial:not([hidden])")
    return page, errors


def rate(page, key):
    """By keyboard alone: play both, then a number."""
    before = page.text_content("#progress")
    page.keyboard.press("a")
    until(page, "document.getElementById('left').currentTime > 0")
    page.keyboard.press("b")
    page.wait_for_selector("#scale button:enabled")
    assert page.evaluate("document.getElementById('left').paused")
    page.keyboard.press(key)
    until(
        page,
        f"document.getElementById('progress').textContent !== {json.dumps(before)}"
        " || document.getElementById('trial').hidden",
    )


def until(page, condition):
    """playwright's own wait_for_function needs eval, which the page's policy forbids."""
    for _ in range(600):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never: {condition}")


def test_one_rater_by_keyboard(browser, server):
    page, errors = enter(browser, server, "<b>one</b>")
    caption = page.text_content("#caption")
    assert re.fullmatch(re.escape(CAPTION) + r" \d", caption)  # as text: nothing was made of it
    assert page.query_selector("#caption img") is None
    page.keyboard.press("5")  # nothing was heard yet: not a rating
    assert server.study.ratings() == []
    for _ in range(6):
        rate(page, "4")
    assert page.is_hidden("#trial") and "Thank you" in page.text_content("#message")
    assert [r.score for r in server.study.ratings()] == [4] * 6
    assert "source" not in page.content()
    page.goto(server.results_url)
    assert "6 ratings by 1 raters" in page.content()
    assert page.query_selector("main b") is None
    assert errors == []
    page.close()


def test_four_raters_at_once(browser, server):
    raters = [enter(browser, server, f"rater {i}") for i in range(4)]
    for turn in range(6):
        for i, (page, _) in enumerate(raters):
            rate(page, str(1 + (turn + i) % 5))
    ratings = server.study.ratings()
    assert len(ratings) == 24 and {r.rater for r in ratings} == {f"rater {i}" for i in range(4)}
    assert len({(r.rater, r.item, *sorted((r.left, r.right))) for r in ratings}) == 24
    for page, errors in raters:
        assert errors == [] and page.is_hidden("#trial")
        page.close()


def test_a_server_that_is_away_loses_no_answer(browser, server):
    page, _ = enter(browser, server, "one")
    page.route("**/api/rate", lambda route: route.abort())
    for key in ("a", "b"):
        page.keyboard.press(key)
    page.wait_for_selector("#scale button:enabled")
    page.keyboard.press("2")
    until(page, "document.getElementById('message').textContent.includes('Not kept')")
    page.unroute("**/api/rate")
    page.keyboard.press("2")
    until(page, "document.getElementById('progress').textContent.startsWith('2 of')")
    assert [r.score for r in server.study.ratings()] == [2]
    page.close()
