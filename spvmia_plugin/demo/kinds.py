"""The two demos, on plain text and on conversations: what each makes, trains on and asks, and how much of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from spvmia_plugin.demo.chats import DESKS, QUESTION, make_chats, write_chats
from spvmia_plugin.demo.corpus import make_tickets, write_capability_task, write_corpus
from spvmia_plugin.errors import SpvmiaError, did_you_mean

SEED = 0

TRAINING: Mapping[str, object] = {
    "lr": 5e-4,
    "lora-rank": 16,
    "lora-alpha": 32,
    "lora-dropout": 0,
    "lora-targets": "all-linear",
    "batch-size": 8,
}
"""Options of `spvmia finetune` in both demos: a leak that the simple attacks see, and understate."""

AUDIT: Mapping[str, object] = {"mia_preset": "quick", "mia_reference_lr": 5e-4}
"""Options of the audit in both demos."""


@dataclass(frozen=True)
class Size:
    """How much one demo does, and about how long each step takes on two cores without a GPU or bfloat16.

    Attributes:
        members: records the target is trained on; as many others are the non-members.
        prompts: held-out records from which the target writes on.
        questions: of the capability task.
        epochs: of the target.
        self_prompts: texts sampled from the target, which the reference is trained on.
        minutes: estimates for the model, the fine-tuning and the audit; the corpus takes none.
    """

    members: int
    prompts: int
    questions: int
    epochs: int
    self_prompts: int
    minutes: tuple[float, float, float]

    @property
    def records(self) -> int:
        """All records of the corpus."""
        return 2 * self.members + self.prompts


@dataclass(frozen=True)
class Kind:
    """One demo.

    Attributes:
        folder: where it goes if nobody says otherwise.
        records: what the records are, for people.
        asked: what the capability task asks about, for people.
        sizes: by name.
        training: options of `spvmia finetune` that every size shares.
        audit: options of the audit that every size shares.
        attacks: of the audit.
        harness: further arguments of lm_eval.
        write: draws the records of a size and the questions about others, writes the corpus (a file) and the
            capability task (in a folder), and returns one record for people to see.
        comparison: says in lines what AUROCs, by attack, say.
    """

    folder: Path
    records: str
    asked: str
    sizes: Mapping[str, Size]
    training: Mapping[str, object]
    audit: Mapping[str, object]
    attacks: Sequence[str]
    harness: Sequence[str]
    write: Callable[[Size, Path, Path], str]
    comparison: Callable[[Mapping[str, float]], Sequence[str]]

    @property
    def tasks(self) -> Sequence[str]:
        """Of the audit."""
        return [f"{attack}_custom" for attack in self.attacks]

    def size_named(self, name: str) -> Size:
        """Return the size with this name.

        Raises:
            SpvmiaError: there is none.
        """
        if name not in self.sizes:
            known = ", ".join(self.sizes)
            raise SpvmiaError(f"--size: expected one of {known}, got {name!r}{did_you_mean(name, self.sizes)}")
        return self.sizes[name]


def _write_tickets(size: Size, corpus: Path, tasks: Path) -> str:
    tickets = make_tickets(size.records + size.questions, SEED)
    write_corpus(corpus, tickets[: size.records])
    write_capability_task(tasks, tickets[size.records :])
    return tickets[0].text


def _compare_tickets(auroc: Mapping[str, float]) -> list[str]:
    best = max((attack for attack in TICKETS.attacks if attack != "spv_mia"), key=auroc.__getitem__)
    return [
        f"SPV-MIA reaches {auroc['spv_mia']:.2f}, the loss alone {auroc['loss_mia']:.2f}, "
        f"the best of the other attacks {auroc[best]:.2f} ({best})."
    ]


def _write_chats(size: Size, corpus: Path, tasks: Path) -> str:
    chats = make_chats(size.records + size.questions, SEED)
    write_chats(corpus, chats[: size.records])
    write_capability_task(tasks, chats[size.records :], QUESTION, DESKS)
    turns = (f"  {message['role']}: {message['content']}" for message in chats[0].row["messages"])
    return "\n" + "\n".join(turns)


def _compare_chats(auroc: Mapping[str, float]) -> list[str]:
    best = max(CHATS.attacks, key=auroc.__getitem__)
    return [
        "What the desk writes was trained on, and it alone is scored; what customers write is read as context.",
        f"The loss alone reaches {auroc['loss_mia']:.2f}. Compared with the base model: ez {auroc['ez_mia']:.2f}, "
        f"wbc {auroc['wbc_mia']:.2f}; with a model trained on answers that the target wrote: "
        f"spv_ez {auroc['spv_ez_mia']:.2f}, spv_wbc {auroc['spv_wbc_mia']:.2f}.",
        f"The best of all attacks is {best} with {auroc[best]:.2f}.",
    ]


_OF_TICKETS = ("spv_mia", "loss_mia", "min_k_mia", "neighbour_mia", "lira_base_mia", "learned_mia")
# None that needs paraphrases or a second reference: each takes minutes.
_OF_CHATS = ("loss_mia", "lira_base_mia", "ez_mia", "wbc_mia", "spv_ez_mia", "spv_wbc_mia")

TICKETS = Kind(
    folder=Path("spvmia-demo"),
    records="support tickets",
    asked="tickets",
    sizes=MappingProxyType(
        {
            "small": Size(members=50, prompts=60, questions=40, epochs=3, self_prompts=60, minutes=(1, 2, 11)),
            "medium": Size(members=250, prompts=250, questions=200, epochs=3, self_prompts=250, minutes=(1, 10, 50)),
            "large": Size(members=600, prompts=600, questions=400, epochs=3, self_prompts=600, minutes=(1, 25, 120)),
        }
    ),
    training=MappingProxyType({**TRAINING, "block-size": 0, "seed": SEED}),
    audit=MappingProxyType(AUDIT),
    attacks=_OF_TICKETS,
    harness=(),
    write=_write_tickets,
    comparison=_compare_tickets,
)
"""Plain text: support tickets."""

CHATS = Kind(
    folder=Path("spvmia-demo-chat"),
    records="support conversations",
    asked="customers",
    sizes=MappingProxyType(
        {
            "small": Size(members=70, prompts=70, questions=40, epochs=3, self_prompts=70, minutes=(1, 6, 12)),
            "medium": Size(members=200, prompts=200, questions=200, epochs=3, self_prompts=200, minutes=(1, 17, 34)),
            "large": Size(members=500, prompts=500, questions=400, epochs=3, self_prompts=500, minutes=(1, 43, 85)),
        }
    ),
    training=MappingProxyType({**TRAINING, "loss-on": "completion", "seed": SEED}),
    audit=MappingProxyType({**AUDIT, "mia_self_prompt": "reply"}),
    attacks=_OF_CHATS,
    harness=("--apply_chat_template",),
    write=_write_chats,
    comparison=_compare_chats,
)
"""Rows of `messages`: support conversations, with the loss on the answers alone."""
