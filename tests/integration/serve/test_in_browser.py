"""The fleet page in a real browser, by keyboard alone; skipped where there is no Chromium."""

from __future__ import annotations

import datetime
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from starlette.applications import Starlette

from lwplugin.policy import FleetPolicy, evaluate
from lwplugin.registry import Decision, Listed
from lwplugin.serve.pages.access import Tokens, add_token
from lwplugin.serve.pages.decisions import DecisionLogs
from lwplugin.serve.pages.site import Site, Source
from lwplugin.serve.pages.survey import survey

BROWSER, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
POLICY = FleetPolicy.model_validate({"rules": [{"name": "edge", "budget": {"p95_ms": 2}, "owner": "ana"}]})
HOSTILE = '<img src="http://127.0.0.1:9/x" onerror="document.title=1">'

pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="no chromium with chromedriver (apt-get install)"
)


def light(name: str, version: int, *aliases: str, p95_ms: float = 1.5) -> Listed:
    known = {
        "digest": "d",
        "target": "edge-cpu",
        "verdict": "pass",
        "size_bytes": 400_000 - 9_000 * version,
        "p50_ms": p95_ms * 0.8,
        "p95_ms": p95_ms,
        "p95_high_ms": p95_ms * 1.02,
        "accuracy": 0.9 + 0.003 * version,
        "accuracy_drop_high": 0.01,
    }
    tags = {f"lwplugin.{key}": str(value) for key, value in known.items()}
    return Listed(name=name, version=version, aliases=aliases, tags=tags, created_ms=1_764_000_000_000)


def decision(name: str) -> Decision:
    return Decision(
        number=1,
        at="2026-11-24T12:00:00+00:00",
        who="ana",
        action="promoted",
        model=name,
        alias="champion",
        version="12",
        previous="11",
        reason=f"faster {HOSTILE}",
        verdict="pass",
        verdict_digest="ab" * 32,
        before=None,
    ).sealed()


def job(number: int, state: str) -> dict[str, Any]:
    times = {"created_s": 1.764e9, "started_s": 1.764e9 + 60, "finished_s": None, "attempts": 1}
    return {
        "id": number,
        "state": state,
        "model": "fashion-resnet20",
        "version": 4,
        "rule": "fashion",
        "noticed": "event",
        **times,
    }


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """(address, token) of the pages over a fleet of a few models."""
    versions = [light("fashion-resnet20", n, p95_ms=3.4 - n * 0.15) for n in range(1, 12)]
    versions += [
        light("fashion-resnet20", 12, "champion"),
        light("digits-cnn", 1, "light-edge-cpu", p95_ms=2.4),
    ]
    versions += [light(f"other-{n:02}", 1) for n in range(60)] + [light(HOSTILE, 1)]
    fleet = survey(versions, evaluate(POLICY, versions, today=datetime.date(2026, 11, 27)), taken_s=1.764e9)
    file = tmp_path_factory.mktemp("tokens") / "tokens.txt"
    token = add_token(file, "ana")
    dead = {
        "about": "models:/digits-cnn/1",
        "state": "dead",
        "event": "promoted",
        "channel": "team",
        "error": "answered 410",
    }
    source = Source(
        fleet=lambda: fleet,
        jobs=lambda most: [job(7, "running"), job(6, "queued")][:most],
        job_counts=lambda: {"running": 1, "queued": 1},
        decisions=DecisionLogs(lambda name: [decision(name)]),
        notices=lambda most: [{**dead, "attempts": 1, "created_s": 1.764e9, "ended_s": 1.764e9}],
        notice_counts=lambda: {("team", "dead"): 1},
    )
    app = Starlette(routes=Site(source, tokens=Tokens(file), mlflow="https://mlflow.example").routes())
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", token
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    folder = tmp_path_factory.mktemp("chromium")
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        f"--user-data-dir={folder}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    driver.set_window_size(1280, 900)
    yield driver
    driver.quit()


def press(browser: Any, *keys: str) -> None:
    ActionChains(browser).send_keys(*keys).perform()


def focused(browser: Any) -> str:
    return str(
        browser.execute_script("const e = document.activeElement; return e.innerText || e.name || e.tagName")
    )


def tab_to(browser: Any, what: str) -> None:
    """Presses Tab until it is there; what it passes shows where the focus is."""
    for _ in range(60):
        press(browser, Keys.TAB)
        if focused(browser) == what:
            outline = "return getComputedStyle(document.activeElement).outlineStyle"
            assert browser.execute_script(outline) == "solid"
            return
    raise AssertionError(f"{what!r} cannot be reached by Tab")


def shot(browser: Any, name: str) -> None:
    """Kept where somebody wants to look."""
    if folder := os.environ.get("LWPLUGIN_SCREENSHOTS"):
        browser.save_screenshot(str(Path(folder, f"{name}.png")))


def heading(browser: Any) -> str:
    return str(browser.execute_script("return document.querySelector('h1')?.innerText"))


def arrive(browser: Any, *keys: str, at: str) -> None:
    """Presses keys that lead to another page, and waits for it."""
    browser.execute_script("document.querySelector('h1').innerText = 'the page before'")
    press(browser, *keys)
    deadline = time.monotonic() + 20
    while heading(browser) != at:
        assert time.monotonic() < deadline, f"{heading(browser)!r} instead of {at!r}"
        time.sleep(0.05)


def test_from_signing_in_to_a_models_decisions_by_keyboard(browser: Any, site: tuple[str, str]) -> None:
    address, token = site
    browser.get(f"{address}/?broken=1")
    assert heading(browser) == "Sign in"
    arrive(browser, "guessed", Keys.ENTER, at="Sign in")  # the field has the focus
    assert "This token is not known" in browser.page_source
    arrive(browser, token, Keys.ENTER, at="Fleet")
    assert browser.current_url.endswith("/?broken=1")
    assert "digits-cnn" in browser.page_source
    assert "other-00" not in browser.page_source
    shot(browser, "broken")

    press(browser, Keys.TAB)
    assert focused(browser) == "To the content"
    press(browser, Keys.ENTER)
    tab_to(browser, "q")
    arrive(browser, "FASHION", Keys.ENTER, at="Fleet")
    assert [link.text for link in browser.find_elements("css selector", "th a")] == [
        *(["fashion-resnet20"] * 2),  # the running and the queued job
        "fashion-resnet20",
    ]
    for _ in range(2):
        tab_to(browser, "fashion-resnet20")
    arrive(browser, Keys.ENTER, at="fashion-resnet20")
    assert browser.find_element("css selector", "svg[role=img]").get_attribute("aria-label")
    assert "models:/fashion-resnet20/12 meets this rule" in browser.page_source
    assert browser.title == "fashion-resnet20 · lwplugin"  # no value became markup
    shot(browser, "model")
    browser.execute_script("document.querySelector('svg').scrollIntoView()")
    shot(browser, "plots")
    tab_to(browser, "Notices")
    arrive(browser, Keys.ENTER, at="Notices")
    assert "answered 410" in browser.page_source
    shot(browser, "notices")
    tab_to(browser, "Sign out")
    arrive(browser, Keys.ENTER, at="Sign in")
    refused = [entry for entry in browser.get_log("browser") if "401" not in entry["message"]]
    assert refused == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_every_page_fits_its_window_and_loads_nothing_from_elsewhere(
    browser: Any, site: tuple[str, str], width: int, scheme: str
) -> None:
    address, token = site
    browser.get(address)
    if heading(browser) == "Sign in":
        arrive(browser, token, Keys.ENTER, at="Fleet")
    emulated = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", emulated)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    for name in ("", "jobs", "notices", "models/fashion-resnet20", "models/nobody"):
        browser.get(f"{address}/{name}")
        overflow = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert browser.execute_script(overflow) == 0, name
        loaded = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
        assert [place for place in loaded if not place.startswith(address)] == []
        shot(browser, f"{name.replace('/', '-') or 'fleet'}-{width}-{scheme}")
