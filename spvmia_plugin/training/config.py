"""What `spvmia finetune` is asked for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from spvmia_plugin.config import FORMATS, MAX_BATCH, MAX_EPOCHS, MAX_RANK, MAX_TOKENS, MAX_WHOLE
from spvmia_plugin.config import Format as FormatName
from spvmia_plugin.data.split import MIN_RECORDS
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.training.canaries import KINDS, NATURAL
from spvmia_plugin.util.strict_json import is_number, is_whole

METHODS = ("lora", "full")
DTYPES = ("auto", "float32", "bfloat16", "float16")
LOSSES = ("auto", "all", "completion")
DEFAULT_BLOCK = 128
_OF_CONVERSATIONS = ("format", "loss_on", "chat_template", "record_tokens")
"""Options that stand in the manifest with the data."""


@dataclass(frozen=True)
class FinetuneConfig:
    """The options of `spvmia finetune`; defaults are those of the paper's target (Fu et al. 2024, appendix).

    Attributes:
        model: the base: a folder or a hub id.
        data: `wikitext`, `ag_news`, `xsum`, a file, or `hf:<dataset>[:<config>][:<split>]`.
        output: folder for the weights and the manifest.
        method: `lora` or `full`.
        members: records to train on.
        nonmembers: records held out, to audit against.
        prompts: records held out to prompt the target with; None for as many as members, or what the data give.
        canaries: further records, each trained on if an independent fair coin says so.
        canary_kind: where those come from: `natural` (held-out records of the data), `sampled` (the base writes them at
            a high temperature) or `random` (tokens drawn alike from the vocabulary).
        epochs: passes over the training records.
        lr: peak learning rate, decaying linearly.
        lora_rank: rank of the adapter.
        lora_alpha: its scale.
        lora_dropout: its dropout.
        lora_targets: modules, comma-separated, or `all-linear`; None for peft's default for the architecture.
        batch_size: records per step.
        block_size: tokens per record, 0 for whole documents; None for 128, and for whole conversations.
        format: what the rows are: `auto`, `text`, or a kind of conversation.
        loss_on: which tokens of conversations carry loss: `all`, or `completion` (the answers), which `auto` is.
        chat_template: a Jinja file in place of the tokenizer's own template.
        record_tokens: conversations are cut to so many tokens.
        text_column: the column with the text; a named data set has its own.
        unit_column: the column that says whom a record belongs to: whole units are dealt out. None to deal documents.
        seed: of the split, the coins and the training.
        dtype: of the base's weights; `auto` is the model's own, and float32 for `full`, and on a CPU that takes many
            times as long in the model's own.
        quiet: print nothing.
        trust_remote_code: run the code that the base brings.
    """

    model: str
    data: str
    output: str | Path
    method: str = "lora"
    members: int = 1000
    nonmembers: int = 1000
    prompts: int | None = None
    canaries: int = 0
    canary_kind: str = NATURAL
    epochs: float = 10.0
    lr: float = 1e-4
    lora_rank: int = 64
    lora_alpha: float = 16.0
    lora_dropout: float = 0.1
    lora_targets: str | None = None
    batch_size: int = 4
    block_size: int | None = None
    format: FormatName = "auto"
    loss_on: str = "auto"
    chat_template: str | None = None
    record_tokens: int = 1024
    text_column: str = "text"
    unit_column: str | None = None
    seed: int = 0
    dtype: str = "auto"
    quiet: bool = False
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            SpvmiaError: an option out of range.
        """
        self._check("method", self.method in METHODS, "lora or full")
        self._check("dtype", self.dtype in DTYPES, "one of " + ", ".join(DTYPES))
        whole, number = is_whole, is_number  # from Python, a field may be given anything
        self._check_whole("members", MIN_RECORDS, MAX_WHOLE)
        self._check_whole("nonmembers", MIN_RECORDS, MAX_WHOLE)
        if self.prompts is not None:
            self._check_whole("prompts", 1, MAX_WHOLE)
        self._check_whole("canaries", 0, MAX_WHOLE)
        self._check("canary_kind", self.canary_kind in KINDS, "one of " + ", ".join(KINDS))
        if self.canary_kind != NATURAL and not self.canaries:
            raise SpvmiaError(
                f"--canary-kind: expected --canaries M beside it, got {self.canary_kind} and no canaries; say how many"
            )
        self._check(
            "epochs", number(self.epochs) and 0 < self.epochs <= MAX_EPOCHS, f"a number > 0 and <= {MAX_EPOCHS:g}"
        )
        self._check("lr", number(self.lr) and 0 < self.lr <= 1, "a number > 0 and <= 1")
        self._check_whole("lora_rank", 1, MAX_RANK)
        self._check("lora_alpha", number(self.lora_alpha) and self.lora_alpha > 0, "a number > 0")
        self._check("lora_dropout", number(self.lora_dropout) and 0 <= self.lora_dropout < 1, "a number >= 0 and < 1")
        self._check_whole("batch_size", 1, MAX_BATCH)
        size = self.block_size
        fits = size is None or (whole(size) and (size == 0 or 8 <= size <= MAX_TOKENS))
        self._check("block_size", fits, f"0 or a whole number >= 8 and <= {MAX_TOKENS}")
        self._check("format", self.format in ("auto", *FORMATS), "one of auto, " + ", ".join(FORMATS))
        self._check("loss_on", self.loss_on in LOSSES, "one of " + ", ".join(LOSSES))
        self._check_whole("record_tokens", 2, MAX_TOKENS)
        column = self.unit_column
        self._check("unit_column", column is None or (isinstance(column, str) and bool(column.strip())), "a column")
        self._check_whole("seed", 0, MAX_WHOLE)

    def _check_whole(self, name: str, low: int, high: int) -> None:
        """What no machine can hold is refused before libraries are asked, whose words may quote records."""
        value = getattr(self, name)
        self._check(name, is_whole(value) and low <= value <= high, f"a whole number >= {low} and <= {high}")

    def _check(self, name: str, fine: bool, expected: str) -> None:
        if not fine:
            raise SpvmiaError(
                f"--{name.replace('_', '-')}: expected {expected}, got {getattr(self, name)!r}; correct it"
            )

    def settings(self) -> dict[str, object]:
        """Every setting that shapes the target, under its option's name; paths are in the manifest's own fields."""
        left_out = {"model", "data", "output", "quiet", "trust_remote_code", *_OF_CONVERSATIONS}
        whole = {"epochs": float(self.epochs), "lora_alpha": float(self.lora_alpha)}  # 10 and 10.0 are one setting
        # Without units a manifest is what it was before there were any.
        left_out |= {"unit_column"} if self.unit_column is None else set()
        return {name: value for name, value in (asdict(self) | whole).items() if name not in left_out}
