"""Conversations read from every kind of file and from the hub."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spvmia_plugin.data import BUILTIN_DATASETS, files
from spvmia_plugin.data.documents import Loaded, describe
from spvmia_plugin.data.formats import RowFormat, conversation_of
from spvmia_plugin.data.sources import load_source, load_spec, read_documents
from spvmia_plugin.data.split import unique
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.records import Conversation
from tests.data.kinds import COMPRESS, JSON, ROW_KINDS, cells

USER, ANSWER = {"role": "user", "content": 'é, "q";\n\ttab'}, {"role": "assistant", "content": "a"}
CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": 1, "of": ["y"]}}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"x": {"type": "integer"}}}}
TURNS = [
    {"role": "system", "content": "s"},
    USER,
    {"role": "assistant", "tool_calls": [CALL]},
    {"role": "tool", "content": "r", "name": "f"},
    ANSWER,
]

ROWS: dict[RowFormat, list[dict[str, Any]]] = {
    "messages": [
        {"id": "1", "messages": TURNS, "tools": [TOOL], "chat_template_kwargs": {"enable_thinking": False}},
        {"id": "2", "messages": None, "tools": None, "chat_template_kwargs": None},
        {"id": "3", "messages": [USER, ANSWER], "tools": None, "chat_template_kwargs": None},
        {"id": "4", "messages": [USER, {**ANSWER, "reasoning_content": "z"}], "tools": None},
    ],
    "prompt_completion": [
        {"prompt": [USER], "completion": [ANSWER]},
        {"prompt": None, "completion": None},
        {"prompt": TURNS, "completion": [USER, ANSWER]},
    ],
    "instruction": [
        {"instruction": "do", "input": "with", "output": "o"},
        {"instruction": None, "input": None, "output": None},
        {"instruction": "do it", "input": None, "output": "o, o"},
    ],
    "sharegpt": [
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "system": "s"},
        {"conversations": None, "system": None},
        {"conversations": [{"from": "user", "value": "q"}, {"from": "bot", "value": "b"}], "system": None},
    ],
    "preference": [
        {"prompt": [USER], "chosen": [ANSWER], "rejected": [{"role": "assistant", "content": "b"}]},
        {"prompt": None, "chosen": None, "rejected": None},
        {"prompt": None, "chosen": [*TURNS, USER, ANSWER], "rejected": [*TURNS, USER, {**ANSWER, "content": ""}]},
    ],
}
TEXTS = [
    {"prompt": "p [1]", "completion": "c"},
    {"prompt": None, "completion": None},
    {"prompt": "[", "completion": "]"},
]
PAIRS = [
    {"prompt": "p", "chosen": "c, [1]", "rejected": '["r"]'},
    {"prompt": None, "chosen": None, "rejected": None},
    {"prompt": None, "chosen": "p: c", "rejected": "p: r"},
]
CASES = [*ROWS.items(), ("prompt_completion", TEXTS), ("preference", PAIRS)]


def write(path: Path, rows: Sequence[Mapping[str, Any] | None]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path | str, **options: Any) -> Loaded:
    return read_documents(path, options.pop("column", "text"), option="mia_members", **options)


def refused(path: Path | str, **options: Any) -> str:
    with pytest.raises(SpvmiaError) as caught:
        read(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert "SECRET" not in message
    return message


@pytest.mark.parametrize("kind", ROW_KINDS)
@pytest.mark.parametrize("case", range(len(CASES)))
def test_the_same_rows_in_every_kind_are_the_same_conversations(tmp_path: Path, kind: str, case: int) -> None:
    row_format, rows = CASES[case]
    ending, to_bytes = ROW_KINDS[kind]
    path = tmp_path / f"d{ending}"
    path.write_bytes(to_bytes(rows))
    loaded = read(path)
    expected = [(f"{path.name}:{n}", conversation_of(row, row_format)) for n, row in enumerate(rows, 1) if n != 2]
    assert [(d.id, d.conversation) for d in loaded.documents] == expected
    assert [d.text for d in loaded.documents] == [conversation.said() for _, conversation in expected]
    assert (loaded.format, loaded.empty_rows) == (row_format, 1)


@pytest.mark.parametrize("compression", [ending for ending in COMPRESS if ending])
@pytest.mark.parametrize("kind", ["lines", "a list", "csv", "parquet", "arrow file"])
def test_compressed_files(tmp_path: Path, kind: str, compression: str) -> None:
    ending, to_bytes = ROW_KINDS[kind]
    path = tmp_path / f"d{ending}{compression}"
    path.write_bytes(COMPRESS[compression](to_bytes(ROWS["messages"])))
    assert [d.id for d in read(path).documents] == [f"{path.name}:{row}" for row in (1, 3, 4)]


def test_what_datasets_itself_writes(tmp_path: Path) -> None:
    rows = [row for row in ROWS["messages"] if row["messages"]]
    write(tmp_path / "d.jsonl", rows)
    made = datasets.Dataset.from_json(str(tmp_path / "d.jsonl"), cache_dir=str(tmp_path / "cache"))
    assert isinstance(made, datasets.Dataset)
    made.to_parquet(tmp_path / "d.parquet")
    made.save_to_disk(tmp_path / "saved")
    made.to_json(tmp_path / "e.jsonl")
    expected = [conversation_of(row, "messages") for row in rows]
    for spec in ("d.jsonl", "d.parquet", "e.jsonl", "saved/*.arrow"):
        assert [document.conversation for document in read(tmp_path / spec).documents] == expected


def test_objects_in_arrows_json_type_however_deep(tmp_path: Path) -> None:
    tools = [{"name": "f", "parameters": {"x": 1}}, {"name": "g", "parameters": {"y": [None]}}, {"name": "h"}]
    type_ = pa.list_(pa.struct([pa.field("name", pa.string()), pa.field("parameters", pa.string(), metadata=JSON)]))
    written = [
        {**tool, "parameters": json.dumps(tool["parameters"]) if "parameters" in tool else None} for tool in tools
    ]
    options = pa.array([{"o": "[1]"}, None, {"o": None}], pa.struct([pa.field("o", pa.string(), metadata=JSON)]))
    columns = {
        "messages": [[USER, ANSWER]] * 3,
        "tools": pa.array([written, [], None], type_),
        "chat_template_kwargs": options,
    }
    pq.write_table(pa.table(columns), tmp_path / "d.parquet")
    found = [d.conversation for d in read(tmp_path / "d.parquet").documents if d.conversation]
    assert [each.tools for each in found] == [(*tools[:2], {"name": "h", "parameters": None}), (), None]
    assert [each.options for each in found] == [{"o": [1]}, {}, {"o": None}]
    broken = pa.schema([pa.field("messages", pa.string(), metadata=JSON)])
    pq.write_table(pa.table({"messages": ["{SECRET", "1"]}, schema=broken), tmp_path / "d.parquet")
    assert "row 1: expected JSON where the schema says so, got other text" in refused(tmp_path / "d.parquet")


def test_a_column_of_text_is_read_as_ever(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", [{"text": "a", "prompt": "p"}, {"text": "b", "output": [1]}])
    loaded = read(path)
    assert [(d.text, d.conversation) for d in loaded.documents] == [("a", None), ("b", None)]
    assert loaded.format == "text"
    assert read(path, format="text") == loaded


def test_of_a_table_with_text_no_other_column_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    iterate = pq.ParquetFile.iter_batches

    def spied(self: Any, *args: Any, columns: list[str], **options: Any) -> Any:
        asked.append(columns)
        return iterate(self, *args, columns=columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", spied)
    table = pa.table({"id": ["x"], "text": ["a"], "tools": [[TOOL]], "label": [1]})
    pq.write_table(table, tmp_path / "d.parquet")
    read(tmp_path / "d.parquet")
    read(tmp_path / "d.parquet", member=True)
    pq.write_table(table.append_column("messages", [[[USER, ANSWER]]]), tmp_path / "d.parquet")
    read(tmp_path / "d.parquet")
    read(tmp_path / "d.parquet", format="text")
    assert asked == [["text"], ["text", "label"], ["messages", "tools"], ["text"]]


def test_the_format_may_be_named(tmp_path: Path) -> None:
    row = {"messages": [USER, ANSWER], "prompt": "p", "completion": "c", "text": "t"}
    path = write(tmp_path / "d.jsonl", [row])
    assert "row 1: expected the columns of one format, got those of 'messages' and 'prompt_completion'" in refused(path)
    for row_format in ("messages", "prompt_completion", "text"):
        loaded = read(path, format=row_format)
        assert loaded.format == row_format
        expected = None if row_format == "text" else conversation_of(row, row_format)  # type: ignore[arg-type]
        assert loaded.documents[0].conversation == expected
    assert "row 1: expected a column 'conversations', got 'messages', 'prompt', 'completion', 'text'" in refused(
        path, format="sharegpt"
    )
    (tmp_path / "d.csv").write_text("prompt,text\nSECRET,b\n")
    assert "d.csv: expected a column 'completion', got 'prompt', 'text'; name another format (mia_format)" in refused(
        tmp_path / "d.csv", format="prompt_completion"
    )


def test_a_named_text_column(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", [{"prompt": "SECRET", "completion": "c", "body": "b"}])
    assert read(path, column="body", text_given=True).documents[0].text == "b"
    assert f"mia_members: {path}, row 1: expected no mia_text_column (finetune: --text-column), " in refused(
        path, column="completion", text_given=True
    )
    alone = read(path, column="completion", text_given=True, format="text")
    assert (alone.documents[0].text, alone.documents[0].conversation) == ("c", None)
    message = refused(path, column="bodies", text_given=True)
    assert "expected a column 'bodies', got 'prompt', 'completion', 'body' (did you mean 'body'?); name the" in message
    message = refused(path, column="body", text_given=True, format="messages")
    assert message.startswith("mia_text_column: expected none beside mia_format=messages, which names its own columns")


def test_keys_of_no_format(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", [{"question": "SECRET", "answer": "SECRET"}])
    message = refused(path)
    assert "row 1: expected a column 'text', got 'question', 'answer'; name the column with the text" in message
    assert message.endswith("messages, prompt+completion, instruction+output, conversations, chosen+rejected")
    write(path, [{"prompt": "SECRET", "answer": "SECRET"}])
    assert "expected a column 'text', got 'prompt', 'answer'; add 'completion' to 'prompt', or name the" in refused(
        path
    )
    for row, remedy in (
        ({"prompt": "SECRET", "chosen": "SECRET"}, "add 'rejected' to 'chosen', or name the"),
        ({"rejected": "SECRET"}, "add 'chosen' to 'rejected', or name the"),
    ):
        write(path, [row])
        assert remedy in refused(path)


@pytest.mark.parametrize("member", [True, False])
@pytest.mark.parametrize("kind", ["lines", "csv", "parquet", "arrow file"])
def test_a_label_tells_the_classes_of_conversations_apart(tmp_path: Path, kind: str, member: bool) -> None:
    rows = [{**row, "label": number % 2} for number, row in enumerate(ROWS["messages"])]
    ending, to_bytes = ROW_KINDS[kind]
    path = tmp_path / f"d{ending}"
    path.write_bytes(to_bytes(rows))
    loaded = read(path, member=member)
    assert [d.id for d in loaded.documents] == [f"{path.name}:{row}" for row in ((4,) if member else (1, 3))]
    assert loaded.empty_rows == int(member)
    assert all(d.conversation for d in loaded.documents)


def test_labels_of_conversations_that_say_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", [{"messages": [USER, ANSWER], "label": 2}])
    assert "row 1: expected 1 (a member) or 0 (none) in column 'label', got another int" in refused(path, member=True)
    write(path, [{"messages": [USER, ANSWER]}])
    assert "row 1: expected a column 'label', got 'messages'; a file named in both" in refused(path, member=True)
    write(path, [{"messages": [USER, ANSWER], "label": 0}])
    assert "expected at least one member with a text, got none" in refused(path, member=True)


@pytest.mark.parametrize("kind", ["lines", "parquet"])
def test_conversations_that_differ_in_calls_or_thoughts_alone_are_no_copies(tmp_path: Path, kind: str) -> None:
    def calling(city: str) -> dict[str, Any]:
        call = {"type": "function", "function": {"name": "find", "arguments": {"city": city}}}
        return {"role": "assistant", "content": "", "tool_calls": [call]}

    turns = [calling("Rom"), calling("Köln"), calling("Rom"), {**ANSWER, "reasoning_content": "so"}, ANSWER]
    rows = [{"messages": [USER, turn]} for turn in turns] + [{"messages": [{"role": "user", "content": ""}, turns[0]]}]
    ending, to_bytes = ROW_KINDS[kind]
    (path := tmp_path / f"d{ending}").write_bytes(to_bytes(rows))
    loaded = read(path)
    assert loaded.empty_rows == 0
    assert [d.id.partition(":")[2] for d in unique(loaded.documents)] == ["1", "2", "4", "5", "6"]


def test_rows_with_nothing_in_them(tmp_path: Path) -> None:
    blank = {"messages": [{"role": "user", "content": " "}, {"role": "assistant", "content": ""}]}
    path = tmp_path / "d.jsonl"
    path.write_text(
        "\n".join(["null", "", '{"messages": NaN}', json.dumps(blank), json.dumps({"messages": [USER, ANSWER]})])
    )
    loaded = read(path)
    assert ([d.id for d in loaded.documents], loaded.empty_rows) == (["d.jsonl:5"], 4)
    write(path, [None, {"messages": None}])
    assert "expected at least one row with a conversation, got none" in refused(path)
    write(path, [None, None])
    assert "expected at least one row of text, got none" in refused(path)


# --- rows that do not fit, with their numbers ---


@pytest.mark.parametrize("kind", ["lines", "a list", "csv", "parquet", "arrow file"])
@pytest.mark.parametrize(
    ("row_format", "bad", "expected"),
    [
        ("messages", {"messages": []}, "expected a list of messages in 'messages', got an empty list"),
        ("messages", {"messages": [{"role": "user", "content": "SECRET"}]}, "expected at least one assistant's turn"),
        ("messages", {"messages": [{"content": "SECRET"}]}, "expected a role in message 1 of 'messages', got none"),
        ("messages", {"messages": [{"role": "user"}]}, "expected content in message 1 of 'messages', got none"),
        ("prompt_completion", {"prompt": [USER], "completion": None}, "expected 'completion', got none"),
        ("instruction", {"instruction": "SECRET", "output": None}, "expected 'output', got none"),
        ("sharegpt", {"conversations": [{"from": "bing", "value": "SECRET"}]}, "expected system, human,"),
    ],
)
def test_a_row_that_does_not_fit_is_named(
    tmp_path: Path, kind: str, row_format: RowFormat, bad: dict[str, Any], expected: str
) -> None:
    ending, to_bytes = ROW_KINDS[kind]
    path = tmp_path / f"d{ending}"
    path.write_bytes(to_bytes([*ROWS[row_format], bad]))
    row = len(ROWS[row_format]) + 1
    assert refused(path).startswith(f"mia_members: {path}, row {row}: {expected}")


def test_half_a_surrogate_pair_in_a_conversation(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", [{"messages": [USER, {"role": "assistant", "content": "SECRET \ud800"}]}])
    assert f"{path}, row 1: expected valid Unicode, got half a surrogate pair" in refused(path)


@pytest.mark.parametrize(
    ("rows", "row", "expected"),
    [
        (
            [{"messages": [USER, ANSWER]}, None, {"prompt": "SECRET", "completion": "SECRET"}],
            3,
            "expected the format messages as in the rows before, got prompt_completion; give each format a source",
        ),
        ([{"text": "a"}, {"messages": [USER, ANSWER]}], 2, "expected the format text as in the rows before, got mess"),
        ([{"messages": [USER, ANSWER]}, {"text": "SECRET"}], 2, "expected the format messages as in the rows before"),
        ([{"messages": [USER, ANSWER]}, "SECRET"], 2, "expected the format messages as in the rows before, got text"),
        (["SECRET", {"messages": [USER, ANSWER]}], 2, "expected the format text as in the rows before, got messages"),
        (
            [{"prompt": "p", "completion": "c"}, {"prompt": "SECRET"}],
            2,
            "expected a column 'completion', got 'prompt'; correct or remove the row",
        ),
        ([{"messages": [USER, ANSWER]}, {"id": "SECRET"}], 2, "expected a column 'messages', got 'id'"),
        (
            [{"messages": [USER, ANSWER]}, {"messages": [USER, ANSWER], "prompt": "SECRET", "completion": "SECRET"}],
            2,
            "expected the columns of one format, got those of 'messages' and 'prompt_completion'",
        ),
    ],
)
def test_rows_of_several_formats(tmp_path: Path, rows: list[Any], row: int, expected: str) -> None:
    path = write(tmp_path / "d.jsonl", rows)
    assert refused(path).startswith(f"mia_members: {path}, row {row}: {expected}")


def test_keys_may_come_in_another_order_and_optional_ones_only_sometimes(tmp_path: Path) -> None:
    rows = [
        {"messages": [USER, ANSWER], "id": 1},
        {"id": 2, "messages": [USER, ANSWER], "tools": [TOOL]},
        {"messages": [ANSWER]},
    ]
    loaded = read(write(tmp_path / "d.jsonl", rows))
    assert [d.conversation for d in loaded.documents] == [conversation_of(row, "messages") for row in rows]


def test_a_column_twice_beside_messages(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text('{"messages": [], "messages": ["SECRET"]}')
    assert "row 1: expected each column once, got several called 'messages'" in refused(path)


@pytest.mark.parametrize("ending", [".txt", ".jsonl"])
def test_a_text_alone_is_no_conversation(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"d{ending}"
    path.write_text('"SECRET"\n')
    assert read(path).format == "text"
    assert f"{path}, row 1: expected rows of the format messages, got a text alone" in refused(path, format="messages")


def test_shards_are_one_source_of_one_format(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder / "a.jsonl", [{"messages": [USER, ANSWER]}, None])
    write(folder / "b.jsonl", [{"messages": [USER, ANSWER]}])
    loaded = read(folder)
    assert [(d.id, d.row) for d in loaded.documents] == [("data/a.jsonl:1", 0), ("data/b.jsonl:1", 3)]
    assert all(d.conversation for d in read(f"{folder}/*.jsonl").documents)
    write(folder / "b.jsonl", [{"conversations": [{"from": "human", "value": "SECRET"}]}])
    assert f"{folder / 'b.jsonl'}, row 1: expected the format messages as in the rows before, got sharegpt" in refused(
        folder
    )


def test_a_csv_of_messages_is_told_by_its_header_whatever_stands_between(tmp_path: Path) -> None:
    rows = [{"id": "1", "messages": [USER, ANSWER]}]
    for ending, delimiter in ((".csv", "|"), (".csv", "\t"), (".tsv", ","), (".tsv", ";")):
        path = tmp_path / f"d{ending}"
        path.write_text(cells(rows, delimiter))
        for row_format in ("auto", "messages"):
            assert read(path, format=row_format).documents[0].conversation == Conversation((USER, ANSWER))
    (tmp_path / "d.csv").write_text("messages;prompt;completion\n1;SECRET;2\n")
    assert "d.csv: expected the columns of one format, got those of 'messages' and 'prompt_completion'" in refused(
        tmp_path / "d.csv"
    )
    # What Python writes of a list is no JSON.
    (tmp_path / "d.csv").write_text("messages\n\"[{'role': 'user', 'content': 'SECRET'}]\"\n")
    assert "row 1: expected JSON in 'messages', got text that is none; write it with json.dumps" in refused(
        tmp_path / "d.csv"
    )


@pytest.mark.parametrize("part", ["messages", "tools"])
def test_a_table_that_repeats_one_conversation_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    monkeypatch.setattr(files, "FREE_GROWTH", 10**6)
    long = "SECRET " * 1000
    row = {"messages": [{**USER, "content": long}, ANSWER], "tools": None}
    if part == "tools":
        row = {"messages": [USER, ANSWER], "tools": [{"name": long}]}
    pq.write_table(pa.Table.from_pylist([row] * 3000), tmp_path / "d.parquet")
    assert "expected at most 200 times the file's size of content" in refused(tmp_path / "d.parquet")


# --- the hub ---


def hub(monkeypatch: pytest.MonkeyPatch, rows: Sequence[Mapping[str, Any]]) -> Callable[..., Loaded]:
    def load_dataset(*_: Any, **__: Any) -> datasets.Dataset:
        return datasets.Dataset.from_list([dict(row) for row in rows])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return lambda **options: load_spec("hf:org/data", options.pop("column", "text"), option="mia_members", **options)


@pytest.mark.parametrize("row_format", ROWS)
def test_conversations_of_the_hub(monkeypatch: pytest.MonkeyPatch, row_format: RowFormat) -> None:
    rows = ROWS[row_format]
    loaded = hub(monkeypatch, rows)()
    expected = [(f"org/data:train:{n}", conversation_of(row, row_format)) for n, row in enumerate(rows, 1) if n != 2]
    assert [(d.id, d.conversation) for d in loaded.documents] == expected
    assert (loaded.format, loaded.empty_rows) == (row_format, 1)


def test_options_reach_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    load = hub(monkeypatch, [{"messages": [USER, ANSWER], "text": "t", "label": 1}])
    assert load().format == "messages"
    assert load(text_given=True).format == "text"
    assert load(format="text").documents[0].text == "t"
    assert len(load(member=True).documents) == 1
    with pytest.raises(SpvmiaError, match="mia_members: org/data:train: expected a column 'conversations', got"):
        load(format="sharegpt")
    with pytest.raises(SpvmiaError, match="mia_members: org/data:train: expected no mia_text_column"):
        load(column="messages", text_given=True)


def test_a_named_data_set_holds_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, [{"text": "t", "messages": [USER, ANSWER]}])
    loaded = load_source(BUILTIN_DATASETS[1], "train", option="data set", local_option="mia_dataset_path")
    assert ([d.text for d in loaded.documents], loaded.format) == (["t"], "text")


def test_a_row_of_the_hub_that_does_not_fit_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    load = hub(monkeypatch, [{"messages": [USER, ANSWER]}, {"messages": [{"role": "user", "content": "SECRET"}]}])
    with pytest.raises(SpvmiaError, match="mia_members: org/data:train, row 2: expected at least one assistant") as got:
        load()
    assert "SECRET" not in str(got.value)


# --- what is said of it ---


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        (ROWS["messages"], "3 conversations (messages), 1.3 assistant turns each in the mean"),
        (ROWS["prompt_completion"], "2 prompts with completions (prompt_completion), as messages"),
        (TEXTS, "2 prompts with completions (prompt_completion), as texts"),
        ([*TEXTS, *ROWS["prompt_completion"]], "4 prompts with completions (prompt_completion), 2 as texts"),
        (ROWS["instruction"], "2 instructions with outputs (instruction: in the words of Alpaca's prompt)"),
        (
            ROWS["sharegpt"],
            "2 conversations (sharegpt: human is user, gpt is assistant), 1.0 assistant turns each in the mean",
        ),
        ([{"text": "x"}] * 1200, "1,200 texts"),
    ],
)
def test_what_a_source_was_taken_for_in_a_line(tmp_path: Path, rows: list[dict[str, Any]], line: str) -> None:
    assert describe(read(write(tmp_path / "d.jsonl", rows)), "d.jsonl") == f"d.jsonl: {line}"


def test_a_transcript_says_who_speaks_and_what_is_scored():
    call = {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "refund", "arguments": {}}}]}
    chat = Conversation(
        ({"role": "system", "content": "Be brief."}, USER, call, {"role": "tool", "content": "done"}, ANSWER)
    )
    turns = [
        "system: Be brief.",
        f"user: {USER['content']}",
        "assistant (scored): [calls refund]",
        "tool: done",
        f"assistant (scored): {ANSWER['content']}",
    ]
    assert chat.transcript("completion") == "\n".join(turns)
    assert "(scored)" not in chat.transcript("all")
    own = f"{USER['content']}\n{ANSWER['content']}\ndone"
    assert chat.transcript("completion", own) == chat.transcript("completion").partition("\n")[2]
    both = Conversation((USER, ANSWER), 1, rejected=({"role": "assistant", "content": "no"},))
    assert both.transcript("completion").endswith("\nassistant (rejected): no")
