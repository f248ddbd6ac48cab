"""Stands for a harness model that gives no token log-probabilities: only attacks that ask no model can run on it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.protocols import BackendFeatures, Cost
from spvmia_plugin.signals import Role


class NullBackend:
    """A backend without features. `check_features` refuses every attack that would need one."""

    name: ClassVar[str] = "none"
    features = BackendFeatures(logprobs=False, moments=False, embeddings=False, generate=False, train=False)
    max_length = 0
    device = None

    def __init__(self, lm: Any, config: AuditConfig | None = None, base_model: str | None = None) -> None:
        self.name = type(lm).__name__  # type: ignore[misc]

    @classmethod
    def accepts(cls, lm: Any) -> bool:
        """Never: it is what is left when no backend accepts."""
        return False

    def encode(self, text: str) -> list[int]:
        """Nothing is scored, so nothing is tokenised."""
        return []

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of no tokens."""
        return ""

    def identity(self, role: Role) -> dict[str, object]:
        """The model's class is all that is known."""
        return {"model": self.name}

    def cost(self, role: Role) -> Cost:
        """Nothing was spent."""
        return Cost()

    def close(self) -> None:
        """Nothing to take away."""

    def require(self, roles: Iterable[Role]) -> None:
        """Raise: there is no model."""
        self._refuse()

    def score(self, *args: object, **kwargs: object) -> list[Any]:
        """Raise: there are no log-probabilities."""
        self._refuse()
        return []

    def sample_replacements(self, *args: object, **kwargs: object) -> list[Any]:
        """Raise: there are no log-probabilities."""
        self._refuse()
        return []

    def generate(self, *args: object, **kwargs: object) -> list[Any]:
        """Raise: sampling is not offered."""
        self._refuse()
        return []

    def train_reference(self, texts: Sequence[str], output_dir: Path) -> dict[str, object]:
        """Raise: training is not offered."""
        self._refuse()
        return {}

    def check_training(self) -> None:
        """Raise: training is not offered."""
        self._refuse()

    def load_reference(self, role: Role, path: str) -> None:
        """Raise: there is no model."""
        self._refuse()

    def _refuse(self) -> None:
        raise SpvmiaError(f"--model: {self.name} gives no token log-probabilities; use '--model hf'")
