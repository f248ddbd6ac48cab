"""The options of `spvmia finetune`: types, ranges, defaults."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from spvmia_plugin.config import MAX_EPOCHS
from spvmia_plugin.data.split import MIN_RECORDS
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.util.strict_json import is_number, is_whole

METHODS = ("lora", "full")
DTYPES = ("auto", "float32", "bfloat16", "float16")


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
        epochs: passes over the training records.
        lr: peak learning rate, decaying linearly.
        lora_rank: rank of the adapter.
        lora_alpha: its scale.
        lora_dropout: its dropout.
        lora_targets: modules, comma-separated, or `all-linear`; None for peft's default for the architecture.
        batch_size: records per step.
        block_size: tokens per record, 0 for whole documents.
        text_column: the column with the text; a named data set has its own.
        seed: of the split, the coins and the training.
        dtype: of the base's weights; `auto` is the model's own, and float32 for `full`.
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
    epochs: float = 10.0
    lr: float = 1e-4
    lora_rank: int = 64
    lora_alpha: float = 16.0
    lora_dropout: float = 0.1
    lora_targets: str | None = None
    batch_size: int = 4
    block_size: int = 128
    text_column: str = "text"
    seed: int = 0
    dtype: str = "auto"
    quiet: bool = False
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            SpvmiaError: an option out of range.
        """
        least = f"a whole number >= {MIN_RECORDS}"
        self._check("method", self.method in METHODS, "lora or full")
        self._check("dtype", self.dtype in DTYPES, "one of " + ", ".join(DTYPES))
        whole, number = is_whole, is_number  # from Python, a field may be given anything
        self._check("members", whole(self.members) and self.members >= MIN_RECORDS, least)
        self._check("nonmembers", whole(self.nonmembers) and self.nonmembers >= MIN_RECORDS, least)
        prompts = self.prompts
        self._check("prompts", prompts is None or (whole(prompts) and prompts >= 1), "a whole number >= 1")
        self._check("canaries", whole(self.canaries) and self.canaries >= 0, "a whole number >= 0")
        self._check(
            "epochs", number(self.epochs) and 0 < self.epochs <= MAX_EPOCHS, f"a number > 0 and <= {MAX_EPOCHS:g}"
        )
        self._check("lr", number(self.lr) and 0 < self.lr <= 1, "a number > 0 and <= 1")
        self._check("lora_rank", whole(self.lora_rank) and self.lora_rank >= 1, "a whole number >= 1")
        self._check("lora_alpha", number(self.lora_alpha) and self.lora_alpha > 0, "a number > 0")
        self._check("lora_dropout", number(self.lora_dropout) and 0 <= self.lora_dropout < 1, "a number >= 0 and < 1")
        self._check("batch_size", whole(self.batch_size) and self.batch_size >= 1, "a whole number >= 1")
        size = self.block_size
        self._check("block_size", whole(size) and (size == 0 or size >= 8), "0 or a whole number >= 8")
        self._check("seed", whole(self.seed) and self.seed >= 0, "a whole number >= 0")

    def _check(self, name: str, fine: bool, expected: str) -> None:
        if not fine:
            raise SpvmiaError(
                f"--{name.replace('_', '-')}: expected {expected}, got {getattr(self, name)!r}; correct it"
            )

    def settings(self) -> dict[str, object]:
        """Every setting that shapes the target, under its option's name; paths are in the manifest's own fields."""
        left_out = ("model", "data", "output", "quiet", "trust_remote_code")
        whole = {"epochs": float(self.epochs), "lora_alpha": float(self.lora_alpha)}  # 10 and 10.0 are one setting
        return {name: value for name, value in (asdict(self) | whole).items() if name not in left_out}
