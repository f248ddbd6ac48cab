from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.perturb.causal import Causal
from spvmia_plugin.protocols import Neighbours, TokenEdits
from spvmia_plugin.records import Document
from spvmia_plugin.signals import Role
from tests.perturb.fakes import FakeBackend


def _of(config: AuditConfig, texts: list[Document], backend: FakeBackend | None = None) -> list[Neighbours]:
    return Causal(config).neighbours(texts, backend or FakeBackend())  # type: ignore[arg-type, return-value]


@settings(max_examples=60)
@given(
    length=st.integers(2, 200),
    rate=st.floats(0.001, 1),
    context=st.integers(2, 80),
    seed=st.integers(0, 9),
    lead=st.sampled_from([(), (97,)]),
)
def test_replaces_the_share_of_tokens(length: int, rate: float, context: int, seed: int, lead: tuple[int, ...]) -> None:
    backend = FakeBackend(max_length=context, context=lead)
    text = "".join(chr(97 + i % 26) for i in range(length))
    (found,) = _of(AuditConfig(mask_rate=rate, seed=seed), [Document("f:1", text)], backend)
    original, count = backend.encode(text), max(1, int(rate * length))
    count = min(count, length - (not lead))  # the first token is left alone where nothing stands before it
    assert len(found.variants) == 10
    assert found.mask_rate == count / length
    assert found.reason is None
    for variant in found.variants:
        assert isinstance(variant, TokenEdits)
        edited = variant.apply(original)
        changed = [i for i in range(length) if edited[i] != original[i]]
        assert tuple(changed) == variant.positions
        assert len(changed) == count


def test_one_pass_of_the_base_for_all_draws() -> None:
    backend = FakeBackend()
    texts = [Document("f:1", "short"), Document("f:2", "a longer text")]
    _of(AuditConfig(), texts, backend)
    ((role, sequences),) = backend.calls
    assert role is Role.BASE
    assert sequences == [backend.encode(text.text) for text in texts[::-1]]  # longest first


def test_every_position_can_be_chosen() -> None:
    (found,) = _of(AuditConfig(perturbations=100), [Document("f:1", "abcdefgh")])
    assert {p for v in found.variants if isinstance(v, TokenEdits) for p in v.positions} == set(range(8))


def test_long_texts_are_cut_where_the_context_ends() -> None:
    backend = FakeBackend(max_length=10)
    text = "abcdefghijklmnopqrstuvwxy"
    _of(AuditConfig(), [Document("f:1", text)], backend)
    ((_, sequences),) = backend.calls
    assert sequences == [backend.encode(part) for part in (text[:9], text[9:18], text[18:])]
    backend = FakeBackend(max_length=10, context=())
    _of(AuditConfig(), [Document("f:1", text)], backend)
    ((_, sequences),) = backend.calls  # every later window begins with a token that stands before its positions
    assert sequences == [backend.encode(part) for part in (text[:10], text[9:19], text[18:])]


def test_what_is_kept_are_texts() -> None:
    """Tokens that are a multiple of 3 are no text's own: every paraphrase has none of them, and its share of edits."""
    backend = FakeBackend()
    text = Document("f:1", "abcdefghijklmnopqrstuvwxyzabcd")
    original = backend.encode(text.text)

    def survives(token_ids: Sequence[int]) -> bool:
        return all(new % 3 for new, old in zip(token_ids, original, strict=True) if new != old)

    free = [v for n in _of(AuditConfig(perturbations=50), [text], backend) for v in n.variants]
    backend.survives = survives
    (found,) = _of(AuditConfig(perturbations=50), [text], backend)
    assert found.reason is None
    assert found.mask_rate == 6 / 30
    for before, edit in zip(free, found.variants, strict=True):
        assert isinstance(edit, TokenEdits)
        assert len(edit.positions) == 6
        assert edit.positions == tuple(sorted(set(edit.positions)))
        assert survives(edit.apply(original))
        assert isinstance(before, TokenEdits)
        assert (edit == before) is survives(before.apply(original))  # a draw that is a text is kept as it is


def test_paraphrases_that_cannot_be_found_are_told() -> None:
    backend = FakeBackend()
    text = Document("f:1", "abcdefghijklmnopqrst")
    original = backend.encode(text.text)
    backend.survives = lambda token_ids: list(token_ids) == original
    (none,) = _of(AuditConfig(perturbations=2), [text], backend)
    assert none.variants == ()
    assert none.reason == "0 of 4 paraphrases: other draws were no text's tokens"
    # One token of four may be replaced at most: too few. Two of four will do.
    for allowed, count in ((1, 0), (2, 4)):
        backend.survives = lambda token_ids, allowed=allowed: (
            sum(a != b for a, b in zip(token_ids, original, strict=True)) <= allowed
        )
        (found,) = _of(AuditConfig(perturbations=2), [text], backend)
        assert len(found.variants) == count
    assert found.mask_rate == 2 / 20
    backend.survives = lambda token_ids: False
    (unable,) = _of(AuditConfig(), [text], backend)
    assert unable.variants == ()
    assert unable.reason == "the record's text is not cut into its own tokens again"
    (single,) = _of(AuditConfig(), [Document("f:2", "a")], FakeBackend(context=()))
    assert single.reason == "no token that another one stands before"


@pytest.mark.parametrize("empty_first", [True, False])
def test_empty_text(empty_first: bool) -> None:
    texts = [Document("f:1", ""), Document("f:2", "abc")]
    found = _of(AuditConfig(), texts if empty_first else texts[::-1])
    empty = found[0 if empty_first else 1]
    assert empty.variants == ()
    assert empty.reason == "no tokens"
    assert math.isnan(empty.mask_rate)
    assert len(found[1 if empty_first else 0].variants) == 10
    assert _of(AuditConfig(), [Document("f:1", "")])[0].reason == "no tokens"


def test_depends_on_id_text_and_seed_alone() -> None:
    texts = [Document(f"f:{i}", "some text " * (i + 1)) for i in range(5)]
    found = _of(AuditConfig(), texts)
    assert _of(AuditConfig(), texts[::-1]) == found[::-1]
    assert [_of(AuditConfig(), [text])[0] for text in texts] == found
    assert _of(AuditConfig(seed=1), texts[:1]) != found[:1]
    assert _of(AuditConfig(), [Document("other:1", texts[0].text)]) != found[:1]


def test_hands_results_on_batch_by_batch_and_leaves_out_batches_that_are_there() -> None:
    texts = [Document(f"f:{i}", "x" * (40 + i % 2) if i else "") for i in range(130)]
    seen: list[dict[int, Neighbours]] = []

    def keep(batch: Mapping[int, Neighbours]) -> None:
        seen.append(dict(batch))

    kind, backend = Causal(AuditConfig()), FakeBackend()
    kind.check()
    whole = kind.neighbours(texts, backend, on_done=keep)  # type: ignore[arg-type]
    assert len(seen) == len(backend.calls) == 3  # one pass a batch
    assert {i: of_text for batch in seen for i, of_text in batch.items()} == dict(enumerate(whole))
    for lost in (next(iter(seen[1])), None):  # one text of the second batch, or none at all
        again = FakeBackend()
        done = set(range(130)) - {lost}
        made = kind.neighbours(texts, again, done=done)  # type: ignore[arg-type]
        expected = {} if lost is None else seen[1]
        assert {i: of_text for i, of_text in enumerate(made) if of_text is not None} == expected
        assert again.calls == backend.calls[1:2] * (lost is not None)


def test_settings() -> None:
    base = Causal(AuditConfig()).settings()
    others = (AuditConfig(seed=1), AuditConfig(mask_rate=0.1), AuditConfig(perturbations=1))
    assert all(Causal(other).settings() != base for other in others)
    assert Causal(AuditConfig(noise=0.5, mask_model="x")).settings() == base
