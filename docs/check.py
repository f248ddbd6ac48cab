"""Checks README.md, docs/, the commands' own help, and the site that is made of docs/.

Every command against the real parsers, every Python block and notebook by running it, every link, every error message
of docs/troubleshooting.md against the sources, and that each page begins with what it is for. The site is built by
mkdocs with --strict, and must load nothing from elsewhere.

    python docs/check.py
    python docs/check.py docs/gate.md README.md

A block that can't be run or parsed is marked in the line before it, with the reason: `<!-- not run: ... -->`.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib.util
import inspect
import io
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

# Programs whose arguments are not ours to check.
OTHERS = {
    "accelerate",
    "cat",
    "cd",
    "cp",
    "export",
    "git",
    "grep",
    "head",
    "ls",
    "mkdir",
    "pip",
    "python",
    "sha256sum",
    "tail",
    "tox",
}

_FENCE = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]*?) -->\n+)?^(?P<fence>`{3,})(?P<language>\w*)[^\n]*\n(?P<body>.*?)^(?P=fence)\s*$",
    re.S | re.M,
)
_HOLE = "\0"
"""What stands in a message's text for a value."""
_LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block: where it begins, its language, its text, and why it is not run (or None)."""

    place: str
    language: str
    body: str
    excuse: str | None


def blocks(text: str, name: str) -> Iterator[Block]:
    """The fenced blocks of a page."""
    for found in _FENCE.finditer(text):
        mark = found["mark"] or ""
        excuse = mark.removeprefix("not run:").strip() if mark.startswith("not run:") else None
        line = text.count("\n", 0, found.start("fence")) + 1
        yield Block(f"{name}:{line}", found["language"], found["body"], excuse)


def commands(body: str) -> Iterator[list[str]]:
    """The simple commands of a shell block, as words: lines joined, `&&`, `|`, `;` taken apart, `> file` left out."""
    for line in body.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split = True
        command: list[str] = []
        for word in lexer:
            if set(word) <= set("<>"):
                next(lexer)
            elif set(word) <= set("|&;"):
                yield from [command] if command else []
                command = []
            else:
                command.append(word)
        yield from [command] if command else []


class Parsers:
    """The real command lines: ours by typer, lm_eval's by argparse."""

    def __init__(self) -> None:
        import typer
        from lm_eval.__main__ import HarnessCLI

        from spvmia_plugin.cli.main import make_app
        from spvmia_plugin.harness.enable import tasks_folder
        from spvmia_plugin.plugins import load_registry

        self.ours: Any = typer.main.get_command(make_app())
        self.harness: dict[str, Any] = HarnessCLI()._subparsers.choices
        self.tasks = {path.stem for path in tasks_folder().glob("*.yaml")} | {"privacy"}
        self.attack_options = load_registry().attack_options

    def check(self, command: Sequence[str]) -> str | None:
        """What is wrong with a command, or None."""
        words = [word for word in command if not re.fullmatch(r"[A-Z_]+=.*", word)]  # VAR=value before the program
        if not words:
            return None
        program, *arguments = words
        if program in ("accelerate", "python", "torchrun") and "-m" in arguments:
            at = arguments.index("-m")
            module, arguments = arguments[at + 1], arguments[at + 2 :]
            program = {"lm_eval": "lm_eval", "spvmia_plugin": "spvmia"}.get(module, program)
        if program == "spvmia":
            return self.check_ours(arguments)
        if program in ("lm_eval", "lm-eval"):
            return self.check_harness(arguments)
        return None if program in OTHERS else f"unknown program {program!r}"

    def help_blocks(self) -> Iterator[Block]:
        """The examples in the help of every command: what its docstring indents or fences."""
        yield from _help_blocks(self.ours, "spvmia")

    def check_ours(self, arguments: Sequence[str]) -> str | None:
        """Check a `spvmia` command line: names of commands and options, and which options take a value."""
        command, rest, context = self.ours, list(arguments), None
        while rest and hasattr(command, "commands"):
            if rest[0].startswith("-"):
                break
            name = rest.pop(0)
            if name not in command.commands:
                return f"spvmia has no command {name!r}"
            command = command.commands[name]
            if name == "run":
                return self.check_harness(rest)
            if name == "check":
                return self.check_launched(rest)
        context = command.context_class(command, info_name=command.name)
        try:
            command.make_parser(context).parse_args(rest)
        except Exception as error:  # typer brings its own copy of click
            return str(getattr(error, "message", error))
        return None

    def check_launched(self, arguments: Sequence[str]) -> str | None:
        """Check what stands behind `spvmia check`: an `lm_eval` command line, whatever launches it."""
        from spvmia_plugin.cli.check import OWN
        from spvmia_plugin.errors import SpvmiaError
        from spvmia_plugin.harness.command_line import options_of_run

        try:
            return self.check_harness(options_of_run([word for word in arguments if word not in OWN]))
        except SpvmiaError as error:
            return str(error)

    def check_harness(self, arguments: Sequence[str]) -> str | None:
        """Check an `lm_eval` command line: its options, the names of our tasks, and the `mia_*` options."""
        name, rest = "run", list(arguments)
        if rest and rest[0] in self.harness:
            name = rest.pop(0)
        if rest in (["--help"], ["-h"]):
            return None
        complaint = io.StringIO()
        try:
            with contextlib.redirect_stderr(complaint):
                options = self.harness[name].parse_args(rest)
        except SystemExit:
            return complaint.getvalue().strip().splitlines()[-1]
        return self.check_tasks(options) or self.check_metadata(options)

    def check_tasks(self, options: Any) -> str | None:
        """Tasks that look like ours must be there; those of a folder of the user's are the user's."""
        if options.__dict__.get("include_path") == "spvmia_tasks":
            return None
        named = getattr(options, "tasks", None) or []
        for task in named.split(",") if isinstance(named, str) else named:
            if ("mia_" in task or task in ("spv_mia", "privacy")) and task not in self.tasks:
                return f"there is no task {task!r}"
        return None

    def check_metadata(self, options: Any) -> str | None:
        """The `mia_*` options must be read without an error."""
        from spvmia_plugin.config import AuditConfig
        from spvmia_plugin.errors import SpvmiaError

        try:
            AuditConfig.from_metadata(getattr(options, "metadata", None) or {}, self.attack_options)
        except SpvmiaError as error:
            return str(error)
        return None


def check_python(body: str) -> str | None:
    """Run a block in a folder of its own; what is wrong with it, or None."""
    with tempfile.TemporaryDirectory() as folder:
        result = subprocess.run([sys.executable, "-c", body], cwd=folder, capture_output=True, text=True, check=False)
    return None if result.returncode == 0 else result.stderr.strip().splitlines()[-1]


def check_notebook(path: Path) -> str | None:
    """Run all cells of a notebook in a folder of its own; what is wrong with it, or None. Outputs are not kept."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    notebook = nbformat.read(path, as_version=4)
    if any(cell.get("outputs") for cell in notebook.cells):
        return "expected cells without outputs, which would grow old"
    with tempfile.TemporaryDirectory() as folder:
        try:
            NotebookClient(notebook, timeout=600, resources={"metadata": {"path": folder}}).execute()
        except CellExecutionError as error:
            return str(error).strip().splitlines()[-1]
    return None


def check_block(block: Block, check_command: Callable[[Sequence[str]], str | None]) -> list[str]:
    """What is wrong with a block, each with its place."""
    if block.excuse is not None:
        return [] if block.excuse else [f"{block.place}: expected a reason after 'not run:'"]
    if block.language in ("bash", "sh", "shell"):
        found = [check_command(command) for command in commands(block.body)]
    elif block.language == "python" and not block.body.rstrip().endswith("..."):  # a signature is tested in tests/
        found = [check_python(block.body)]
    else:
        found = []
    return [f"{block.place}: {problem}" for problem in found if problem]


def _help_blocks(command: Any, name: str) -> Iterator[Block]:
    text = inspect.cleandoc(command.help or "")
    lines = [line.strip() if line.startswith(("    ", "spvmia ", "lm_eval ")) else "" for line in text.splitlines()]
    yield Block(f"{name} --help", "bash", "\n".join(lines).strip() + "\n", None)
    for child, subcommand in getattr(command, "commands", {}).items():
        yield from _help_blocks(subcommand, f"{name} {child}")


def broken_links(text: str, page: Path) -> list[str]:
    """Links of a page to files that are not there; mkdocs checks the headings."""
    targets = (found["target"].partition("#")[0] for found in _LINK.finditer(_FENCE.sub("", text)))
    missing = [
        t for t in targets if t and "://" not in t and not t.startswith("mailto:") and not (page.parent / t).exists()
    ]
    return [f"{page.name}: no file {target!r} to link to" for target in missing]


def unopened(text: str, page: Path) -> list[str]:
    """What is wrong with how a page begins: a sentence that says what it is for, before headings, tables and blocks."""
    lines = [line for line in re.sub(r"<!--.*?-->", "", text, flags=re.S).splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].startswith("# ") and re.match(r"[A-Z\[`*\"]", lines[1]) and lines[1][:3] != "```":
        return []
    return [f"{page.name}: expected a heading and a sentence that says what the page is for"]


_ELSEWHERE = re.compile(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?(?:https?:)?//[^>]*|<link\b[^>]*>", re.I)
_LOADED_LINK = re.compile(
    r"\brel=[\"']?(?:stylesheet|icon|preload|preconnect|manifest)\b.*\bhref=[\"']?(?:https?:)?//", re.I
)


def loaded_from_elsewhere(html: str) -> list[str]:
    """Tags of a page by which a browser would ask another machine for something."""
    tags = (found[0] for found in _ELSEWHERE.finditer(html))
    return [tag for tag in tags if not tag.lower().startswith("<link") or _LOADED_LINK.search(tag)]


def check_site() -> list[str]:
    """Build the site; what mkdocs warns of, and what its pages would load from elsewhere."""
    if importlib.util.find_spec("material") is None:
        return ["the site was not built: expected mkdocs-material, got none; pip install mkdocs-material"]
    with tempfile.TemporaryDirectory() as folder:
        build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--config-file", ROOT / "mkdocs.yml"]
        result = subprocess.run([*build, "--site-dir", folder], capture_output=True, text=True, check=False)
        if result.returncode:
            return [f"the site: {line}" for line in (result.stderr + result.stdout).strip().splitlines()]
        return [
            f"the site: {page.relative_to(folder)} loads {tag}"
            for page in sorted(Path(folder).rglob("*.html"))
            for tag in loaded_from_elsewhere(page.read_text(encoding="utf-8"))
        ]


def messages(text: str) -> list[str]:
    """The messages that a page quotes: code in the first cell of a table under the heading `message`."""
    quoted, inside = [], False
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        inside = line.startswith("|") and (inside or cells[0] == "message")
        if inside and (found := re.match(r"`([^`]+)`", cells[0])):
            quoted.append(found[1])
    return quoted


def templates(sources: Iterable[str]) -> set[str]:
    """Every string in the sources, values inside f-strings as holes."""
    found = set()
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.JoinedStr):
                found.add("".join(str(p.value) if isinstance(p, ast.Constant) else _HOLE for p in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


def is_said(message: str, known: Iterable[str]) -> bool:
    """Whether one known string holds all fixed parts of a message, in order, `...` standing for anything."""
    parts = [re.escape(part) for part in message.split("...") if part.strip(" :,;")]
    pattern = re.compile(".*".join(parts), re.S)
    return bool(parts) and any(pattern.search(string) for string in known)


def unsaid(text: str) -> list[str]:
    """Messages quoted on a page that neither our sources nor lm_eval's hold."""
    import lm_eval

    import spvmia_plugin

    folders = [Path(spvmia_plugin.__file__).parent, Path(lm_eval.__file__).parent / "config"]
    known = templates(path.read_text(encoding="utf-8") for folder in folders for path in folder.rglob("*.py"))
    return [message for message in messages(text) if not is_said(message, known)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the pages; print what is wrong; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", type=Path, metavar="PAGE", help="only these pages, and nothing else")
    chosen = [page.resolve() for page in parser.parse_args(arguments).pages]
    every = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    parsers = Parsers()
    problems: list[str] = []
    checked = excused = 0
    for page in chosen or every:
        text = page.read_text(encoding="utf-8")
        problems += broken_links(text, page)
        problems += unopened(text, page) if page.is_relative_to(ROOT / "docs") else []
        problems += [f"{page.name}: no such message in the sources: {message}" for message in unsaid(text)]
        for block in blocks(text, str(page.relative_to(ROOT))):
            checked += 1
            excused += block.excuse is not None
            problems += check_block(block, parsers.check)
    for notebook in sorted((ROOT / "docs").rglob("*.ipynb")) if not chosen else ():
        checked += 1
        if problem := check_notebook(notebook):
            problems.append(f"{notebook.relative_to(ROOT)}: {problem}")
    for block in parsers.help_blocks() if not chosen else ():
        checked += 1
        problems += check_block(block, parsers.check)
    problems += check_site() if not chosen else []
    print("\n".join(problems) or f"{checked} blocks checked, {excused} of them marked as not run")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
