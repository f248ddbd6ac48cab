"""Where texts come from, and how they become records. No torch here: a tokenizer arrives as an argument."""

from __future__ import annotations

from spvmia_plugin.protocols import DatasetSource

BUILTIN_DATASETS: tuple[DatasetSource, ...] = (
    # Lines of the raw files come with a space before and a space and newline after.
    DatasetSource("wikitext", "Salesforce/wikitext", config="wikitext-103-raw-v1", clean=str.strip),
    DatasetSource("ag_news", "fancyzhx/ag_news"),
    DatasetSource("xsum", "EdinburghNLP/xsum", text_column="document"),
)
"""The paper's three data sets (Fu et al. 2024, section 5.1)."""

__all__ = ["BUILTIN_DATASETS"]
