"""The frame of a page: one file that loads nothing, runs nothing but its own script, and follows the system's theme."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from textwrap import indent
from typing import TYPE_CHECKING

from spvmia_plugin import __version__

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

MARK = '<meta http-equiv="Content-Security-Policy" content="default-src &#39;none&#39;;'
"""What every page has in its head, and few others: an earlier one is known again by it."""

COLOURS: Mapping[str, tuple[str, str]] = {
    "paper": ("#faf9f6", "#13161b"),
    "card": ("#ffffff", "#1a1f27"),
    "ink": ("#1d2430", "#e7eaef"),
    "soft": ("#566072", "#a6afbd"),
    "line": ("#dcdfe6", "#343c49"),
    "grey": ("#7f8797", "#7c8697"),
    "accent": ("#1d5a9e", "#86b7f0"),
    "accent-ink": ("#ffffff", "#10151c"),
    "wash": ("#eef3f9", "#1d2836"),
    "first": ("#2563a8", "#7db3f2"),
    "second": ("#0b7a65", "#4fc9ae"),
    "third": ("#a45c00", "#e3a24f"),
    "chosen": ("#a3226d", "#f08cc4"),
    "member": ("#b0431b", "#f09468"),
    "other": ("#3568ae", "#86b0ea"),
    "warn": ("#8a4b00", "#f4c684"),
    "warn-wash": ("#fff5e4", "#2b2213"),
    "warn-line": ("#e3b169", "#7d5a22"),
}
"""Colours of the pages by role, in the light theme and in the dark one; figures have those of `drawing.PALETTE`."""


def theme(lines: Sequence[str]) -> str:
    """The rules that set the colours: those of the system's theme, or of the one that the page's button chose.

    Print has the light theme whatever the screen has.

    Args:
        lines: roles of `COLOURS` that the page has, some in each line.
    """

    def rule(selector: str, scheme: str) -> str:
        declared = [
            " ".join(f"--{role}: {COLOURS[role][scheme == 'dark']};" for role in line.split()) for line in lines
        ]
        return "\n  ".join([f"{selector} {{", f"color-scheme: {scheme};", *declared]) + "\n}\n"

    def where(query: str, rules: str) -> str:
        return f"@media {query} {{\n{indent(rules, '  ')}}}\n"

    of_system, chosen = rule(':root:not([data-theme="light"])', "dark"), rule(':root[data-theme="dark"]', "dark")
    return (
        rule(":root", "light") + where("screen and (prefers-color-scheme: dark)", of_system) + where("screen", chosen)
    )


@cache
def templates(package: str, **filters: Callable[..., object]) -> Environment:
    """Templates in `files/` of a package and of this one, with filters of the package's own.

    What they are given is escaped, and what they are not given is an error. Kept, since compiling them takes an
    eighth of a second: nothing may be changed in what is returned.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    found = Environment(
        loader=ChoiceLoader([PackageLoader(package, "files"), PackageLoader("spvmia_plugin.web", "files")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= filters
    return found


def render(
    environment: Environment,
    package: str,
    name: str,
    colours: str,
    *,
    of_tables: bool = True,
    script: bool = True,
    **values: object,
) -> str:
    """A page of a package: `<name>.html` of its `files/`, in our frame, with `<name>.css` and `<name>.js`.

    Args:
        environment: of `templates`.
        package: whose page it is.
        name: of its files.
        colours: of `theme`.
        of_tables: whether it is a page of tables, whose rules come before its own.
        script: whether it has a script of its own, besides the one of the theme's button.
        values: what the template shows.
    """
    sheets = ["base.css", "tables.css"] if of_tables else ["base.css"]
    shared = "".join(_resource("spvmia_plugin.web", each) for each in sheets)
    style = colours + shared + _resource(package, f"{name}.css")
    ours = "".join(_resource("spvmia_plugin.web", each) for each in ("copy.js", "theme.js"))
    code = (_resource(package, f"{name}.js") if script else "") + ours
    page: str = environment.get_template(f"{name}.html").render(
        style=trusted(style), script=trusted(code), policy=_policy(style, code), version=__version__, **values
    )
    return page


def trusted(markup: str) -> Markup:
    """Our own markup, that is not escaped again."""
    from markupsafe import Markup

    return Markup(markup)  # noqa: S704


def _resource(package: str, name: str) -> str:
    return (files(package) / "files" / name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """The content security policy: nothing from anywhere, and no script or style but these two."""
    hashes = (base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode() for text in (script, style))
    return (
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; img-src data:; base-uri 'none'; "
        "form-action 'none'".format(*hashes)
    )
