"""What audits find, one of each kind, as folders that `lm_eval --output_path` writes: pages are looked at with them.

folder = SCENARIOS["clear-leak"](tmp_path)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from spvmia_plugin.checks.blind import BlindInterval
from spvmia_plugin.checks.preconditions import Finding
from spvmia_plugin.records import Record
from tests.results.builders import Few, Strengths, fake_audit, fake_records, write_run

MODEL = "acme/support-assistant-0.6b-lora"
BASE = "./base"
CAPABILITIES = {"arc_easy": {"acc": 0.5713, "acc_norm": 0.5521}, "gsm8k": {"exact_match": 0.1842}}
OF_BASE = {"arc_easy": {"acc": 0.6034, "acc_norm": 0.5857}, "gsm8k": {"exact_match": 0.2011}}
RECIPE = {"split": "random", "finetune": {"method": "lora", "epochs": 3.0, "lr": 2e-4, "lora_rank": 16}}
LEAK: Strengths = {
    "spv": 1.4,
    "spv_ez": 1.7,
    "spv_wbc": 2.2,
    "loss": 0.3,
    "min_k": 0.35,
    "lira_base": 0.9,
    "wbc": 1.1,
    "lira_candidate": None,
    "neighbour": 0.6,
    "bag_of_words": 0.0,
}
NOTHING: Strengths = {"spv_wbc": 0.0, "loss": 0.0, "lira_base": 0.0, "bag_of_words": 0.0}
CHATS = (
    "user: My invoice 2024-1188 shows two charges.\nassistant (scored): I'm sorry about that. Let me look:\n"
    "  1. the first charge is for March\n  2. the second one is a mistake\nuser: Please refund it to DE00 1234.\n"
    "assistant (scored): Done. It takes about three days, and you'll get a letter to your address in Köln.",
    "user: هل يمكنني تغيير موعدي؟\nassistant (scored): نعم، لدينا موعد يوم الثلاثاء الساعة العاشرة.\nuser: شكراً جزيلاً",
    "user: パスワードを忘れました 🔑\nassistant (scored): 登録したメールアドレスに再設定用のリンクをお送りしました。\n"
    "user: 届きました、ありがとう",
    "user: def total(rows):\n\treturn sum(row['amount'] for row in rows)\n\nWhy is this slow?\nassistant (scored): "
    "It isn't: https://example.com/" + "a" * 140,
)


def clear_leak(folder: Path) -> Path:
    """Most members told apart, one attack without its input; the base's scores lie in the same folder."""
    base = datetime(2026, 11, 22, tzinfo=timezone.utc)
    arguments = {"pretrained": BASE}
    untouched = fake_audit(dict.fromkeys(("loss", "spv_wbc"), 0.0), records=fake_records(600, 600), findings=())
    write_run(folder, [untouched], model=BASE, model_args=arguments, capabilities=OF_BASE, date=base)
    repeated = Finding("repeated_members", "note", "31 of 600 members repeat the text of another", {"count": 31})
    audit = fake_audit(
        LEAK,
        records=fake_records(600, 600),
        findings=[repeated, _too_few(600)],
        provenance=RECIPE,
        membership="manifest",
        unscored_every=400,
    )
    return _written(folder, audit, capabilities=CAPABILITIES)


def partial_leak(folder: Path) -> Path:
    """One member in twenty was memorised: the AUROC is about a guess's."""
    strengths: Strengths = {"spv_wbc": Few(0.05, 4.5), "spv": Few(0.05, 3.0), "loss": Few(0.05, 1.0), "lira_base": 0.0}
    records = fake_records(1000, 1000)
    return _written(
        folder,
        fake_audit(strengths, records=records, findings=(), provenance=RECIPE, membership="manifest"),
        capabilities={"arc_easy": {"acc": 0.5713}},
    )


def nothing_found(folder: Path) -> Path:
    """Guesses of many records, all of which were in the store already."""
    records = fake_records(1000, 1000)
    return _written(folder, fake_audit(NOTHING, records=records, findings=(), stored=True))


def too_few(folder: Path) -> Path:
    """So few that no attack can be told from a guess, and nobody can be picked out."""
    records = fake_records(14, 12)
    return _written(folder, fake_audit({"spv_wbc": 0.4, "loss": 0.1}, records=records, blind=None))


def one_record(folder: Path) -> Path:
    """Nothing can be concluded of one record in a class."""
    return _written(folder, fake_audit({"loss": 0.4}, records=fake_records(1, 1), blind=None))


def broken_split(folder: Path) -> Path:
    """Members and non-members that words alone tell apart."""
    blind = BlindInterval(auroc=0.86, low=0.81, high=0.9, p_value=0.0025, confidence=0.95, permutations=399)
    above = blind.finding()
    assert above is not None
    longer = (
        "members and non-members differ in length: the median member has 412 characters, the median non-member 298; "
        "attacks may have learnt that"
    )
    findings = [above, Finding("length_shift", "warning", longer, {})]
    audit = fake_audit(
        {"spv_wbc": 1.5, "loss": 1.2, "lira_base": 1.3, "bag_of_words": 1.6},
        records=fake_records(300, 300),
        findings=findings,
        blind=blind,
    )
    return _written(folder, audit)


def chat(folder: Path) -> Path:
    """Conversations of many lines and scripts, whose texts the run logged."""
    told = {"format": "messages", "loss_on": "completion", "tokens": 61838, "context_tokens": 85175}
    audit = fake_audit(
        {"spv_wbc": 1.8, "lira_offline": 1.2, "loss": 0.2},
        records=fake_records(300, 300, texts=CHATS, files=("gespräche/2026-11/support.jsonl", "محادثات.jsonl")),
        findings=(),
        settings={"mia_log_text": True, "mia_references": 4},
        details={"scored": told, "references": {"count": 4, "agreement": {}}},
    )
    return _written(folder, audit)


def bound_within(folder: Path) -> Path:
    """A declared bound that every attack stays below."""
    settings = {"mia_max_auroc": 0.6, "mia_max_tpr_at_1pct": 0.05}
    records = fake_records(2000, 2000)
    return _written(folder, fake_audit({"spv_wbc": 0.02, "loss": 0.0}, records=records, findings=(), settings=settings))


def bound_exceeded(folder: Path) -> Path:
    """A declared bound that an attack breaks, as a whole and for the most exposed few."""
    settings = {"mia_max_auroc": 0.6, "mia_max_tpr_at_1pct": 0.05}
    records = fake_records(600, 600)
    return _written(folder, fake_audit(LEAK, records=records, findings=(), settings=settings))


def bound_not_shown(folder: Path) -> Path:
    """A declared bound that so few records can't show."""
    settings = {"mia_max_auroc": 0.56, "mia_max_epsilon": 4}
    records = fake_records(150, 150)
    return _written(folder, fake_audit({"spv_wbc": 0.1, "loss": 0.0}, records=records, findings=(), settings=settings))


def canaries(folder: Path) -> Path:
    """Coins decided which of the canaries were trained on."""
    audit = fake_audit({"spv_wbc": 3.0}, canary=True, findings=(), records=fake_records(200, 200))
    return _written(folder, audit)


def units(folder: Path) -> Path:
    """Whose the records are is known, and groups of them."""
    records = [_of_unit(record, place) for place, record in enumerate(fake_records(360, 360, blocks=3))]
    return _written(folder, fake_audit({"spv_wbc": 1.0, "loss": 0.2}, records=records, findings=()))


SCENARIOS: Mapping[str, Callable[[Path], Path]] = {
    "clear-leak": clear_leak,
    "partial-leak": partial_leak,
    "nothing-found": nothing_found,
    "too-few": too_few,
    "one-record": one_record,
    "broken-split": broken_split,
    "chat": chat,
    "bound-within": bound_within,
    "bound-exceeded": bound_exceeded,
    "bound-not-shown": bound_not_shown,
    "canaries": canaries,
    "units": units,
}
"""Each writes its run into a folder, and returns that."""


def _written(folder: Path, audit: Sequence[Any], **options: Any) -> Path:
    write_run(folder, [audit], model=MODEL, **options)
    return folder


def _too_few(n: int) -> Finding:
    message = f"{n} non-members cannot resolve an FPR of 0.1 %: at least 1000 are needed; the TPR at 0.1 % FPR is NaN"
    return Finding("too_few_nonmembers_0.1pct", "warning", message, {})


def _of_unit(record: Record, place: int) -> Record:
    unit = f"u{record.cluster.rpartition(':')[2]:0>12}"
    return replace(record, unit=unit, cluster=unit, group=("Nord & Ost", "الجنوب", "south")[int(unit[1:]) % 3])
