"""How lm_eval finds our tasks: their files put where the stock command looks, or its command line with our folder.

lm_eval is imported by `launch` alone, when it is called.

lm_eval reads every YAML below the `tasks` folder of the imported package, and none elsewhere until it has plugins for
tasks. A wheel must not install into that folder, because beside an editable lm_eval it would turn `import lm_eval` into
an empty namespace package. So the files are copied there on request, into a folder of ours with a stamp in it.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import importlib.util
import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from spvmia_plugin import __version__
from spvmia_plugin.errors import SpvmiaError, did_you_mean
from spvmia_plugin.harness.installed import finds_tasks, known_tasks_only, read_config, take_texts
from spvmia_plugin.models.intact import weights_kept
from spvmia_plugin.util.strict_json import any_loads

if TYPE_CHECKING:
    from lm_eval.__main__ import HarnessCLI

FOLDER = "spv_mia"
STAMP = "spvmia_stamp.json"
MINIMUM = (0, 4, 13)
"""The first lm_eval that hands `--metadata` to tasks that are classes."""

INSTALL = "pip install 'lm-eval[hf]>=0.4.13'"
INSTEAD = "use 'spvmia run' in place of lm_eval, or lm_eval --include_path \"$(spvmia tasks)\""

_IGNORE = "# Written by spvmia enable, so that a checkout of lm_eval stays clean.\n*\n"
_TASK_FILES = ("*.yaml", "_*_yaml")

_NOT_FOUND = "Tasks not found: "
_OVERRIDES = "Task '%s' from %s overrides existing task from %s"
"""What the harness says: tests hold both."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stamp:
    """What `spvmia enable` wrote.

    Attributes:
        version: of spvmia-plugin.
        files: names of the files it put there, the stamp and the `.gitignore` among them.
    """

    version: str
    files: tuple[str, ...]


def tasks_folder() -> Path:
    """The folder with our task files: inside the installed package, or `tasks/` of a checkout.

    Raises:
        SpvmiaError: neither is there.
    """
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "tasks", package.parent / "tasks"):
        if any(folder.glob("*.yaml")):
            return folder
    raise SpvmiaError(f"tasks: expected task files in {package / 'tasks'}, found none; reinstall spvmia-plugin")


def harness_tasks() -> Path:
    """The `tasks` folder of the lm_eval that `import lm_eval` gives here, without importing it.

    Raises:
        SpvmiaError: there is no lm_eval, or no such folder in it.
    """
    spec = importlib.util.find_spec("lm_eval")
    if spec is None:
        raise SpvmiaError(f"lm_eval: expected it beside spvmia-plugin, but this Python cannot import it; run {INSTALL}")
    if spec.origin is None:
        where = ", ".join(spec.submodule_search_locations or [])
        raise SpvmiaError(
            f"lm_eval: expected a package, got a folder without __init__.py ({where}); remove it, then run {INSTALL}"
        )
    folder = Path(spec.origin).parent / "tasks"
    if not folder.is_dir():
        raise SpvmiaError(f"lm_eval: expected a folder {folder}, found none; {INSTEAD}")
    return folder


def outdated_harness() -> str | None:
    """One line if the installed lm_eval is older than we need, else None."""
    try:
        version = importlib.metadata.version("lm_eval")
    except importlib.metadata.PackageNotFoundError:
        return None  # a folder on PYTHONPATH: nobody states its version
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
    if numbers >= MINIMUM:
        return None
    return (
        f"warning: expected lm_eval >= 0.4.13, got {version}, where options in --metadata have no effect; run {INSTALL}"
    )


def found_without() -> bool:
    """Whether the imported lm_eval finds our tasks by their entry point, with nothing copied into it.

    The entry point names a folder of the wheel, which a checkout keeps elsewhere.

    Raises:
        SpvmiaError: there is no lm_eval.
    """
    return finds_tasks(harness_tasks().parent) and tasks_folder().parent == Path(__file__).resolve().parent.parent


def enabled() -> Literal["no", "current", "outdated"]:
    """Whether the imported lm_eval finds our tasks, and whether they are the ones of this package.

    Raises:
        SpvmiaError: there is no lm_eval.
    """
    target = harness_tasks() / FOLDER
    present = _read_stamp(target)
    if present is None:
        return "current" if found_without() else "no"
    return "current" if _on_disk(target, present) == _contents(tasks_folder()) else "outdated"


def enable() -> str:
    """Copy the task files into the imported lm_eval, bring an older copy up to date, and return what was done.

    An lm_eval that finds them by their entry point gets no copy, and loses an older one: it had every task twice.

    Raises:
        SpvmiaError: no lm_eval, a folder of that name that is not ours, or one that can't be written to.
    """
    if found_without():
        done = f"nothing to copy: this lm_eval finds {_count(_contents(tasks_folder()))} of spvmia-plugin {__version__}"
        older = [disable()] if _read_stamp(harness_tasks() / FOLDER) else []
        return "\n".join([done, *older, "list them with: lm_eval ls tasks"])
    source, target = tasks_folder(), harness_tasks() / FOLDER
    present = _read_stamp(target)
    if present is None and _is_taken(target):
        raise SpvmiaError(
            f"enable: expected {target} to be free or written by 'spvmia enable', but it is somebody else's; "
            f"rename it, or {INSTEAD}"
        )
    contents = _contents(source)
    if present and _on_disk(target, present) == contents:
        done = f"already enabled: {_count(contents)} of spvmia-plugin {__version__} in {target}"
    else:
        _write(target, contents, present)
        verb = f"brought up to date from {present.version}" if present else "enabled"
        done = f"{verb}: {_count(contents)} of spvmia-plugin {__version__} in {target}"
    return "\n".join(filter(None, [done, outdated_harness(), "list them with: lm_eval ls tasks"]))


def disable() -> str:
    """Remove what `enable` wrote, leave what others put there, and return what was done.

    Raises:
        SpvmiaError: no lm_eval, a folder that is not ours, or one that can't be written to.
    """
    target = harness_tasks() / FOLDER
    present = _read_stamp(target)
    if present is None:
        if _is_taken(target):
            raise SpvmiaError(f"disable: {target} was not written by 'spvmia enable'; remove it yourself")
        return f"not enabled: nothing of ours in {target.parent}"
    try:
        for name in sorted(present.files, key=lambda name: name == STAMP):  # the stamp last: it says what is ours
            (target / name).unlink(missing_ok=True)
        left = sorted(entry.name for entry in target.iterdir())
        if not left:
            target.rmdir()
    except OSError as error:
        raise SpvmiaError(
            f"disable: cannot remove files from {target} ({error.strerror}); remove it yourself"
        ) from error
    if left:
        return f"disabled; left in {target} what is not ours: {', '.join(left)}"
    return f"disabled: removed {target}"


def check_version(metadata: Mapping[str, Any]) -> None:
    """Warn, once per file, if a task was written by another version of this package than the one that runs it.

    Args:
        metadata: of the task's configuration; the harness adds `config_source`, the file. One without
            `spvmia_version` was written by hand, and is taken as it is.
    """
    written = metadata.get("spvmia_version", __version__)
    if written != __version__:
        folder = Path(str(metadata.get("config_source", "task"))).parent
        _warn_once(
            f"{folder}: task files were written by spvmia-plugin {written}, this is {__version__}; "
            "run 'spvmia enable' ('spvmia tasks --write' for those you wrote) to bring them up to date"
        )


@functools.cache  # a group of 18 tasks is one warning
def _warn_once(line: str) -> None:
    _logger.warning(line)


def _is_taken(target: Path) -> bool:
    """Whether something lies there; an empty folder (after `git clean` in a checkout) is free."""
    if target.is_symlink() or not target.is_dir():
        return target.is_symlink() or target.exists()
    return any(target.iterdir())


def _contents(source: Path) -> dict[str, bytes]:
    """The folder as it should be, by file name."""
    files = {path.name: path.read_bytes() for pattern in _TASK_FILES for path in sorted(source.glob(pattern))}
    files[".gitignore"] = _IGNORE.encode()
    stamp = {"written_by": "spvmia enable", "version": __version__, "files": [*files, STAMP]}
    return {**files, STAMP: (json.dumps(stamp, indent=2) + "\n").encode()}


def _on_disk(target: Path, present: Stamp) -> dict[str, bytes]:
    return {name: path.read_bytes() for name in present.files if (path := target / name).is_file()}


def _write(target: Path, contents: Mapping[str, bytes], present: Stamp | None) -> None:
    """Write the stamp first, naming old and new files, so that an interrupted copy is still known as ours."""
    stale = set(present.files) - set(contents) if present else set()
    claim = {"written_by": "spvmia enable", "version": "unfinished", "files": sorted({*contents, *stale})}
    try:
        target.mkdir(exist_ok=True)
        _replace(target / STAMP, json.dumps(claim).encode())
        for name in stale:
            (target / name).unlink(missing_ok=True)
        for name, data in contents.items():
            _replace(target / name, data)
    except OSError as error:
        raise SpvmiaError(f"enable: cannot write to {target} ({error.strerror}); {INSTEAD}") from error


def _replace(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old or the new one."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_bytes(data)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _read_stamp(target: Path) -> Stamp | None:
    """The stamp in a folder of ours, or None. A link is never ours: removing its files would empty another folder."""
    if target.is_symlink():
        return None
    try:
        text = (target / STAMP).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except UnicodeDecodeError:
        return None  # not what we write
    except OSError as error:
        raise SpvmiaError(
            f"{FOLDER}: cannot read {target / STAMP} ({error.strerror}), which says what is ours; make it readable"
        ) from error
    try:
        stamp = any_loads(text)
        names = tuple(str(name) for name in stamp["files"])
        version = str(stamp["version"])
    except (ValueError, KeyError, TypeError):
        return None  # somebody else's file of that name
    plain = all(name == Path(name).name for name in names)  # never a path that leads out of the folder
    return Stamp(version, names) if plain else None


def _count(contents: Mapping[str, bytes]) -> str:
    return f"{sum(name.endswith('.yaml') for name in contents)} tasks and groups"


def launch(arguments: Sequence[str]) -> None:
    """Run lm_eval's command line on `arguments`, its tasks and ours included.

    Raises:
        SpvmiaError: there is no lm_eval, or no such task; and whatever a task of ours raises.
    """
    state = enabled()
    from lm_eval.__main__ import HarnessCLI, setup_logging

    setup_logging()
    own_argv = sys.argv
    sys.argv = ["lm_eval", *arguments]  # the harness reads it, and records it nowhere else
    try:
        with no_old_news():
            command_line = HarnessCLI()
            options = command_line.parse_args()
            if getattr(options, "command", None):
                take_texts(options)
                _include(options, str(tasks_folder()), needed=state != "current")
                if options.command == "run":
                    _check(options)
            _execute(command_line, options)
    finally:
        sys.argv = own_argv


def _check(options: argparse.Namespace) -> None:
    """Refuse, before any work, what the harness stumbles over at its beginning with a traceback, or at its end."""
    from spvmia_plugin.harness.command_line import check_limit, check_output  # which finds the tasks by this module

    config = getattr(options, "config", None)
    given = read_config(config) if config else {}
    check_limit(options.limit if options.limit is not None else given.get("limit"))
    check_output(options.output_path if options.output_path is not None else given.get("output_path"))


def _execute(command_line: HarnessCLI, options: argparse.Namespace) -> None:
    """A misspelt task ends in one line, as our own tasks' errors do, and not in the harness's traceback."""
    try:
        # `ls` and `validate` load no model, and need not wait until peft is imported.
        with known_tasks_only(), weights_kept() if options.command == "run" else nullcontext():
            command_line.execute(options)
    except ValueError as error:
        _, found, missing = str(error).partition(_NOT_FOUND)
        if not found:
            raise
        ours = [path.stem for path in tasks_folder().glob("*.yaml")]
        named = ", ".join(f"{name!r}{did_you_mean(name, ours)}" for name in missing.split(", "))
        raise SpvmiaError(
            f"--tasks: expected tasks that 'spvmia run ls tasks' lists, or files of yours by their names, got {named}"
        ) from None


def _include(options: argparse.Namespace, folder: str, *, needed: bool) -> None:
    """Have `folder` once among the included paths, or not at all where lm_eval has the same files already.

    `--include_path` takes one folder on the command line, and any number from Python.
    """
    given = options.include_path
    if given is None and getattr(options, "config", None):
        given = read_config(options.config).get("include_path")
    folders = [] if given is None else given if isinstance(given, list) else [given]
    others = [path for path in folders if Path(path).resolve() != Path(folder).resolve()]
    options.include_path = [*others, folder] if needed else others or None


@contextmanager
def no_old_news() -> Iterator[None]:
    """Without the harness's warnings of tasks and tags that are as they should be."""
    index_log = logging.getLogger("lm_eval.tasks._index")
    index_log.addFilter(_is_news)
    try:
        yield
    finally:
        index_log.removeFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    """False for the harness's warning that a task of ours replaces the older copy that lies enabled: as it should.

    And for that of a tag which tasks of two folders have, as ours and those of `spvmia tasks --write` do.
    """
    if record.msg != _OVERRIDES or not isinstance(record.args, tuple):
        return True
    return record.args[1] is not None and Path(str(record.args[1])).parent != tasks_folder()
