"""Colours of the figures. Files have them as they are; in the page each becomes a class that follows the theme."""

from __future__ import annotations

from typing import Any

PALETTE = {
    "ink": "#3b4252",
    "soft": "#7d8597",
    "line": "#c5cad6",
    "grey": "#a3aab8",
    "first": "#2563a8",
    "second": "#0d8a72",
    "third": "#b56a0a",
    "member": "#b5471f",
    "other": "#3f6fb3",
}
"""Colour of a figure by role. `page.css` holds a variable of each name for either theme."""

PAPER = "#ffffff"
"""Background of the files; the page's figures have none."""

TOP = ("first", "second", "third")
"""Colours of the strongest attacks, in their order."""


def settings() -> dict[Any, Any]:
    """matplotlib's settings for every figure: text stays text, and the same figure gives the same bytes."""
    return {
        "svg.fonttype": "none",
        "svg.hashsalt": "spvmia",
        "font.family": ["sans-serif"],
        "font.size": 9.5,
        "text.color": PALETTE["ink"],
        "text.parse_math": False,
        "axes.edgecolor": PALETTE["line"],
        "axes.labelcolor": PALETTE["ink"],
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.8,
        "axes.axisbelow": True,
        "axes.unicode_minus": True,
        "axes.formatter.use_mathtext": False,
        "grid.color": PALETTE["line"],
        "grid.linewidth": 0.5,
        "xtick.color": PALETTE["soft"],
        "ytick.color": PALETTE["soft"],
        "xtick.labelsize": 8.5,
        "ytick.labelsize": 8.5,
        "legend.frameon": False,
        "legend.fontsize": 8.5,
    }
