"""Before any work: does a server say the same of tokens when it reads them as when it writes them?

Six tokens are written with their log-probabilities, and sent back. They must come back alike, as many as were sent.
Servers are wrong here in silence: one shifts all log-probabilities by a token, another knows no echo and scores what it
writes. An audit of such numbers would say that nothing leaks.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spvmia_plugin.data.tokenisation import PROBES
from spvmia_plugin.engines.completions import (
    Echo,
    Fault,
    Ids,
    PromptLogprobs,
    Read,
    Way,
    Written,
    decimals_of,
    written,
)
from spvmia_plugin.engines.http import Connection, Refused, Unreadable
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.models.identity import TEXT
from spvmia_plugin.models.tokens import Tokens

WRITTEN = 6
"""How many tokens are compared."""
AT_MOST = 0.5
"""How far apart, in nats, one token's two log-probabilities may be: in bfloat16 a batch rounds otherwise than a step
(.24 at most between two engines)."""
IN_THE_MEAN = 0.15
"""Likewise the mean over the tokens (.05 between two engines)."""
SMALLEST = 0.005
"""What is always allowed."""
SHIFTS = (-2, -1, 1, 2)
TELLING = 1.0
"""By how many nats the written tokens' log-probabilities should differ among themselves, for a shift to show."""
LARGEST_ANSWER = 64e6
"""Bytes of an answer that holds the whole distribution at each token; a server's JSON has about 80 an entry."""
TOKENS_OF_A_RECORD, BYTES_OF_AN_ENTRY = 128, 80
NAMES_IDS = {"return_token_ids": True}
"""What vLLM needs to be told so that an answer names what was written by token ids."""


@dataclass(frozen=True)
class Checked:
    """What was found out about a model of a server.

    Attributes:
        way: how a prompt's log-probabilities are had; None where they can't be.
        fault: why they can't, in words that go on after "got a server that".
        largest: the largest difference between what was said of a token twice, in nats.
        names_ids: whether the server names what it writes by token ids, if it is told to.
        moments: whether it gives whole distributions.
        no_moments: why it does not, in words.
        takes_ids: whether prompts may be token ids; else it can't write for us either.
        decimals: of its log-probabilities, where they are rounded to 1 or 2; else None.
    """

    way: Way | None
    fault: str | None = None
    largest: float = 0.0
    names_ids: bool = False
    moments: bool = False
    no_moments: str | None = None
    takes_ids: bool = True
    decimals: int | None = None


class _TextAlone(Fault):
    """It takes no token ids."""


class SelfCheck:
    """Checks one model of a server.

    Args:
        connection: to the server.
        model: its name there.
        tokens: the tokenizer that the harness was given for it.
        option: what named the model.
    """

    def __init__(self, connection: Connection, model: str, tokens: Tokens, option: str) -> None:
        self._connection = connection
        self._model = model
        self._tokens = tokens
        self._option = option
        self._names_ids = False

    def run(self) -> Checked:
        """Write, send back, compare.

        Raises:
            SpvmiaError: the server can't be reached, doesn't let us in, or doesn't have the model.
        """
        try:
            ids, new = self._write()
        except Fault as fault:
            return Checked(None, str(fault), names_ids=self._names_ids, takes_ids=not isinstance(fault, _TextAlone))
        faults: list[str] = []
        for way in (PromptLogprobs(), Echo()):
            try:
                largest, decimals = self._compare(way, ids, new)
            except Fault as fault:
                faults.append(str(fault))
            else:
                moments, why = self._has_moments(way, ids)
                return Checked(way, None, largest, self._names_ids, moments, why, decimals=decimals)
        return Checked(None, faults[-1], names_ids=self._names_ids)  # of the way that every server should know

    def _post(self, body: dict[str, Any], read: Any) -> Any:
        """Our own words are sent: the server's may be repeated."""
        return self._connection.post({"model": self._model, **body}, read, attempts=2, own_words=True)

    def _write(self) -> tuple[list[int], Written]:
        """A beginning, and six tokens that the server wrote after it.

        Raises:
            Fault: it writes nothing of which the tokens are known.
        """
        best: tuple[float, list[int], Written] | None = None
        fault = Fault("writes nothing")
        # At temperature 1 log-probabilities vary, and a shift shows. A server that names no ids may write there what
        # its own text would not be cut into; the likeliest tokens mostly are.
        for temperature, text in itertools.product((1, 0), (TEXT, *PROBES)):
            ids = self._tokens.natural(text)[:24]
            found = self._answer(ids, {"max_tokens": WRITTEN, "temperature": temperature, "seed": 0, "logprobs": 1})
            if found.logprobs is None:
                raise Fault("gives no log-probabilities, not even of what it writes")
            if None in found.logprobs:
                raise Fault("has gaps in the log-probabilities of what it writes")
            try:
                new = self._ids_of(found)
            except Fault as other:
                fault = other
                continue
            if len(new) < WRITTEN:  # it thought that the text was at its end
                fault = Fault(f"wrote {len(new)} tokens where {WRITTEN} were asked for")
                continue
            said = [float(value) for value in found.logprobs if value is not None]
            spread = max(said) - min(said)
            if best is None or spread > best[0]:
                best = spread, ids, replace(found, ids=tuple(new))
            if spread >= TELLING:
                break
        if best is None:
            raise fault
        return best[1], best[2]

    def _answer(self, ids: Ids, body: dict[str, Any]) -> Written:
        """Find out, too, whether the server takes token ids, and names them."""
        try:
            found: Written = self._post({**body, "prompt": ids, **NAMES_IDS}, written)
        except Refused as refused:
            if refused.status in (400, 422):  # an argument that it doesn't know, perhaps
                try:
                    return self._post({**body, "prompt": ids}, written)  # type: ignore[no-any-return]
                except Refused as again:
                    refused = again
            raise self._told(refused, body) from None
        self._names_ids |= found.ids is not None
        return found

    def _told(self, refused: Refused, body: dict[str, Any]) -> SpvmiaError | Fault:
        """What is wrong: with the model's name, or with prompts of token ids."""
        if refused.status == 404:
            names = served_models(self._connection)
            if names and self._model not in names:
                has = ", ".join(repr(name) for name in list(names)[:5])
                return SpvmiaError(
                    f"{self._option}: expected a model that {self._connection.shown} has, got {self._model!r}; it has "
                    f"{has}"
                )
        if refused.status in (400, 422, 500, 501):
            # Without log-probabilities: llama-cpp-python refuses them too, unless it was started for them.
            plain = {name: value for name, value in body.items() if name != "logprobs"}
            if self._takes(plain, self._tokens.natural(TEXT)[:24]):
                return Fault(f"gives no log-probabilities: it answers a request for them by HTTP {refused.status}")
            if self._takes(plain, TEXT):
                return _TextAlone(f"takes prompts as text alone, and answers token ids by HTTP {refused.status}")
        return refused

    def _takes(self, body: dict[str, Any], prompt: Ids | str) -> bool:
        """Whether the server writes after a prompt."""
        try:
            self._post({**body, "prompt": prompt}, written)
        except SpvmiaError:
            return False
        return True

    def _ids_of(self, found: Written) -> list[int]:
        """The tokens that were written.

        Raises:
            Fault: they can't be known, or are those of another tokenizer.
        """
        count = len(found.logprobs or ())
        ids = list(found.ids) if found.ids is not None else self._tokens.encode(found.text)
        if found.tokens is not None and found.ids is None:
            same = [self._tokens.decode([token_id]).strip() for token_id in ids] == [t.strip() for t in found.tokens]
            ids = ids if same else []
        if len(ids) != count:
            raise Fault(
                f"wrote {count} tokens of which it tells no ids, and which are others of the tokenizer that the "
                "harness was given: it has another one"
            )
        if found.ids is not None and not found.ended and not is_text_of(self._tokens, found.text, ids):
            raise Fault("has another tokenizer than the one that the harness was given: its text is another")
        return ids

    def _compare(self, way: Way, ids: Ids, new: Written) -> tuple[float, int | None]:
        """The largest difference between what is said of a token when it is written, and when it is read.

        And to how many decimals both were rounded, None if they were not.

        Raises:
            Fault: they differ, are gone, or others.
        """
        sent = [*ids, *(new.ids or ())]
        echoed: list[str] = []

        def read(answer: Any) -> Read:
            found = way.read(answer, sent)
            echoed[:] = [way.text(answer, sent)]
            return found

        try:
            found: Read = self._post(way.body(sent), read)
        except Unreadable:
            raise Fault(f"answers {way.name} by halves, or by what makes no sense") from None
        except Refused as refused:
            raise Fault(f"answers {way.name} by {refused.how}") from None
        if not is_text_of(self._tokens, echoed[0], sent[1:]):
            raise Fault("reads another text than that of the tokens that were sent: it has another tokenizer")
        said = np.array(new.logprobs, np.float64)
        decimals = decimals_of([*found.logprob.tolist(), *said.tolist()])
        if decimals == 0:
            raise Fault("rounds log-probabilities to whole nats")
        apart = _differences(found.logprob, said, 0)
        shifted = {shift: _differences(found.logprob, said, shift).max(initial=0.0) for shift in SHIFTS}
        shift = min(SHIFTS, key=lambda each: shifted[each])
        if apart.max() > SMALLEST and shifted[shift] <= apart.max() / 4:
            raise Fault(
                f"shifts log-probabilities by {abs(shift)} token{'s' * (abs(shift) > 1)}: what it says of a token "
                f"that it reads is what it said of the one {'after' if shift < 0 else 'before'} it"
            )
        # Where the tokens hardly differ among themselves, what is another token's would pass for round-off.
        spread = float(said.max() - said.min())
        if apart.max() <= min(AT_MOST, max(spread / 3, SMALLEST)) and apart.mean() <= min(
            IN_THE_MEAN, max(spread / 8, SMALLEST)
        ):
            return float(apart.max()), decimals
        raise Fault(
            f"says of tokens that it reads something else than when it wrote them: log-probabilities differ by up to "
            f"{apart.max():.2g}"
        )

    def _has_moments(self, way: Way, ids: Ids) -> tuple[bool, str | None]:
        """Whether whole distributions can be had, and if not, why."""
        if way.name != PromptLogprobs.name:
            return False, "it names the likeliest tokens alone"
        size = len(self._tokens.tokenizer) * TOKENS_OF_A_RECORD * BYTES_OF_AN_ENTRY
        if size > LARGEST_ANSWER:
            return False, f"the whole distribution at {TOKENS_OF_A_RECORD} tokens would be {size / 1e6:,.0f} MB of JSON"
        try:
            self._post(way.body(ids[:2], moments=True), lambda answer: way.read(answer, ids[:2], moments=True))
        except (Fault, SpvmiaError):
            return False, "it does not give prompt_logprobs=-1 (vLLM: serve with --max-logprobs -1)"
        return True, None


def is_text_of(tokens: Tokens, theirs: str, ids: Ids) -> bool:
    """Whether a server's text, or a part of it, is that of these tokens; true where nothing can be said.

    Looked at are ASCII characters that are no blanks: a token by itself has no blank before its word, and may end
    within another letter. Special tokens have a text on some servers and none on others: looked at is what stands
    between them.
    """
    if not theirs:
        return True
    special = {*tokens.tokenizer.all_special_ids, *getattr(tokens.tokenizer, "added_tokens_decoder", ())}
    between = itertools.groupby(ids, special.__contains__)
    seen, place = _visible(theirs), 0
    for part in (_visible(tokens.decode(list(part))) for is_special, part in between if not is_special):
        found = seen.find(part, place)
        if found < 0:
            return False
        place = found + len(part)
    return True


def _visible(text: str) -> str:
    return "".join(c for c in text if "!" <= c <= "~")


def _differences(logprob: NDArray[np.float32], said: NDArray[np.float64], shift: int) -> NDArray[np.float64]:
    """What was said of the written tokens, less what stands `shift` places after them where they are read."""
    first = len(logprob) - len(said) + shift
    read = logprob[max(first, 0) : first + len(said)].astype(np.float64)
    return np.abs(read - said[: len(read)])


def served_models(connection: Connection) -> dict[str, int | None]:
    """The models that a server says it has, each with its context where it says that."""
    told = connection.get(f"{connection.root}/models") if connection.root else None
    rows = told.get("data") if isinstance(told, dict) else None
    found: dict[str, int | None] = {}
    for row in rows if isinstance(rows, Sequence) else ():
        if isinstance(row, dict) and isinstance(row.get("id"), str):
            length = row.get("max_model_len")
            found[row["id"]] = length if isinstance(length, int) else None
    return found
