from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest

from spvmia_plugin.data import BUILTIN_DATASETS
from spvmia_plugin.data.sources import HubSpec, file_names, load_hub, load_source, load_spec, parse_hub_spec
from spvmia_plugin.errors import SpvmiaError


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("hf:org/data", HubSpec("org/data", None, "train")),
        ("hf:org/data:test", HubSpec("org/data", None, "test")),
        ("hf:org/data:train[:100]", HubSpec("org/data", None, "train[:100]")),
        ("hf:org/data:en", HubSpec("org/data", "en", "train")),
        ("hf:org/data:en:test", HubSpec("org/data", "en", "test")),
        ("hf:org/data:en:test[10:20]", HubSpec("org/data", "en", "test[10:20]")),
        ("hf:org/data::odd_split", HubSpec("org/data", None, "odd_split")),
    ],
)
def test_hub_specs(spec: str, expected: HubSpec) -> None:
    assert parse_hub_spec(spec, option="mia_members") == expected


@pytest.mark.parametrize("spec", ["hf:", "hf:a:b:c:d"])
def test_bad_hub_specs(spec: str) -> None:
    with pytest.raises(SpvmiaError, match=r"mia_members: expected hf:<dataset>"):
        parse_hub_spec(spec, option="mia_members")


class FakeHub:
    """`datasets.load_dataset` as far as it is used: answers, or raises, one after the other."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.calls: list[tuple[Any, ...]] = []

    def __call__(
        self, name: str, config: str | None, *, split: str, trust_remote_code: bool, revision: str | None = None
    ) -> Any:
        assert trust_remote_code is False
        self.calls.append((name, config, split, revision))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def hub(monkeypatch: pytest.MonkeyPatch, *answers: Any) -> FakeHub:
    fake = FakeHub(*answers)
    monkeypatch.setattr(datasets, "load_dataset", fake)
    return fake


def rows(column: str, values: list[Any]) -> datasets.Dataset:
    return datasets.Dataset.from_dict({column: values})


def test_named_data_sets_load_as_sources_md_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    wikitext, ag_news, xsum = BUILTIN_DATASETS
    fake = hub(monkeypatch, rows("text", [" a \n", "", "b"]), rows("text", ["c"]), rows("document", ["d"]))
    loaded = load_source(wikitext, "train", option="data set", local_option="mia_dataset_path")
    assert [d.text for d in loaded.documents] == ["a", "b"]
    assert [d.id for d in loaded.documents][1] == "Salesforce/wikitext:wikitext-103-raw-v1:train:3"
    assert loaded.empty_rows == 1
    for source in (ag_news, xsum):
        load_source(source, "train", option="data set", local_option="mia_dataset_path")
    assert fake.calls == [
        ("Salesforce/wikitext", "wikitext-103-raw-v1", "train", None),
        ("fancyzhx/ag_news", None, "train", None),
        ("EdinburghNLP/xsum", None, "train", None),
    ]


def test_a_script_falls_back_to_the_hubs_parquet_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = hub(monkeypatch, RuntimeError("Dataset scripts are no longer supported"), rows("document", ["d"]))
    loaded = load_source(BUILTIN_DATASETS[2], "train", option="data set", local_option="mia_dataset_path")
    assert [d.text for d in loaded.documents] == ["d"]
    assert fake.calls[1] == ("EdinburghNLP/xsum", None, "train", "refs/convert/parquet")


def load(spec: str) -> Any:
    return load_spec(spec, "text", option="mia_members")


def test_hub_out_of_reach_says_which_option_takes_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, ConnectionError("Couldn't reach"), ConnectionError("Couldn't reach"))
    with pytest.raises(SpvmiaError, match=r"mia_members: the hub cannot be reached .* file .* with mia_members"):
        load("hf:org/data")
    with pytest.raises(SpvmiaError, match=r"data set ag_news: the hub cannot be reached.*with mia_dataset_path"):
        load_source(BUILTIN_DATASETS[1], "train", option="data set ag_news", local_option="mia_dataset_path")


def test_other_failures_of_the_hub_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, ValueError('Unknown split "train".\nShould be one of'))
    with pytest.raises(SpvmiaError, match=r"cannot load org/data:train from the hub \(ValueError: Unknown split"):
        load("hf:org/data")
    hub(monkeypatch, RuntimeError("scripts"), ValueError("none"))
    with pytest.raises(SpvmiaError, match=r"\(RuntimeError: scripts; and of its Parquet copy, ValueError: none\)"):
        load("hf:org/data")


def test_columns_and_rows_of_the_hub_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, rows("texts", ["a"]), rows("text", [1, 2]), rows("text", [" "]))
    with pytest.raises(SpvmiaError, match=r"expected a column 'text', got 'texts'; name the column"):
        load("hf:org/data")
    with pytest.raises(SpvmiaError, match="row 1: expected text in column 'text', got int"):
        load("hf:org/data")
    with pytest.raises(SpvmiaError, match="expected at least one row of text"):
        load("hf:org/data")


def test_a_local_folder_is_never_given_to_the_data_set_cache(tmp_path: Path) -> None:
    with pytest.raises(SpvmiaError, match="expected a hub data set, got the local path"):
        load_hub(HubSpec(str(tmp_path), None, "train"), "text", option="mia_members", local_option="mia_members")


def test_files_of_one_name_are_told_apart_by_their_folders() -> None:
    specs = {"mia_members": "/a/m/d.txt", "mia_nonmembers": "/a/n/d.txt", "mia_prompts": "x/e.txt"}
    assert file_names({**specs, "mia_candidate": "hf:org/data"}) == {
        Path("/a/m/d.txt"): "m/d.txt",
        Path("/a/n/d.txt"): "n/d.txt",
        Path("x/e.txt").absolute(): "e.txt",
    }


@pytest.mark.parametrize("nested", [False, True])
def test_a_row_that_the_library_shows_is_not_told(monkeypatch: pytest.MonkeyPatch, nested: bool) -> None:
    import pyarrow

    row = "Jane Roe of 12 Elm Street owes the clinic nine thousand euros"
    error: Exception = pyarrow.ArrowInvalid(f"CSV parse error: Expected 1 columns, got 2: {row}")
    if nested:
        outer = RuntimeError(f"while reading {row}")
        outer.__cause__, error = error, outer
    hub(monkeypatch, error, error)
    with pytest.raises(
        SpvmiaError, match=r"mia_members: cannot load a:train from the hub \(\w+(; and of its Parquet copy, \w+)?\);"
    ) as caught:
        load_hub(parse_hub_spec("hf:a", option="mia_members"), "text", option="mia_members", local_option="mia_members")
    assert "Elm" not in str(caught.value)
