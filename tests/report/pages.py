"""Reads a page back without a browser."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

VOID = {"meta", "link", "br", "wbr", "img", "input", "hr"}


@dataclass
class Page(HTMLParser):
    """What a page holds.

    Attributes:
        numbers: (value, source, text) of every `data` element.
        attributes: (tag, name, value) of all attributes.
        text: all text that is shown.
        headings: (level, text) in order.
        data: the JSON of every data block.
    """

    html: str
    numbers: list[tuple[str, str, str]] = field(default_factory=list)
    attributes: list[tuple[str, str, str]] = field(default_factory=list)
    text: str = ""
    headings: list[tuple[int, str]] = field(default_factory=list)
    data: list[Any] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)
    styles: list[str] = field(default_factory=list)
    open: list[tuple[str, dict[str, str], list[str]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.feed(self.html)
        self.close()
        assert self.open == [], "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append((tag, {name: value or "" for name, value in attrs}, []))

    def handle_data(self, data: str) -> None:
        for _, _, inner in self.open:
            inner.append(data)

    def handle_endtag(self, tag: str) -> None:
        opened, attributes, inner = self.open.pop()
        assert opened == tag
        text = "".join(inner)
        if tag == "data":
            self.numbers.append((attributes["value"], attributes["data-source"], text))
        elif tag in ("h1", "h2", "h3", "h4"):
            self.headings.append((int(tag[1]), text))
        elif tag == "style":
            self.styles.append(text)
        elif tag == "script" and attributes.get("type") == "application/json":
            self.data.append(json.loads(text))
        elif tag == "script":
            self.scripts.append(text)
        elif tag == "main":
            self.text = text
