"""A small base model for quick runs, that has seen none of the audited records.

    python benchmarks/paper/run.py --pretrain --data ag_news=ag_news.jsonl --other wikitext=wikitext.jsonl --work ./work

It is pretrained on half of `--other`, so that fine-tuning brings it to a domain it does not know, as it does a large
model: a base that knows the domain is as good a reference as one that is calibrated. Without `--other` it is pretrained
on half of each data set, and the other halves are audited.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.paper.texts import write_texts
from spvmia_plugin.data.sources import load_spec
from spvmia_plugin.data.split import shuffled, unique
from spvmia_plugin.records import Document

END = "<|end|>"
DONE = "spvmia_pretrained.json"


@dataclass(frozen=True)
class Size:
    """How small: about three million parameters."""

    vocabulary: int = 4096
    hidden: int = 192
    layers: int = 4
    heads: int = 4
    context: int = 256
    block: int = 128
    epochs: float = 2
    lr: float = 2e-3
    batch: int = 16
    max_tokens: int = 1_200_000


def pretrain(folder: Path, data: Mapping[str, str], files: Path, size: Size | None = None) -> dict[str, str]:
    """Write the model to `folder` unless it is there, and the halves that it has not seen to `files`.

    Args:
        folder: an ordinary model folder afterwards.
        data: file of each data set to pretrain on, by name.
        files: gets `NAME-unseen.jsonl`, which only their owner may read.
        size: of the model and its training.

    Returns:
        The files with the other halves, by name.
    """
    halves, unseen = [], {}
    for name, spec in data.items():
        documents = unique(load_spec(spec, "text", option="--data").documents)
        halves += documents[::2]
        place = files / f"{name}-unseen.jsonl"
        unseen[name] = str(place if place.is_file() else write_texts(place, (d.text for d in documents[1::2])))
    if not (folder / DONE).is_file():
        # In one order, so that a limit on the tokens leaves out a share of each data set and not the last of them.
        _train(folder, list(shuffled(halves, 0, "pretraining")), size or Size())
    return unseen


def _train(folder: Path, documents: Sequence[Document], size: Size) -> None:
    import torch

    from spvmia_plugin.training.trainer import TrainSettings, train
    from spvmia_plugin.util.files import private_folder

    texts = [document.text for document in documents]
    tokenizer = _tokenizer(texts, size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _model(tokenizer, size)
    blocks = list(_blocks(tokenizer, texts, size))
    settings = TrainSettings(epochs=size.epochs, lr=size.lr, batch_size=size.batch, schedule="cosine")
    work = private_folder(folder)
    # Weights and optimiser stay in float32. Autocast's own copies of the weights would outlive the first step.
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        record = train(
            model, blocks, settings, work, pad_token_id=tokenizer.pad_token_id, description="pretraining a base"
        )
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / DONE).write_text(json.dumps(record), encoding="utf-8")


def _tokenizer(texts: Sequence[str], size: Size) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size.vocabulary, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=END, eos_token=END, pad_token=END, model_max_length=size.context
    )


def _model(tokenizer: Any, size: Size) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=size.hidden,
            intermediate_size=3 * size.hidden,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            num_key_value_heads=size.heads,
            max_position_embeddings=size.context,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            tie_word_embeddings=True,
        )
    )


def _blocks(tokenizer: Any, texts: Sequence[str], size: Size) -> Iterator[list[int]]:
    """The texts one after the other, cut into blocks."""
    stream: list[int] = []
    written = 0
    for text in texts:
        stream += [*tokenizer(text, verbose=False)["input_ids"], tokenizer.eos_token_id]
        while len(stream) >= size.block and written < size.max_tokens:
            yield stream[: size.block]
            stream, written = stream[size.block :], written + size.block
