"""Figures by matplotlib: as files for papers, and as pictures inside a page that follow its theme."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

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
"""Colour of a figure by role, in files; in a page each becomes a class, which follows the theme (`page.COLOURS`)."""

PAPER = "#ffffff"
"""Background of the files; the page's figures have none."""

TOP = ("first", "second", "third")
"""Colours of the strongest attacks, in their order."""

_WIDTH = 5.0
"""Inches: narrow enough that the text stays readable on a phone. A page shows it at 360 to 560 pixels."""
_NOTHING_OF_THE_CLOCK = {"Date": None, "Creator": None, "Format": None, "Type": None}
_CLASSES = {colour: name for name, colour in PALETTE.items()}
_DECIMALS = re.compile(r"-?\d+\.\d{2,}")
_STEP = re.compile(r"([ML])\s*(-?[\d.]+(?:e-?\d+)?)\s+(-?[\d.]+(?:e-?\d+)?)\s*")
_MANY = 60
"""Markers from which on a group of them becomes paths of dots."""
_TOGETHER = 20
"""Dots in one path: within it they hide each other instead of adding up, so a cloud keeps its shades with few."""
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_OF_ATTACK = re.compile(r"(band|curve)-(\d+)")
_DROPPED = ("metadata", "style", "title")
_OF_THE_WINDOW = ("backend", "interactive", "toolbar", "webagg", "tk.", "figure.max_open", "savefig.directory")
"""Settings of matplotlib that are no figure's."""
_FONT = re.compile(r"(?P<size>[\d.]+)px")


def axes(height: float, width: float = _WIDTH) -> tuple[Any, Any]:
    """A new figure of a size in inches, and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def svg(draw: Callable[[bool], Any]) -> str:
    """A figure as SVG without a background, for the page."""
    import matplotlib

    with matplotlib.rc_context(_settings()), io.StringIO() as buffer:
        draw(True).savefig(buffer, format="svg", transparent=True, metadata=_NOTHING_OF_THE_CLOCK)
        return buffer.getvalue()


def write(draw: Callable[[bool], Any], path: Path) -> None:
    """Write a figure to a PNG (200 dpi) or SVG file, on white.

    Raises:
        OSError: the file cannot be written.
    """
    import matplotlib

    with matplotlib.rc_context(_settings()):
        metadata = {"Software": None} if path.suffix == ".png" else _NOTHING_OF_THE_CLOCK
        draw(False).savefig(path, facecolor=PAPER, dpi=200, metadata=metadata)


def _settings() -> dict[Any, Any]:
    """matplotlib's settings for every figure: text stays text, and the same figure gives the same bytes.

    They begin with its defaults: a `matplotlibrc`, or what other code has set, changes no report.
    """
    from matplotlib import rcParamsDefault

    return {
        **{key: value for key, value in rcParamsDefault.items() if not key.startswith(_OF_THE_WINDOW)},
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


def inline(svg: str, prefix: str, label: str) -> str:
    """Rewrite an SVG file for use inside HTML under a policy without inline styles.

    Style attributes become presentation attributes and classes: a stroke of the palette's colour "first" becomes the
    class `s-first`, a fill `f-first`. Groups named `curve-3` or `band-3` get that class and `data-attack="3"`.

    Args:
        svg: what matplotlib wrote.
        prefix: put before every id, so that figures of one page do not meet.
        label: what it shows, for screen readers.
    """
    root = ElementTree.fromstring(svg)  # noqa: S314 - our own output
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) in _DROPPED:
                parent.remove(child)
    for element in root.iter():
        element.tag = _local(element.tag)
        element.attrib = dict(_attributes(element, prefix))
        if element.tag not in ("text", "tspan"):
            element.text = None
        element.tail = None
    shapes = {f"#{path.get('id')}": path.get("d", "") for path in root.iter("path")}
    for parent in list(root.iter()):
        _dots(parent, shapes)
    box = root.attrib["viewBox"]
    root.attrib = {"viewBox": box, "role": "img", "aria-label": label, "class": "figure", "focusable": "false"}
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _attributes(element: ElementTree.Element, prefix: str) -> Iterator[tuple[str, str]]:
    classes = []
    for key, value in element.attrib.items():
        name = _local(key)
        if name == "style":
            for attribute, of_style in _declarations(value):
                palette = _CLASSES.get(of_style.lower())
                if palette and attribute in ("fill", "stroke"):
                    classes.append(f"{attribute[0]}-{palette}")
                else:
                    yield attribute, _REFERENCE.sub(lambda found: f"url(#{prefix}{found[1]})", of_style)
        elif name == "id":
            if found := _OF_ATTACK.fullmatch(value):
                classes.append(found[1])
                yield "data-attack", found[2]
            else:
                yield "id", prefix + value
        elif name == "href":
            yield "href", f"#{prefix}{value.removeprefix('#')}"
        elif name == "d":
            yield name, _shorter(value)
        else:
            yield name, _DECIMALS.sub(_rounded, _REFERENCE.sub(lambda found: f"url(#{prefix}{found[1]})", value))
    if classes:
        yield "class", " ".join(classes)


def _declarations(style: str) -> Iterator[tuple[str, str]]:
    """The properties of a style attribute as presentation attributes; of fonts only the size."""
    for declaration in style.split(";"):
        name, _, value = (part.strip() for part in declaration.partition(":"))
        if name == "font":
            if size := _FONT.search(value):
                yield "font-size", size["size"]
        elif name and name != "font-family":
            yield name, value


def _rounded(number: re.Match[str]) -> str:
    """A tenth of a unit, which is a tenth of a pixel."""
    return f"{float(number[0]):.1f}".removesuffix(".0")


def _shorter(path: str) -> str:
    """A path of straight lines, level and upright ones told by one number; other paths as they are."""
    steps = _STEP.findall(path)
    if len(steps) < 3 or _STEP.sub("", path).strip(" zZ"):
        return path
    parts: list[str] = []
    before: tuple[str, str] | None = None
    for command, *ends in steps:
        x, y = (f"{float(end):.1f}".removesuffix(".0") for end in ends)
        if command == "M" or before is None:
            parts.append(f"M{x} {y}")
        elif (x, y) == before:
            continue
        else:
            parts.append(f"V{y}" if x == before[0] else f"H{x}" if y == before[1] else f"L{x} {y}")
        before = x, y
    return "".join(parts) + ("z" if path.rstrip(" ").endswith(("z", "Z")) else "")


def _dots(group: ElementTree.Element, shapes: Mapping[str, str]) -> None:
    """Many equal markers side by side as a few paths: a cloud of 1,400 takes a tenth of the room."""
    markers = [child for child in group if child.tag == "use"]
    if len(markers) < _MANY or len({marker.get("href") for marker in markers}) > 1:
        return
    kind = markers[0].get("class", "")
    colour = next((name[2:] for name in kind.split() if name.startswith("f-")), "ink")
    square = "C" not in shapes.get(markers[0].get("href", ""), "C")
    for marker in markers:
        group.remove(marker)
    for first in range(0, len(markers), _TOGETHER):
        places = (f"M{marker.get('x')} {marker.get('y')}h0" for marker in markers[first : first + _TOGETHER])
        drawn = {
            "d": "".join(places),
            "class": f"dots{' square' if square else ''} s-{colour}",  # the page's style rounds them
            "stroke-width": "3",
            "stroke-opacity": markers[0].get("fill-opacity", "1"),
            "fill": "none",
        }
        group.append(ElementTree.Element("path", drawn))
