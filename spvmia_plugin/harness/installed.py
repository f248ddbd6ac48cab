"""What the installed lm_eval has. 0.4.13 and 0.5 are told apart by what is there, never by a version, and only here.

Imports of lm_eval stand inside the functions: `spvmia enable` asks where tasks are found without importing it.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

TASKS_GROUP = "lm_eval.tasks"
"""Entry points that an lm_eval with plugins for tasks reads: each names a package, whose folder it scans."""

# Where its own modules lie; below `tasks` follow thousands of single tasks.
_FOLDERS = (".", "api", "tasks", "config", "_cli")


def known_metrics() -> tuple[Any, Any]:
    """The harness's own metrics and aggregations, by name, filled with what it brings.

    0.5 has only the names in small letters, and fills these registries when they are asked. 0.4.13 fills them only
    while they are empty, so its own come first.
    """
    import lm_eval.api.metrics
    import lm_eval.models  # noqa: F401
    from lm_eval.api import registry

    return registry.metric_registry, registry.aggregation_registry


def context_of(config: Any, tokenizer: Any) -> int:
    """How many tokens the harness would have a Hugging Face model read at once.

    Args:
        config: the model's configuration.
        tokenizer: its tokenizer.
    """
    from lm_eval.models import utils

    if hasattr(utils, "resolve_max_length"):
        return int(utils.resolve_max_length(config, tokenizer))
    from lm_eval.models.huggingface import HFLM

    unloaded = HFLM.__new__(HFLM)  # 0.5 has it as a property, which looks at nothing else
    unloaded._max_length, unloaded.tokenizer, unloaded._model = None, tokenizer, SimpleNamespace(config=config)
    return int(unloaded.max_length)


def sample_size(documents: int, limit: float | None) -> int | None:
    """How many documents of a task `--limit` leaves: a number, or below 1 a share. Both versions count so, each in
    another place."""
    if limit is None:
        return None
    return math.ceil(documents * limit) if limit < 1 else int(limit)


def read_config(path: str) -> dict[str, Any]:
    """The settings in a file of `--config`."""
    from lm_eval.config.evaluate_config import EvaluatorConfig

    settings: dict[str, Any] = EvaluatorConfig.load_yaml_config(path)
    return settings


def take_texts(options: argparse.Namespace) -> None:
    """Read what a file of `--config` gives as a text where mappings belong (`model_args: pretrained=...`), as from the
    command line, which goes before the file. 0.5.0.dev1 means to, and stumbles over the text.
    """
    if not getattr(options, "config", None):
        return
    from lm_eval.config.evaluate_config import DICT_KEYS
    from lm_eval.utils import simple_parse_args_string

    for name, value in read_config(options.config).items():
        if name in DICT_KEYS and isinstance(value, str) and getattr(options, name, None) is None:
            setattr(options, name, simple_parse_args_string(value))


def prepare_scoring(task: Any, name: str) -> None:
    """Give a task what hands the answer to each request on to its `process_results`, unchanged.

    0.5 asks the task's scorers, which filter, reduce and aggregate; before, a list of filters did the first alone.

    Args:
        task: to prepare.
        name: of the one pipeline; metrics appear as `<metric>,<name>`.
    """
    if _has_scorers():
        task._scorers = [_scorer(name, [])]
    else:
        from lm_eval.filters import build_filter_ensemble

        task._filters = [build_filter_ensemble(name, [["take_first", None]])]


def keep_answers_only(task: Any, metric: str, name: str) -> bool:
    """Have a task report nothing but `metric` (`--predict_only` asks for "bypass"); False where the harness's own can.

    The scorers of 0.5 are found by the type of request, and ours is none of the harness's.
    """
    if not _has_scorers():
        return False
    task._scorers = [_scorer(name, [{"metric": metric}])]
    computed = task._scorers[0].metrics[0]
    task.process_results = lambda doc, results: {metric: math.nan}
    task.aggregation = lambda: {metric: computed.aggregation}
    return True


def _has_scorers() -> bool:
    return importlib.util.find_spec("lm_eval.scorers") is not None


def _scorer(name: str, metrics: list[dict[str, str]]) -> Any:
    from lm_eval.scorers import Scorer

    return Scorer.from_dict({"name": name, "filter": [], "metric_list": metrics})


@contextmanager
def known_tasks_only() -> Iterator[None]:
    """Let the harness match names of tasks with tasks alone, so that it refuses what is none before it loads a model.

    0.5 gives a name that matches nothing back as it is, for `group::task`, and stumbles over it after the model.
    """
    from lm_eval.tasks import TaskManager

    original = TaskManager.match_tasks

    def match_tasks(manager: Any, names: list[str]) -> list[str]:
        matched: list[str] = original(manager, names)
        return [name for name in matched if "::" in name or name.split("@")[0] in manager._index]

    TaskManager.match_tasks = match_tasks
    try:
        yield
    finally:
        TaskManager.match_tasks = original


def finds_tasks(package: Path) -> bool:
    """Whether an lm_eval reads the entry points of `TASKS_GROUP`, and so finds our tasks with nothing copied.

    Told by its sources, so that nothing heavy is imported: its code names the group, as more than a logger's name.

    Args:
        package: the folder of lm_eval.
    """
    return any(_names_group(path) for folder in _FOLDERS for path in sorted((package / folder).glob("*.py")))


def _names_group(path: Path) -> bool:
    source = path.read_text(encoding="utf-8", errors="replace")
    if TASKS_GROUP not in source:
        return False
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except SyntaxError:
        return False
    loggers = [node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("getLogger")]
    others = {id(argument) for call in loggers for argument in call.args}
    return any(
        isinstance(node, ast.Constant) and node.value == TASKS_GROUP and id(node) not in others for node in nodes
    )
