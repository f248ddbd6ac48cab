"""Takes the pictures of the example's pages that README and docs show.

    python docs/examples/pictures.py

Needs playwright and a Chromium. Run it whenever `report.html` or `leaderboard.html` beside it changes.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
FIGURES = HERE.parent / "figures"
SHOTS = {"report": ("report.html", 900), "board": ("leaderboard.html", 900)}
"""Of each picture the page, and how much of it from the top, in CSS pixels."""
WIDTH = 1200


def main() -> int:
    """Write the pictures; return the exit status."""
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    sandbox = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []  # its own refuses root
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=sandbox)
        for name, (page, height) in SHOTS.items():
            tab = browser.new_page(viewport={"width": WIDTH, "height": height}, color_scheme="light")
            tab.goto((HERE / page).as_uri())
            picture = FIGURES / f"{name}.png"
            tab.screenshot(path=picture)
            print(f"{picture} ({picture.stat().st_size // 1024} kB)")
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
