"""A multiple-choice task of the demo's own: which department handles this ticket?

An ordinary lm-eval task, a YAML and a JSON-lines file, loaded with `--include_path`. The questions are tickets from the
same generator that are not in the audited corpus, so it measures what the fine-tuned model learned and not what it
remembers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from spvmia_plugin.demo import phrases
from spvmia_plugin.demo.corpus import Ticket, write_private_jsonl

TASK = "demo_department"


def write_capability_task(folder: Path, tickets: Sequence[Ticket]) -> Path:
    """Write `demo_department.yaml` and its questions to `folder`, and return the YAML.

    Args:
        folder: an existing folder. `load_dataset` leaves an Arrow copy of the questions behind; it goes into
            `arrow/` here and not into the user's cache.
        tickets: one question each; the choices are all departments, the answer the one the story calls for.
    """
    questions = folder.resolve() / f"{TASK}.jsonl"
    rows = [{"story": t.story, "answer": phrases.DEPARTMENTS.index(t.department)} for t in tickets]
    write_private_jsonl(questions, rows)
    task = {
        "task": TASK,
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {"test": str(questions)},
            "cache_dir": str(folder.resolve() / "arrow"),
        },
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{story}} " + phrases.ROUTING,
        "doc_to_choice": list(phrases.DEPARTMENTS),
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }
    path = folder / f"{TASK}.yaml"
    path.write_text(yaml.safe_dump(task, sort_keys=False, width=120), encoding="utf-8")
    return path
