"""Whom records belong to: read from any kind of file, never kept in clear, in one class only; whole units are dealt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from spvmia_plugin.attacks.bag_of_words import BagOfWords
from spvmia_plugin.auditing.outcome import blind_scores
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.data.assembly import OF_UNITS
from spvmia_plugin.data.fingerprint import user_key
from spvmia_plugin.data.load import load_audit_data
from spvmia_plugin.data.sources import load_spec
from spvmia_plugin.data.split import Packer, deal, in_units
from spvmia_plugin.data.units import LONGEST_GROUP, MOST_GROUPS, Belonging, units_of
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.harness.shared import SharedData
from spvmia_plugin.records import AuditData, Document
from tests.data.builders import NoTokenizer, word_tokenize
from tests.tiny import tiny_texts, tiny_tokenizer

OWNER = Belonging("customer", "region", b"k" * 32)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def tickets(path: Path, customers: range, each: int = 3, **more: Any) -> Path:
    """`each` texts of every customer, customers one after the other in turns."""
    texts = iter(tiny_texts(each * len(customers), seed=customers.start + 1))
    rows = [{"customer": f"C-{number}", "text": next(texts), **more} for _ in range(each) for number in customers]
    return write_rows(path, rows)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    return {
        "members": tickets(tmp_path / "m.jsonl", range(20)),
        "nonmembers": tickets(tmp_path / "n.jsonl", range(100, 120)),
        "prompts": tickets(tmp_path / "p.jsonl", range(200, 210)),
    }


def load(files: dict[str, Path], *, tokenizer: Any = None, dataset: str = "custom", **options: Any) -> AuditData:
    given = {"unit_column": "customer", "block_size": 0, **files, **options}
    metadata = {f"mia_{key}": str(value) if isinstance(value, Path) else value for key, value in given.items()}
    config = AuditConfig.from_metadata({key: value for key, value in metadata.items() if value is not None})
    return load_audit_data(config, dataset, registry=None, tokenizer=tokenizer or NoTokenizer(), target_dirs=[])


# --- no number depends on the key ---


@pytest.mark.parametrize("copies", [False, True])
def test_the_folds_are_the_same_under_another_key(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, copies: bool
) -> None:
    if copies:  # the clusters of two units that hold one text are one
        rows = [json.loads(line) for line in files["members"].read_text().splitlines()]
        write_rows(files["members"], [*rows, {**rows[0], "customer": "C-7"}, {**rows[1], "customer": "C-3"}])
    found = []
    for number in range(4):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"xdg{number}"))
        shared = SharedData(load(files), 0)
        ids = [record.id for record in shared.data.records]
        scores = blind_scores(BagOfWords(), shared.data.records, seed=0)
        found.append((units_of(shared.data.records), ids, scores, repr(shared.blind(ids))))
    assert len({frozenset(units) for units, *_ in found}) == 4
    assert all(each[1:] == found[0][1:] for each in found)


# --- reading ---


def test_units_are_keyed_hashes_of_what_the_column_says(files: dict[str, Path], tmp_path: Path) -> None:
    data = load(files)
    key = Belonging("customer", key=user_key(tmp_path / "xdg" / "spvmia"))
    assert units_of(data.members) == {key.unit_of(f"C-{number}") for number in range(20)}
    assert all(record.cluster == record.unit for record in data.records)
    assert len(data.members) == 60
    assert data.unit_column == "customer"
    assert data.provenance["cluster_rule"] == OF_UNITS
    assert "C-1" not in repr(data)
    assert key.unit_of("a") != Belonging("customer", key=b"other").unit_of("a")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("d.csv", "text,customer,region\nsome words,7,north\n"),
        ("d.json", '[{"text": "some words", "customer": 7, "region": "north"}]'),
        ("d.jsonl", '{"text": "some words", "customer": 7.0, "region": " north "}\n'),
        ("d.tsv", "customer\tregion\ttext\n 7 \tnorth\tsome words\n"),
        ("e.csv", "text,customer,region\nsome words,7.0,north\n"),  # as pandas writes a column with a gap
        ("e.tsv", "customer\tregion\ttext\n7.00\tnorth\tsome words\n"),
    ],
)
def test_files_of_every_kind_say_whose_a_row_is(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    (document,) = load_spec(str(tmp_path / name), "text", option="--data", belonging=OWNER).documents
    assert (document.unit, document.group, document.text) == (OWNER.unit_of("7"), "north", "some words")


def test_tables_and_conversations_say_it_too(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": ["words"], "customer": [7], "region": ["n"]}), tmp_path / "d.parquet")
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    write_rows(tmp_path / "chat.jsonl", [{"messages": messages, "customer": "7", "region": "n"}])
    for name in ("d.parquet", "chat.jsonl"):
        (document,) = load_spec(str(tmp_path / name), "text", option="--data", belonging=OWNER).documents
        assert (document.unit, document.group) == (OWNER.unit_of("7"), "n")
    assert document.conversation is not None


@pytest.mark.parametrize(
    ("unit", "got"),
    [
        (None, "nothing"),
        ("", "nothing"),
        ("  ", "white space"),
        (True, "a bool"),
        (1.5, "a float"),
        (["PRIVATE"], "a list"),
        ({"name": "PRIVATE"}, "a dict"),
    ],
)
def test_a_row_that_does_not_say_whose_it_is(tmp_path: Path, unit: Any, got: str) -> None:
    path = write_rows(tmp_path / "d.jsonl", [{"text": "a", "customer": "x"}, {"text": "b", "customer": unit}])
    with pytest.raises(SpvmiaError) as error:
        load_spec(str(path), "text", option="mia_members", belonging=Belonging("customer"))
    assert str(error.value) == (
        f"mia_members: {path}, row 2: expected a text or a whole number in column 'customer', got {got}; fill it "
        "in, or remove the row"
    )


def test_a_column_that_is_not_there(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "d.jsonl", [{"text": "a", "costumer": "x"}])
    with pytest.raises(SpvmiaError, match=r"expected a column 'customer', .* \(did you mean 'costumer'\?\); name the"):
        load_spec(str(path), "text", option="mia_members", belonging=Belonging("customer"))
    (tmp_path / "d.txt").write_text("words\n")
    with pytest.raises(SpvmiaError, match=r"expected a column 'region', got none; .*mia_group_column"):
        load_spec(str(tmp_path / "d.txt"), "text", option="mia_members", belonging=Belonging(group="region"))


def test_empty_rows_need_no_unit(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "d.jsonl", [{"text": "", "customer": None}, {"text": "b", "customer": "x"}])
    found = load_spec(str(path), "text", option="mia_members", belonging=Belonging("customer"))
    assert (len(found.documents), found.empty_rows) == (1, 1)


def test_named_data_sets_say_nothing_of_units(files: dict[str, Path]) -> None:
    with pytest.raises(SpvmiaError, match=r"^mia_unit_column: expected data of your own"):
        load({}, dataset="wikitext", dataset_path=files["members"])
    with pytest.raises(SpvmiaError, match=r"^mia_group_column: expected data of your own"):
        load({}, dataset="wikitext", unit_column=None, group_column="topic")


# --- in one class ---


def test_a_unit_in_both_classes_is_refused_with_counts(files: dict[str, Path], tmp_path: Path) -> None:
    files["nonmembers"] = tickets(tmp_path / "n.jsonl", range(18, 120), each=2)
    with pytest.raises(SpvmiaError) as error:
        load(files)
    message = str(error.value)
    assert message.startswith("mia_unit_column: expected each unit of column 'customer' in one class, got 2 that stand")
    assert "with 6 rows of the members and 4 of the non-members" in message
    assert "C-18" not in message


def test_prompts_of_audited_units_are_left_out_and_counted(files: dict[str, Path], tmp_path: Path) -> None:
    files["prompts"] = tickets(tmp_path / "p.jsonl", range(15, 30), each=2)
    data = load(files)
    assert data.provenance["counts"]["prompts_of_audited_units"] == 10  # type: ignore[index]
    assert len(data.prompts) == 20
    files["prompts"] = tickets(tmp_path / "p.jsonl", range(2, 6), each=2)
    with pytest.raises(
        SpvmiaError, match=r"^mia_prompts: expected prompts of units that are not audited, got 8, all of"
    ):
        load(files)


def test_candidate_data_of_used_units_are_left_out_and_counted(files: dict[str, Path], tmp_path: Path) -> None:
    files["candidate"] = tickets(tmp_path / "c.jsonl", range(205, 230), each=2)  # 5 of them are prompts
    data = load(files)
    assert data.provenance["counts"]["candidate_of_used_units"] == 10  # type: ignore[index]
    assert len(data.candidate) == 40
    files["candidate"] = write_rows(tmp_path / "c.jsonl", [{"text": "some new words", "customer": "C-0"}])
    with pytest.raises(
        SpvmiaError, match=r"^mia_candidate: expected candidate rows of units that are used for nothing else"
    ):
        load(files)


@pytest.mark.parametrize("seed", range(5))
def test_the_share_of_non_members_that_prompts_is_of_whole_units(files: dict[str, Path], seed: int) -> None:
    del files["prompts"]
    data = load(files, seed=seed)
    prompts = {prompt.unit for prompt in data.prompts}
    assert prompts
    assert prompts.isdisjoint(units_of(data.records))
    assert len(data.nonmembers) % 3 == len(data.prompts) % 3 == 0


def test_the_papers_split_has_no_units(files: dict[str, Path]) -> None:
    with pytest.raises(SpvmiaError, match=r"^mia_unit_column: expected mia_split=random beside it, got paper"):
        load(files, split="paper")


def test_blocks_hold_texts_of_one_unit(files: dict[str, Path]) -> None:
    data = load(files, block_size=80, tokenizer=tiny_tokenizer)
    owner = {}
    for name in ("members", "nonmembers"):
        for row, line in enumerate(files[name].read_text().splitlines(), 1):
            owner[f"{files[name].name}:{row}"] = json.loads(line)["customer"]
    assert len(data.records) > 40
    assert any(len(record.pieces) > 1 for record in data.records)
    for record in data.records:
        name = record.id.partition(":")[0]
        assert len({owner[f"{name}:{piece.row}"] for piece in record.pieces}) == 1
        assert record.unit == record.cluster


def test_fewer_records_are_of_fewer_units(files: dict[str, Path]) -> None:
    assert len(units_of(load(files, max_samples=30).members)) == 10


# --- dealing ---


def owned(sizes: list[int]) -> list[Document]:
    """So many documents of each unit, in turns."""
    texts = iter(tiny_texts(sum(sizes), seed=5))
    rows = [(unit, number) for unit, size in enumerate(sizes) for number in range(size)]
    ordered = sorted(rows, key=lambda row: row[1])
    return [Document(f"d.jsonl:{row}", next(texts), unit=f"u{unit}") for row, (unit, _) in enumerate(ordered, 1)]


@pytest.mark.parametrize("packer", [Packer(0), Packer(16, word_tokenize)])
def test_dealing_gives_no_unit_to_two_classes(packer: Packer) -> None:
    wanted = {"members": 40, "nonmembers": 40, "canaries": 10, "prompts": 20}
    dealt, _ = deal(owned([1, 2, 3, 9] * 20), packer, wanted, seed=3)
    assert {name: len(records) for name, records in dealt.items()} == wanted
    units = [units_of(records) for records in dealt.values()]
    assert sum(map(len, units)) == len(set.union(*units))
    assert len(units[2]) == 10  # a canary each
    assert deal(owned([1, 2, 3, 9] * 20), packer, wanted, seed=3)[0] == dealt


def test_large_units_do_not_come_first() -> None:
    """In the order of shuffled documents they would: members would have more records each than non-members."""
    places = []
    for seed in range(200):
        order = list(dict.fromkeys(document.unit for document in in_units(owned([1] * 10 + [20] * 10), seed, "split")))
        places.append(sum(order.index(f"u{unit}") for unit in range(10)) / 10)
    assert sum(places) / 200 == pytest.approx(9.5, abs=0.4)


def test_without_units_the_order_is_that_of_before() -> None:
    plain = [Document(f"d:{row}", f"text {row}") for row in range(1, 30)]
    from spvmia_plugin.data.split import shuffled

    assert in_units(plain, 4, "split") == shuffled(plain, 4, "split")
    assert in_units([], 4, "split") == []


# --- groups ---


def test_groups_are_read_and_shown_by_name(files: dict[str, Path], tmp_path: Path) -> None:
    files["members"] = tickets(tmp_path / "m.jsonl", range(20), region="north")
    files["nonmembers"] = tickets(tmp_path / "n.jsonl", range(100, 120), region="süd")
    data = load(files, group_column="region", unit_column=None)
    assert {record.group for record in data.members} == {"north"}
    assert {record.group for record in data.nonmembers} == {"süd"}
    assert {record.unit for record in data.records} == {None}
    assert (data.unit_column, data.group_column) == (None, "region")


def test_a_block_of_several_groups_is_of_none() -> None:
    texts = tiny_texts(6, seed=1)
    documents = [Document(f"d:{row}", text, group="ab"[row > 3]) for row, text in enumerate(texts, 1)]
    blocks = Packer(200, word_tokenize).pack(documents).records
    assert None in {block.group for block in blocks}
    assert {block.group for block in Packer(0).pack(documents).records} == {"a", "b"}


def test_too_many_groups_and_names_that_are_none(files: dict[str, Path], tmp_path: Path) -> None:
    rows = [{"text": text, "customer": n} for n, text in enumerate(tiny_texts(MOST_GROUPS + 1))]
    many = write_rows(tmp_path / "m.jsonl", rows)
    with pytest.raises(SpvmiaError, match=f"^mia_group_column: expected at most {MOST_GROUPS} groups in column 'cus"):
        load({**files, "members": many}, unit_column=None, group_column="customer")
    for name, words in (("x" * (LONGEST_GROUP + 1), "81 characters"), ("\ud800", "half a surrogate pair")):
        path = write_rows(tmp_path / "g.jsonl", [{"text": "a", "region": name}])
        with pytest.raises(SpvmiaError, match=words):
            load_spec(str(path), "text", option="mia_members", belonging=Belonging(group="region"))
