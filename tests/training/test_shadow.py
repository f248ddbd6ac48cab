"""What shadows are made of: the target's recipe, and documents that no record of the target holds."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from types import SimpleNamespace

import pytest

from spvmia_plugin.data.manifest import Manifest
from spvmia_plugin.data.origin import DataOrigin
from spvmia_plugin.data.split import Packer, deal
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.records import Document
from spvmia_plugin.training.config import FinetuneConfig
from spvmia_plugin.training.shadow import LEAST, Share, recipe, shadow_config, share_out, untouched

WORDS = [f"w{number}" for number in range(4000)]


def texts(n, *, seed=0, words=40):
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=words)) for _ in range(n)]


def documents(items, name="data.jsonl"):
    return [Document(f"{name}:{row}", text) for row, text in enumerate(items, 1)]


def changed(text, every):
    """The text with one word in `every` replaced."""
    words = text.split()
    return " ".join("other" + word if place % every == 0 else word for place, word in enumerate(words))


def by_words(text):
    """A word a token."""
    ends, place = [], 0
    for word in text.split(" "):
        ends.append((place, place + len(word)))
        place += len(word) + 1
    return [0] * len(ends), ends


def pool(block_size=0):
    tokenize = by_words if block_size else None
    return SimpleNamespace(
        packer=Packer(block_size, tokenize),
        format=SimpleNamespace(block_size=block_size),
        config=SimpleNamespace(data="data.jsonl"),
    )


# Documents


def test_what_the_target_holds_is_left_out_with_its_copies_and_near_copies():
    used = documents(texts(30), "target.jsonl")
    fresh = texts(20, seed=1)
    copies = [f"  {used[0].text}\n", used[1].text.replace(" ", "  ")]
    near = [changed(used[2].text, 12), used[3].text.upper(), " ".join(used[4].text.split()[:25])]
    repeats = [fresh[0], fresh[1] + " "]
    found = untouched(documents([*copies, *near, *fresh, *repeats]), used)
    assert [document.text for document in found.documents] == fresh
    assert (found.same, found.near, found.repeated) == (2, 3, 2)
    assert found.told() == "2 that the target's records hold, 3 near copies of those, 2 repeats"


def test_independent_documents_stay():
    found = untouched(documents(texts(20, seed=1)), documents(texts(20), "other.jsonl"))
    assert (len(found.documents), found.same, found.near) == (20, 0, 0)


def test_documents_of_one_name_in_two_files_are_told_apart():
    """The target's data and others may both be called data.jsonl."""
    found = untouched(documents(texts(5, seed=1)), documents(texts(5)))
    assert len(found.documents) == 5


def test_nothing_used_and_nothing_there():
    assert len(untouched(documents(texts(3)), []).documents) == 3
    assert untouched([], documents(texts(3))).documents == ()
    same = documents(texts(3))
    assert untouched(same, same).documents == ()


def test_documents_of_the_targets_units_are_counted_by_themselves():
    used = [dataclasses.replace(each, unit=f"u{n}") for n, each in enumerate(documents(texts(5), "target.jsonl"))]
    others = documents([used[0].text, used[1].text, *texts(6, seed=1)])
    found = untouched([dataclasses.replace(each, unit=f"u{n}") for n, each in enumerate(others, 1)], used)
    assert (len(found.documents), found.units, found.same, found.near) == (4, 4, 0, 0)
    assert found.told() == (
        "4 of units that the target's records belong to, 0 that the target's records hold, 0 near copies of those, 0 "
        "repeats"
    )


def test_a_file_that_stands_in_is_compared_as_it_was_cleaned():
    raw = texts(3)
    clean = lambda text: text.replace("w", "x")  # noqa: E731
    used = documents([clean(raw[0])])
    assert len(untouched(documents(raw), used).documents) == 3
    found = untouched(documents(raw), used, clean)
    assert ([document.text for document in found.documents], found.same) == (raw[1:], 1)


# Shares

SIZES = {"members": 60, "nonmembers": 55, "prompts": 30}


@pytest.mark.parametrize("block_size", [0, 16])
def test_shadows_share_no_document_and_have_the_sizes_of_the_target(block_size):
    found = untouched(documents(texts(600)), [])
    shares = share_out(pool(block_size), found, SIZES, 3, seed=7)
    assert [share.seed for share in shares] == [8, 9, 10]
    for share in shares:
        dealt, _ = deal(share.of(found.documents), pool(block_size).packer, SIZES, share.seed)
        assert {name: len(records) for name, records in dealt.items()} == SIZES == share.sizes
    assert not any(a.ids & b.ids for a in shares for b in shares if a is not b)


@pytest.mark.parametrize("block_size", [0, 16])
def test_one_more_shadow_leaves_those_before_it_as_they_are(block_size):
    found = untouched(documents(texts(600)), [])
    one, two = (share_out(pool(block_size), found, SIZES, count, seed=7) for count in (1, 2))
    assert two[:1] == one


def test_another_seed_deals_otherwise():
    found = untouched(documents(texts(600)), [])
    first, second = (share_out(pool(), found, SIZES, 1, seed=seed)[0] for seed in (0, 1))
    assert first.ids != second.ids


def test_whole_documents_are_enough_if_they_are_just_as_many():
    total = sum(SIZES.values())
    shares = share_out(pool(), untouched(documents(texts(2 * total)), []), SIZES, 2, seed=0)
    assert [share.sizes for share in shares] == [SIZES, SIZES]
    fewer = share_out(pool(), untouched(documents(texts(2 * total - 1)), []), SIZES, 2, seed=0)
    assert fewer[0].sizes != SIZES


@pytest.mark.parametrize("block_size", [0, 16])
def test_where_there_are_fewer_all_shadows_are_smaller_alike(block_size):
    sizes = {"members": 200, "nonmembers": 200, "prompts": 100}
    found = untouched(documents(texts(400 if block_size == 0 else 200)), [])
    shares = share_out(pool(block_size), found, sizes, 1, seed=0)
    got = shares[0].sizes
    assert LEAST <= got["members"] == got["nonmembers"] < 200
    assert abs(got["prompts"] - got["members"] / 2) <= 1
    assert sum(got.values()) > 0.85 * len(pool(block_size).packer.pack(found.documents).records)


def test_too_few_documents_are_refused_with_the_counts():
    used = documents(texts(10), "target.jsonl")
    found = untouched(documents([*texts(100, seed=1), used[0].text]), used)
    with pytest.raises(SpvmiaError) as refused:
        share_out(pool(), found, SIZES, 2, seed=0)
    assert str(refused.value) == (
        "--data: data.jsonl: expected text for at least 240 documents (50 members, 50 non-members and 20 prompts for "
        "each of 2 shadows) that the target's records do not hold, got 100 from 100 documents, with 1 that the "
        "target's records hold, 0 near copies of those, 0 repeats left out; name more data, or lower --shadows"
    )


def test_a_target_with_few_prompts_asks_for_as_few():
    sizes = {"members": 50, "nonmembers": 50, "prompts": 5}
    assert share_out(pool(), untouched(documents(texts(105)), []), sizes, 1, seed=0)[0].sizes == sizes


# The recipe


def manifest(**settings):
    made = FinetuneConfig("base", "data.jsonl", "out", epochs=3, lr=2e-4, lora_rank=4, lora_targets="q_proj", seed=5)
    return Manifest(
        base_model="/models/base",
        method="lora",
        data=DataOrigin("/data/data.jsonl", "body", 64, "random", 5),
        settings={**made.settings(), "block_size": 64, **settings},
        versions={},
        records={},
        fingerprint_key="00",
        fingerprint="f",
        path=Path("/target/mia_manifest.json"),
    )


def test_a_shadow_is_made_by_the_recipe_of_the_target():
    share = Share(6, frozenset(), {"members": 51, "nonmembers": 52, "prompts": 21})
    config = shadow_config(manifest(), "more.jsonl", share, Path("shadow"), None, True)
    assert config == FinetuneConfig(
        "/models/base",
        "more.jsonl",
        Path("shadow"),
        members=51,
        nonmembers=52,
        prompts=21,
        epochs=3.0,
        lr=2e-4,
        lora_rank=4,
        lora_targets="q_proj",
        block_size=64,
        format="text",
        text_column="body",
        seed=6,
        trust_remote_code=True,
    )


def test_every_option_that_shapes_a_target_is_of_the_recipe_or_of_its_data():
    """One that is added later, and forgotten here, would leave shadows another recipe than their target's."""
    told = set(recipe(manifest()))
    of_the_data = {"format", "loss_on", "chat_template", "record_tokens", "text_column", "model", "data", "output"}
    dealt = {"members", "nonmembers", "prompts", "canaries", "canary_kind", "seed"}
    # Units are dealt out by their column, where the target was.
    assert told | of_the_data | dealt | {"unit_column", "quiet", "trust_remote_code"} == {
        field.name for field in dataclasses.fields(FinetuneConfig)
    }
    assert not told & (of_the_data | dealt)


def test_conversations_are_rendered_as_those_of_the_target():
    chat = dataclasses.replace(
        manifest(block_size=0),
        data=DataOrigin("/data/chat.jsonl", "text", 0, "random", 5, "messages", "completion", 512, "{{ messages }}"),
    )
    share = Share(6, frozenset(), {"members": 51, "nonmembers": 52, "prompts": 21})
    config = shadow_config(chat, "chat.jsonl", share, Path("shadow"), Path("template.jinja"), False)
    assert (config.format, config.loss_on, config.record_tokens) == ("messages", "completion", 512)
    assert (config.chat_template, config.block_size) == ("template.jinja", None)


def test_a_manifest_that_tells_no_recipe_is_refused():
    told = manifest()
    bare = dataclasses.replace(told, settings={name: v for name, v in told.settings.items() if name != "lr"})
    with pytest.raises(SpvmiaError, match=r"^--target: /target/mia_manifest.json: expected the settings .* none of lr"):
        recipe(bare)


def test_a_recipe_that_finetune_would_refuse_is_refused():
    with pytest.raises(
        SpvmiaError, match=r"^--target: .* one it refuses \(--method: expected lora or full, got 'prefix'"
    ):
        recipe(manifest(method="prefix"))
