from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.perturb.mask_fill import CHUNK, CHUNK_DEVICE, RETRIES, FillRow, MaskFill, MaskModel
from spvmia_plugin.protocols import Neighbours, TextEdits
from spvmia_plugin.records import Document
from tests.perturb.fakes import FakeBackend, save_t5
from tests.tiny import tiny_texts


def _documents(texts: Sequence[str]) -> list[Document]:
    return [Document(f"file:{row}", text) for row, text in enumerate(texts, 1)]


def _neighbours(folder: Path, texts: Sequence[str], *, released: bool = False, **options: Any) -> list[Neighbours]:
    attack_options = {"mia_spv_variant": "released"} if released else {}
    config = AuditConfig(mask_model=str(folder), attack_options=attack_options, **{"perturbations": 2, **options})
    return MaskFill(config).neighbours(_documents(texts), FakeBackend())  # type: ignore[arg-type]


def _check(text: str, found: Neighbours) -> None:
    """Variants are edits, ascending and within the text, with other words than were there."""
    for variant in found.variants:
        assert isinstance(variant, TextEdits)
        expected, last = text, len(text)
        for start, end, words in reversed(variant.spans):
            assert 0 <= start < end <= last
            assert words == words.strip() != text[start:end]
            expected, last = expected[:start] + words + expected[end:], start
        assert variant.apply(text) == expected


@pytest.mark.parametrize("released", [False, True])
def test_2n_different_paraphrases(t5: Path, released: bool) -> None:
    texts = tiny_texts(5, words=(30, 40))
    for text, found in zip(texts, _neighbours(t5, texts, released=released), strict=True):
        _check(text, found)
        assert found.reason is None
        assert len({variant.apply(text) for variant in found.variants if isinstance(variant, TextEdits)}) == 4


def test_paper_changes_the_share_of_words(t5: Path) -> None:
    texts = tiny_texts(4, words=(20, 50))
    for text, found in zip(texts, _neighbours(t5, texts, mask_rate=0.3), strict=True):
        words = len(text.split())
        assert found.mask_rate == pytest.approx(int(0.3 * words) / words)
        for variant in found.variants:
            assert isinstance(variant, TextEdits)
            assert sum(len(text[a:b].split()) for a, b, _ in variant.spans) == int(0.3 * words)


def test_released_changes_fewer(t5: Path) -> None:
    text = " ".join(f"w{i}" for i in range(40))
    (found,) = _neighbours(t5, [text], released=True, mask_rate=0.9)
    assert found.mask_rate == pytest.approx(2 * 3 / 40)  # int(0.3 * 40 / 4) spans of two
    assert all(isinstance(v, TextEdits) and len(v.spans) == 3 for v in found.variants)


@pytest.mark.parametrize("released", [False, True])
def test_same_again_and_other_with_another_seed_or_id(t5: Path, released: bool) -> None:
    texts = tiny_texts(3, words=(20, 30))
    once = _neighbours(t5, texts, released=released)
    assert _neighbours(t5, texts, released=released) == once
    assert all(a != b for a, b in zip(once, _neighbours(t5, texts, released=released, seed=1), strict=True))
    same_text = _neighbours(t5, [texts[0]] * 2, released=released)
    assert same_text[0] == once[0] != same_text[1]


def test_does_not_depend_on_the_other_texts(t5: Path) -> None:
    documents = _documents(tiny_texts(3, words=(5, 40)))
    kind = MaskFill(AuditConfig(mask_model=str(t5), perturbations=3))
    together = kind.neighbours(documents, FakeBackend())  # type: ignore[arg-type]
    for document, found in zip(documents, together, strict=True):
        assert kind.neighbours([document], FakeBackend()) == [found]  # type: ignore[arg-type]


ODD = {
    "one word": "one",
    "white space around": " \n one \t",
    "no spaces": "漢字だけの文章です",
    "a very long word": "x" * 5000,
    "right to left": "שלום עולם זה טקסט מימין לשמאל",
    "NUL": "nul\0in the\0middle of \0 it",
    "special tokens": "a <extra_id_0> b <extra_id_1> c </s> d <pad> <extra_id_0> e",
    "lone surrogate": "\ud800 lone surrogate half",
    "line ends": "a\nb\r\nc\u2028d e",
    "long": "word " * 700,
}


@pytest.mark.parametrize("rate", [0.2, 1.0])
def test_any_text(t5: Path, rate: float) -> None:
    for text, found in zip(
        ODD.values(), _neighbours(t5, [*ODD.values()], mask_rate=rate, perturbations=1), strict=True
    ):
        _check(text, found)
        assert len(found.variants) == 2
        assert rate / 2 <= found.mask_rate <= 1
        assert rate < 1 or found.mask_rate == 1


def test_text_that_looks_like_a_sentinel_stays(t5: Path) -> None:
    text = "<extra_id_0> <extra_id_1> keep <extra_id_2> these <extra_id_0> marks </s>"
    (found,) = _neighbours(t5, [text], mask_rate=0.1)
    for variant in found.variants:
        assert isinstance(variant, TextEdits)
        ((start, end, words),) = variant.spans
        assert words.startswith("fill0")
        assert variant.apply(text) == text[:start] + words + text[end:]


@pytest.mark.parametrize("text", ["", " ", "\n\t\u3000"])
def test_no_words_is_a_reason(t5: Path, text: str) -> None:
    (found,) = _neighbours(t5, [text])
    assert found.variants == ()
    assert found.reason == "no words"
    assert math.isnan(found.mask_rate)


@pytest.mark.parametrize(("text", "variants"), [("", 0), ("漢字" * 40, 0), ("w " * 12 + "w", 0), ("w " * 13 + "w", 4)])
def test_released_needs_14_words(t5: Path, text: str, variants: int) -> None:
    (found,) = _neighbours(t5, [text], released=True)
    assert len(found.variants) == variants
    assert (found.reason is None) == bool(variants)
    if not variants:
        assert found.reason == "fewer than 14 words, which the released code never perturbs"


def test_released_takes_empty_words_between_spaces(t5: Path) -> None:
    text = "  two  spaces   everywhere  in this  text   so  that words  are empty "
    for variant in _neighbours(t5, [text], released=True, perturbations=5)[0].variants:
        assert isinstance(variant, TextEdits)
        for start, end, _ in variant.spans:
            assert text[start:end].count(" ") == 1
            assert start == 0 or text[start - 1] == " "
            assert text[end] == " "


def test_long_texts_are_read_in_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.perturb.fakes import tiny_t5_tokenizer, transitions

    folder = save_t5(tmp_path, transitions(tiny_t5_tokenizer()), context=40)
    rows = _watch(monkeypatch)
    text = " ".join(["ab"] * 150)
    (found,) = _neighbours(folder, [text], perturbations=1)
    _check(text, found)
    assert found.reason is None
    assert found.mask_rate == pytest.approx(0.2)
    assert len(rows[0]) > 2 * 10
    assert all(len(row.token_ids) <= 40 for row in rows[0])


def test_more_masks_than_sentinels(t5: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = _watch(monkeypatch)
    text = " ".join(["a"] * 60)
    (found,) = _neighbours(t5, [text], perturbations=1, mask_rate=1.0)
    assert found.mask_rate == 1
    assert sorted(row.masks for row in rows[0]) == [7, 7, 7, 7, 8, 8, 8, 8]  # 2 draws of 30 spans, 11 at most at once


def _watch(monkeypatch: pytest.MonkeyPatch) -> list[list[FillRow]]:
    """The rows of every round, as the mask model gets them."""
    calls: list[list[FillRow]] = []
    fill = MaskModel.fill

    def watched(self: MaskModel, rows: Sequence[FillRow]) -> list[list[str | None]]:
        calls.append(list(rows))
        return fill(self, rows)

    monkeypatch.setattr(MaskModel, "fill", watched)
    return calls


def test_missing_fills_are_drawn_anew_and_then_left(stuttering_t5: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = _watch(monkeypatch)
    texts = tiny_texts(2, words=(60, 60))  # 6 masks, filled in full once in 32 times
    found = _neighbours(stuttering_t5, texts, perturbations=5)
    assert len(rows) == 1 + RETRIES
    assert len(rows[0]) == 20
    assert [len(call) for call in rows] == sorted((len(call) for call in rows), reverse=True)
    assert {row.seed for row in rows[0]}.isdisjoint(row.seed for call in rows[1:] for row in call)
    for text, of_text in zip(texts, found, strict=True):
        _check(text, of_text)
        assert len(of_text.variants) == 10
        partial = [v for v in of_text.variants if isinstance(v, TextEdits) and len(v.spans) < 6]
        assert of_text.reason == f"{len(partial)} of 10 filled in part in 9 tries"
        assert 0 < of_text.mask_rate < 0.2


def test_a_model_that_fills_nothing(silent_t5: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = _watch(monkeypatch)
    found = _neighbours(silent_t5, tiny_texts(2, words=(20, 20)))
    assert len(rows) == 1 + RETRIES
    assert all(of_text.variants == () and "no mask filled" in str(of_text.reason) for of_text in found)
    assert all(math.isnan(of_text.mask_rate) for of_text in found)


def test_the_words_that_were_there_are_no_paraphrase(monotonous_t5: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = _watch(monkeypatch)
    (found,) = _neighbours(monotonous_t5, ["fill0a"])
    assert len(rows) == 1 + RETRIES
    assert found.variants == ()
    assert found.reason is not None
    # Where one of two fills is as before, it is left out of the edits, so that no original word is stored.
    (found,) = _neighbours(monotonous_t5, ["fill0a other words"], mask_rate=1.0, perturbations=5)
    _check("fill0a other words", found)
    spans = {variant.spans for variant in found.variants if isinstance(variant, TextEdits)}
    assert spans == {((7, 18, "fill1a"),), ((0, 12, "fill0a"), (13, 18, "fill1a"))}
    assert found.mask_rate < 1


def test_released_takes_unchanged_and_empty_fills_as_they_come(monotonous_t5: Path, tmp_path: Path) -> None:
    (found,) = _neighbours(monotonous_t5, ["fill0a" + " fill0a" * 13], released=True)
    assert len(found.variants) == 4
    empty = save_t5(tmp_path, {"<pad>": {"<extra_id_0>": 1.0}, "<extra_id_0>": {"<extra_id_1>": 1.0}})
    text = "a b c d e f g h i j k l m n"
    (found,) = _neighbours(empty, [text], released=True)
    assert found.reason is None
    assert all(isinstance(v, TextEdits) and len(v.apply(text)) == len(text) - 3 for v in found.variants)
    (found,) = _neighbours(empty, [text])
    assert found.variants == ()


def test_hands_results_on_as_chunks_finish(t5: Path) -> None:
    chunk = CHUNK["cpu"]
    assert chunk < CHUNK_DEVICE
    texts = ["", *(f"text{i} of a few more words " + "and on " * (i % 5) for i in range(chunk + 6))]
    seen: list[dict[int, Neighbours]] = []

    def keep(batch: Mapping[int, Neighbours]) -> None:
        seen.append(dict(batch))

    config = AuditConfig(mask_model=str(t5), perturbations=1)
    found = MaskFill(config).neighbours(_documents(texts), FakeBackend(), on_done=keep)  # type: ignore[arg-type]
    assert [len(batch) for batch in seen] == [1, chunk, 6]
    assert {i: of_text for batch in seen for i, of_text in batch.items()} == dict(enumerate(found))
    lost = next(iter(seen[2]))
    rest, seen = seen[2], []
    kind = MaskFill(config)
    kind.neighbours(_documents(texts), FakeBackend(), on_done=keep, done=set(range(len(texts))) - {lost})  # type: ignore[arg-type]
    assert seen == [rest]  # its whole chunk, as before


def test_settings_hold_what_changes_results(t5: Path, silent_t5: Path) -> None:
    def settings(folder: Path = t5, **options: Any) -> dict[str, object]:
        return MaskFill(AuditConfig(mask_model=str(folder), **options)).settings()

    base = settings()
    released = {"mia_spv_variant": "released"}
    others: list[dict[str, Any]] = [
        {"seed": 1}, {"perturbations": 4}, {"mask_rate": 0.3}, {"folder": silent_t5}, {"attack_options": released},
    ]  # fmt: skip
    assert all(settings(**other) != base for other in others)
    assert settings(noise=0.7, self_prompts=7) == base
    assert settings(attack_options=released, mask_rate=0.9) == settings(attack_options=released)


def test_check_names_the_option() -> None:
    with pytest.raises(SpvmiaError, match="mia_mask_model"):
        MaskFill(AuditConfig(mask_model="./nowhere")).check()
