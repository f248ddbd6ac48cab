"""What an audit keeps between runs: token signals, paraphrases as edits, references, self-prompted text."""

from __future__ import annotations

from spvmia_plugin.store.store import ENTRY_KINDS, FOLDER_KINDS, KINDS, Cleared, Store, Verified

__all__ = ["ENTRY_KINDS", "FOLDER_KINDS", "KINDS", "Cleared", "Store", "Verified"]
