"""The zlib attack."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from spvmia_plugin.attacks.base import Attack, mean_logprob
from spvmia_plugin.signals import Need, RecordSignals, Role


@dataclass(frozen=True)
class Zlib(Attack):
    """score = L / len(zlib(utf-8 bytes)): the log-probability against how compressible the text is.

    Carlini et al. 2021, arXiv 2012.07805, section 5: the ratio of log-perplexity and zlib entropy.

    Which one this is: the numerator is the mean over tokens (their log-perplexity), the denominator the length in
    bytes of the whole compressed text, header included, at zlib's default level. Their own code ranks by the reciprocal
    with the sign turned, entropy / NLL: the same order. Code that divides the sum over tokens, or takes the
    compressed length per character, ranks texts of unequal length differently; mink-plus-plus, ReCaLL and MIMIR
    divide the mean by the bytes, as here.
    """

    name = "zlib"

    @property
    def needs(self) -> frozenset[Need]:
        """The record under the target."""
        return frozenset({Need(Role.TARGET)})

    def score_record(self, signals: RecordSignals) -> float:
        """L over the compressed length in bytes."""
        # JSON can carry half of a surrogate pair; it is a text like any other.
        compressed = zlib.compress(signals.text.encode("utf-8", "surrogatepass"))
        return mean_logprob(signals.of(Role.TARGET)) / len(compressed)
