"""parity.html in a real browser: nothing sticks out, nothing is asked for, nothing is complained about."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from report_samples import REPORTS

from edgeconv.report import to_html

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WIDTHS = (390, 1440)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--virtual-time-budget=10000",
    "--window-size=1600,1200",
)
_LOOKS = 3
# Runs in the surrounding page: opens every <details> of each frame, then measures.
MEASURE = """
addEventListener("load", async () => {
  // On a busy machine fonts may come after the event; widths before that are another font's.
  await Promise.all([...document.querySelectorAll("iframe")].map(frame => frame.contentDocument.fonts.ready));
  const measured = () => [...document.querySelectorAll("iframe")].map(frame => {
    const page = frame.contentDocument, width = frame.clientWidth;
    const inScroll = element => element.closest(".scroll");
    const outside = [...page.body.querySelectorAll("*")].filter(element => !inScroll(element) &&
      element.getBoundingClientRect().width && element.getBoundingClientRect().right > width + 1);
    return {
      name: frame.name, width: width, scroll: page.documentElement.scrollWidth,
      outside: outside.slice(0, 5).map(element => element.tagName + "." + element.getAttribute("class")),
      requests: frame.contentWindow.performance.getEntriesByType("resource")
        .map(entry => entry.name).filter(name => !name.startsWith("data:")),
      small: [...page.querySelectorAll("svg.chart text")]
        .filter(text => text.getBoundingClientRect().height < 8).length,
      broken: [...page.images].filter(image => !image.naturalWidth).length,
      hidden: [...page.querySelectorAll(".results, .counts")].map(table => table.parentElement)
        .filter(area => area.scrollWidth > area.clientWidth + 1)
        .map(area => [area.firstElementChild.className, area.scrollWidth, area.clientWidth]),
      overlaps: [...page.querySelectorAll(".chain")].flatMap(chain => {
        const boxes = [...chain.querySelectorAll(".stop, .linktitle, .linktext, .linkwhere")]
          .map(element => element.getBoundingClientRect()).filter(box => box.width);
        return boxes.filter((a, at) => boxes.some((b, other) => other > at && a.left < b.right - 1 &&
          b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1));
      }).length,
      plots: [...page.querySelectorAll(".plot")].map(plot => [plot.clientWidth, plot.querySelectorAll("i").length]),
      cut: [...page.querySelectorAll(".peak span")].filter(peak => peak.getBoundingClientRect().left < 0).length,
      charts: page.querySelectorAll("svg.chart").length,
    };
  });
  document.querySelectorAll("iframe").forEach(frame =>
    frame.contentDocument.querySelectorAll("details").forEach(element => { element.open = true; }));
  // Opened parts and late fonts move things for some frames yet: what counts is where they come to rest.
  // On a busy machine none may pass between two looks: three have to be alike. What lies outside of its place gets all
  // of the time: a page that is wrong stays so.
  const outside = look => JSON.parse(look).some(page =>
    page.name !== "hostile" && page.hidden.length + page.outside.length);
  const looks = ["", " ", JSON.stringify(measured())];
  const moves = () => looks[0] !== looks[1] || looks[1] !== looks[2] || outside(looks[2]);
  for (let tries = 0; moves() && tries < 40; tries++) {
    await new Promise(resolve => setTimeout(resolve, 100));
    looks.push(JSON.stringify(measured()));
    looks.shift();
  }
  const now = looks[2];
  document.title = now;
});
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], str]:
    """What the browser measured of every sample report at every width, and what it logged."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on PATH: the page was not looked at in a browser")
    folder: Path = tmp_path_factory.mktemp("browser")
    frames = [
        f'<iframe name="{name}" width="{width}" height="900" style="border:0" srcdoc="{html.escape(to_html(make()))}">'
        for name, make in REPORTS.items()
        for width in WIDTHS
    ]
    outer = f"<!doctype html><script>{MEASURE}</script>{'</iframe>'.join(frames)}</iframe>"
    (folder / "outer.html").write_text(outer, "utf-8")
    command = [
        CHROMIUM,
        *FLAGS,
        f"--user-data-dir={folder / 'profile'}",
        "--dump-dom",
        (folder / "outer.html").as_uri(),
    ]
    # The browser's clock runs ahead of the machine's where nothing is loaded, and a system font that comes late on a
    # busy machine is nothing: a page that is wrong is wrong in another process, too.
    for _ in range(_LOOKS):
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        title = re.search("<title>(.*?)</title>", done.stdout, re.DOTALL)
        assert title, done.stderr[-2000:]
        pages = json.loads(html.unescape(title[1]))
        if not any(page["hidden"] or page["outside"] for page in pages if page["name"] != "hostile"):
            break
    return pages, done.stderr


def test_every_report_was_measured(seen: tuple[list[dict[str, Any]], str]) -> None:
    assert [(page["name"], page["width"]) for page in seen[0]] == [
        (name, width) for name in REPORTS for width in WIDTHS
    ]


def test_the_page_never_scrolls_sideways(seen: tuple[list[dict[str, Any]], str]) -> None:
    for page in seen[0]:
        assert page["scroll"] <= page["width"], page
        assert page["outside"] == [], page
        assert page["hidden"] == [] or page["name"] == "hostile", page


def test_pictures_are_drawn_and_their_labels_legible(seen: tuple[list[dict[str, Any]], str]) -> None:
    for page in seen[0]:
        assert page["broken"] == 0, page
        assert page["small"] == 0, page
    assert all(page["charts"] for page in seen[0] if page["name"] in ("passing", "failing", "large"))


def test_nothing_of_a_chain_lies_on_another_thing(seen: tuple[list[dict[str, Any]], str]) -> None:
    assert [page for page in seen[0] if page["overlaps"]] == []


def test_profiles_of_many_layers_are_as_wide_as_the_page(seen: tuple[list[dict[str, Any]], str]) -> None:
    for page in seen[0]:
        assert page["cut"] == 0, page
        if page["name"] == "chained":
            assert [columns for _, columns in page["plots"]] == [65, 300, 350], page
            assert min(width for width, _ in page["plots"]) > 0.6 * page["width"], page


def test_the_page_asks_for_nothing_and_the_console_is_silent(seen: tuple[list[dict[str, Any]], str]) -> None:
    pages, log = seen
    assert [request for page in pages for request in page["requests"]] == []
    assert [line for line in log.splitlines() if ":CONSOLE" in line] == []
