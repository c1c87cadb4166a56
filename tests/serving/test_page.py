"""The page at `/`, in a real browser of a desktop's and a phone's width, on a real service."""

import os
import shutil
from pathlib import Path

import pytest
from service import TOKEN, serving

from lop.kit.figures import Figure, Figures

pytest_plugins = ["service"]
BROWSERS = ("chromium", "chromium-headless-shell", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
FIGURES = Figures(
    "accuracy",
    50,
    "a machine",
    (
        Figure(0.0, 1000, 4000, 0.9, 0.01, 0.0, None, 10.0),
        Figure(0.6, 600, 2400, 0.6, 0.02, 0.3, 0.02, 5.0),
    ),
)


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs pip install 'lop[dev]'")
    with playwright.sync_playwright() as started:
        flags = ["--no-sandbox", "--disable-gpu"]
        browser = started.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.mark.parametrize(("width", "token"), [(1280, None), (360, TOKEN)])
def test_a_budget_becomes_a_plan_and_a_checkpoint(browser, made, tmp_path, width, token):
    page = browser.new_page(viewport={"width": width, "height": 740})
    page.set_default_timeout(60_000)
    wrong = []
    page.on("pageerror", lambda error: wrong.append(error))
    with serving(made, tmp_path / "out", token=token, figures=FIGURES) as client:
        page.goto(f"http://127.0.0.1:{client.port}/")
        if token:
            page.locator("#token").fill(token)
            page.get_by_role("button", name="Go on").click()
        page.get_by_text("Accuracy", exact=True).wait_for()
        page.locator("#ratio").fill("0.3")
        page.get_by_text("75.0 % (dense 90.0 %)").wait_for()
        page.get_by_text("1.33 × dense").wait_for()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        plan = client.ask("POST", "/plans", {"ratio": 0.3}, headers)[1]
        page.get_by_text(f"{plan['parameters']:,} (").wait_for()
        assert page.locator(".site").count() == len(plan["kept"])
        page.get_by_role("button", name="Cut this checkpoint").click()
        page.get_by_text("lop-0.3: done").wait_for()
        with page.expect_download() as loaded:
            page.get_by_role("link", name="config.json").first.click()
        served = tmp_path / "out/checkpoints/lop-0.3/config.json"
        assert loaded.value.path().read_bytes() == served.read_bytes()
        overflow = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
        assert not page.evaluate(overflow), "nothing sticks out to the right"
        shots = Path(os.environ.get("LOP_SCREENSHOTS", tmp_path))
        page.screenshot(path=shots / f"serve-{width}.png", full_page=True)
    assert not wrong
    page.close()


def test_without_figures_nothing_is_predicted(made, tmp_path):
    with serving(made, tmp_path / "out") as client:
        plan = client.ask("POST", "/plans", {"ratio": 0.3})[1]
        assert plan["expected"] is None
        assert plan["bytes"] > 0
        status, page = client.ask("GET", "/")
        assert status == 200
        assert b"http" not in page, "nothing is fetched from elsewhere"
