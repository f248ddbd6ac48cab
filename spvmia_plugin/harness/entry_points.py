"""What lm_eval's own plugin mechanism imports by name: its main branch has one for metrics, 0.4.13 does not look.

The groups `lm_eval.metrics` and `lm_eval.aggregations` of pyproject.toml name objects of this module. Importing it
registers them, which lm_eval asks of a module of metrics.
"""

from spvmia_plugin.harness.metrics import (
    aggregate_asr,
    aggregate_auroc,
    aggregate_privacy_score,
    aggregate_tpr_at_0_1pct_fpr,
    aggregate_tpr_at_1pct_fpr,
    record_pair,
    register_metrics,
)

register_metrics()

__all__ = [
    "aggregate_asr",
    "aggregate_auroc",
    "aggregate_privacy_score",
    "aggregate_tpr_at_0_1pct_fpr",
    "aggregate_tpr_at_1pct_fpr",
    "record_pair",
]
