"""What a model behind a completions server writes after token ids, by our settings of sampling and no others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.engines.completions import NEUTRAL, UNKNOWN_FIELD, Ids, Written, untold, written
from spvmia_plugin.engines.http import Connection, Refused
from spvmia_plugin.engines.self_check import NAMES_IDS
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.models.tokens import Tokens


class Writing:
    """Has models of a server write.

    Args:
        connection: to the server.
        tokens: of the models.
        config: settings of the audit.
        note: told what a reader of the results should know.
        is_told_all: whether requests name what an engine would else sample by of its own; OpenAI's API refuses it.
    """

    def __init__(
        self,
        connection: Connection,
        tokens: Tokens,
        config: AuditConfig,
        note: Callable[[str], None],
        *,
        is_told_all: bool,
    ) -> None:
        self._connection = connection
        self._tokens = tokens
        self._config = config
        self._note = note
        self._is_told_all = is_told_all

    def continued(
        self, model: str, ids: Ids, room: int, seed: int, stops: Sequence[int], *, names_ids: bool
    ) -> list[int]:
        """What a model writes after a prompt, an end token left out.

        Args:
            model: its name on the server.
            ids: of the prompt.
            room: how many tokens it writes at most.
            seed: of this text.
            stops: ids of tokens that end it.
            names_ids: whether the server names what it writes by ids.

        Raises:
            Refused: the server has said no.
            SpvmiaError: it does not know `mia_top_k`, or does not answer.
        """
        config = self._config
        body: dict[str, Any] = {
            "model": model,
            "prompt": list(ids),
            "max_tokens": room,
            "temperature": config.temperature,
            "top_p": config.top_p,
            "seed": seed % 2**31,
        }
        if config.top_k:
            body["top_k"] = config.top_k
        if names_ids:
            body |= {**NAMES_IDS, "stop_token_ids": list(stops)}
        elif len(stops) > 1:  # its own end token it knows; of conversations there are others
            body["stop"] = [self._tokens.tokenizer.convert_ids_to_tokens(end) for end in stops][:4]
        answer = self._written(body)
        new = list(answer.ids) if answer.ids is not None else self._tokens.encode(answer.text)
        end = next((k for k, token_id in enumerate(new) if token_id in stops), len(new))
        return new[: min(end, room)]

    def _written(self, body: Mapping[str, Any]) -> Written:
        """What the server writes, by no settings of sampling but ours.

        Raises:
            Refused: the server has said no.
            SpvmiaError: it does not know `top_k`, or does not answer.
        """
        if self._is_told_all:
            try:
                return self._connection.post({**NEUTRAL, **body}, written)
            except Refused as refused:
                if refused.status not in UNKNOWN_FIELD:
                    raise
                status = refused.status
        try:
            answer = self._connection.post(body, written)
        except Refused as refused:
            if "top_k" in body and refused.status in UNKNOWN_FIELD:
                raise SpvmiaError(
                    f"mia_top_k: expected a server that knows 'top_k', got HTTP {refused.status} from "
                    f"{self._connection.shown}; leave the option out if it does not, as OpenAI's"
                ) from None
            raise
        if self._is_told_all:
            self._is_told_all = False
            self._note(untold("the server", [name for name in NEUTRAL if name not in body], status))
        return answer
