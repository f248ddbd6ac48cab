from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.perturb.masking import MaskTokens, load_mask_tokens
from tests.perturb.fakes import SENTINELS, fill_word, tiny_t5_tokenizer
from tests.tiny import save_tiny


@pytest.fixture(scope="module")
def tokens(t5: Path) -> MaskTokens:
    return load_mask_tokens(str(t5))


def _ids(tokens: MaskTokens, *names: str) -> list[int]:
    return [tokens.tokenizer.get_vocab()[name] for name in names]


def test_knows_sentinels_and_context(tokens: MaskTokens) -> None:
    assert tokens.sentinels == tuple(_ids(tokens, *(f"<extra_id_{k}>" for k in range(SENTINELS))))
    assert tokens.masks == SENTINELS - 1
    assert tokens.context == 512


def test_encodes_as_the_tokenizer_does(tokens: MaskTokens) -> None:
    whole = tokens.tokenizer("the <extra_id_0> dog <extra_id_1>")["input_ids"]
    assert tokens.encode(["the ", " dog ", ""]) == whole


@pytest.mark.parametrize("literal", ["<extra_id_0>", "<extra_id_3>", "</s>", "<pad>", "a<extra_id_1>b"])
def test_special_tokens_in_the_text_are_text(tokens: MaskTokens, literal: str) -> None:
    encoded = tokens.encode([f"{literal} is ", f" {literal}"])
    special = {*tokens.sentinels, *tokens.tokenizer.all_special_ids} - {tokens.tokenizer.unk_token_id}
    assert [token_id for token_id in encoded if token_id in special] == [
        tokens.sentinels[0],
        tokens.tokenizer.eos_token_id,
    ]


@pytest.mark.parametrize("text", ["", "\0", "\ud800", "שלום", "漢字", "\n \t"])
def test_encodes_whatever_a_text_may_hold(tokens: MaskTokens, text: str) -> None:
    assert tokens.encode([text, text]).count(tokens.sentinels[0]) == 1


@pytest.mark.parametrize(
    ("output", "masks", "fills"),
    [
        (["<extra_id_0>", "▁fill0a", "<extra_id_1>"], 1, ["fill0a"]),
        (["<extra_id_0>", "▁fill0a", "▁fill0b", "</s>"], 1, ["fill0a fill0b"]),
        (["<extra_id_0>", "▁fill0a"], 1, [None]),  # cut off
        (["<extra_id_0>", "<extra_id_1>", "▁fill1a", "<extra_id_2>"], 2, ["", "fill1a"]),
        (["<extra_id_1>", "▁fill1a", "<extra_id_0>", "▁fill0a", "</s>"], 2, ["fill0a", "fill1a"]),
        (["<extra_id_0>", "▁fill0a", "<extra_id_0>", "▁fill0b", "</s>"], 2, ["fill0a", None]),  # the first counts
        (["▁fill0a", "</s>", "<extra_id_0>", "▁fill0b", "</s>"], 1, [None]),
        (["<extra_id_0>", "<", "e", "x", "<extra_id_1>"], 1, ["<ex"]),
        ([], 2, [None, None]),
    ],
)
def test_finds_fills(tokens: MaskTokens, output: list[str], masks: int, fills: list[str | None]) -> None:
    assert tokens.fills(_ids(tokens, *output), masks) == fills


def test_finds_the_fills_a_regex_finds_in_well_formed_output(tokens: MaskTokens) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        masks = int(rng.integers(1, SENTINELS))
        names = []
        for k in range(masks):
            names += [f"<extra_id_{k}>", *("▁" + fill_word(k, c) for c in rng.choice(list("abcd"), rng.integers(3)))]
        output = _ids(tokens, *names, f"<extra_id_{masks}>")
        text = tokens.tokenizer.decode(output, skip_special_tokens=False)
        expected = [fill.strip() for fill in re.split(r"<extra_id_\d+>", text)[1:-1]]
        assert tokens.fills(output, masks) == expected


def test_identity_follows_the_weights(t5: Path, silent_t5: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(t5, copy)
    one, same, other = (load_mask_tokens(str(path)).identity() for path in (t5, copy, silent_t5))
    assert one["mask_model_revision"] == same["mask_model_revision"] != other["mask_model_revision"]


@pytest.mark.parametrize("name", ["missing-folder/of/no/model", "./nowhere"])
def test_a_model_that_is_not_there(name: str) -> None:
    with pytest.raises(SpvmiaError, match=r"^mia_mask_model: expected .* got .*; give a local folder"):
        load_mask_tokens(name)


def test_an_unreachable_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    def refuse(name: str, *, trust_remote_code: bool) -> None:
        raise OSError("We couldn't connect to the hub\nand so on")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", refuse)
    with pytest.raises(
        SpvmiaError, match=r"^mia_mask_model: .*'t5-base' \(OSError: We couldn't connect to the hub\); "
    ):
        load_mask_tokens("t5-base")


def test_a_folder_without_weights(t5: Path, tmp_path: Path) -> None:
    shutil.copytree(t5, tmp_path / "t5", ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(SpvmiaError, match=r"mia_mask_model: .*no \*\.safetensors"):
        load_mask_tokens(str(tmp_path / "t5"))


def test_a_causal_model(tmp_path: Path) -> None:
    with pytest.raises(SpvmiaError, match=r"mia_mask_model: expected a seq2seq .* of type 'llama' with 0 sentinels"):
        load_mask_tokens(str(save_tiny(tmp_path)))


def test_a_seq2seq_model_without_sentinels(t5: Path, tmp_path: Path) -> None:
    from transformers import T5Tokenizer

    shutil.copytree(t5, tmp_path / "t5", ignore=shutil.ignore_patterns("tokenizer*", "special*"))
    T5Tokenizer(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)], extra_ids=0).save_pretrained(tmp_path / "t5")
    with pytest.raises(SpvmiaError, match="of type 't5' with 0 sentinels"):
        load_mask_tokens(str(tmp_path / "t5"))


def test_the_tests_own_tokenizer_is_a_real_one() -> None:
    assert type(tiny_t5_tokenizer()).__name__ == "T5Tokenizer"
