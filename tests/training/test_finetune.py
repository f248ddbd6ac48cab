from __future__ import annotations

import dataclasses
import json
import os
import pickle
import random
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.data.load import load_audit_data, load_canaries
from spvmia_plugin.data.manifest import MANIFEST_NAME, read_manifest, write_manifest
from spvmia_plugin.data.rows_read import RowsRead
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.records import Record
from spvmia_plugin.training.canaries import tossed
from spvmia_plugin.training.config import FinetuneConfig
from spvmia_plugin.training.finetune import UNFINISHED_NAME, _claim, finetune
from tests.data.builders import corpus, write_texts
from tests.data.kinds import COMPRESS
from tests.data.test_manifest_conversations import of_before, of_chats
from tests.tiny import save_tiny, tiny_texts


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


@pytest.fixture
def options(base: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "model": str(base),
        "data": str(corpus(tmp_path / "d.jsonl", 300)),
        "output": tmp_path / "target",
        "members": 24,
        "nonmembers": 22,
        "prompts": 21,
        "block_size": 32,
        "epochs": 1.0,
        "lora_rank": 4,
        "batch_size": 8,
        "quiet": True,
    }


def audited(target: Path) -> Any:
    def no_tokenizer() -> Any:
        raise AssertionError("a manifest needs no tokenizer")

    return load_audit_data(AuditConfig(), "custom", registry=None, tokenizer=no_tokenizer, target_dirs=[target])


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    (path,) = folder.glob("*.safetensors")
    return load_file(path)


def test_a_lora_target_has_an_adapter_and_a_private_manifest(options: dict[str, Any], base: Path) -> None:
    output = finetune(FinetuneConfig(**options))
    assert stat.S_IMODE(output.stat().st_mode) == 0o700
    assert stat.S_IMODE((output / MANIFEST_NAME).stat().st_mode) == 0o600
    adapter = json.loads((output / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == str(base)
    assert (adapter["r"], adapter["lora_alpha"], adapter["lora_dropout"]) == (4, 16, 0.1)
    assert not (output / UNFINISHED_NAME).exists()
    assert not (output / "training").exists()
    assert not list(output.rglob("*.bin"))
    manifest = read_manifest(output)
    assert manifest.base_model == str(base)
    assert {name: len(entries) for name, entries in manifest.records.items()} == {
        "members": 24,
        "nonmembers": 22,
        "prompts": 21,
        "canaries": 0,
    }
    assert manifest.training["steps"] == 3


def test_the_audit_reads_exactly_the_manifests_records(options: dict[str, Any], base: Path) -> None:
    from transformers import AutoTokenizer

    data = audited(finetune(FinetuneConfig(**options)))
    assert (len(data.members), len(data.nonmembers), len(data.prompts)) == (24, 22, 21)
    assert data.base_model == str(base)
    tokenizer = AutoTokenizer.from_pretrained(base)
    assert {len(tokenizer(record.text)["input_ids"]) for record in data.records} == {32}


@pytest.mark.parametrize("spec", ["[1] data", "[[]1] data/*.zst", "d*.jsonl"])
def test_shards_named_from_here_are_found_from_anywhere(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str
) -> None:
    """A folder with brackets in its name, a shard whose name is no UTF-8, the same rows in every shard."""
    here = tmp_path / "[x]"
    (here / "[1] data").mkdir(parents=True)
    for number in range(3):
        path = os.path.join(os.fsencode(here / "[1] data"), b"%d\xe9.jsonl.zst" % number)
        texts = tiny_texts(100, seed=number)
        with open(path, "wb") as file:
            file.write(COMPRESS[".zst"]("".join(json.dumps({"text": text}) + "\n" for text in texts).encode()))
        corpus(here / f"d{number}.jsonl", 100, seed=number)
    monkeypatch.chdir(here)
    output = finetune(FinetuneConfig(**{**options, "data": spec}))
    monkeypatch.chdir("/")
    data = audited(output)
    ids = {record.id.rpartition(":")[0] for record in data.records}
    name = "[x]/d{}.jsonl" if spec.startswith("d") else "[1] data/{}\\xe9.jsonl.zst"
    assert ids == {name.format(number) for number in range(3)}
    json.dumps(data.provenance, ensure_ascii=False).encode()


def test_only_the_members_are_trained_on(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Canaries are trained on if their coin says so; held-out records never."""
    import spvmia_plugin.training.trainer

    seen: list[list[int]] = []
    train = spvmia_plugin.training.trainer.train

    def spy(model: Any, sequences: Any, *args: Any, **kwargs: Any) -> Any:
        seen.extend(map(list, sequences))
        return train(model, sequences, *args, **kwargs)

    monkeypatch.setattr(spvmia_plugin.training.trainer, "train", spy)
    output = finetune(FinetuneConfig(**options, canaries=16))
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(options["model"])
    canaries = load_canaries(AuditConfig(), target_dirs=[output])
    included = [*audited(output).members, *canaries.members]
    assert sorted(seen) == sorted(tokenizer(record.text)["input_ids"] for record in included)
    assert 0 < len(canaries.members) < 16
    assert len(canaries.records) == 16


def test_coins_are_fair_and_follow_the_seed() -> None:
    canaries = [Record(f"d:{row}", "", False, f"d:{row}") for row in range(4000)]
    made = tossed(canaries, seed=0)
    assert made == tossed(canaries, seed=0)
    assert made != tossed(canaries, seed=1)
    assert [record.id for record in made] == [record.id for record in canaries]
    assert abs(sum(record.is_member for record in made) - 2000) < 4 * (4000 / 4) ** 0.5


def test_a_full_target_is_an_ordinary_model_folder(options: dict[str, Any], base: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    output = finetune(FinetuneConfig(**options | {"method": "full", "lr": 1e-2}))
    AutoTokenizer.from_pretrained(output)
    trained, start = AutoModelForCausalLM.from_pretrained(output), AutoModelForCausalLM.from_pretrained(base)
    changed = [(a - b).abs().max().item() for a, b in zip(trained.parameters(), start.parameters(), strict=True)]
    assert min(changed) > 0
    assert audited(output).membership == "manifest"


def test_a_torch_built_for_cuda_trains_on_the_cpu_where_there_is_no_card(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def named(check_available: bool = False) -> torch.device | None:
        return None if check_available else torch.device("cuda")

    monkeypatch.setattr(torch.accelerator, "current_accelerator", named)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 0)
    assert (finetune(FinetuneConfig(**options)) / "adapter_model.safetensors").is_file()


def test_the_same_run_twice_gives_the_same_bits_and_leaves_global_randomness_alone(options: dict[str, Any]) -> None:
    import numpy as np
    import torch

    states = [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]
    one = weights(finetune(FinetuneConfig(**options)))
    two = weights(finetune(FinetuneConfig(**options | {"output": options["output"].with_name("again")})))
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert states == [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]


def test_a_killed_run_continues_to_the_same_bits(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    from spvmia_plugin.training.trainer import TrainSettings, _Trainer

    monkeypatch.setattr(TrainSettings, "checkpoint_interval", lambda *_: 2)
    options |= {"epochs": 4.0, "lr": 1e-3}
    step, steps = _Trainer.training_step, 0

    def killed(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 8:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    whole = finetune(FinetuneConfig(**options | {"output": options["output"].with_name("whole")}))
    monkeypatch.setattr(_Trainer, "training_step", killed)
    with pytest.raises(KeyboardInterrupt):
        finetune(FinetuneConfig(**options))
    assert (options["output"] / UNFINISHED_NAME).is_file()
    assert not (options["output"] / MANIFEST_NAME).exists()
    output = finetune(FinetuneConfig(**options))
    assert read_manifest(output).training["resumed_at"] == 6
    one, two = weights(whole), weights(output)
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_equal_data_have_equal_fingerprints_in_every_target(options: dict[str, Any]) -> None:
    one = finetune(FinetuneConfig(**options))
    two = finetune(FinetuneConfig(**options | {"output": options["output"].with_name("b"), "lr": 1e-3}))
    other = finetune(FinetuneConfig(**options | {"output": options["output"].with_name("c"), "seed": 1}))
    assert audited(one).fingerprint == audited(two).fingerprint != audited(other).fingerprint


def test_what_is_said_names_counts_and_the_next_command_but_no_text(options: dict[str, Any], base: Path) -> None:
    said: list[str] = []
    output = finetune(FinetuneConfig(**options | {"quiet": False, "canaries": 10}), said.append)
    assert said[0].startswith("plan: 24 members, 22 non-members, 21 prompts, 10 canaries; lora training on ")
    assert said[1].startswith("estimate: ")
    assert said[-1] == (
        f"lm_eval --model hf --model_args pretrained={base},peft={output} --tasks mia_custom,canary_audit_custom "
        "--metadata mia_preset=quick,mia_self_prompts=24 --batch_size auto --output_path results --log_samples"
    )
    assert not any(word in " ".join(said) for word in ("refund", "ticket", "Monday"))


def test_a_slow_precision_is_told_before_the_plan(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spvmia_plugin.models.precision.is_slow_in", lambda dtype: True)
    said: list[str] = []
    finetune(FinetuneConfig(**options | {"quiet": False}), said.append)
    assert said[0].startswith("this CPU has no instructions for ")
    assert said[0].endswith("; the base is loaded in float32")
    assert said[1].startswith("plan: ")


def test_records_that_are_not_reached_are_told(options: dict[str, Any]) -> None:
    lines: list[str] = []
    output = finetune(FinetuneConfig(**{**options, "epochs": 0.4, "quiet": False}), lines.append)
    (line,) = [each for each in lines if each.startswith("warning")]
    assert line.startswith("warning: in 0.4 epochs the training reads about 16 of its 24 rows: members and canaries")
    manifest = read_manifest(output)
    assert (manifest.membership, manifest.partly_read) == ("declared", RowsRead(16 / 24, 16, 24))
    assert audited(output).provenance["rows_read"] == {"share": 16 / 24, "read": 16, "rows": 24}


def test_quiet_says_nothing(options: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    finetune(FinetuneConfig(**options))
    assert capsys.readouterr() == ("", "")


def test_whole_documents_are_cut_to_the_context(options: dict[str, Any], tmp_path: Path) -> None:
    texts = [f"{i} " + "long winter garden " * 200 for i in range(70)]
    data = write_texts(tmp_path / "long.jsonl", texts)
    output = finetune(FinetuneConfig(**options | {"data": str(data), "block_size": 0, "epochs": 0.1}))
    assert {record.text for record in audited(output).members} <= set(texts)


def test_prompts_default_to_what_is_left(options: dict[str, Any]) -> None:
    output = finetune(FinetuneConfig(**options | {"prompts": None, "members": 60, "block_size": 0, "nonmembers": 200}))
    assert len(read_manifest(output).records["prompts"]) == 40


# --- bad input ---


def refused(options: dict[str, Any], **changes: Any) -> str:
    with pytest.raises(SpvmiaError) as caught:
        finetune(FinetuneConfig(**options | changes))
    return str(caught.value)


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("method", "prefix", "--method: expected lora or full, got 'prefix'"),
        ("members", 19, "--members: expected a whole number >= 20 and <= 9223372036854775807, got 19"),
        ("nonmembers", 0, "--nonmembers: expected a whole number >= 20 and <= 9223372036854775807, got 0"),
        ("prompts", 0, "--prompts: expected a whole number >= 1 and <= 9223372036854775807, got 0"),
        ("canaries", -1, "--canaries: expected a whole number >= 0 and <= 9223372036854775807, got -1"),
        ("epochs", 0, "--epochs: expected a number > 0 and <= 1e+06, got 0"),
        ("epochs", 1e308, "--epochs: expected a number > 0 and <= 1e+06, got 1e+308"),
        ("lr", float("nan"), "--lr: expected a number > 0 and <= 1, got nan"),
        ("lora_rank", 0, "--lora-rank: expected a whole number >= 1 and <= 65536, got 0"),
        ("lora_alpha", -1.0, "--lora-alpha: expected a number > 0, got -1.0"),
        ("lora_dropout", 1.0, "--lora-dropout: expected a number >= 0 and < 1, got 1.0"),
        ("batch_size", 0, "--batch-size: expected a whole number >= 1 and <= 1000000, got 0"),
        ("block_size", 4, "--block-size: expected 0 or a whole number >= 8 and <= 1000000000, got 4"),
        ("seed", -1, "--seed: expected a whole number >= 0 and <= 9223372036854775807, got -1"),
        ("dtype", "int8", "--dtype: expected one of auto, float32, bfloat16, float16, got 'int8'"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], option: str, value: Any, expected: str) -> None:
    assert refused(options, **{option: value}).startswith(expected)


@pytest.mark.parametrize("format_", ["auto", "preference"])
def test_preferences_are_left_to_a_trainer_that_knows_them(
    options: dict[str, Any], tmp_path: Path, format_: str
) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "SECRET", "chosen": "SECRET", "rejected": "SECRET"}\n' * 90)
    message = refused(options, data=str(path), model="no/such", format=format_)
    assert message.startswith(
        "--data: expected texts or conversations, which 'spvmia finetune' trains on one by one, got"
    )
    assert "train with TRL's DPOTrainer, and name its files with mia_members and mia_nonmembers" in message
    assert "SECRET" not in message


def test_data_are_checked_before_a_model_is_looked_for(options: dict[str, Any]) -> None:
    assert refused(options, data="/gone.jsonl", model="no/such").startswith("--data: /gone.jsonl: expected a file")
    assert "expected a column 'body', got 'text'" in refused(options, text_column="body", model="no/such")
    assert refused(options, data="ag_news", model="no/such").startswith("--data: the hub cannot be reached")


def test_no_such_model(options: dict[str, Any], tmp_path: Path) -> None:
    assert refused(options, model="no/such").startswith("--model: no model with a tokenizer could be loaded from")
    assert not options["output"].exists()
    (tmp_path / "empty").mkdir()
    assert refused(options, model=str(tmp_path / "empty")).startswith("--model: no model with a tokenizer")
    shutil.copytree(options["model"], tmp_path / "damaged")
    (tmp_path / "damaged" / "tokenizer.json").write_text('{"truncated": ')
    assert refused(options, model=str(tmp_path / "damaged")).startswith("--model: no model with a tokenizer")


def test_a_model_without_weights(options: dict[str, Any], base: Path, tmp_path: Path) -> None:
    for path in base.iterdir():
        if path.suffix == ".json":
            (tmp_path / "bare").mkdir(exist_ok=True)
            (tmp_path / "bare" / path.name).write_bytes(path.read_bytes())
    message = refused(options, model=str(tmp_path / "bare"))
    assert message.startswith("--model: no causal language model could be loaded from")


def test_weights_that_would_run_code(options: dict[str, Any], base: Path, tmp_path: Path) -> None:
    """A pickle of more than tensors is refused by torch with an error of its own, which is told in one line."""
    folder = tmp_path / "pickled"
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    with (folder / "pytorch_model.bin").open("wb") as file:
        pickle.dump({"w": Path("x")}, file, protocol=2)
    message = refused(options, model=str(folder))
    assert message.startswith("--model: no causal language model could be loaded from")


def test_too_few_documents(options: dict[str, Any]) -> None:
    message = refused(options, members=5000)
    assert message.startswith("--members: ")
    assert "expected text for 5043 records of 32 tokens in all, got " in message
    assert "from 300 documents; lower --members" in message
    assert refused(options, block_size=0, prompts=290).startswith("--prompts: ")
    message = refused(options, block_size=0, members=270, nonmembers=25, prompts=None)
    assert "expected text for 315 documents in all, got 300" in message


def test_a_block_longer_than_the_context(options: dict[str, Any]) -> None:
    assert refused(options, block_size=300).startswith("--block-size: expected at most the 256 tokens of the model's")


def test_lora_targets_that_are_not_there(options: dict[str, Any]) -> None:
    assert refused(options, lora_targets="nothing").startswith("--lora-targets: expected modules of the model")


def test_lora_targets_as_asked(options: dict[str, Any]) -> None:
    output = finetune(FinetuneConfig(**options | {"lora_targets": "q_proj,o_proj"}))
    assert set(json.loads((output / "adapter_config.json").read_text())["target_modules"]) == {"q_proj", "o_proj"}
    output = finetune(
        FinetuneConfig(**options | {"lora_targets": "all-linear", "output": options["output"].with_name("all")})
    )
    targets = json.loads((output / "adapter_config.json").read_text())["target_modules"]
    every = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert set(targets) == every  # all linear modules, the output layer left out


def test_output_folders_that_are_taken(options: dict[str, Any], tmp_path: Path) -> None:
    output = options["output"]
    ending = f"in {output}; name another folder"
    output.mkdir()
    (output / "thesis.tex").write_text("")
    expected = "--output: expected an empty or new folder, or an unfinished run of the same settings, got "
    assert refused(options) == f"{expected}other files {ending}"
    (output / "thesis.tex").unlink()
    finetune(FinetuneConfig(**options))
    assert refused(options) == f"{expected}a finished run {ending}"
    (tmp_path / "file").write_text("")
    assert refused(options, output=tmp_path / "file").startswith("--output: expected a folder, got the file")


def test_an_unfinished_run_of_other_settings(options: dict[str, Any]) -> None:
    output = finetune(FinetuneConfig(**options))
    manifest = read_manifest(output)
    write_manifest(manifest, output / UNFINISHED_NAME)
    message = refused(options, lr=1e-3, epochs=2.0)
    assert message == (
        f"--output: expected an unfinished run of the same settings, got one in {output} that differs in "
        "--epochs, --lr; name another folder, or remove this one"
    )
    write_texts(Path(options["data"]), tiny_texts(300, seed=5))
    assert "that differs in the data" in refused(options)


def test_an_output_folder_that_cannot_be_made(options: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = refused(options, output=tmp_path / "file" / "target")
    assert message.startswith("--output: expected a folder that can be written, got")


def test_a_text_with_nothing_to_predict(options: dict[str, Any], tmp_path: Path) -> None:
    letters = [chr(code) for code in range(ord("!"), ord("!") + 50)]  # a token each
    data = write_texts(tmp_path / "short.jsonl", [*letters, *tiny_texts(13)])
    message = refused(options, data=str(data), block_size=0, members=22, nonmembers=20, prompts=21)
    assert message.startswith("--data: short.jsonl:")
    assert message.endswith(": expected at least 2 tokens to train on, got fewer; remove it")


def test_the_command_line(options: dict[str, Any]) -> None:
    from typer.testing import CliRunner

    from spvmia_plugin.cli.main import make_app

    arguments = [
        part
        for name, value in options.items()
        for part in ([f"--{name}"] if value is True else [f"--{name.replace('_', '-')}", str(value)])
    ]
    runner = CliRunner()
    result = runner.invoke(make_app(), ["finetune", *arguments])
    assert result.exit_code == 0, result.output
    assert len(audited(options["output"]).members) == 24
    result = runner.invoke(make_app(), ["finetune", *arguments])
    assert result.exit_code == 1
    assert result.stderr.startswith("--output: ")
    assert len(result.stderr.splitlines()) == 1


def test_a_run_of_conversations_that_an_earlier_version_began_is_refused_with_the_reason(tmp_path: Path) -> None:
    manifest = of_chats(tmp_path)
    before = of_before(manifest, tmp_path)
    (tmp_path / "out").mkdir()
    write_manifest(before, tmp_path / "out" / UNFINISHED_NAME)
    with pytest.raises(SpvmiaError, match="differs in the version that began it, which did not keep roles and tools"):
        _claim(tmp_path / "out", manifest)
    write_manifest(manifest, tmp_path / "out" / UNFINISHED_NAME)
    _claim(tmp_path / "out", manifest)
    with pytest.raises(SpvmiaError, match="differs in the data; name another"):
        _claim(tmp_path / "out", dataclasses.replace(manifest, fingerprint="0"))
