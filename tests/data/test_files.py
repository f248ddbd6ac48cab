from __future__ import annotations

import csv
import io
import json
import os
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spvmia_plugin.data.files import EXPECTED
from spvmia_plugin.data.rows import csv_rows
from spvmia_plugin.data.sources import read_documents
from spvmia_plugin.errors import SpvmiaError

HOSTILE = [
    "nul \x00 inside",
    "right-to-left \u202e\u200f marks",
    "=cmd|' /C calc'!A0",
    "<script>alert(1)</script>",
    "line\nbreaks \r\n and \r returns",
    "\u2028 line separator \x85 \x0b \x0c",
    'quotes " and "" commas, too',
    "long " + "word " * 200_000,
    "\x1b[31mred",
]


def read(path: Path, column: str = "text") -> list[str]:
    return [document.text for document in read_documents(path, column, option="mia_members").documents]


def write_jsonl(path: Path, texts: list[str]) -> None:
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))


def write_json(path: Path, texts: list[str]) -> None:
    path.write_text(json.dumps([{"text": t, "other": 1} for t in texts], ensure_ascii=False))


def write_csv(path: Path, texts: list[str]) -> None:
    rows = [["id", "text"], *([str(i), t] for i, t in enumerate(texts))]
    lines = (",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows)
    path.write_bytes("\r\n".join(lines).encode())


def write_parquet(path: Path, texts: list[str]) -> None:
    pq.write_table(pa.table({"id": list(range(len(texts))), "text": texts}), path)


WRITERS = {".jsonl": write_jsonl, ".json": write_json, ".csv": write_csv, ".parquet": write_parquet}


@pytest.mark.parametrize("extension", WRITERS)
def test_every_format_keeps_hostile_texts_to_the_byte(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"data{extension}"
    WRITERS[extension](path, HOSTILE)
    loaded = read_documents(path, "text", option="mia_members")
    assert [d.text for d in loaded.documents] == HOSTILE
    assert [d.id for d in loaded.documents] == [f"data{extension}:{row}" for row in range(1, len(HOSTILE) + 1)]
    assert loaded.empty_rows == 0


def test_txt_has_a_document_a_line_and_only_line_feeds_end_it(tmp_path: Path) -> None:
    path = tmp_path / "d.txt"
    path.write_bytes("\ufefffirst\r\n\n  \nwith \x00 and \u2028 inside\nlast".encode())
    loaded = read_documents(path, "text", option="mia_members")
    assert [(d.id, d.text) for d in loaded.documents] == [
        ("d.txt:1", "first"),
        ("d.txt:4", "with \x00 and \u2028 inside"),
        ("d.txt:5", "last"),
    ]
    assert loaded.empty_rows == 2


@pytest.mark.parametrize("extension", WRITERS)
def test_empty_rows_are_left_out_and_counted_and_keep_their_number(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"d{extension}"
    WRITERS[extension](path, ["a", "", " \n\t", "b"])
    loaded = read_documents(path, "text", option="mia_members")
    assert [d.id for d in loaded.documents] == [f"d{extension}:1", f"d{extension}:4"]
    assert loaded.empty_rows == 2


def test_blank_lines_of_jsonl_and_csv_count_as_empty_rows(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text('{"text": "a"}\n\n{"text": "b"}\n')
    (tmp_path / "d.csv").write_text("id,text\n1,a\n\n2,b\n")
    for name in ("d.jsonl", "d.csv"):
        loaded = read_documents(tmp_path / name, "text", option="mia_members")
        assert [d.id for d in loaded.documents] == [f"{name}:1", f"{name}:3"]
        assert loaded.empty_rows == 1


def test_csv_agrees_with_the_standard_module_on_random_tables() -> None:
    rng = random.Random(3)
    for i in range(300):
        # The writer puts quotes around a lone return only where returns end its lines.
        line_end, alphabet = ("\r\n", 'ab ,"\n\r;é') if i % 2 else ("\n", 'ab ,"\n;é')
        rows = [
            ["".join(rng.choice(alphabet) for _ in range(rng.randint(0, 6))) for _ in range(rng.randint(2, 4))]
            for _ in range(rng.randint(1, 4))
        ]
        stream = io.StringIO(newline="")
        csv.writer(stream, lineterminator=line_end).writerows(rows)
        assert list(csv_rows(stream.getvalue())) == rows


def test_a_long_csv_field_leaves_the_global_limit_alone(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    path = tmp_path / "d.csv"
    write_csv(path, ["x" * (limit + 10)])
    assert read(path) == ["x" * (limit + 10)]
    assert csv.field_size_limit() == limit


def test_another_column_and_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "d.csv").write_text("body,text\nyes,no\n")
    assert read(Path("~/d.csv"), "body") == ["yes"]


def broken(tmp_path: Path, name: str, content: bytes) -> str:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SpvmiaError) as caught:
        read_documents(path, "text", option="mia_members")
    message = str(caught.value)
    assert message.startswith(f"mia_members: {path}")
    assert "\n" not in message
    assert "SECRET" not in message
    return message.removeprefix(f"mia_members: {path}")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("d.jsonl", b"", ": expected at least one row of text, got none"),
        ("d.json", b"", ": expected at least one row of text, got none"),
        ("d.json", b"[]", ": expected at least one row of text, got none"),
        ("d.csv", b"", ": expected at least one row of text, got none"),
        ("d.csv", b"text\n", ": expected at least one row of text, got none"),
        ("d.txt", b"\n \n", ": expected at least one row of text, got none"),
        (
            "d.jsonl",
            b'{"text": "a"}\n{"txt": "SECRET"}\n',
            ", row 2: expected a column 'text', got 'txt'; name the column",
        ),
        ("d.json", b'[{"body": "SECRET"}]', ", row 1: expected a column 'text', got 'body'; name the column"),
        ("d.csv", b"id,texts\n1,SECRET\n", ": expected a column 'text', got 'id', 'texts' (did you mean 'texts'?)"),
        ("d.jsonl", b'{"text": "a"}\n{"text": 3}\n', ", row 2: expected text in column 'text', got int"),
        ("d.json", b'[{"text": ["SECRET"]}]', ", row 1: expected text in column 'text', got list"),
        ("d.jsonl", b'{"text": "a"}\n{"text": "SECRET\n', ", row 2: expected one JSON object a line, got invalid JSON"),
        ("d.jsonl", b'["SECRET"]\n["SECRET"]\n', ": expected a JSON list of objects, got invalid JSON at line 2"),
        ("d.jsonl", b"3\n", ", row 1: expected a JSON object or string, got int"),
        ("d.jsonl", b"[" * 100_000, ": expected a JSON list of objects, got invalid JSON"),
        ("d.jsonl", b'{"a": ' * 100_000, ", row 1: expected one JSON object a line, got invalid JSON"),
        ("d.json", b'[\n{"text": "SECRET\n', ": expected a JSON list of objects, got invalid JSON at line 2"),
        ("d.json", b'{\n"text": "SECRET"\n}', ", row 1: expected one JSON object a line, got invalid JSON"),
        ("d.jsonl", b'{"text": "a"}\n{"text": "SECRET \xff"}\n', ", row 2: expected UTF-8, got other bytes"),
        ("d.txt", b"a\nSECRET \xc3\x28\n", ", row 2: expected UTF-8, got other bytes"),
        ("d.csv", b"text\na\nSECRET\xff\n", ", row 2: expected UTF-8, got other bytes"),
        ("d.jsonl", rb'{"text": "SECRET \ud800"}', ", row 1: expected valid Unicode, got half a surrogate pair"),
        ("d.csv", b'text\na\n"SECRET\n', ", row 2: expected a well-formed CSV row, got a quote that is never closed"),
        ("d.csv", b'text\n"SECRET"x\n', ", row 1: expected a well-formed CSV row, got text after a closing quote"),
        (
            "d.csv",
            b"id,text\n1,SECRET, and more\n",
            ", row 1: expected 2 fields, got 3; put quotes around text with commas",
        ),
        ("d.parquet", b"SECRET", ": expected a Parquet file, got something else or a damaged one"),
        ("d.xlsx", b"SECRET", ": expected a file ending in .jsonl .json .csv .parquet .txt .ndjson"),
        ("data", b"SECRET", f": expected a file ending in {EXPECTED}, got 'no extension'"),
        ("d.gz", b"SECRET", f": expected a file ending in {EXPECTED}, got '.gz'"),
        ("d.jsonl.rar", b"SECRET", f": expected a file ending in {EXPECTED}, got '.rar'"),
    ],
)
def test_bad_files_name_option_file_and_row_but_no_text(
    tmp_path: Path, name: str, content: bytes, expected: str
) -> None:
    assert broken(tmp_path, name, content).startswith(expected)


def test_bad_parquet_columns(tmp_path: Path) -> None:
    numbers, other = tmp_path / "n.parquet", tmp_path / "o.parquet"
    pq.write_table(pa.table({"text": [1, 2]}), numbers)
    pq.write_table(pa.table({"text_": ["a"]}), other)
    with pytest.raises(SpvmiaError, match="row 1: expected text in column 'text', got int"):
        read(numbers)
    with pytest.raises(SpvmiaError, match=r"expected a column 'text', got 'text_'; name the column"):
        read(other)


def test_invalid_utf8_in_parquet_names_the_row(tmp_path: Path) -> None:
    raw = pa.array([b"fine", b"\xff\xfe"], pa.binary())
    strings = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
    path = tmp_path / "d.parquet"
    pq.write_table(pa.table({"text": strings}), path)
    with pytest.raises(SpvmiaError, match="row 2: expected UTF-8"):
        read(path)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(SpvmiaError, match=r"mia_members: .*gone.jsonl: expected a file, got no such file; check"):
        read(tmp_path / "gone.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(SpvmiaError, match=r"folder.jsonl: expected a folder with files of one kind, .* none; check"):
        read(tmp_path / "folder.jsonl")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file(tmp_path: Path) -> None:
    path = tmp_path / "d.txt"
    path.write_text("SECRET")
    path.chmod(0)
    with pytest.raises(SpvmiaError, match="expected a readable file, got Permission denied"):
        read(path)
