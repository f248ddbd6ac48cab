"""Makes matplotlib's SVG fit to stand inside a page: no styles of its own, unique ids, colours of the theme."""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.etree import ElementTree

from spvmia_plugin.report.palette import PALETTE

_CLASSES = {colour: name for name, colour in PALETTE.items()}
_DECIMALS = re.compile(r"-?\d+\.\d{3,}")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_OF_ATTACK = re.compile(r"(band|curve)-(\d+)")
_DROPPED = ("metadata", "style", "title")
_FONT = re.compile(r"(?P<size>[\d.]+)px")


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
                    yield attribute, _REFERENCE.sub(rf"url(#{prefix}\1)", of_style)
        elif name == "id":
            if found := _OF_ATTACK.fullmatch(value):
                classes.append(found[1])
                yield "data-attack", found[2]
            else:
                yield "id", prefix + value
        elif name == "href":
            yield "href", f"#{prefix}{value.removeprefix('#')}"
        else:
            yield name, _DECIMALS.sub(_rounded, _REFERENCE.sub(rf"url(#{prefix}\1)", value))
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
    return f"{float(number[0]):.2f}"
