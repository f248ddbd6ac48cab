"""`spvmia plugins`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from spvmia_plugin.cli.machine import Json, print_json

if TYPE_CHECKING:
    from spvmia_plugin.plugins import Listed


def plugins(as_json: Json = False) -> None:
    """List the hooks, and what is registered for each by which distribution.

    A hook is a place where an installed package can add to an audit or replace a part of it: an attack, a
    perturbation, a data set, a backend, the self-prompts, the training of the reference. How to write one:
    docs/plugins.md.

        pip install ./my-attack
        spvmia plugins
    """
    from spvmia_plugin.plugins import load_registry

    listing = load_registry().listing()
    if as_json:
        lines = [
            {"hook": entry.hook, "distribution": entry.distribution, "registered": list(entry.names)}
            for entry in listing
        ]
        print_json({"hooks": lines})
        return
    _print_table(listing)


def _print_table(listing: Sequence[Listed]) -> None:
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    table = Table(Column("hook", no_wrap=True), "distribution", "registered")
    last = None
    for entry in listing:
        if last not in (None, entry.hook):
            table.add_section()
        # Names come from other people's packages: Text shows them as they are, without markup.
        table.add_row("" if entry.hook == last else entry.hook, Text(entry.distribution), Text(", ".join(entry.names)))
        last = entry.hook
    Console().print(table)
