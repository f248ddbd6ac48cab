"""After a full run with logging on, no part of a private record lies anywhere but in the user's own file."""

from __future__ import annotations

import json
import os
import random
import stat
import subprocess
import sys
from contextlib import closing

import pytest
import yaml

from spvmia_plugin.data.manifest import MANIFEST_NAME
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.harness.enable import tasks_folder
from tests.leaks import Spans, leaks
from tests.tiny import save_tiny

from .conftest import write_jsonl

ALL = "mia_custom"


def private_texts(n=190, words=22, *, seed=5):
    """Texts of words that are made up and occur once; every fourth holds letters beyond ASCII, tabs and line breaks."""
    rng = random.Random(seed)
    texts = []
    for i in range(n):
        letters = "abcdefghijklmnopqrstuvwxyzäéßžø" if i % 4 == 0 else "abcdefghijklmnopqrstuvwxyz"
        made_up = ["".join(rng.choices(letters, k=rng.randint(4, 9))) for _ in range(words)]
        gaps = [rng.choice([" ", "  ", "\n", "\t"]) if i % 4 == 0 else " " for _ in range(words - 1)]
        texts.append("".join(word + gap for word, gap in zip(made_up, [*gaps, ""], strict=True)))
    return texts


class Place:
    """A user's machine in a folder: home, temporary files, caches, a private corpus, and what commands said."""

    def __init__(self, root):
        self.root, self.said = root, []
        self.corpus = root / "corpus.jsonl"
        self.texts = private_texts()
        self.corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in self.texts))
        self.base, self.target = save_tiny(root / "base"), root / "target"
        self.folders = {name: root / name for name in ("home", "tmp", "work", "cache", "hf")}
        for folder in self.folders.values():
            folder.mkdir()

    def run(self, *command, status=0):
        """`python -m ...` with everything it may write below `root`; all it says is kept."""
        environment = {
            **os.environ,
            "HOME": str(self.folders["home"]), "TMPDIR": str(self.folders["tmp"]), "HF_HOME": str(self.folders["hf"]),
            "XDG_CACHE_HOME": str(self.folders["home"] / "cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1", "PYTHONWARNINGS": "ignore",
        }  # fmt: skip
        for name in ("HF_DATASETS_CACHE", "TRANSFORMERS_CACHE"):
            environment.pop(name, None)
        done = subprocess.run(
            [sys.executable, "-m", *map(str, command)],
            capture_output=True, cwd=self.folders["work"], env=environment, check=False,
        )  # fmt: skip
        self.said += [done.stdout, done.stderr]
        assert done.returncode == status, done.stderr.decode()[-3000:]
        return done.stderr.decode()

    def audit(self, *tasks, status=0, target=None, **options):
        metadata = {"mia_cache_dir": str(self.folders["cache"]), **options}
        return self.run(
            "spvmia_plugin", "run", "run", "--model", "hf", "--device", "cpu", "--batch_size", "8",
            "--model_args", f"pretrained={self.base}" + (f",peft={target}" if target else ""),
            "--tasks", ",".join(tasks), "--log_samples", "--output_path", "results", "--verbosity", "DEBUG",
            "--metadata", json.dumps(metadata), status=status,
        )  # fmt: skip


SMALL = {
    "mia_self_prompts": 12, "mia_reference_epochs": 1, "mia_lora_rank": 4, "mia_perturbation": "causal",
    "mia_perturbations": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A target fine-tuned on private records, audited by every attack with samples logged, and several mistakes."""
    place = Place(tmp_path_factory.mktemp("machine"))
    place.run(
        "spvmia_plugin", "finetune", "--model", place.base, "--data", place.corpus, "--output", place.target,
        "--members", 40, "--nonmembers", 40, "--prompts", 30, "--canaries", 40, "--epochs", 1, "--lora-rank", 4,
        "--block-size", 0,
    )  # fmt: skip
    place.audit(ALL, "canary_audit_custom", target=place.target, **SMALL)
    return place


@pytest.mark.slow
def test_nothing_private_is_left_behind(place):
    spans = Spans(place.texts)
    places = [str(path.relative_to(place.root)) for path in place.root.rglob("*") if path.is_file()]
    group = yaml.safe_load((tasks_folder() / f"{ALL}.yaml").read_text())["task"]
    assert sum("samples_" in name for name in places) == len(group) + 1  # and that of the canaries
    assert any("references" in name for name in places)
    assert leaks(place.root, spans, aside=["self_prompts", "corpus.jsonl", "base", "wrong"]) == []
    assert [span for said in place.said for span in spans.in_bytes(said)] == []


@pytest.mark.slow
def test_changed_data_are_told_without_the_text(place, tmp_path):
    """The manifest's texts and the changed ones are both at hand when the message is made."""
    changed = tmp_path / "changed.jsonl"
    changed.write_text("".join(json.dumps({"text": text.upper()}) + "\n" for text in place.texts))
    said = place.audit("loss_mia_custom", status=1, target=place.target, mia_dataset_path=str(changed))
    assert said.strip().splitlines()[-1].startswith("mia_manifest: ")
    assert Spans([*place.texts, *(text.upper() for text in place.texts)]).in_bytes(said.encode()) == []


@pytest.mark.slow
def test_what_is_private_is_readable_by_its_owner_alone(place):
    """Manifest, store and key. Results are the harness's files."""
    cache, target = place.folders["cache"], place.target
    for path in [cache, *cache.rglob("*"), target, target / MANIFEST_NAME]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode & 0o077 == 0, (path, oct(mode))
    keys = [*place.root.rglob("*.key"), cache / "key"]
    assert len(keys) > 1
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in keys)


@pytest.mark.slow
def test_no_data_set_cache_holds_a_copy(place):
    assert [path for path in place.folders["hf"].rglob("*") if path.suffix in (".arrow", ".parquet")] == []


@pytest.mark.slow
def test_weights_are_safetensors_and_training_leaves_nothing(place):
    for folder in (place.target, place.folders["cache"]):
        suffixes = {path.suffix for path in folder.rglob("*") if path.is_file()}
        assert ".safetensors" in suffixes
        assert not suffixes & {".bin", ".pt", ".pth", ".pkl", ".ckpt"}, suffixes


@pytest.fixture
def private(tmp_path):
    """Members, non-members and prompts of the private corpus, in files."""
    folder = tmp_path / "private"
    folder.mkdir()
    texts = private_texts(120)
    parts = {"mia_members": texts[:40], "mia_nonmembers": texts[40:80], "mia_prompts": texts[80:]}
    return texts, {name: write_jsonl(folder / f"{name}.jsonl", part) for name, part in parts.items()}


def test_an_audit_holds_ids_alone(evaluate, options, private, tmp_path, capfd, caplog):
    """The fast part of the test of a whole machine above: results, samples, log, output and store of all attacks."""
    caplog.set_level("DEBUG")
    texts, files = private
    result = evaluate([ALL], {**options, **files, "mia_cache_dir": str(tmp_path / "cache")}, write_out=True)
    spans = Spans(texts)
    said = "".join(capfd.readouterr()) + caplog.text + json.dumps(result, default=str) + repr(result)
    assert "members.jsonl:1" in said
    assert spans.in_text(said) == []
    assert leaks(tmp_path, spans, aside=["self_prompts", "private"]) == []
    for path in [tmp_path / "cache", *(tmp_path / "cache").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def headless_csv(texts):
    """The first record stands where column names should."""
    return "x.csv", "".join(f'"{" ".join(text.split())}",{i}\n' for i, text in enumerate(texts))


def cut_json(texts):
    row = json.dumps({"text": texts[0]})
    return "x.jsonl", f"{row}\n{row[:-3]}\n"


def list_for_text(texts):
    return "x.jsonl", json.dumps({"text": [texts[0]]}) + "\n"


def text_as_column(texts):
    return "x.json", json.dumps([{text: 1} for text in texts])


def both_classes(texts):
    return "x.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in texts)


@pytest.mark.parametrize("mistake", [headless_csv, cut_json, list_for_text, text_as_column, both_classes])
def test_mistakes_are_told_without_the_text(evaluate, options, private, tmp_path, capfd, mistake):
    """What users get wrong, with the private text within reach of the message."""
    texts, files = private
    name, content = mistake(texts)
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(SpvmiaError, match=r"^mia_\w+: ") as error:
        evaluate(["loss_mia_custom"], {**options, **files, "mia_members": str(path), "mia_cache_dir": str(tmp_path)})
    said = str(error.value) + "".join(capfd.readouterr())
    assert Spans(texts).in_text(said) == []


class Detonator:
    """Pickles as a call that leaves a file behind."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("kind", ["adapter", "model"])
def test_no_pickle_is_unpacked(evaluate, options, base, adapter, tmp_path, kind):
    """A reference from elsewhere whose weights are a pickle that would run code."""
    import torch

    source, weights = (adapter, "adapter_model") if kind == "adapter" else (base, "model")
    folder = tmp_path / "reference"
    folder.mkdir()
    for path in source.iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    name = "adapter_model.bin" if kind == "adapter" else "pytorch_model.bin"
    boom = tmp_path / "boom"
    torch.save({"weight": Detonator(boom)}, folder / name)
    assert not (folder / f"{weights}.safetensors").exists()
    metadata = {**options, "mia_reference": str(folder), "mia_cache_dir": str(tmp_path / "cache")}
    with pytest.raises(SpvmiaError, match=r"^mia_reference: .*weights_only|^mia_reference: .*Weights only"):
        evaluate(["spv_mia_custom"], metadata)
    assert not boom.exists()


def test_the_search_finds_what_is_there(tmp_path):
    """In every form in which a text could be written, or the tests above prove nothing."""
    import sqlite3
    import zlib

    texts = private_texts(8)
    spans = Spans(texts)
    for i, written in enumerate(
        [
            texts[0].encode(),
            json.dumps({"text": texts[0]}).encode(),
            json.dumps([{"a": texts[1]}], ensure_ascii=False).encode(),
            texts[2].replace(" ", "\n\t ").encode("utf-16-le"),
            b"\0" + texts[3].encode("utf-16-be"),
            b"\xff\xfe\x00garbage" + " ".join(texts[4].split()[3:11]).encode() + b'"}\x00\xff',
        ]
    ):
        folder = tmp_path / str(i)
        folder.mkdir()
        (folder / "file").write_bytes(written)
        assert leaks(folder, spans), written
    with closing(sqlite3.connect(tmp_path / "store.sqlite")) as database, database:
        database.execute("CREATE TABLE t (value BLOB)")
        database.execute("INSERT INTO t VALUES (?)", (zlib.compress(texts[5].encode()),))
    assert leaks(tmp_path, spans, aside=map(str, range(6)))
    (tmp_path / "innocent").write_text(" ".join(texts[6].split()[:7]))
    assert leaks(tmp_path, spans, aside=[*map(str, range(6)), "store.sqlite"]) == []
