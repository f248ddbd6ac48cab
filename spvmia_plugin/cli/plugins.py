"""`spvmia plugins`."""

from __future__ import annotations


def plugins() -> None:
    """List the hooks, and what is registered for each by which distribution.

    A hook is a place where an installed package can add to an audit or replace a part of it: an attack, a
    perturbation, a data set, a backend, the self-prompts, the training of the reference. How to write one:
    docs/plugins.md.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from spvmia_plugin.plugins import load_registry

    table = Table("hook", "distribution", "registered")
    last = None
    for entry in load_registry().listing():
        if last not in (None, entry.hook):
            table.add_section()
        # Names come from other people's packages: Text shows them as they are, without markup.
        table.add_row("" if entry.hook == last else entry.hook, Text(entry.distribution), Text(", ".join(entry.names)))
        last = entry.hook
    Console().print(table)
