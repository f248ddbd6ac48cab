"""Commands about what is installed and stored: `spvmia plugins` and `spvmia cache`."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from spvmia_plugin.cli.output import Json, print_json
from spvmia_plugin.errors import SpvmiaError, did_you_mean
from spvmia_plugin.util.console import shown

if TYPE_CHECKING:
    from spvmia_plugin.store.store import Store


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


cache = typer.Typer(
    name="cache",
    help="Show, verify or clear the store of self-prompts, references, paraphrases and token signals.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

CacheDir = Annotated[
    str | None,
    typer.Option("--cache-dir", metavar="DIR", help="The store's folder (mia_cache_dir); default: the user cache."),
]


@cache.command()
def show(
    cache_dir: CacheDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it by machine.")] = False,
) -> None:
    """Show where the store lies and what it holds.

    spvmia cache show --json
    """
    with _store(cache_dir) as store:
        summary = store.summary()
    if as_json:
        typer.echo(json.dumps(summary, indent=2))
        return
    typer.echo(f"{summary['place']}")
    for kind, numbers in summary["kinds"].items():
        typer.echo(_row(kind, numbers["count"], numbers["bytes"]))
    typer.echo(f"{readable(summary['total_bytes'])} on disk, limit {readable(summary['limit_bytes'])}")
    for each in summary["foreign"]:
        typer.echo(_foreign(each["name"], each["version"], each["bytes"]))


@cache.command()
def verify(cache_dir: CacheDir = None) -> None:
    """Check the checksum of everything; what is damaged is removed and will be computed again.

    spvmia cache verify --cache-dir ./audit-cache
    """
    with _store(cache_dir) as store:
        report = store.verify()
    for kind, count in report.checked.items():
        typer.echo(f"{kind:<13}{count:>9} checked")
    for line in report.removed:
        typer.echo(f"removed: {line}")
    for name in report.in_use:
        typer.echo(f"left alone, another process is building it: {name}")
    for each in report.foreign:
        typer.echo(_foreign(each.name, each.version, each.size))
    typer.echo("everything is sound" if not report.removed else "what was removed will be computed again")


@cache.command()
def clear(
    kind: Annotated[
        str | None, typer.Option("--kind", metavar="KIND", help="Only this kind, as `spvmia cache show` names them.")
    ] = None,
    other_versions: Annotated[
        bool, typer.Option("--other-versions", help="Instead, what other versions of the plugin wrote there.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    cache_dir: CacheDir = None,
) -> None:
    """Remove everything, or one kind. References take the longest to build again.

    What another version of the plugin wrote stays, unless it is asked for.

    Text that the target generated, and nothing else:

        spvmia cache clear --kind self_prompts --yes
    """
    from spvmia_plugin.store.store import KINDS

    with _store(cache_dir) as store:
        if kind is not None and kind not in KINDS:
            raise SpvmiaError(f"--kind: expected one of {', '.join(KINDS)}, got {kind!r}{did_you_mean(kind, KINDS)}")
        if other_versions and kind is not None:
            raise SpvmiaError("--other-versions: expected without --kind, got both; kinds are those of this version")
        if not yes:
            what = "what other versions wrote" if other_versions else kind or "everything"
            if not sys.stdin.isatty():
                raise SpvmiaError(
                    "--yes: expected where nobody can be asked, got no terminal; add --yes to clear the cache"
                )
            typer.confirm(f"Remove {what} from {store.root}?", abort=True)
        if other_versions:
            freed = sum(each.size for each in store.clear_foreign())
            typer.echo(f"freed {readable(freed)}, of other versions")
            return
        cleared = store.clear(kind)
    for removed_kind, (count, size) in cleared.removed.items():
        typer.echo(_row(removed_kind, count, size))
    for name in cleared.in_use:
        typer.echo(f"left alone, another process is building it: {name}")
    for each in cleared.foreign:
        typer.echo(_foreign(each.name, each.version, each.size))
    typer.echo(f"freed {readable(sum(size for _, size in cleared.removed.values()))}")


def _store(cache_dir: str | None) -> Store:
    from spvmia_plugin.store.store import Store  # needs NumPy: not for `spvmia --help`

    return Store(cache_dir)


def _foreign(name: str, version: int | None, size: int) -> str:
    of = "another version" if version is None else f"version {version}"
    return f"{shown(name)}: {readable(size)} of {of}, left alone"


def _row(kind: str, count: int, size: int) -> str:
    return f"{kind:<13}{count:>9} {readable(size):>10}"


def readable(size: float) -> str:
    """Bytes in the unit that people read: `readable(2048)` is `2.0 KiB`."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
