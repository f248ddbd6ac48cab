"""What the report's page and the leaderboard's have in common: one file that loads nothing and runs its own script."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

MISSING = "–"
"""Printed for what is not resolved."""


def templates(package: str, folder: str) -> Environment:
    """Templates of a package's folder. What they are given is escaped, and what they are not given is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader(package, folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def resource(package: str, path: str) -> str:
    """A file of ours that goes into pages."""
    return files(package).joinpath(*path.split("/")).read_text(encoding="utf-8")


def with_theme(script: str) -> str:
    """A page's script with that of its theme button."""
    return f"{script}{resource('spvmia_plugin.page', 'theme.js')}"


def trusted(markup: str) -> Markup:
    """Our own markup, that is not escaped again."""
    from markupsafe import Markup

    return Markup(markup)  # noqa: S704


def policy(style: str, script: str) -> str:
    """The content security policy: nothing from anywhere, and no script or style but these two."""
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src '{_hash(script)}'",
            f"style-src '{_hash(style)}'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def _hash(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode("utf-8")).digest()).decode("ascii")
