"""Which models of an audit are there, and which of them have nothing to say."""

from __future__ import annotations

from collections.abc import Mapping

from spvmia_plugin.auditing.roles import CALLED, Player
from spvmia_plugin.config import NO_CANDIDATE, AuditConfig
from spvmia_plugin.protocols import Backend
from spvmia_plugin.signals import Role, View


class Standing:
    """The players of an audit, and how they stand.

    Args:
        players: by role.
        config: settings.
        backend: the target and its relatives.

    Attributes:
        built: the calibrated roles whose models were made ready.
    """

    def __init__(self, players: Mapping[Role, Player], config: AuditConfig, backend: Backend) -> None:
        self.players = players
        self.built: set[Role] = set()
        self._config = config
        self._backend = backend

    @property
    def calibrated(self) -> list[Player]:
        """Those whose models are made ready by the audit."""
        return [player for player in self.players.values() if player.is_calibrated]

    def is_viewed(self, view: View) -> bool:
        """Whether any attack looks at the records in this way."""
        return any(view in player.views for player in self.players.values())

    def is_there(self, player: Player) -> bool:
        """Whether the model can be asked already."""
        return player.model is not None and (not player.is_calibrated or player.role in self.built)

    def refusal(self, player: Player) -> str | None:
        """Why a role gives nothing for any record: what is not there, or can't be told from the target."""
        if player.model is None:
            named = self._config.candidate == NO_CANDIDATE
            return "mia_candidate is none" if named else "no document is held out for a candidate reference"
        if player.model is Role.TARGET or not self._backend.is_same(Role.TARGET, player.model):
            return None
        return "the target is the base" if player.model is Role.BASE else f"the {CALLED[player.model]} is the target"
