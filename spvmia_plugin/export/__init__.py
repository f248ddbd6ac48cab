"""Results in the formats that others read: Every Eval Ever, the Hub's results, a card's model-index."""

from spvmia_plugin.export.common import ExportOptions
from spvmia_plugin.export.export import FORMATS, export_run

__all__ = ["FORMATS", "ExportOptions", "export_run"]
