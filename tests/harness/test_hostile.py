"""Records, file names, ids and columns that try to break out: audited like any other, and inert wherever they show."""

from __future__ import annotations

import json

import pytest

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.util.console import show
from tests.hostile import ALERT, NAMES, NASTY, control_characters, hostile_texts, write_hostile

from .conftest import write_jsonl


def hostile_files(folder, n=44, long=0, names=("m.jsonl", "n.jsonl", "p.jsonl")):
    """Members, non-members and prompts of `n` hostile records each."""
    keys = ("mia_members", "mia_nonmembers", "mia_prompts")
    return {
        key: write_hostile(folder / name, hostile_texts(n, seed=seed, long=long))
        for seed, (key, name) in enumerate(zip(keys, names, strict=True), start=51)
    }


def check_inert(result, said, tasks):
    """No control characters, no payload in what was printed and logged; every record has a score or a reason."""
    assert control_characters(said) == []
    logged = json.dumps(result, default=str)
    assert control_characters(logged) == []
    assert ALERT not in said
    assert ALERT not in logged
    for task in tasks:
        for row in result["samples"][task]:
            answer = json.loads(row["resps"][0][0])
            assert (answer["score"] is None) != (answer["reason"] is None), (task, row["doc"])


def test_every_attack_goes_through_a_hostile_corpus(evaluate, options, tmp_path, capfd):
    files = hostile_files(tmp_path)
    result = evaluate(["mia_custom"], {**options, **files, "mia_cache_dir": str(tmp_path / "cache")})
    tasks = [task for task in result["results"] if task != "mia_custom"]
    check_inert(result, "".join(capfd.readouterr()), tasks)
    scored = {task: result["configs"][task]["metadata"]["mia_audit"]["n"]["scored"] for task in tasks}
    assert scored.pop("icp_mia_custom") == 86  # two records have no word to mask
    assert set(scored.values()) == {88}, scored


def test_lines_of_a_megabyte_are_packed_like_any_text(evaluate, options, tmp_path, capfd):
    files = hostile_files(tmp_path, n=22, long=1)
    packed = {"mia_block_size": 24, "mia_max_samples": 25, "mia_cache_dir": str(tmp_path / "cache")}
    result = evaluate(["loss_mia_custom", "bag_of_words_mia_custom"], {**options, **files, **packed})
    said = "".join(capfd.readouterr())
    check_inert(result, said, ["loss_mia_custom"])
    assert len(result["samples"]["loss_mia_custom"]) == 50
    # Some blocks are one and the same payload: told, since nobody could take them out of the files.
    assert "are word for word members" in said


@pytest.mark.slow
def test_a_record_of_a_megabyte_is_scored_whole(evaluate, options, tmp_path, capfd):
    """Hundreds of thousands of tokens in the harness's rolling windows, and said to be so."""
    files = hostile_files(tmp_path, n=22)
    files["mia_members"] = write_hostile(tmp_path / "m.jsonl", hostile_texts(22, seed=51, long=1))
    tasks = ["loss_mia_custom", "zlib_mia_custom", "min_k_mia_custom", "wbc_mia_custom"]
    result = evaluate(tasks, {**options, **files, "mia_cache_dir": str(tmp_path / "cache")})
    said = "".join(capfd.readouterr())
    check_inert(result, said, tasks)
    assert "exceed the model's context of 256 tokens" in said
    rows = [json.loads(row["resps"][0][0]) for row in result["samples"]["loss_mia_custom"]]
    assert max(row["n_tokens"] for row in rows) > 100_000


@pytest.mark.parametrize("name", NAMES)
def test_file_names_and_ids_are_printed_without_effect(evaluate, options, tmp_path, capfd, name):
    files = hostile_files(tmp_path, n=22, names=(name, "n.jsonl", "p.jsonl"))
    result = evaluate(["loss_mia_custom"], {**options, **files, "mia_cache_dir": str(tmp_path / "cache")})
    said = "".join(capfd.readouterr())
    assert control_characters(said) == []
    assert "records of " in said
    ids = {row["doc"]["id"] for row in result["samples"]["loss_mia_custom"]}
    assert f"{name}:1" in ids
    assert control_characters(json.dumps(result, default=str)) == []
    files["mia_nonmembers"] = write_hostile(tmp_path / "again.jsonl", hostile_texts(22, seed=51))
    with pytest.raises(SpvmiaError) as error:
        evaluate(["loss_mia_custom"], {**options, **files, "mia_cache_dir": str(tmp_path / "cache")})
    message = str(error.value)
    assert control_characters(message) == []
    assert "\n" not in message
    assert "is the same text as" in message


@pytest.mark.parametrize("value", NASTY)
def test_options_are_quoted_in_errors_without_effect(value):
    error = SpvmiaError(f"mia_text_column: expected a column of x.csv, got {value}; name another")
    assert control_characters(str(error)) == []
    assert "\n" not in str(error)
    assert error.code == str(error)


def test_columns_of_a_file_are_named_without_effect(evaluate, options, tmp_path):
    path = tmp_path / "columns.jsonl"
    path.write_text("".join(json.dumps({"\x1b[31m[bold]te\u202ext": f"a b {i}"}) + "\n" for i in range(30)))
    with pytest.raises(SpvmiaError, match=r"^mia_(text_column|members): ") as error:
        evaluate(["loss_mia_custom"], {**options, "mia_members": str(path), "mia_cache_dir": str(tmp_path)})
    assert control_characters(str(error.value)) == []


def test_lines_for_people_keep_their_breaks_and_nothing_else(capsys):
    show("a\nb\x1b[2J\x9b\u202e\r\x00 [bold]c[/bold]")
    assert capsys.readouterr().err == "a\nb\\x1b[2J\\x9b\\u202e\\x0d\\x00 [bold]c[/bold]\n"


def test_a_formula_as_text_stays_text(evaluate, options, tmp_path):
    """Cells of a CSV file that start like a formula are records like any other."""
    path = tmp_path / "cells.csv"
    cells = [f"=1+{i} and nine words more of it to read" for i in range(30)]
    path.write_text("text\n" + "".join(f'"{cell}"\n' for cell in cells))
    files = {"mia_members": str(path), "mia_nonmembers": write_jsonl(tmp_path / "n.jsonl", hostile_texts(30, seed=9))}
    result = evaluate(["loss_mia_custom"], {**options, **files, "mia_cache_dir": str(tmp_path / "cache")})
    assert sum(row["doc"]["is_member"] for row in result["samples"]["loss_mia_custom"]) == 30
