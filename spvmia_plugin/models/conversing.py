"""Conversations that a model writes turn after turn, side by side, each going on from what the cache holds of it.

A batch takes a step at a time, and in it every row reads one token: the one that was drawn for it, or the next of what
the target does not write (what the template puts between turns, another's turn). So none waits for another's turn.
What would take long to read so, one token a step, is read in one pass, together with others of its kind.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence

import torch

from spvmia_plugin.models.decoding import Decoder
from spvmia_plugin.models.forward import HeadlessModel
from spvmia_plugin.models.sampling import Sampling, uniforms
from spvmia_plugin.protocols import Cost, Follow, Turn

SHED = 0.8
"""Rows that ended are taken out of a batch once fewer than this share is left: dropping copies the cache."""
DEAR = {"cpu": 3}
"""A token that a row reads in a step of its own costs so many times what one of a whole text costs, less one."""
DEAR_DEVICE = 8
_ASIDE = 7
"""So many rows wait for a pass over whole texts for each that goes on, before the latter wait for it too."""
_STALE, _LEAST_STALE = 4, 64
"""Columns of the cache that no row reads any more: one for so many that the longest reads, and at least so many."""


class Line:
    """A conversation in the middle of being written.

    Attributes:
        key: of the conversation.
        read: the tokens that the cache holds of it and that count.
        pending: those of the opening, or the drawn one, that are to be read before the next is drawn.
        new: what was drawn in this turn.
        draws: (room,) uniform numbers of this turn.
    """

    def __init__(self, key: int, turn: Turn) -> None:
        self.key = key
        self.read: list[int] = []
        self.turn_to(turn)

    def turn_to(self, turn: Turn) -> int:
        """Begin a turn; how many of the tokens that were read are not of its opening."""
        pairs = zip(self.read, turn.opening, strict=False)
        same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        same = min(same, len(turn.opening) - 1)  # the last one is read, again if need be: the turn is drawn after it
        stale = len(self.read) - same
        self.read, self.pending = self.read[:same], list(turn.opening[same:])
        self.new: list[int] = []
        self.draws = uniforms(turn.seed, turn.room)
        return stale

    def say(self, token: int, ends: bool) -> bool:
        """Take a drawn token, or the end of the turn; whether the turn is over."""
        if not ends:
            self.new.append(token)
            self.pending.append(token)
        return ends or len(self.new) == len(self.draws)

    def next_read(self) -> int:
        """The token to be read now."""
        self.read.append(self.pending.pop(0))
        return self.read[-1]

    def read_all(self) -> list[int]:
        """All tokens that are to be read before the next is drawn: a copy."""
        self.read, self.pending = self.read + self.pending, []
        return list(self.read)

    @property
    def width(self) -> int:
        """Tokens at the end of this turn, if it takes all its room."""
        return len(self.read) + len(self.pending) + len(self.draws) - len(self.new)


class Conversations:
    """Writes conversations until each is over.

    Args:
        model: without its output layer; its rows can go back (`Generator.rewinds`).
        sampling: how tokens are drawn.
        ends: tokens that end a turn.
        budget: tokens that the cache may hold, with padding.
        most_rows: of a batch.
        cost: is added to.
        at: by key the turn at which each conversation stands. Kept up to date; loses those that are over.
        follow: see `Backend.converse`.
    """

    def __init__(
        self,
        model: HeadlessModel,
        sampling: Sampling,
        ends: Collection[int],
        budget: int,
        most_rows: int,
        cost: Cost,
        at: dict[int, Turn],
        follow: Follow,
    ) -> None:
        self._model = model
        self._sampling = sampling
        self._ends = ends
        self._budget = budget
        self._most_rows = most_rows
        self._cost = cost
        self._at = at
        self._follow = follow
        self._dear = DEAR.get(model.device.type, DEAR_DEVICE)

    def write(self, keys: Sequence[int]) -> None:
        """Write these to their ends."""
        # `batch` are the rows of the decoder, `going` those of them that go on. The others are over, or wait for a
        # pass over whole texts (`aside`). `waiting` did not fit into the batch.
        waiting = [Line(key, self._at[key]) for key in keys]
        batch: list[Line] = []
        going: list[Line] = []
        aside: list[Line] = []
        decoder: Decoder | None = None
        while going or aside or waiting:
            if decoder is None or self._is_due(decoder, going, aside):
                batch, waiting = self._fitting([*going, *aside, *waiting])
                going, aside = list(batch), []
                texts = [line.read_all() for line in batch]
                decoder = Decoder(self._model, texts, virtual=False, cached=True, rewound=True)
                self._cost.forward_tokens += sum(map(len, texts))
                self._cost.batches += 1
            going, apart = self._spoken(decoder, batch, going)
            aside += apart
            if going:
                batch = self._stepped(decoder, batch, going)

    def _is_due(self, decoder: Decoder, going: Sequence[Line], aside: Sequence[Line]) -> bool:
        """Whether to read whole texts: nobody goes on, many wait, much is stale, or the cache is too large."""
        if not going or len(aside) >= _ASIDE * len(going):
            return True
        longest = max(len(line.read) for line in going)
        if decoder.width > longest + max(_LEAST_STALE, longest // _STALE):
            return True
        return len(going) > 1 and decoder.width * decoder.rows > self._budget

    def _fitting(self, lines: Sequence[Line]) -> tuple[list[Line], list[Line]]:
        """The first lines, as many as may be written side by side, and the others."""
        width = count = 0
        for line in lines[: self._most_rows]:
            width = max(width, line.width)
            if count and width * (count + 1) > self._budget:
                break
            count += 1
        return list(lines[:count]), list(lines[count:])

    def _spoken(self, decoder: Decoder, batch: Sequence[Line], going: Sequence[Line]) -> tuple[list[Line], list[Line]]:
        """Draw the next token of every row that has read all; the rows that go on, and those that are set aside."""
        place = {id(line): row for row, line in enumerate(batch)}
        speaking = [line for line in going if not line.pending]
        over, apart = set(), []
        if speaking:
            u = torch.tensor([line.draws[len(line.new)] for line in speaking], dtype=torch.float64)
            hidden = decoder.last[[place[id(line)] for line in speaking]]
            drawn = self._sampling.choose(self._model, hidden, u).tolist()
            for line, token in zip(speaking, drawn, strict=True):
                if not line.say(token, token in self._ends):
                    continue
                self._cost.generated_tokens += len(line.new)
                turn = self._follow(line.key, line.new)
                if turn is None:
                    del self._at[line.key]
                    over.add(id(line))
                    continue
                self._at[line.key] = turn
                decoder.forget(place[id(line)], line.turn_to(turn))
                if self._dear * len(line.pending) > len(line.read):
                    apart.append(line)
                    over.add(id(line))
        return [line for line in going if id(line) not in over], apart

    def _stepped(self, decoder: Decoder, batch: list[Line], going: Sequence[Line]) -> list[Line]:
        """Let every row that goes on read one token; the rows of the decoder afterwards."""
        alive = {id(line) for line in going}
        if len(alive) <= SHED * len(batch):  # each time rows are taken out, the cache is copied
            decoder.keep([row for row, line in enumerate(batch) if id(line) in alive])
            batch = list(going)
        reads = [id(line) in alive for line in batch]
        tokens = [line.next_read() if read else 0 for line, read in zip(batch, reads, strict=True)]
        decoder.step(torch.tensor(tokens), reads)
        self._cost.forward_tokens += len(going)
        return batch
