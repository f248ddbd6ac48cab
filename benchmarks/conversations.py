"""Conversations that the target writes, each going on from what the cache holds of it, against turn by turn.

    python benchmarks/conversations.py [--model DIR] [--n 32] [--turns 8]

Turn by turn is what a backend does that can do nothing else: all conversations wait for the longest turn, and each
opening is read anew. Turns are of log-uniform lengths, between two of them stand tokens that nobody draws, as a
template has them, and of one turn in four the last tokens are put otherwise, as a tokenizer does with words that were
drawn in other pieces. Both write the same conversations, up to rounding.
"""

from __future__ import annotations

import functools
import math
import random
import tempfile
from pathlib import Path
from typing import Any

import common
from audits import load_lm
from common import Ratio, Report, in_turn

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.models.hf_backend import HFBackend
from spvmia_plugin.protocols import Backend, Turn

OWN, PLAIN = "from the cache", "turn by turn"
BETWEEN = 8
"""Tokens between two turns."""


class Dialogue:
    """One conversation: what is read before each turn, and how long the turn is."""

    def __init__(self, seed: int, opening: list[int], longest: int, turns: int) -> None:
        rng = random.Random(seed)
        self._seed = seed
        self._opening = opening
        self._rooms = [round(math.exp(rng.uniform(math.log(4), math.log(longest)))) for _ in range(turns)]
        self._changed = [rng.random() < 0.25 for _ in range(turns)]

    def turn(self, written: list[list[int]]) -> Turn | None:
        """The turn after those that were written; None after the last."""
        if len(written) == len(self._rooms):
            return None
        read = list(self._opening)
        for new, changed in zip(written, self._changed, strict=False):
            read += [*(new[:-2] if changed else new), *self._opening[:BETWEEN]]
        return Turn(read, self._rooms[len(written)], 1000 * self._seed + len(written))


def write(converse: Any, dialogues: list[Dialogue]) -> list[list[list[int]]]:
    """All turns of all dialogues."""
    written: list[list[list[int]]] = [[] for _ in dialogues]

    def follow(i: int, new: list[int]) -> Turn | None:
        written[i].append(new)
        return dialogues[i].turn(written[i])

    converse({i: dialogue.turn([]) for i, dialogue in enumerate(dialogues)}, follow, ends=())
    return written


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = common.parser(__doc__, rounds=3)
    parser.add_argument("--n", type=int, help="conversations (32)")
    parser.add_argument("--turns", type=int, help="of each (8)")
    parser.add_argument("--longest", type=int, help="tokens of a turn (64)")
    options = parser.parse_args(arguments)
    options.n = options.n or (6 if options.small else 32)
    options.turns = options.turns or (3 if options.small else 8)
    options.longest = options.longest or (12 if options.small else 64)
    with tempfile.TemporaryDirectory() as folder:
        model = common.prepared(options, Path(folder))
        adapter = common.lora_target(model, Path(folder) / "adapter")
        backend = HFBackend(load_lm(model, adapter, options.dtype, options.device), AuditConfig())
        heads = common.cut_texts(backend.encode, backend.decode, [2 * BETWEEN] * options.n, options.texts)
        dialogues = [Dialogue(i, backend.encode(h), options.longest, options.turns) for i, h in enumerate(heads)]
        ways = {OWN: backend.converse, PLAIN: functools.partial(Backend.converse, backend)}
        found = {name: write(way, dialogues) for name, way in ways.items()}
        contestants = {name: functools.partial(write, way, dialogues) for name, way in ways.items()}
        seconds = in_turn(contestants, options.rounds, warm_up=False).seconds(options.clock)
    settings = {
        "n": options.n,
        "turns": options.turns,
        "tokens_written": sum(len(new) for each in found[OWN] for new in each),
        "equal_conversations": sum(a == b for a, b in zip(found[OWN], found[PLAIN], strict=True)),
        "dtype": options.dtype,
        "clock": options.clock,
    }
    ratios = [Ratio.of(f"{OWN} / {PLAIN}", seconds[OWN], seconds[PLAIN], at_most=1.0)]
    return Report("conversations", settings, seconds, ratios).tell(options)


if __name__ == "__main__":
    main()
