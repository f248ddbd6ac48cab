"""A headless Chromium for tests of pages: the fixture `browser`, and what a page said and asked for."""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

REQUIRED = "SPVMIA_REQUIRE_BROWSER"
WIDTHS = (1440, 390)
"""A desk and a telephone."""
SCHEMES = ("light", "dark")
PATIENCE = 300_000
"""Milliseconds until something that has not come is given up."""
FLAGS = ["--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium; without it the test is skipped, or fails where `SPVMIA_REQUIRE_BROWSER` is set."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _missing("playwright is not installed: pip install 'spvmia-plugin[test]'")
    if chromium is None:
        _missing("there is no Chromium: apt-get install chromium")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium's own refuses to run as root
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=[*FLAGS, *sandbox])
        yield started
        started.close()


def _missing(reason: str) -> None:
    if os.environ.get(REQUIRED):
        pytest.fail(reason)
    pytest.skip(reason)


@dataclass
class Opened:
    """A page in the browser: what the console said, and what it asked for."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


def window(browser: Any, **options: Any) -> Any:
    """An empty page of its own, with patience for a slow machine."""
    page = browser.new_context(**options).new_page()
    page.context.set_default_timeout(PATIENCE)
    return page


def opened(browser: Any, path: Path, *, width: int = 1440, height: int = 900, scheme: str = "light") -> Opened:
    """Open a file in a window of its own, and listen."""
    found = Opened(window(browser, viewport={"width": width, "height": height}, color_scheme=scheme))
    found.page.on("console", lambda message: found.complaints.append(message.text))
    found.page.on("pageerror", lambda error: found.complaints.append(str(error)))
    found.page.on("request", lambda request: found.requests.append(request.url))
    found.page.goto(path.as_uri())
    return found


def serious(page: Any) -> list[str]:
    """What axe-core finds of impact "serious" or "critical"."""
    from axe_playwright_python.sync_playwright import Axe

    # What passed is not asked for: to hand it over takes a fifth of the time.
    violations = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        f"{found['id']}: {node['html'][:120]} {node.get('failureSummary', '')}"
        for found in violations
        if found["impact"] in ("serious", "critical")
        for node in found["nodes"]
    ]


def spilled(page: Any) -> list[str]:
    """What the reader can't see whole: each element is measured.

    - "wide": it ends outside of the window, and no region around it scrolls
    - "cut": it hides what does not fit, which no scrolling shows
    - "over": its text is wider than its box, and runs into what stands beside it
    - "off": a text of a drawing that the drawing's edge cuts
    - "small": text below 13 pixels, and its size
    """
    return [f"{found['kind']}: {found['at']} ({found['by']:.0f} px)" for found in page.evaluate(_MEASURE)]


def unfold(page: Any) -> None:
    """Open all that is folded, so that it can be measured too."""
    page.evaluate("document.querySelectorAll('details').forEach((folded) => { folded.open = true; })")


def shifted(browser: Any, path: Path, *, width: int, pause: float = 0.04) -> list[str]:
    """What moves under the reader's eyes while the page comes in.

    A file shows this on a slow machine alone, and there by chance: here the page is served in pieces, with some frames
    between them (`pause`, in seconds) in which they are painted.
    """
    pieces = _pieces(path.read_text(encoding="utf-8"))
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Slowly, pieces, pause)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = window(browser, viewport={"width": width, "height": 900})
        try:
            page.goto(f"http://127.0.0.1:{server.server_port}/")
            return list(page.evaluate(_SHIFTS))
        finally:
            page.context.close()
            server.shutdown()


def _pieces(html: str) -> list[bytes]:
    """The head, then the first elements one by one, what follows in larger pieces, and the script.

    A table or a list of terms comes whole: as in any page, its columns are as wide as all of its rows need.
    """
    starts = [found.start() for found in re.finditer(r"\n<(?!/?(?:t[rhd]|thead|tbody|d[td])\b)", html)]
    starts = [start for start in starts if html.index("<body>") < start < html.rindex("<script>")]
    cuts = [*starts[:40], *starts[40 :: max(1, len(starts) // 20)], html.rindex("<script>")]
    return [html[start:end].encode() for start, end in pairwise([0, *sorted(set(cuts)), len(html)])]


class _Slowly(BaseHTTPRequestHandler):
    def __init__(self, pieces: list[bytes], pause: float, *args: Any) -> None:
        self.pieces, self.pause = pieces, pause
        super().__init__(*args)

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        for piece in self.pieces:
            self.wfile.write(piece)
            time.sleep(self.pause)

    def log_message(self, *args: Any) -> None:
        """Nothing on stderr."""


_MEASURE = r"""() => {
  const TOLERATED = 1.5;  // px: rounding of fractions
  const SMALLEST = 12.99;  // px: docs/design.md
  const window_width = document.documentElement.clientWidth;
  const scrolls = (style) => ["auto", "scroll"].includes(style.overflowX);
  const hides = (overflow) => ["hidden", "clip"].includes(overflow);
  const heard_alone = (style) => style.position === "absolute" && style.clipPath !== "none";
  const own_text = (element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  const named = (element) => {
    const steps = [];
    for (let at = element; at && at !== document.body && steps.length < 4; at = at.parentElement) {
      steps.unshift(at.localName + (at.id ? "#" + at.id : "") + [...at.classList].map((name) => "." + name).join(""));
    }
    return steps.join(" > ") + " “" + element.textContent.trim().replace(/\s+/g, " ").slice(0, 40) + "”";
  };
  const found = [];
  const note = (kind, element, by) => { if (by > TOLERATED) found.push({kind, at: named(element), by}); };
  const visit = (element, scrolled) => {
    const style = getComputedStyle(element);
    if (!element.checkVisibility({contentVisibilityAuto: true}) || heard_alone(style)) return;
    const box = element.getBoundingClientRect();
    if (!scrolled && box.width && box.height) note("wide", element, Math.max(box.right - window_width, -box.left));
    if (element.localName === "svg") {
      for (const text of element.querySelectorAll("text")) {
        const drawn = text.getBoundingClientRect();
        if (!drawn.width || style.overflow === "visible") continue;
        const beyond = [drawn.right - box.right, box.left - drawn.left, drawn.bottom - box.bottom, box.top - drawn.top];
        note("off", text, Math.max(...beyond));
      }
      return;
    }
    const size = parseFloat(style.fontSize);
    if (own_text(element) && size < SMALLEST) found.push({kind: "small", at: named(element), by: size});
    if (style.display !== "inline" && element !== document.documentElement) {
      const across = element.scrollWidth - element.clientWidth, down = element.scrollHeight - element.clientHeight;
      if (hides(style.overflowX)) note("cut", element, across);
      if (hides(style.overflowY)) note("cut", element, down);
      if (style.overflowX === "visible" && own_text(element)) note("over", element, across);
    }
    for (const child of element.children) visit(child, scrolled || scrolls(style));
  };
  note("wide", document.documentElement, document.documentElement.scrollWidth - window_width);
  visit(document.body, false);
  return found;
}"""

_SHIFTS = """() => new Promise((told) => {
  const where = (box) => `${box.x},${box.y} ${box.width} x ${box.height}`;
  const way = (moved) => `${where(moved.previousRect)} to ${where(moved.currentRect)}`;
  const source = (moved) => `${moved.node?.outerHTML?.slice(0, 80)}: ${way(moved)}`;
  const line = (shift) => `${shift.value}: ${shift.sources.map(source).join("; ")}`;
  new PerformanceObserver((list) => told(list.getEntries().map(line))).observe({type: "layout-shift", buffered: true});
  setTimeout(() => told([]), 100);  // nothing is reported where nothing moved
})"""
