"""The frame of the `spvmia` command. Its subcommands are light, and import the rest when they are called."""

from __future__ import annotations

import contextlib
import errno
import importlib
import inspect
import io
import os
import sys
import traceback
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup
from typer.models import ArgumentInfo

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.util.files import as_path

INTERRUPTED = 130  # what shells report for a program that Ctrl-C ended
INTERRUPTED_LINE = "interrupted: finished batches are kept in the cache, and the same command continues from there"

PANELS = {
    "start": ("Start here", ("demo", "demo-model", "enable", "disable")),
    "audit": ("Audit", ("finetune", "manifest", "prepare", "shadow", "run", "tasks")),
    "check": ("Audit", ("check",)),
    "results": ("Results", ("report", "combine", "leaderboard", "export")),
    "gate": ("Results", ("gate",)),
    "compare": ("Results", ("compare",)),
    "evidence": ("Results", ("evidence",)),
    "upkeep": ("Upkeep", ("plugins", "cache")),
}
"""Module -> heading of `spvmia --help`, and the subcommands below it in its order. `a-b` is the function `a_b`."""

# What takes every option as it comes, because it belongs to another command line.
_PASSED_ON: dict[str, Any] = {
    "options_metavar": "[ARGUMENTS OF LM_EVAL]...",
    "context_settings": {
        "ignore_unknown_options": True,
        "allow_extra_args": True,
        "allow_interspersed_args": False,
    },
}
PASSES_THROUGH: dict[str, dict[str, Any]] = {
    "run": _PASSED_ON,
    "check": {**_PASSED_ON, "options_metavar": "[--show-text] [--json] [ARGUMENTS OF LM_EVAL]..."},
}

_NO_OUTCOME = 2
"""Exit status of `gate` whatever is wrong: 1 is an outcome of its own, and must not come of a full disk."""

HELP = """
How well can an outsider tell which records your model was fine-tuned on?

Privacy audits of language models inside lm-evaluation-harness: SPV-MIA (Fu et al., NeurIPS 2024) and its baselines
as ordinary tasks, next to the capability scores.

Try it, with no GPU and no model hub:

    spvmia demo

Audit your own model with the stock lm_eval command:

    spvmia enable
    lm_eval --model hf --model_args pretrained=BASE,peft=adapter \\
            --tasks spv_mia_custom,arc_easy \\
            --metadata '{"mia_members": "trained_on.jsonl", "mia_nonmembers": "held_out.jsonl"}' \\
            --output_path results --log_samples
"""

EPILOG = """
Exit status: 0 done; 1 something is wrong with the input, told in the last line on stderr (of `gate`: 2); 2 a command
or option that does not exist; 130 interrupted, and the same command continues. Colours go away with NO_COLOR=1,
progress bars where stderr is no terminal.
"""


class _Stdout(io.TextIOWrapper):
    """Standard output that remembers whether it was the one that failed."""

    failure: OSError | None = None

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self.failure = error
            raise

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self.failure = error
            raise


def _asked() -> str | None:
    """The subcommand on the command line, if there is one."""
    return next((argument for argument in sys.argv[1:] if not argument.startswith("-")), None)


def _completing() -> bool:
    """Whether a shell asks, by a variable, what can follow on the command line."""
    return any(name.endswith("_COMPLETE") for name in os.environ)


def main() -> None:
    """Run the `spvmia` command on `sys.argv` and exit: 0, 1 for an error in one line, 2 for usage, 130 for Ctrl-C."""
    try:
        _main()
    except Exception:
        if _asked() != "gate":
            raise
        with contextlib.suppress(OSError):  # stderr may be what failed
            traceback.print_exc()
        raise SystemExit(_NO_OUTCOME) from None
    finally:
        _drop_what_stderr_does_not_take()


def _drop_what_stderr_does_not_take() -> None:
    """On a full disk, say: tried again at the interpreter's end, it would make the exit status 120."""
    if sys.stderr is None:
        return
    try:
        sys.stderr.flush()
    except OSError:
        with contextlib.suppress(OSError), open(os.devnull, "wb") as nowhere:  # somebody else's may have no number
            os.dup2(nowhere.fileno(), sys.stderr.fileno())


def _main() -> None:
    if sys.stdout is None:  # closed by the shell (`>&-`): what is written then fails in one line, as to a full disk
        sys.stdout = io.TextIOWrapper(open(os.open(os.devnull, os.O_RDONLY), "wb"), encoding="utf-8")  # noqa: SIM115
    if not isinstance(sys.stdout, io.TextIOWrapper):  # somebody else's
        _app_for_this_command_line()()
        return
    given = sys.stdout  # its buffer is closed with it
    # File names may be no text of the terminal's encoding, or of any: they are escaped.
    own = sys.stdout = _Stdout(
        given.buffer,
        encoding=given.encoding,
        errors="backslashreplace",
        line_buffering=given.line_buffering,
        write_through=given.write_through,
    )
    try:
        try:
            _app_for_this_command_line()()
        finally:
            sys.stdout.flush()  # a failure can be told in one line here; at the interpreter's end it could not be
    except OSError as error:
        if own.failure is None:
            raise
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), own.fileno())  # what is left in the buffer
        if error.errno != errno.EPIPE:  # `spvmia ... | head` has seen what it wants
            print(f"stdout: expected to write what the command prints, got {error.strerror}", file=sys.stderr)
        sys.exit(_NO_OUTCOME if _asked() == "gate" else 1)


def _app_for_this_command_line() -> typer.Typer:
    asked = _asked()
    return make_app(asked, only_listed=asked is None and not _completing())


def make_app(asked: str | None = None, *, only_listed: bool = False) -> typer.Typer:
    """Build the command line from the modules beside this one.

    Args:
        asked: the subcommand that will run, if that is known: the others then need not be built.
        only_listed: none will run: their options, which take longest to build, are left out.
    """
    app = typer.Typer(
        name="spvmia",
        cls=OneLineErrors,
        help=HELP,
        epilog=EPILOG,
        no_args_is_help=True,
        rich_markup_mode="markdown",
        # A traceback with local variables would show the audited texts.
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    places = {name: (module, panel) for module, (panel, names) in PANELS.items() for name in names}
    for name in [asked] if asked in places else places:
        module, panel = places[name]
        command = getattr(importlib.import_module(f"spvmia_plugin.cli.{module}"), name.replace("-", "_"))
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name, rich_help_panel=panel)
        elif only_listed:
            app.command(name, help=inspect.getdoc(command), rich_help_panel=panel)(_not_run)
        else:
            registered = app.command(name, cls=Command, rich_help_panel=panel, **PASSES_THROUGH.get(name, {}))
            registered(_on_checked_paths(command))
    return app


def _not_run() -> None:
    pass


class _LightFlags:
    """A command of which a flag that is not given is False: for a None, typer imports pydantic to make a None of it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the options."""
        command: Any = super()
        for parameter in command.get_params(ctx):
            if getattr(parameter, "is_flag", False) and parameter.default is None:
                parameter.default = False
        parsed: list[str] = command.parse_args(ctx, args)
        return parsed


class Command(_LightFlags, TyperCommand):
    """A subcommand."""


OF_BAD_INPUT = {"gate": 2}
"""Exit status of bad input by command, where it isn't 1. Of `gate` that is an outcome: exceeded."""


class OneLineErrors(_LightFlags, TyperGroup):
    """Subcommands of which bad input and Ctrl-C end in one line on stderr instead of a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the subcommand that was asked for."""
        try:
            return super().invoke(ctx)
        except SpvmiaError as error:
            print(error.code, file=sys.stderr)
            raise typer.Exit(OF_BAD_INPUT.get(str(ctx.invoked_subcommand), 1)) from error
        except KeyboardInterrupt as error:
            print(INTERRUPTED_LINE, file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from error


def _on_checked_paths(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command with `~` spelt out in every path it takes, and what no file can be called refused by the option."""

    @wraps(command)
    def checked(*args: Any, **given: Any) -> Any:
        hints = get_type_hints(command, include_extras=True)
        told = {name: _told(name, hint) for name, hint in hints.items()}

        def on_path(name: str, value: Any) -> Any:
            if isinstance(value, list):
                return [on_path(name, item) for item in value]
            return as_path(value, told[name]) if isinstance(value, Path) else value

        return command(*args, **{name: on_path(name, value) for name, value in given.items()})

    return checked


def _told(name: str, hint: Any) -> str:
    """What users call a parameter: `--output`, or RESULTS where it is an argument."""
    # Python 3.10 wraps what has the default None in an Optional of its own.
    about = next((part.__metadata__[0] for part in (hint, *get_args(hint)) if hasattr(part, "__metadata__")), None)
    if isinstance(about, ArgumentInfo):
        return str(about.metavar or name.upper())
    # Inside Annotated the first name lies where the default would.
    names = (getattr(about, "default", None), *(getattr(about, "param_decls", None) or ()))
    declared = [text for text in names if isinstance(text, str) and text.startswith("--")]
    return declared[0] if declared else f"--{name.replace('_', '-')}"


def _show_version(wanted: bool) -> None:
    if wanted:
        from spvmia_plugin import __version__

        print(f"spvmia-plugin {__version__}")
        raise typer.Exit


def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass
