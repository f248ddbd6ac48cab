"""How cost grows: with the number of records, with their length, and with the number of attacks.

    python benchmarks/growth.py [--model DIR] [--records 32] [--tokens 128]

Records and length: seconds of scoring alone, and of finding the replaced tokens of `causal` paraphrases with which a
long record is still a text (draws from its own tokens). Attacks: whole audits of a LoRA target, SPV-MIA alone and all
attacks together (no candidate data), on a store of their own each; the reference comes with both.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import common
import numpy as np
from audits import audit, load_lm, make_data
from common import Ratio, Report, in_turn

from spvmia_plugin.attacks import APART
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.models.hf_backend import HFBackend
from spvmia_plugin.perturb.causal import CANDIDATES, SPARE
from spvmia_plugin.perturb.surviving import replaced
from spvmia_plugin.plugins import load_registry
from spvmia_plugin.protocols import ScoreInput
from spvmia_plugin.signals import Role

PAIRS = 5
LONG = 16
"""A long record is so many times as long as the others."""
ALONE, TOGETHER = "spv alone", "all attacks together"


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    options = read_options(arguments)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        model = common.prepared(options, work)
        lm = load_lm(model, common.lora_target(model, work / "target"), options.dtype, options.device)
        works = {**scorings(lm, options), **paraphrases(lm, options)}
        seconds = in_turn(works, options.rounds).seconds(options.clock)
        whole = in_turn(audits(lm, options, work), options.audit_rounds, warm_up=False).seconds(options.clock)
    return report(options, seconds, whole).tell(options)


def read_options(arguments: list[str] | None) -> Any:
    parser = common.parser(__doc__)
    parser.add_argument("--records", type=int, help="records where they are doubled (32)")
    parser.add_argument("--tokens", type=int, help="tokens of a record (128)")
    parser.add_argument("--audited", type=int, help="records of a whole audit (10)")
    parser.add_argument("--audit-rounds", type=int, help="repeats of the whole audits (3)")
    options = parser.parse_args(arguments)
    options.records = options.records or (4 if options.small else 32)
    options.tokens = options.tokens or (32 if options.small else 128)
    options.audited = options.audited or (4 if options.small else 10)
    options.audit_rounds = options.audit_rounds or (1 if options.small else 3)
    return options


def scorings(lm: Any, options: Any) -> dict[str, Callable[[], object]]:
    """Scoring once, twice and four times as many records, and once as many of other lengths."""
    backend = HFBackend(lm, AuditConfig())
    sizes = [(options.records * k, options.tokens) for k in (1, 2, 4)]
    sizes += [(options.records, options.tokens * k // 2) for k in (1, 4)]
    made: dict[str, Callable[[], object]] = {}
    for n, tokens in sizes:
        texts = common.cut_texts(backend.encode, backend.decode, [tokens] * n, options.texts)
        inputs = [ScoreInput(tuple(backend.encode(text))) for text in texts]
        made[_name(n, tokens)] = lambda inputs=inputs: backend.score(Role.TARGET, inputs, moments=False)
    return made


def paraphrases(lm: Any, options: Any) -> dict[str, Callable[[], object]]:
    """One paraphrase of a long record, and of one four times as long: a fifth of the tokens, as `mia_mask_rate` has it.

    Without the base's forward pass, which draws from the vocabulary.
    """
    backend = HFBackend(lm, AuditConfig())
    made: dict[str, Callable[[], object]] = {}
    for tokens in (LONG * options.tokens // 2, 2 * LONG * options.tokens):
        (text,) = common.cut_texts(backend.encode, backend.decode, [tokens], options.texts)
        ids, rng = backend.encode(text), np.random.default_rng(0)
        order = rng.permutation(tokens)[: SPARE * tokens // 5].tolist()
        draws = [dict(zip(order, rng.choice(ids, len(order)).tolist(), strict=True)) for _ in range(CANDIDATES)]
        made[_paraphrase(tokens)] = partial(replaced, ids, order, draws, tokens // 5, backend.survives)
    return made


def audits(lm: Any, options: Any, work: Path) -> dict[str, Callable[[], object]]:
    """Whole audits; as many self-prompts as records, ten times fewer than released: scoring has the larger share."""
    registry = load_registry(entry_points=False)
    config = AuditConfig.from_metadata(
        {
            "mia_perturbation": "causal",
            "mia_perturbations": PAIRS,
            "mia_self_prompts": options.audited,
            "mia_block_size": options.tokens,
        }
    )
    data = make_data(
        HFBackend(lm, config), options.audited, max(2, options.audited // 2), options.tokens, options.texts
    )
    names = [name for name in registry.attacks if name != "lira_candidate" and name not in APART]
    numbers = count()

    def run(chosen: list[str]) -> None:
        backend = HFBackend(lm, config)
        audit(data, config, chosen, backend, work / f"store-{next(numbers)}", registry)
        backend.close()

    return {ALONE: lambda: run(["spv"]), TOGETHER: lambda: run(names)}


def _name(records: int, tokens: int) -> str:
    return f"{records} records of {tokens} tokens"


def _paraphrase(tokens: int) -> str:
    return f"a causal paraphrase of {tokens} tokens"


def report(options: Any, seconds: dict[str, list[float]], whole: dict[str, list[float]]) -> Report:
    n, tokens = options.records, options.tokens
    settings = {
        "records": n,
        "tokens": tokens,
        "audited": options.audited,
        "pairs": PAIRS,
        "dtype": options.dtype,
        "clock": options.clock,
    }
    one, two, four = (seconds[_name(n * k, tokens)] for k in (1, 2, 4))
    short, long = (seconds[_name(n, tokens * k // 2)] for k in (1, 4))
    brief, lengthy = (seconds[_paraphrase(LONG * tokens * k // 2)] for k in (1, 4))
    ratios = [
        Ratio.of("twice the records", two, one, at_least=1.9, at_most=2.1),
        Ratio.of("twice again", four, two, at_least=1.9, at_most=2.1),
        Ratio.of("twice the tokens, from half", one, short),
        Ratio.of("twice the tokens again", long, one),
        Ratio.of("four times the tokens, causal paraphrase", lengthy, brief, at_most=5),
        Ratio.of("all attacks / spv alone, whole audits", whole[TOGETHER], whole[ALONE], at_most=1.5),
    ]
    return Report("growth", settings, {**seconds, **whole}, ratios)


if __name__ == "__main__":
    main()
