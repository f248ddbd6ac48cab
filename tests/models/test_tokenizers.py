"""One walk through packing, scoring, training, sampling and decoding with tokenizers of every habit."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from spvmia_plugin.auditing.sequences import Inputs
from spvmia_plugin.checks.preconditions import check_tokenisation
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.data.packing import fast_tokenize, pack
from spvmia_plugin.data.tokenisation import PROBES, Reading, frame_around, padding_id, probe_digest
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.models import torch_backend
from spvmia_plugin.models.hf_backend import HFBackend
from spvmia_plugin.protocols import Frame, ScoreInput
from spvmia_plugin.records import AuditData, Document, Record
from spvmia_plugin.signals import Role, View
from spvmia_plugin.training import lora
from spvmia_plugin.training.self_prompt import self_prompt
from tests.models.models import harness_lm, naive, rolling
from tests.tiny import END, tiny_texts, tiny_tokenizer

BOS, EOS, PAD = "<|bos|>", "<|eos|>", "[PAD]"
TEXTS = tiny_texts(12, words=(8, 14))


def with_template(single: str):
    """A fast tokenizer that puts special tokens around a text by a template."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = tiny_tokenizer(vocab_size=390)
    tokenizer.add_special_tokens({"bos_token": BOS, "eos_token": EOS})
    specials = [(token, tokenizer.convert_tokens_to_ids(token)) for token in (BOS, EOS)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=single, special_tokens=specials)
    return tokenizer


def prefix_space():
    from tokenizers import decoders, pre_tokenizers

    tokenizer = tiny_tokenizer(vocab_size=390)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.backend_tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def neither():
    tokenizer = tiny_tokenizer(vocab_size=390)
    for name in ("bos_token", "eos_token", "pad_token"):
        setattr(tokenizer, name, None)
    return tokenizer


def added_pad():
    """[PAD] was added to the tokenizer, and the model's embeddings were left as they are."""
    tokenizer = tiny_tokenizer(vocab_size=400)
    tokenizer.add_special_tokens({"pad_token": PAD})
    return tokenizer


def slow_only(tmp_path):
    """A tokenizer without a fast twin: words, and a BOS of its own doing."""
    from transformers import PythonBackend

    class Slow(PythonBackend):
        vocab_files_names = {"vocab_file": "v.json"}  # noqa: RUF012

        def __init__(self, vocab_file, **kwargs):
            with open(vocab_file, encoding="utf-8") as file:
                self.words = json.load(file)
            super().__init__(**kwargs)

        @property
        def vocab_size(self):
            return len(self.words)

        def get_vocab(self):
            return {**{word: i for i, word in enumerate(self.words)}, **self.added_tokens_encoder}

        def _tokenize(self, text, **_):
            return list(text)

        def _convert_token_to_id(self, token):
            return self.words.index(token) if token in self.words else self.words.index("?")

        def _convert_id_to_token(self, index):
            return self.words[index]

        def convert_tokens_to_string(self, tokens):
            return "".join(tokens)

        def build_inputs_with_special_tokens(self, token_ids_0, token_ids_1=None):
            return [self.bos_token_id, *token_ids_0]

    words = [BOS, *map(chr, range(32, 127)), *"\t\nïé東京😀–“”"]
    (tmp_path / "v.json").write_text(json.dumps(words))
    return Slow(str(tmp_path / "v.json"), bos_token=BOS, eos_token=BOS, pad_token=BOS, model_max_length=256)


ZOO = {
    "adds nothing": lambda _: tiny_tokenizer(vocab_size=390),
    "adds BOS": lambda _: with_template(f"{BOS} $A"),
    "adds EOS": lambda _: with_template(f"$A {EOS}"),
    "adds both": lambda _: with_template(f"{BOS} $A {EOS}"),
    "adds two before": lambda _: with_template(f"{BOS} {EOS} $A"),
    "adds another BOS than the prefix token": lambda _: with_template(f"{EOS} $A"),
    "prefix space": lambda _: prefix_space(),
    "neither BOS nor EOS": lambda _: neither(),
    "added PAD": lambda _: added_pad(),
    "slow only": slow_only,
}
FRAMES = {
    "adds BOS": ([BOS], []),
    "adds EOS": ([], [EOS]),
    "adds both": ([BOS], [EOS]),
    "adds two before": ([BOS, EOS], []),
    "adds another BOS than the prefix token": ([EOS], []),
    "slow only": ([BOS], []),
}


@pytest.fixture(params=sorted(ZOO))
def zoo(request, models, tmp_path):
    """The harness's LM, its tokenizer exchanged for one of the zoo, and the name of that."""
    lm = copy.copy(harness_lm(models, "lora"))
    lm.tokenizer = ZOO[request.param](tmp_path)
    return lm, request.param


def naturals(tokenizer, texts):
    """What a trainer feeds to a model, asked of the tokenizer itself."""
    return [list(tokenizer(text)["input_ids"]) for text in texts]


def test_every_room_reads_a_text_alike(zoo, monkeypatch, tmp_path):
    lm, name = zoo
    tokenizer = lm.tokenizer
    backend = HFBackend(lm, AuditConfig(self_prompts=4, prompt_tokens=5, block_size=16, temperature=0.7))
    before, after = ([tokenizer.convert_tokens_to_ids(t) for t in part] for part in FRAMES.get(name, ([], [])))
    texts = [*TEXTS, f"{END} a ticket", *([BOS + " a ticket"] if BOS in tokenizer.get_vocab() else [])]
    wanted = naturals(tokenizer, texts)

    # Scoring reads what a trainer feeds, and scores all of it but what the tokenizer puts before a text.
    data = AuditData(
        records=tuple(Record(f"f:{i}", text, bool(i % 2), f"f:{i}") for i, text in enumerate(texts)),
        prompts=tuple(Document(f"p:{i}", text) for i, text in enumerate(TEXTS)),
        candidate=(),
        membership="declared",
        fingerprint="f",
        source="made",
        block_size=0,
    )
    rooms = Inputs(backend, data, shots=2)
    items = [rooms.of(record, View.TEXT).item for record in data.records]
    assert [[*item.context_ids, *item.token_ids] for item in items] == wanted
    assert all(item.context_ids == tuple(before) for item in items)
    assert backend.frame("any") == Frame(tuple(before), (), tuple(after))
    for item, signals in zip(items, backend.score(Role.TARGET, items, moments=False), strict=True):
        assert len(signals) == len(item.token_ids) - (not before)
        assert signals.logprob == pytest.approx(naive(lm.model, item)[0].numpy(), abs=1e-4)

    # ReCaLL's prefix holds texts, with what the tokenizer adds once around all of it.
    prefixed = rooms.of(data.records[0], View.PREFIXED).item
    assert prefixed.context_ids[: len(before)] == tuple(before)
    inside = [*prefixed.context_ids[len(before) :], *prefixed.token_ids[: len(prefixed.token_ids) - len(after)]]
    specials = {tokenizer.convert_tokens_to_ids(t) for t in (BOS, EOS) if t in tokenizer.get_vocab()}
    assert not specials & set(inside)

    # Training feeds the same.
    fed = []
    monkeypatch.setattr(
        torch_backend, "train_lora", lambda host, sequences, *_, **options: fed.append((sequences, options))
    )
    with pytest.raises(TypeError):  # what comes after training is not the question
        backend.train_reference(texts, tmp_path / "reference")
    assert fed[0][0] == wanted
    assert 0 <= fed[0][1]["pad_token_id"] < lm.model.get_input_embeddings().weight.shape[0]
    assert lora.train_lora is not torch_backend.train_lora

    # Packing cuts texts of exactly so many tokens of their own.
    if tokenizer.is_fast:
        documents = [Document(f"d:{i}", text) for i, text in enumerate(TEXTS)]
        blocks = pack(documents, fast_tokenize(tokenizer), 16).records
        assert blocks
        cut = [Record(b.id, b.text, True, b.cluster) for b in blocks]
        assert all(len(backend.encode(record.text)) == 16 for record in cut)
        provenance = {
            "tokenizer": probe_digest(Reading(tokenizer).body),
            "frame": {"before": before, "after": after},
        }
        audited = AuditData(tuple(cut), (), (), "manifest", "f", "made", 16, provenance=provenance)
        assert check_tokenisation(audited, cut, backend.encode, backend.frame("")) == []

    # Sampling goes on from what a trainer feeds: the lead, then the text's own first tokens.
    read = []
    forward = type(lm.model).forward
    monkeypatch.setattr(
        type(lm.model), "forward", lambda self, *a, **k: (read.append(k.get("input_ids")), forward(self, *a, **k))[1]
    )
    written = self_prompt(backend, data.prompts, AuditConfig(self_prompts=4, prompt_tokens=5, block_size=16))
    heads = [[*before, *backend.encode(text)[:5]] for text in TEXTS[:4]]
    first = next(ids for ids in read if ids is not None and ids.shape == (4, len(heads[0])))
    assert first.tolist() == heads

    # Decoding gives the text back, without special tokens, and nothing tidied up.
    for text in (TEXTS[0], "a , b . c n't"):
        assert backend.decode(naturals(tokenizer, [text])[0]).strip() == text
    assert not any(special in text for special in (BOS, EOS) for text in written)


def test_the_harness_context_on_request(zoo):
    lm, name = zoo
    if name == "neither BOS nor EOS":
        with pytest.raises(SpvmiaError, match="mia_prefix: harness expects a tokenizer with a BOS or EOS"):
            HFBackend(lm, AuditConfig(prefix="harness"))
        return
    backend = HFBackend(lm, AuditConfig(prefix="harness"))
    texts = [*TEXTS[:4], lm.tokenizer.decode([lm.prefix_token_id]) + " a ticket"]
    items = []
    for text in texts:
        frame = backend.frame(text)
        items.append(ScoreInput((*frame.before, *backend.encode(text), *frame.after), frame.context))
    found = [float(s.logprob.sum()) for s in backend.score(Role.TARGET, items, moments=False)]
    assert found == pytest.approx(rolling(lm, texts), rel=1e-4)


def test_another_context_than_that_of_the_training_is_told(models):
    lm = harness_lm(models, "full")
    record = Record("f:1", TEXTS[0], True, "f:1")
    provenance = {"tokenizer": probe_digest(Reading(lm.tokenizer).body), "frame": {"before": [], "after": []}}
    data = AuditData((record,), (), (), "manifest", "f", "made", 0, provenance=provenance)
    harness = HFBackend(lm, AuditConfig(prefix="harness"))
    (finding,) = check_tokenisation(data, data.records, harness.encode, harness.frame(""))
    assert finding.code == "context_changed"
    assert f"with the tokens [{lm.prefix_token_id}] before and [] after" in finding.message
    lm.tokenizer = with_template(f"{BOS} $A {EOS}")
    appended = HFBackend(lm, AuditConfig())
    codes = [f.code for f in check_tokenisation(data, data.records, appended.encode, appended.frame(""))]
    assert codes == ["context_changed"]


def test_a_tokenizer_that_reads_a_text_differently_with_its_specials_is_refused():
    class Odd:
        def __call__(self, text, add_special_tokens=True, **_):
            ids = list(map(ord, text))
            return {"input_ids": ids[::-1] if add_special_tokens else ids}

    with pytest.raises(SpvmiaError, match="tokenizer: expected one that puts its own tokens around those of a text"):
        Reading(Odd())
    assert frame_around([1, 2], [7, 1, 2, 1, 2, 8]) == Frame((7,), (), (1, 2, 8))
    assert frame_around([], [7]) == Frame((), (), (7,))


def test_padding_has_an_embedding():
    tokenizer, embedding = added_pad(), torch.nn.Embedding(10, 2)

    class Model:
        def get_input_embeddings(self):
            return embedding

    assert tokenizer.pad_token_id >= 10
    assert padding_id(tokenizer, Model()) == 0
    tokenizer.pad_token_id = 7
    assert padding_id(tokenizer, Model()) == 7
    tokenizer.pad_token = None
    assert padding_id(tokenizer, Model()) == 0


def test_tokens_that_are_no_text_s_own():
    reading = Reading(tiny_tokenizer())
    ids = reading.body(PROBES[0])
    assert reading.survives(ids)
    split = reading.body("ticket")
    letters = [reading.body(letter)[0] for letter in "ticket"]
    assert len(letters) > len(split)  # the same text, cut otherwise
    assert not reading.survives(letters)
    assert reading.text(letters) == reading.text(split) == "ticket"
