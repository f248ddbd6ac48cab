"""An lm_eval command line as it stands, whatever starts it, and which of the tasks it names are ours."""

from __future__ import annotations

import argparse
import dataclasses
import errno
import glob
import math
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spvmia_plugin.errors import SpvmiaError, did_you_mean, reason_of
from spvmia_plugin.harness.enable import no_old_news, tasks_folder
from spvmia_plugin.harness.task import DEVICE, AuditTask
from spvmia_plugin.util.files import as_path

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

PROGRAMS = ("lm_eval", "lm-eval", "spvmia", "spvmia_plugin")
"""What runs the harness's command line. `spvmia run` has the harness's own `run` behind it."""
_PROCESSES = ("nproc_per_node", "num_processes")
"""What torchrun and accelerate call the number of processes, with lines or hyphens."""
_MODULE_FLAGS = ("-m", "--module")
"""Of Python, accelerate and torchrun: the word after it is a module to run."""
_EXPECTED = (
    "expected the words of an lm_eval command that runs tasks, such as 'spvmia check lm_eval --model hf "
    "--model_args pretrained=MODEL --tasks mia_custom'"
)
_LISTED = "expected names that 'spvmia run ls tasks' lists, or files of yours"


@dataclass(frozen=True)
class Command:
    """The parts of an lm_eval command that say what is audited, and where the outcome goes.

    Attributes:
        model: `--model`.
        arguments: `--model_args`.
        metadata: `--metadata`.
        tasks: what stands in `--tasks`: names, patterns of them, YAML files, a folder of such.
        limit: `--limit`.
        samples: `--samples`: places of the documents to take, by task; None for all of them.
        include: folders of `--include_path`.
        device: `--device`, or the one that the harness takes where there is none.
        output: `--output_path`.
        predict_only: `--predict_only`.
        processes: how many processes the launcher before the program was told to start; 1 where it was told nothing.
    """

    model: str
    arguments: Mapping[str, Any]
    metadata: Mapping[str, Any]
    tasks: Sequence[str]
    limit: float | None
    samples: Mapping[str, Sequence[int]] | None
    include: Sequence[str]
    device: str
    output: str | None
    predict_only: bool = False
    processes: int = 1

    @classmethod
    def parse(cls, words: Sequence[str]) -> Command:
        """Read a command line of lm_eval. The harness's own complaints about options end the process.

        Args:
            words: its options, with or without what stands before them: `run`, `lm_eval`, `python -m lm_eval`,
                `accelerate launch ... -m lm_eval`.

        Raises:
            SpvmiaError: it runs no tasks, or the harness does not take a value.
        """
        from lm_eval.__main__ import HarnessCLI
        from lm_eval.config.evaluate_config import EvaluatorConfig

        own_argv, of_run = sys.argv, options_of_run(words)
        sys.argv = ["lm_eval", "run", *of_run]
        try:
            options: argparse.Namespace = HarnessCLI().parse_args()
            read = EvaluatorConfig.from_cli(options)
        except (ValueError, TypeError, OSError) as error:
            raise SpvmiaError(f"lm_eval: {' '.join(str(error).split())}") from None
        finally:
            sys.argv = own_argv
        check_limit(read.limit)
        named = [read.tasks] if isinstance(read.tasks, str) else read.tasks
        tasks = [name for each in named for name in str(each).split(",") if name]
        if not tasks:
            raise SpvmiaError(f"--tasks: {_LISTED}, got none; name at least one")
        arguments = dict(read.model_args)
        # The harness has put the model's arguments among the metadata.
        metadata = {key: value for key, value in dict(read.metadata).items() if key not in arguments}
        return cls(
            model=read.model,
            arguments=arguments,
            metadata=metadata,
            tasks=tasks,
            limit=read.limit,
            samples=_samples(read.samples),
            include=[] if read.include_path is None else [str(read.include_path)],
            device=str(read.device or DEVICE),
            output=read.output_path,
            predict_only=bool(read.predict_only),
            processes=_launched(words[: len(words) - len(of_run)]),
        )


def options_of_run(words: Sequence[str]) -> Sequence[str]:
    """The options of lm_eval's `run`, without what stands before them.

    Raises:
        SpvmiaError: nothing is left, or it is another command.
    """
    rest = list(words)
    if rest and not rest[0].startswith("-") and rest[0] != "run":
        rest = _after_program(rest)
    if rest[:1] == ["run"]:
        rest = rest[1:]
    if not rest:
        raise SpvmiaError(f"lm_eval: {_EXPECTED}, got none")
    if not rest[0].startswith("-"):
        raise SpvmiaError(f"lm_eval: {_EXPECTED}, got {rest[0]!r}")
    return rest


def _after_program(words: list[str]) -> list[str]:
    """What follows the program, whatever launches it: a module that is asked for by `-m` before a name that stands so.

    Raises:
        SpvmiaError: no word names one of the programs.
    """
    named = [place for place, word in enumerate(words) if Path(word.removesuffix("/__main__.py")).name in PROGRAMS]
    as_module = [place for place in named if place and words[place - 1] in _MODULE_FLAGS]
    if not named:
        raise SpvmiaError(f"lm_eval: {_EXPECTED}, got {words[0]!r} without lm_eval")
    return words[next(iter(as_module or named)) + 1 :]


def _launched(words: Sequence[str]) -> int:
    """How many processes a launcher's words ask for; 1 where they leave it to the machine (`--nproc_per_node gpu`)."""
    options = [part for word in words for part in word.split("=", 1)]
    for option, value in pairwise(options):
        if option.replace("-", "_").strip("_") in _PROCESSES and value.isdecimal():
            return max(int(value), 1)
    return 1


def _samples(given: object) -> Mapping[str, Sequence[int]] | None:
    """What `--samples` names, by task.

    Raises:
        SpvmiaError: it is nothing that the harness could take documents by.
    """
    if not given:
        return None
    if not isinstance(given, Mapping):
        raise SpvmiaError(
            "--samples: expected JSON such as '{\"loss_mia_custom\": [0, 1, 2]}', or a file with it, got "
            f"{str(given)!r}; correct it"
        )
    for name, places in given.items():
        if not isinstance(places, list) or not all(type(place) is int and place >= 0 for place in places):
            raise SpvmiaError(
                f"--samples: expected places of documents, a list of whole numbers from 0 on, for {str(name)!r}, got "
                "something else; correct it"
            )
    return given


def check_limit(limit: object) -> None:
    """Refuse a `--limit` that the harness ends in a traceback with.

    Raises:
        SpvmiaError: it is negative, infinite or no number.
    """
    if isinstance(limit, (int, float)) and not (math.isfinite(limit) and limit >= 0):
        raise SpvmiaError(
            f"--limit: expected a number of records, or a share of them below 1, got {limit:g}; correct it"
        )


def check_output(output: object) -> None:
    """Refuse an `--output_path` in which lm_eval could not write, which it finds out when everything is computed.

    Raises:
        SpvmiaError: it cannot be written.
    """
    if not isinstance(output, (str, os.PathLike)):
        return
    place = as_path(str(output), "--output_path")
    # As the harness reads it: NAME.json is a file, anything else the folder of a model's folder.
    folder = place.parent if place.suffix == ".json" else place
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    try:
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "a file is in the way", str(there))
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise SpvmiaError(
            f"--output_path: expected a folder that results can be written to, got {output} "
            f"({error.strerror}: {there}); name another"
        ) from None


def our_tasks(command: Command) -> tuple[list[AuditTask], list[str]]:
    """The tasks of ours that a command runs, read and checked as a run would, and the names of the others.

    What stands in `--tasks` means what it means to the harness: see `EvaluatorConfig.process_tasks`. Only ours and
    those of `--include_path` are known here: to index all of the harness's takes as long as the whole check may.

    Raises:
        SpvmiaError: a name that looks like ours is none, a file that is not there, a task that is named twice, or what
            a task refuses.
    """
    from lm_eval.tasks import TaskManager

    folder = tasks_folder()
    folders = [str(folder), *(path for path in command.include if Path(path).resolve() != folder.resolve())]
    with no_old_news():
        manager = TaskManager(
            metadata={**command.arguments, **command.metadata}, include_path=folders, include_defaults=False
        )
    others: list[str] = []
    ours = [spec for word in command.tasks for spec in _meant(word, command, manager, others)]
    try:
        loaded = manager.load(list(dict.fromkeys(ours)))["tasks"] if ours else {}
    except SpvmiaError:
        raise
    except (ValueError, KeyError) as error:  # a task in two groups, say
        raise SpvmiaError(f"--tasks: lm_eval would stop with {reason_of(error)}; name each task once") from None
    tasks = [task for task in loaded.values() if isinstance(task, AuditTask)]
    others += [name for name, task in loaded.items() if not isinstance(task, AuditTask)]
    return tasks, list(dict.fromkeys(others))


def _meant(word: str, command: Command, manager: TaskManager, others: list[str]) -> list[str]:
    """What a word of `--tasks` stands for: names and files that may be ours. The rest goes to `others`."""
    known = [name for name in manager.match_tasks([word]) if name in manager._index]
    if known:
        return [name for name in known if _may_be_ours(name, manager, others)]
    if len(command.tasks) == 1 and Path(word).is_dir():
        files = sorted(glob.glob(str(Path(word) / "*.yaml")))
    elif word.endswith(".yaml"):
        files = sorted(glob.glob(str(Path(word).absolute())))
    else:
        if "mia" in word and (hint := did_you_mean(word, manager.all_tasks)):
            raise SpvmiaError(f"--tasks: {_LISTED}, got {word!r}{hint}")
        others.append(word)
        return []
    if not files:
        raise SpvmiaError(f"--tasks: {_LISTED}, got {word!r}, where no YAML file lies; correct the path")
    return [file for file in files if _file_may_be_ours(file, others)]


def _file_may_be_ours(file: str, others: list[str]) -> bool:
    """Whether a YAML file has a task with a class, as ours have.

    Raises:
        SpvmiaError: the harness cannot read it, or it is a group: of that the harness reads no tasks by its file.
    """
    import yaml
    from lm_eval.tasks._yaml_loader import load_yaml

    try:
        config = load_yaml(file, resolve_func=False)
    except (ValueError, OSError, yaml.YAMLError) as error:
        raise SpvmiaError(
            f"--tasks: expected a task file that lm_eval can read, got {file} ({reason_of(error)})"
        ) from None
    if "group" in config and "class" not in config:
        raise SpvmiaError(
            f"--tasks: expected the file of a task, got {file}, a group, which lm_eval does not take so; name it "
            f"{str(config['group'])!r}, with --include_path {Path(file).parent}"
        )
    if "class" not in config:
        others.append(str(config.get("task", file)))
    return "class" in config


def _may_be_ours(name: str, manager: TaskManager, others: list[str]) -> bool:
    """Whether a name has a class, as our tasks have, or is a group or tag of such.

    A group is freed of what has none: to build a task of the harness's loads its data.
    """
    from lm_eval.tasks._index import Kind

    entry = manager._index.get(name)
    if entry is None or entry.kind is Kind.TASK:
        others.append(name)
        return False
    members = (entry.cfg or {}).get("task") if entry.kind is Kind.GROUP else None
    if not isinstance(members, list):
        return True

    def kept(member: object) -> bool:
        called = member.get("task") if isinstance(member, Mapping) else member
        return not isinstance(called, str) or _may_be_ours(called, manager, others)

    ours = [member for member in members if kept(member)]
    if ours != members:
        manager._index[name] = dataclasses.replace(entry, yaml_path=None, cfg={**(entry.cfg or {}), "task": ours})
    return bool(ours)
