from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import feather

from spvmia_plugin.data import files
from spvmia_plugin.data.files import SourceFile
from spvmia_plugin.data.manifest import read_manifest
from spvmia_plugin.data.sources import read_documents
from spvmia_plugin.data.units import Belonging
from spvmia_plugin.errors import SpvmiaError
from tests.data.kinds import COMPRESS, KINDS, delimited

TEXTS = [
    "plain",
    "",
    "line\nbreaks\r\nand\ttabs",
    'quotes " and, commas; and | bars',
    "é ü \u2028 \U0001f600",
    " \t ",
    "NUL \x00 inside",
    "[1, 2] {brackets}",
    '"a string"',
    "last",
]
ROWS = [(row, text) for row, text in enumerate(TEXTS, start=1) if text.strip()]


def read(path: Path | str, column: str = "text", member: bool | None = None) -> list[tuple[str, str]]:
    loaded = read_documents(path, column, option="mia_members", member=member)
    return [(document.id, document.text) for document in loaded.documents]


def refused(path: Path | str, column: str = "text", member: bool | None = None) -> str:
    with pytest.raises(SpvmiaError) as caught:
        read(path, column, member)
    message = str(caught.value)
    assert message.startswith("mia_members: ")
    assert "\n" not in message
    assert "SECRET" not in message
    return message


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_texts_in_every_kind_are_the_same_documents(tmp_path: Path, kind: str, compression: str) -> None:
    ending, write = KINDS[kind]
    path = tmp_path / f"d{ending}{compression}"
    path.write_bytes(COMPRESS[compression](write(TEXTS)))
    loaded = read_documents(path, "text", option="mia_members")
    assert [(d.id, d.text) for d in loaded.documents] == [(f"{path.name}:{row}", text) for row, text in ROWS]
    assert loaded.empty_rows == 2


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_lines_of_text_in_every_encoding(tmp_path: Path, encoding: str, compression: str) -> None:
    path = tmp_path / f"D.TXT{compression.upper()}"
    path.write_bytes(COMPRESS[compression]("one\r\n\n \u2028é\nlast".encode(encoding)))
    assert read(path) == [(f"{path.name}:1", "one"), (f"{path.name}:3", " \u2028é"), (f"{path.name}:4", "last")]


@pytest.mark.parametrize(("encoding", "nul"), [("utf-16-le", "a\0"), ("utf-16-be", "\0a")])
@pytest.mark.parametrize("ending", [".txt", ".jsonl", ".csv"])
def test_utf_16_without_a_mark_is_not_taken_for_text_with_nuls(
    tmp_path: Path, ending: str, encoding: str, nul: str
) -> None:
    path = tmp_path / f"d{ending}"
    path.write_bytes("SECRET\n".encode(encoding))
    assert "row 1: expected UTF-8, got other bytes" in refused(path)
    (tmp_path / "d.txt").write_text(f"{nul}b\0" if nul[0] == "\0" else "a\0bc")
    assert len(read(tmp_path / "d.txt")) == 1


def test_utf_16_that_breaks_off_names_the_row(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes('{"text": "a"}\n{"text": "SECRET"}'.encode("utf-16") + b"\x00")
    assert "row 2: expected UTF-8" in refused(path)


def test_long_integers_in_other_fields_do_not_matter(tmp_path: Path) -> None:
    digits, path = "9" * 5000, tmp_path / "d.jsonl"
    path.write_text(f'{{"n": {digits}, "text": "a"}}\n{{"text": "b", "n": [-{digits}, 1e999, NaN]}}\n')
    assert read(path) == [("d.jsonl:1", "a"), ("d.jsonl:2", "b")]
    (tmp_path / "d.json").write_text(f'[{{"n": {digits}, "text": "a"}}]')
    assert read(tmp_path / "d.json") == [("d.json:1", "a")]
    path.write_text(f'{{"text": {digits}}}')
    assert "row 1: expected text in column 'text', got float" in refused(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("d.jsonl", b'{"text": null}\nnull\n{"text": NaN}\n\n{"text": "a"}\n'),
        ("d.json", b'[{"text": null}, null, {"text": NaN}, "", {"text": "a"}]'),
        ("d.csv", b"id,text\n1,\n\n2,  \n\n3,a\n"),
        ("d.tsv", b"text\tid\n\t1\n\n\t2\n\na\t3\n"),
    ],
)
def test_rows_without_a_text_are_empty_rows(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    loaded = read_documents(tmp_path / name, "text", option="mia_members")
    assert [(d.id, d.text) for d in loaded.documents] == [(f"{name}:5", "a")]
    assert loaded.empty_rows == 4


def test_null_cells_of_parquet_are_empty_rows(tmp_path: Path) -> None:
    for type_ in (pa.string(), pa.dictionary(pa.int8(), pa.string())):
        column = pa.array([None, "a", None, ""], pa.string())
        column = column.dictionary_encode() if pa.types.is_dictionary(type_) else column
        pq.write_table(pa.table({"text": column}), tmp_path / "d.parquet")
        loaded = read_documents(tmp_path / "d.parquet", "text", option="mia_members")
        assert ([d.id for d in loaded.documents], loaded.empty_rows) == (["d.parquet:2"], 3)


@pytest.mark.parametrize("type_", [pa.timestamp("ms"), pa.timestamp("us", tz="+99:99"), pa.date64(), pa.duration("s")])
@pytest.mark.parametrize("column", ["text", "who", "label"])
def test_what_python_cannot_hold_is_refused_by_column(tmp_path: Path, type_: pa.DataType, column: str) -> None:
    """Dates after the year 9999, say; in columns that are not read they do not matter."""
    far = pa.array([86_400_000 * 10**8], pa.int64()).view(type_)  # whole days
    rest = {"text": pa.array(["SECRET"]), "who": pa.array([1]), "label": pa.array([1])}
    owner = Belonging("who", key=b"key")
    for name, write in (("d.parquet", pq.write_table), ("d.feather", feather.write_feather)):
        path = tmp_path / name
        write(pa.table({**rest, "unread": far}), path)
        assert len(read_documents(path, "text", option="o", member=True, belonging=owner).documents) == 1
        write(pa.table({**rest, column: far}), path)
        with pytest.raises(SpvmiaError) as caught:
            read_documents(path, "text", option="mia_members", member=True, belonging=owner)
        told = str(caught.value)
        assert told.startswith(f"mia_members: {path}, row 1: expected values that Python can hold in column {column!r}")
        assert "SECRET" not in told


@pytest.mark.parametrize(
    ("name", "content", "where"),
    [
        ("d.csv", b"text,id,text\nSECRET,1,SECRET\n", ""),
        ("d.csv", b"id,text,id\n1,SECRET,2\n", ""),
        ("d.tsv", b"text\ttext\nSECRET\tSECRET\n", ""),
        ("d.jsonl", b'{"text": "a"}\n{"text": "SECRET", "text": "SECRET"}\n', ", row 2"),
        ("d.json", b'[{"id": 1, "text": "SECRET", "id": 2}]', ", row 1"),
    ],
)
def test_a_column_twice_is_refused_by_name(tmp_path: Path, name: str, content: bytes, where: str) -> None:
    (tmp_path / name).write_bytes(content)
    column = "id" if b'"id": 2' in content or content.startswith(b"id") else "text"
    expected = f"mia_members: {tmp_path / name}{where}: expected each column once, got several called '{column}'"
    assert refused(tmp_path / name).startswith(expected)


def test_columns_without_a_name_and_keys_further_in_may_be_the_same(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text(",text,,\n1,a,,\n")
    assert read(tmp_path / "d.csv") == [("d.csv:1", "a")]
    (tmp_path / "d.jsonl").write_text('{"text": "a", "n": {"text": 1, "text": 2}}')
    assert read(tmp_path / "d.jsonl") == [("d.jsonl:1", "a")]


def test_a_column_twice_in_tables_with_types(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["SECRET"]), pa.array(["SECRET"])], names=["text", "text"])
    pq.write_table(table, tmp_path / "d.parquet")
    with pa.ipc.new_file(tmp_path / "d.arrow", table.schema) as writer:
        writer.write_table(table)
    for name in ("d.parquet", "d.arrow"):
        assert "expected each column once, got several called 'text'" in refused(tmp_path / name)


# --- shards ---


def shards(folder: Path, **files: list[str]) -> Path:
    for name, texts in files.items():
        path = folder / name.replace("__", "/").replace("_jsonl", ".jsonl")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return folder


def test_a_folder_of_shards_is_read_in_the_order_of_its_paths(tmp_path: Path) -> None:
    folder = shards(tmp_path / "data", b_jsonl=["3"], a_jsonl=["1", "", "2"], c__a_jsonl=["4"], _hidden_jsonl=["no"])
    (folder / ".part.jsonl.crc").write_bytes(b"\0")
    (folder / "README.md").write_text("what is in here")
    (folder / "d.jsonl.gz").write_bytes(COMPRESS[".gz"](b'{"text": "5"}'))
    expected = [
        ("data/a.jsonl:1", "1"),
        ("data/a.jsonl:3", "2"),
        ("data/b.jsonl:1", "3"),
        ("data/c/a.jsonl:1", "4"),
        ("data/d.jsonl.gz:1", "5"),
    ]
    assert read(folder) == expected
    assert read(f"{folder}/") == expected
    loaded = read_documents(folder, "text", option="mia_members")
    assert [document.row for document in loaded.documents] == [0, 0, 4, 5, 6]
    assert loaded.empty_rows == 1


def test_a_pattern_names_its_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shards(tmp_path / "data", x__1_jsonl=["1"], x__2_jsonl=["2"], y__1_jsonl=["3"], x__z_txt=["no"])
    assert read(folder / "x" / "[0-9].jsonl") == [("x/1.jsonl:1", "1"), ("x/2.jsonl:1", "2")]
    assert read(folder / "*" / "1.jsonl") == [("data/x/1.jsonl:1", "1"), ("data/y/1.jsonl:1", "3")]
    assert len(read(f"{folder}/**/*.jsonl")) == 3
    monkeypatch.chdir(folder)
    assert read("x/*.jsonl") == [("x/1.jsonl:1", "1"), ("x/2.jsonl:1", "2")]
    assert "expected files that fit the pattern, got none" in refused("x/*.parquet")
    assert "expected a file ending in" in refused("x/z*")


def test_links_are_followed_and_every_folder_is_read_once(tmp_path: Path) -> None:
    """Two ways to one folder, one folder elsewhere, and circles through which nobody would come to an end."""
    folder = shards(tmp_path / "data", a_jsonl=["1"], x__1_jsonl=["2"], y__z__1_jsonl=["3"])
    shards(tmp_path / "elsewhere", b_jsonl=["4"], deep__c_jsonl=["5"])
    for place, target in (
        ("w", "x"),
        ("more", "../elsewhere"),
        ("loop", "."),
        ("x/up", ".."),
        ("y/up", "../y"),
        ("y/z/root", "../../../data"),
        (".hidden", "../elsewhere"),
    ):
        (folder / place).symlink_to(target)
    expected = [
        ("data/a.jsonl:1", "1"),
        ("data/more/b.jsonl:1", "4"),
        ("data/more/deep/c.jsonl:1", "5"),
        ("data/x/1.jsonl:1", "2"),
        ("data/y/z/1.jsonl:1", "3"),
    ]
    assert read(folder) == expected
    for pattern in ("**/*.jsonl", "**/**/*.jsonl", "**"):
        assert read(folder / pattern) == expected
    assert read(folder / "[wx]" / "*.jsonl") == [("data/x/1.jsonl:1", "2")]
    assert read(folder / "w" / "*.jsonl") == [("w/1.jsonl:1", "2")]  # as it was named
    (tmp_path / "link").symlink_to("data")
    assert [text for _, text in read(tmp_path / "link")] == ["1", "4", "5", "2", "3"]
    assert [text for _, text in read(tmp_path / "link" / "**" / "*.jsonl")] == ["1", "4", "5", "2", "3"]


def test_a_file_that_is_really_called_like_a_pattern(tmp_path: Path) -> None:
    shards(tmp_path, **{"a[1]_jsonl": ["real"], "a1_jsonl": ["fits"]})
    assert read(tmp_path / "a[1].jsonl") == [("a[1].jsonl:1", "real")]


def test_folders_that_are_no_shards(tmp_path: Path) -> None:
    folder = shards(tmp_path / "data", a_jsonl=["SECRET"])
    (folder / "b.csv").write_text("text\nSECRET\n")
    assert "got .csv and .jsonl; name them with a pattern, such as 'data/*.csv'" in refused(folder)
    (tmp_path / "empty").mkdir()
    assert "got none; check the path" in refused(tmp_path / "empty")
    (folder / "b.csv").unlink()
    os.mkfifo(folder / "b.jsonl")
    assert "b.jsonl: expected a regular file, got a named pipe" in refused(folder)
    (folder / "b.jsonl").unlink()
    (folder / "b.jsonl").symlink_to("gone.jsonl")
    assert "b.jsonl: expected a file, got no such file" in refused(folder)


def test_a_folder_that_was_hardly_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shards(tmp_path / "data", a_jsonl=["a"], b_jsonl=["b"], c__d_jsonl=["c"])
    assert len(read(folder)) == 3
    monkeypatch.setattr("spvmia_plugin.data.files.MOST_FILES", 3)
    assert "expected a folder of shards, got more than 3 entries below it" in refused(folder)


def test_an_error_in_a_shard_names_the_shard_and_its_row(tmp_path: Path) -> None:
    folder = shards(tmp_path / "data", a_jsonl=["a"] * 5, b_jsonl=["b"])
    (folder / "b.jsonl").write_text('{"text": "b"}\n{"text": "SECRET\n')
    assert f"{folder / 'b.jsonl'}, row 2: expected one JSON object a line" in refused(folder)


# --- one file of both classes ---


@pytest.mark.parametrize(("yes", "no"), [(1, 0), (True, False), ("1", "0"), (1.0, 0.0), ("member", "NonMember")])
def test_a_label_tells_the_classes_of_one_file_apart(tmp_path: Path, yes: object, no: object) -> None:
    rows = [("a", yes), ("b", no), ("c", yes), (None, None), ("d", no), ("", no)]
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps({"input": text, "label": label}) + "\n" for text, label in rows))
    assert read(path, "input", True) == [("d.jsonl:1", "a"), ("d.jsonl:3", "c")]
    assert read(path, "input", False) == [("d.jsonl:2", "b"), ("d.jsonl:5", "d")]
    assert len(read(path, "input")) == 4
    assert [read_documents(path, "input", option="o", member=m).empty_rows for m in (True, False)] == [1, 1]
    (tmp_path / "d.csv").write_text("label,input\n" + "".join(f"{label},{text or ''}\n" for text, label in rows[:3]))
    assert read(tmp_path / "d.csv", "input", True) == [("d.csv:1", "a"), ("d.csv:3", "c")]
    columns = zip(*rows, strict=True)
    if not isinstance(yes, str):
        pq.write_table(pa.table(dict(zip(("input", "label"), map(list, columns), strict=True))), tmp_path / "d.parquet")
        assert read(tmp_path / "d.parquet", "input", False) == [("d.parquet:2", "b"), ("d.parquet:5", "d")]


def test_labels_that_say_nothing(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text('{"input": "SECRET", "label": 2}\n')
    assert "row 1: expected 1 (a member) or 0 (none) in column 'label', got another int" in refused(path, "input", True)
    path.write_text('{"input": "SECRET", "label": null}\n')
    assert "got nothing" in refused(path, "input", True)
    path.write_text('{"input": "SECRET"}\n')
    assert "expected a column 'label', got 'input'; a file named in both mia_members and" in refused(
        path, "input", True
    )
    path.write_text('"SECRET"\n')
    assert "expected a column 'label', got none" in refused(path, "input", True)
    (tmp_path / "d.txt").write_text("SECRET\n")
    assert "expected a column 'label', got none" in refused(tmp_path / "d.txt", "text", False)
    path.write_text('{"input": "SECRET", "label": 0}\n')
    assert "expected at least one member with a text, got none" in refused(path, "input", True)


# --- what is no file, or does not end ---


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    for name, target in (("zero.jsonl", "/dev/zero"), ("null.csv", "/dev/null"), ("z.parquet.zst", "/dev/zero")):
        (tmp_path / name).symlink_to(target)
        assert "expected a regular file, got a device" in refused(tmp_path / name)
    os.mkfifo(tmp_path / "fifo.json")
    assert "expected a regular file, got a named pipe; name a file" in refused(tmp_path / "fifo.json")
    (tmp_path / "loop.txt").symlink_to("loop.txt")
    refused(tmp_path / "loop.txt")


def test_a_manifest_that_does_not_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.json")
    for path, what in ((Path("/dev/zero"), "a device"), (tmp_path / "fifo.json", "a named pipe")):
        with pytest.raises(SpvmiaError, match=f"^mia_manifest: {path}: expected a regular file, got {what}"):
            read_manifest(path)


@pytest.mark.parametrize("compression", [ending for ending in COMPRESS if ending])
@pytest.mark.parametrize("ending", [".jsonl", ".txt", ".csv", ".parquet", ".arrow"])
def test_a_damaged_compressed_file(tmp_path: Path, ending: str, compression: str) -> None:
    path = tmp_path / f"d{ending}{compression}"
    data = COMPRESS[compression](b"text\n" + random.Random(0).randbytes(3000).hex().encode())
    for broken in (data[:-9], data[: len(data) // 2], b"SECRET" + data):
        path.write_bytes(broken)
        assert f"expected a whole {compression} file, got a damaged one; write it anew" in refused(path)


@pytest.mark.parametrize("compression", [ending for ending in COMPRESS if ending])
def test_parts_of_a_compressed_file_may_be_empty(tmp_path: Path, compression: str) -> None:
    path = tmp_path / f"d.jsonl{compression}"
    path.write_bytes(b"".join(COMPRESS[compression](part) for part in (b'{"text": "a"}\n', b"", b'{"text": "b"}\n')))
    assert [document.text for document in read_documents(path, "text", option="o").documents] == ["a", "b"]


def test_names_of_columns_that_are_no_unicode(tmp_path: Path) -> None:
    table = pa.table({"text": ["a"], "n\u00e4me": [1]})
    pq.write_table(table, tmp_path / "d.parquet")
    with pa.OSFile(str(tmp_path / "d.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    for name in ("d.parquet", "d.arrow"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes().replace("n\u00e4me".encode(), b"n\xff\xfeme"))
        assert "got something else or a damaged one" in refused(path)


BOMB = "import sys; sys.path.insert(0, '.'); from tests.data.test_kinds import refused; print(refused(sys.argv[1]))"


@pytest.mark.parametrize("ending", [".txt", ".json", ".csv", ".parquet"])
@pytest.mark.parametrize("compression", [".gz", ".zst"])
def test_a_small_file_does_not_fill_the_memory(tmp_path: Path, ending: str, compression: str) -> None:
    path = tmp_path / f"bomb{ending}{compression}"
    one = COMPRESS[compression](b"[" + b" " * 2**24)
    path.write_bytes(one * 64)  # a gigabyte
    done = subprocess.run(
        [sys.executable, "-c", BOMB, str(path)], capture_output=True, text=True, check=True, preexec_fn=_limit
    )
    assert "expected at most 200 times the file's size of content, got more" in done.stdout


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30, 3 * 2**30))


def test_a_table_that_repeats_one_text_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "FREE_GROWTH", 10**6)
    pq.write_table(pa.table({"text": ["SECRET " * 1000] * 10_000}), tmp_path / "d.parquet")
    assert "expected at most 200 times the file's size of content" in refused(tmp_path / "d.parquet")


def test_a_table_that_lies_about_where_its_texts_are(tmp_path: Path) -> None:
    path = tmp_path / "d.arrow"
    table = pa.table({"text": ["one", "two", "three"]})
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)
    data = path.read_bytes()
    offsets = (0).to_bytes(4, "little") + (3).to_bytes(4, "little") + (6).to_bytes(4, "little")
    assert offsets in data
    path.write_bytes(data.replace(offsets, offsets[:8] + (2**30).to_bytes(4, "little")))
    assert "expected an Arrow file, got something else or a damaged one" in refused(path)


def test_no_copy_of_the_data_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    for name in ("HOME", "HF_HOME", "XDG_CACHE_HOME", "TMPDIR"):
        monkeypatch.setenv(name, str(home))
    home.mkdir()
    for kind, (ending, write) in KINDS.items():
        path = tmp_path / f"{abs(hash(kind))}{ending}.zst"
        path.write_bytes(COMPRESS[".zst"](write(TEXTS)))
        read(path)
    assert list(home.rglob("*")) == []


def test_the_delimiter_is_the_one_the_header_has(tmp_path: Path) -> None:
    for ending, delimiter in ((".csv", "|"), (".csv", "\t"), (".tsv", ","), (".tsv", ";")):
        path = tmp_path / f"d{ending}"
        path.write_text(delimited(["a,b;c\td|e"], delimiter))
        assert read(path) == [(f"{path.name}:1", "a,b;c\td|e")]
    (tmp_path / "d.csv").write_text("id;texts\n1;SECRET\n")
    assert "expected a column 'text', got none and 1 that look like data" in refused(tmp_path / "d.csv")


@pytest.mark.parametrize("mark", ["sep=;\n", "sep=;\r\n", "\ufeffSEP=;\r\n", '"sep=;"\n', "sep=|\n", "sep=\t\n"])
@pytest.mark.parametrize("ending", [".csv", ".tsv"])
def test_the_line_that_names_the_delimiter_is_no_header(tmp_path: Path, mark: str, ending: str) -> None:
    """Rows are counted from the header, as without it; the delimiter holds where another one would fit too."""
    between = mark.strip('\ufeff"\r\n')[-1]
    path = tmp_path / f"d{ending}"
    path.write_bytes(f"{mark}text{between}a,b c\n1, 2{between}x\n{between}y\n3{between}z\n".encode())
    assert read(path) == [(f"d{ending}:1", "1, 2"), (f"d{ending}:3", "3")]
    path.write_text("sep=^\ntext^SECRET\na^b\n")
    assert "expected a column 'text', got none and 1 that look like data" in refused(path)


def test_a_key_twice_within_a_row_is_refused(tmp_path: Path) -> None:
    """Readers of JSON differ in which of the two they take: the trainer's may be another one."""
    turns = '[{"role": "user", "role": "assistant", "content": "SECRET"}, {"role": "assistant", "content": "b"}]'
    deep = '[{"role": "user", "content": "SECRET"}, {"role": "assistant", "content": "b", "x": [{"y": 1, "y": 2}]}]'
    fine = json.dumps([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    path = tmp_path / "d.jsonl"
    for messages in (turns, deep):
        path.write_text(f'{{"messages": {fine}}}\n{{"messages": {messages}}}\n')
        assert "row 2: expected each key once in the objects of column 'messages', got one twice" in refused(path)
        path.write_text(json.dumps({"messages": messages}) + "\n")  # as text
        assert "row 1: expected each key once in the JSON of 'messages', got one twice" in refused(path)
        if hasattr(pa, "json_"):  # from pyarrow 19
            pq.write_table(pa.table({"messages": pa.array([messages], pa.json_())}), tmp_path / "d.parquet")
            told = refused(tmp_path / "d.parquet")
            assert "row 1: expected each key once in the objects of column 'messages'" in told
    path.write_text(f'{{"messages": {fine}, "unread": {{"a": 1, "a": 2}}}}\n')
    assert len(read(path)) == 1


def test_errors_of_the_disk_are_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: SourceFile) -> int:
        raise OSError(5, "Input/output error")

    for name in ("d.txt", "d.parquet", "d.csv.gz"):
        (tmp_path / name).write_bytes(b"")
        monkeypatch.setattr(SourceFile, "_descriptor", fail)
        assert "expected a readable file, got Input/output error" in refused(tmp_path / name)
