"""Reads what the harness wrote of an audit: its results and samples files, and nothing else."""

from spvmia_plugin.results.model import Audit, Capability, HarnessRun, TaskResult
from spvmia_plugin.results.read import read_latest, read_runs
from spvmia_plugin.results.samples import Records, ScoredRecord

__all__ = ["Audit", "Capability", "HarnessRun", "Records", "ScoredRecord", "TaskResult", "read_latest", "read_runs"]
