"""`parallelize=True,peft=` lets peft write over the model's own file: refused by our commands, found after others."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
from functools import partialmethod
from pathlib import Path
from types import SimpleNamespace

import pytest
from peft import PeftModel

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.harness.enable import launch
from spvmia_plugin.harness.prepare import prepare
from spvmia_plugin.models.intact import check_intact, weights_kept
from spvmia_plugin.training.base_model import load_model

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # of what goes wrong

ABOUT_TO = (
    r"parallelize: expected a model that the memory of the GPUs holds, got one of which \d+ weights .*max_cpu_memory"
)
OVERWRITTEN = (
    r"expected the weights of a model, got .*model.safetensors with those of a model and its adapter, .*put the"
)


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture
def here(base, tmp_path, monkeypatch):
    """A folder with a copy of the base in it, as the working directory."""
    from lm_eval.tasks import TaskManager

    shutil.copytree(base, tmp_path / "victim")
    monkeypatch.chdir(tmp_path)
    # None of the harness's own 10,000 tasks is asked for, and each command would read them all.
    monkeypatch.setattr(TaskManager, "__init__", partialmethod(TaskManager.__init__, include_defaults=False))
    return tmp_path


def load(pretrained, adapter, **arguments):
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(pretrained), peft=str(adapter), dtype="float32", device="cpu", **arguments)


@pytest.fixture(scope="module")
def offloads(base, adapter, tmp_path_factory):
    """What is installed puts a model on disk for which there is no GPU. accelerate 1.10 keeps it in memory."""
    with pytest.MonkeyPatch.context() as patch, weights_kept():
        patch.chdir(tmp_path_factory.mktemp("offloads"))
        try:
            load(base, adapter, parallelize=True)
        except SpvmiaError:
            return
    pytest.skip("what is installed keeps the model in memory, and nothing writes over its file")


@pytest.fixture
def overwritten(here, adapter, offloads):
    """The copy, after the harness has loaded it without a GPU: everything is on disk, then."""
    before = digest(here / "victim")
    with pytest.raises(NotImplementedError):  # after the harm is done
        load("victim", adapter, parallelize=True)
    assert digest(here / "victim") != before, "peft has stopped to write over models: intact.py may go"
    return here / "victim"


def test_it_still_happens_and_is_found_everywhere_where_models_are_loaded(overwritten, base, evaluate, options):
    check_intact("pretrained", base)
    with pytest.raises(SpvmiaError, match=f"pretrained: {OVERWRITTEN}"):
        check_intact("pretrained", str(overwritten))
    given = {**options, "mia_cache_dir": str(overwritten.parent / "store")}
    with pytest.raises(SpvmiaError, match=f"pretrained: {OVERWRITTEN}"):
        evaluate(["loss_mia_custom"], given, model_args={"pretrained": str(overwritten), "peft": None})
    for option, task in (("mia_base_model", "lira_base_mia_custom"), ("mia_reference", "spv_wbc_mia_custom")):
        with pytest.raises(SpvmiaError, match=f"{option}: {OVERWRITTEN}"):
            evaluate([task], {**given, option: str(overwritten)}, model_args={"peft": None})
    base_model = SimpleNamespace(name=str(overwritten))
    with pytest.raises(SpvmiaError, match=f"--model: {OVERWRITTEN}"):
        load_model(SimpleNamespace(dtype="auto", method="full", trust_remote_code=False), base_model)


def test_our_own_commands_do_not_let_it_happen(here, adapter, options, offloads):
    before, names = digest(here / "victim"), sorted(here.iterdir())
    original = PeftModel._update_offload
    arguments = f"pretrained=victim,peft={adapter},parallelize=True"
    with pytest.raises(SpvmiaError, match=ABOUT_TO):
        launch(["run", "--model", "hf", "--model_args", arguments, "--tasks", "loss_mia_custom", "--device", "cpu"])
    with pytest.raises(SpvmiaError, match=ABOUT_TO):
        prepare("hf", arguments, "spv_mia_custom", {**options, "mia_base_model": "victim"}, device="cpu")
    assert digest(here / "victim") == before
    assert sorted(path for path in here.iterdir() if path.name != "offload") == names
    assert PeftModel._update_offload is original


@pytest.mark.parametrize("form", ["mapping", "text"])
def test_nor_where_the_arguments_stand_in_a_file(here, adapter, form, offloads):
    """The harness reads it when the command line is long parsed; its arguments are a mapping or one text."""
    before = digest(here / "victim")
    arguments = {"pretrained": "victim", "peft": str(adapter), "parallelize": True}
    text = ",".join(f"{name}={value}" for name, value in arguments.items())
    settings = {
        "model": "hf",
        "model_args": arguments if form == "mapping" else text,
        "tasks": ["loss_mia_custom"],
        "device": "cpu",
    }
    (here / "settings.yaml").write_text(json.dumps(settings))  # JSON is YAML
    with pytest.raises(SpvmiaError, match=ABOUT_TO):
        launch(["run", "--config", "settings.yaml"])
    assert digest(here / "victim") == before


def test_with_room_in_the_memory_it_loads(here, adapter):
    from lm_eval.models.huggingface import HFLM

    room = {"max_memory_per_gpu": "1GiB", "gpus": 0, "max_cpu_memory": "1GiB"}
    if "cpu" not in HFLM._get_accelerate_args(SimpleNamespace(), parallelize=True, **room)["max_memory"]:
        pytest.skip("this lm_eval (0.5.0.dev1) reads max_cpu_memory to no end")
    before = digest(here / "victim")
    with weights_kept():
        load("victim", adapter, parallelize=True, max_cpu_memory="1GiB")
    assert digest(here / "victim") == before


@pytest.mark.parametrize("peft", ["none", "one that writes over nothing"])
def test_where_there_is_nothing_to_hold_back(monkeypatch, peft):
    if peft == "none":
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    else:
        monkeypatch.delattr(PeftModel, "_update_offload")
    with weights_kept():
        assert (peft == "none") is hasattr(PeftModel, "_update_offload")


def test_what_is_none_of_pefts_to_write_over_is_left_to_who_loads_it(base, adapter, tmp_path):
    for name in (object(), None, "some/model", "x" * 5000, str(adapter), tmp_path):
        check_intact("pretrained", name)
    shutil.copy(next(adapter.glob("adapter_model.safetensors")), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no such file")
    check_intact("pretrained", tmp_path)
