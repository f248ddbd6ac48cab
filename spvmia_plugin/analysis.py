"""Results in Python: an audit as data frames, its verdict, its report, its difference from another.

    from spvmia_plugin.analysis import load

    found = load("results")        # lm_eval's --output_path, or what lm_eval.simple_evaluate returned
    found.attacks                  # a row an attack
    found.records                  # a row a record
    found.strongest()              # the strongest attack, with an interval that allows for the choice
    found.report("report.html")
    found.compare("results-after")

A model that is in memory is audited by `audit`, which gives the same. The numbers are those of the results file;
nothing is computed anew that stands there.
"""

from __future__ import annotations

import html
import json
import math
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from spvmia_plugin.errors import SpvmiaError, did_you_mean
from spvmia_plugin.metrics.names import AUROC, METRICS_WITH_INTERVAL, TPRS
from spvmia_plugin.report.numbers import knowledge, plain, ranked, title
from spvmia_plugin.report.saving import PAGE, write_page
from spvmia_plugin.report.verdict import Verdict, judge
from spvmia_plugin.results import Audit, HarnessRun, TaskResult, read_latest
from spvmia_plugin.results.comparable import SameData, settings_that_differ
from spvmia_plugin.results.estimate import Estimate, of_attack, of_strongest
from spvmia_plugin.results.pairing import rows_in
from spvmia_plugin.util.console import shown
from spvmia_plugin.util.files import as_path

if TYPE_CHECKING:
    import pandas

__all__ = ["Results", "audit", "load"]

_STAMP = "1970-01-01T00-00-00"
"""Any time: the files that `load` writes for itself are read at once and never seen."""


Rows: TypeAlias = "str | Path | Iterable[str | Mapping[str, Any]] | pandas.DataFrame"
"""A file, an `hf:` name, or rows in memory: texts, mappings as the lines of a JSON Lines file, or a table of pandas,
pyarrow or polars."""


def audit(
    model: Any,
    tokenizer: Any,
    *,
    members: Rows,
    nonmembers: Rows,
    prompts: Rows | None = None,
    candidate: Rows | None = None,
    attacks: Sequence[str] | None = None,
    harness: Mapping[str, Any] | None = None,
    **options: Any,
) -> Results:
    """Audit a model that is in memory, with the tasks of the harness: the numbers are those of `lm_eval`.

    Args:
        model: a causal language model of transformers, wrapped by peft or not. Afterwards it is what it was.
        tokenizer: its tokenizer.
        members: records it was trained on.
        nonmembers: others of the same kind that it was not.
        prompts: held-out ones that are not audited; without, a share of the non-members is kept for it.
        candidate: what the candidate reference is trained on; without, the prompts.
        attacks: names of attacks; all of them without.
        harness: further arguments of `lm_eval.simple_evaluate`: `limit`, `batch_size`, ...
        options: of the audit, without `mia_`: `self_prompts=1000`, `base_model="..."`, `seed=1`; see docs/options.md.

    Raises:
        SpvmiaError: what `lm_eval` would refuse.
    """
    from spvmia_plugin.harness.in_memory import audit_in_memory

    data = {"members": members, "nonmembers": nonmembers, "prompts": prompts, "candidate": candidate}
    return load(audit_in_memory(model, tokenizer, data, attacks, options, harness or {}))


def load(results: str | Path | Mapping[str, Any], dataset: str | None = None) -> Results:
    """Read the newest audit of a run.

    Args:
        results: lm_eval's `--output_path` or a results file in it, or what `lm_eval.simple_evaluate` returned.
        dataset: which audit, where the run has several: its data set (`wikitext`, `custom`, ...), or the name of one of
            its tasks where several are of one data set.

    Raises:
        SpvmiaError: there is no audit, it cannot be read, or several are there and none was named.
    """
    if not isinstance(results, (str, Path, Mapping)):
        raise SpvmiaError(
            "results: expected a folder, a results file, or what simple_evaluate returned, got "
            f"{type(results).__name__}; on ranks but the first simple_evaluate returns nothing"
        )
    if not isinstance(results, Mapping):
        return _chosen(read_latest(as_path(results, "results"), "results"), dataset)
    folder = Path(tempfile.mkdtemp(prefix="spvmia-"))  # its owner's alone
    try:
        _write(results, folder)
        found = _chosen(read_latest(folder, "results"), dataset)
    except BaseException:
        shutil.rmtree(folder)
        raise
    weakref.finalize(found, shutil.rmtree, folder, ignore_errors=True)  # texts are read from it when asked for
    return found


def _chosen(run: HarnessRun, dataset: str | None) -> Results:
    """The audit of that data set, or that has a task of that name."""
    of_dataset = [audit for audit in run.audits if dataset is None or audit.dataset == dataset]
    of_task = [audit for audit in run.audits if dataset in [task.task for task in audit.tasks]]
    chosen = of_dataset or of_task
    if len(chosen) == 1:
        return Results(run, chosen[0])
    of_name: dict[str, list[Audit]] = {}
    for audit in run.audits:
        of_name.setdefault(audit.dataset, []).append(audit)
    names = [found.tasks[0].task if len(of_name[found.dataset]) > 1 else found.dataset for found in run.audits]
    expected = f"dataset: expected one of {', '.join(map(repr, names))}"
    if not chosen:
        raise SpvmiaError(f"{expected}, got {dataset!r}{did_you_mean(str(dataset), names)}")
    told = [
        f"{len(alike)} of them are of {name!r} and differ in {settings_that_differ(alike)}"
        for name, alike in of_name.items()
        if len(alike) > 1 and dataset in (None, name)
    ]
    got = "nothing" if dataset is None else repr(dataset)
    raise SpvmiaError(f"{expected}, got {got}, and the run has {len(names)} audits; {'; '.join([*told, 'name one'])}")


def _write(results: Mapping[str, Any], folder: Path) -> None:
    """What `simple_evaluate` returned, as lm_eval's command would have written it."""
    rest = {name: value for name, value in results.items() if name != "samples"}
    stamped = folder / f"results_{_STAMP}.json"
    stamped.write_text(json.dumps(rest, default=_named), encoding="utf-8")
    for task, samples in (results.get("samples") or {}).items():
        lines = (json.dumps({"doc": s["doc"], "resps": s["resps"]}, default=str) + "\n" for s in samples)
        (folder / f"samples_{task}_{_STAMP}.jsonl").write_text("".join(lines), encoding="utf-8")


def _named(value: Any) -> str:
    """An object as it stands in results: a model or a tokenizer that was handed over, by its name."""
    return str(getattr(value, "name_or_path", None) or value)


@dataclass(frozen=True, eq=False)
class Results:
    """One audit.

    Attributes:
        run: all that the run of the harness found, capability scores among it.
        audit: the audit.
    """

    run: HarnessRun
    audit: Audit

    @cached_property
    def records(self) -> pandas.DataFrame:
        """A row a record: `id`, `unit`, `group`, `member`, and a column an attack.

        `unit` is whom a record belongs to (`mia_unit_column`), else the document it comes from; `group` what
        `mia_group_column` says of it, None without. A score is higher for what looks more like a member, and NaN where
        there is none. Empty of rows where the run kept no samples (`--log_samples`).
        """
        import pandas as pd

        audit = self.audit
        who = {
            "id": list(audit.ids()),
            "unit": list(audit.clusters()),
            "group": pd.Series(audit.groups(), dtype=object),
        }
        who |= {"member": audit.labels()}
        return pd.DataFrame({**who, **{task.attack: audit.scores(task) for task in audit.tasks}})

    @cached_property
    def attacks(self) -> pandas.DataFrame:
        """A row an attack, by name, the strongest first and the blind baseline last.

        `auroc` and the TPRs have their pointwise 95 % interval in `..._low` and `..._high`; `strongest` has the ones
        that hold for all attacks at once. `given` says what the attack had besides the record and the target;
        `unscored` how many records have no score.
        """
        import pandas as pd

        tasks = [*ranked(self.audit), *(task for task in self.audit.tasks if task not in self.audit.model_attacks)]
        return pd.DataFrame([self._row(task) for task in tasks]).set_index("attack")

    def _row(self, task: TaskResult) -> dict[str, Any]:
        row: dict[str, Any] = {"attack": task.attack, "title": title(task.attack)}
        for metric in (AUROC, *TPRS):
            found = of_attack(task, metric.key)
            row |= {metric.key: found.value, f"{metric.key}_low": found.low, f"{metric.key}_high": found.high}
        told = task.mia_audit
        return {**row, "unscored": told.n.records - told.n.scored, "given": knowledge(task), "task": task.task}

    def strongest(self, metric: str = AUROC.key) -> Estimate:
        """The attack with most of a metric, with an interval that allows for its having been chosen.

        Args:
            metric: `auroc`, `tpr_at_5pct_fpr`, `tpr_at_1pct_fpr` or `tpr_at_0.1pct_fpr`.

        Raises:
            SpvmiaError: no such metric.
        """
        if metric not in METRICS_WITH_INTERVAL:
            raise SpvmiaError(
                f"metric: expected one of {', '.join(METRICS_WITH_INTERVAL)}, got {metric!r}"
                f"{did_you_mean(str(metric), METRICS_WITH_INTERVAL)}"
            )
        return of_strongest(self.audit, metric)

    @cached_property
    def verdict(self) -> Verdict:
        """What the audit says, in words."""
        return judge(self.audit)

    def report(self, path: str | Path = PAGE) -> Path:
        """Write the report, one HTML file that loads nothing, of the whole run.

        Raises:
            SpvmiaError: it cannot be written.
        """
        return write_page(self.run, as_path(path, "path"), option="path")

    def compare(
        self, other: Results | str | Path | Mapping[str, Any], same_data: SameData = "fingerprint"
    ) -> pandas.DataFrame:
        """How far this audit's numbers lie above another's of the same records: of the model after a change, say.

        Args:
            other: the other audit, or where it is.
            same_data: "ids" trusts the records' ids, where the keyed fingerprints are those of two machines.

        Returns:
            A row for each attack that both have and each metric: `difference`, `low`, `high` (paired, and simultaneous
            over all rows), and `reason` where there is no number. NaN intervals have one.

        Raises:
            SpvmiaError: either kept no samples, or they are not of the same records.
        """
        import pandas as pd

        from spvmia_plugin.metrics.paired import differences

        theirs = other if isinstance(other, Results) else load(other, self.audit.dataset)
        rows = rows_in(self.audit, theirs.audit, same_data)
        found = differences(
            {task.attack: self.audit.scores(task) for task in self.audit.model_attacks},
            {task.attack: theirs.audit.scores(task)[rows] for task in theirs.audit.model_attacks},
            self.audit.labels(),
            self.audit.clusters(),
            seed=self.audit.mia_audit.seed,
        )
        table = [
            {
                "attack": attack,
                "metric": metric,
                "difference": gain.value,
                "low": gain.interval[0],
                "high": gain.interval[1],
                "reason": gain.reason,
            }
            for metric, of_attacks in found.items()
            for attack, gain in of_attacks.items()
        ]
        columns = ["attack", "metric", "difference", "low", "high", "reason"]
        return pd.DataFrame(table, columns=columns).set_index(["attack", "metric"])

    def _repr_html_(self) -> str:
        """For notebooks: the verdict and the table of attacks."""
        shown_columns = {"title": "attack", AUROC.key: AUROC.label}
        table = self.attacks.loc[:, ["title", AUROC.key, f"{AUROC.key}_low", f"{AUROC.key}_high"]].copy()
        low_end = METRICS_WITH_INTERVAL[self.audit.strongest.low_end] if self.audit.strongest else TPRS[0]
        ends = [f"{low_end.key}_low", f"{low_end.key}_high"]
        table[[low_end.key, *ends]] = self.attacks[[low_end.key, *ends]]
        named = {**shown_columns, low_end.key: low_end.label}
        for key in (AUROC.key, low_end.key):
            named |= {f"{key}_low": "from", f"{key}_high": "to"}
        cells = table.rename(columns=named).to_html(index=False, border=0, na_rep="–", float_format="{:.3f}".format)
        sentences = "".join(f"<p>{html.escape(plain(sentence))}</p>" for sentence in self.verdict.sentences)
        head = f"{shown(self.run.model)}, {shown(self.audit.dataset)}"
        return f"<h4>{html.escape(head)}</h4><p><b>{html.escape(self.verdict.headline)}</b></p>{sentences}{cells}"

    def __repr__(self) -> str:
        """One line: whose audit, how many records, the strongest attack."""
        told, best = self.audit.mia_audit.n, self.strongest()
        number = (
            f"AUROC {best.value:.3f} by {best.attack}" if not math.isnan(best.value) else f"no AUROC: {best.reason}"
        )
        records = f"{told.members} members and {told.nonmembers} non-members"
        return f"<Results of {shown(self.run.model)} on {shown(self.audit.dataset)}: {records}, {number}>"
