"""The page of `lf report` in a browser: it sorts, filters, fits a telephone, and asks nobody for anything."""

from __future__ import annotations

import json

import pytest
from test_report import run

from lf.benchmarks.report import web

WIDTHS = (1400, 400)  # px


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page with all of its parts but images."""
    runs = [
        run(size=4_000_000),
        run("w8a8", change=-0.004, spread=0.01, time=0.3, size=1_300_000),
        run("w4a8", change=-0.06, spread=0.02, time=0.4, size=800_000),
    ]
    return web.write(runs, tmp_path_factory.mktemp("page") / "report.html")


def open_at(browser, page, width):
    """The page in a viewport of `width` pixels: windows of Chromium are at least 500 wide, so it is emulated."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page.as_uri())


def labels(browser):
    rows = browser.find_elements("css selector", "table.sortable tbody tr")
    return [row.find_element("tag name", "th").text for row in rows if row.is_displayed()]


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_fits_and_asks_nobody(browser, page, width):
    open_at(browser, page, width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in sent if m["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


@pytest.mark.parametrize("width", WIDTHS)
def test_a_click_on_a_heading_sorts_and_words_filter(browser, page, width):
    open_at(browser, page, width)
    assert len(labels(browser)) == 3
    [button] = [b for b in browser.find_elements("css selector", "thead button") if b.text.startswith("repeat.")]
    button.click()
    assert [name.split()[1] for name in labels(browser)] == ["w4a8", "w8a8", "fp32"]
    button.click()
    assert [name.split()[1] for name in labels(browser)] == ["fp32", "w8a8", "w4a8"]
    browser.find_element("css selector", "input[type=search]").send_keys("w8a8")
    assert [name.split()[1] for name in labels(browser)] == ["w8a8"]
    assert browser.find_element("css selector", "[data-count]").text == "1 of 3 runs"


def test_words_in_charts_do_not_leave_them(browser, page):
    open_at(browser, page, 1400)
    beyond = browser.execute_script(
        """return [...document.querySelectorAll('figure svg')].flatMap((svg) => {
             const frame = svg.getBoundingClientRect();
             return [...svg.querySelectorAll('text')].filter((text) => {
               const box = text.getBoundingClientRect();
               return box.left < frame.left - 3 || box.right > frame.right + 3;
             }).map((text) => text.textContent);
           });"""
    )
    assert beyond == []
