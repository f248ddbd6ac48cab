"""Spans of a text's own words, near copies, and the documents that they make one."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spvmia_plugin.checks import spans as spans_module
from spvmia_plugin.checks.copies import NEAR_COPY_SHARE, near_copies, normalised
from spvmia_plugin.checks.preconditions import check_preconditions
from spvmia_plugin.checks.spans import FEW_WORDS, MOST_COPIES, PASSAGE_WORDS, SPAN_WORDS, spans_of
from spvmia_plugin.records import AuditData, Document, Record
from tests.metrics.made_up import CORPORA, changed, native, truncated, vocabulary


def audit(members, nonmembers, prompts=(), candidate=(), cluster=lambda row: f"d:{row}"):
    rows = [(text, True) for text in members] + [(text, False) for text in nonmembers]
    records = tuple(Record(f"d:{n}", text, member, cluster(n)) for n, (text, member) in enumerate(rows, 1))
    held_out = [
        tuple(Document(f"{name}:{n}", text) for n, text in enumerate(texts, 1))
        for name, texts in (("p", prompts), ("c", candidate))
    ]
    return AuditData(records, *held_out, "manifest", "f", "d", 0)


def found(data):
    return {finding.code: finding for finding in check_preconditions(data)}


def alone(texts):
    return spans_of(texts, np.arange(len(texts)))


def naive_own(texts, documents):
    """The words of each text outside of common passages."""
    words = [text.casefold().split() for text in texts]
    having = defaultdict(set)
    for document, each in zip(documents, words, strict=True):
        for start in range(len(each) - PASSAGE_WORDS + 1):
            having[tuple(each[start : start + PASSAGE_WORDS])].add(document)
    own = []
    for each in words:
        left = [True] * len(each)
        for start in range(len(each) - PASSAGE_WORDS + 1):
            if len(having[tuple(each[start : start + PASSAGE_WORDS])]) > MOST_COPIES:
                left[start : start + PASSAGE_WORDS] = [False] * PASSAGE_WORDS
        kept = [word for word, stays in zip(each, left, strict=True) if stays]
        own.append([] if len(kept) < FEW_WORDS and 2 * len(kept) < len(each) else kept)
    return own


def naive_spans(words):
    if len(words) < SPAN_WORDS:
        return {tuple(words)} if words else set()
    return {tuple(words[start : start + SPAN_WORDS]) for start in range(len(words) - SPAN_WORDS + 1)}


made_of_few = st.lists(st.lists(st.sampled_from(["a", "B", "c"]), max_size=30).map(" ".join), min_size=1, max_size=25)


@given(made_of_few, st.integers(1, 3), st.booleans())
@settings(max_examples=100)
def test_spans_equal_counting_them(texts, per_document, some_at_a_time):
    documents = [number // per_document for number in range(len(texts))]
    with pytest.MonkeyPatch.context() as patch:
        if some_at_a_time:
            patch.setattr(spans_module, "_TEXTS_AT_A_TIME", 3)
        spans = spans_of(texts, np.array(documents))
    own = naive_own(texts, documents)
    assert spans.n_words.tolist() == [len(text.split()) for text in texts]
    assert spans.n_own.tolist() == [len(words) for words in own]
    expected = [naive_spans(words) for words in own]
    by_text = [set(spans.hashes[spans.owner == number].tolist()) for number in range(len(texts))]
    assert [len(each) for each in by_text] == [len(each) for each in expected]
    for one in range(len(texts)):
        for other in range(one):
            assert len(by_text[one] & by_text[other]) == len(expected[one] & expected[other])


def test_case_punctuation_and_the_form_of_unicode_do_not_count_but_order_does():
    words = "één twee drie vier vijf zes zeven acht negen"
    other = unicodedata.normalize("NFD", words.upper()).replace(" ", ", ")
    spans = alone([words, other, " ".join(reversed(words.split()))])
    of = [set(spans.hashes[spans.owner == number].tolist()) for number in range(3)]
    assert of[0] == of[1]
    assert not of[0] & of[2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("대한민국은 민주공화국이다", 2),  # Korean has spaces
        ("हिन्दी में लिखा", 3),  # vowel signs are no letters, and part words for nobody
        ("日本国民は、正当に", 8),
        ("ที่นี่ไทย", 5),  # a vowel sign and a tone belong to their letter
        ("naïve cafe\u0301", 2),
        ("foo_bar(x1)", 2),
    ],
)
def test_what_a_word_is(text, words):
    assert alone([text]).n_words.tolist() == [words]


@pytest.mark.parametrize(
    ("text", "length"),
    [("天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往", 10), ("いろはにほへとちりぬるをわかよたれそつねならむ", 15)],
)
def test_a_span_without_spaces_is_longer_in_characters(text, length):
    assert len(alone([text]).hashes) == len(text) - length + 1


def test_hostile_texts_have_spans_or_none():
    texts = ["", "\x00\x00", "=cmd()", "<script>", "\u202e\u202d", "x" * 10**6, "\ud800"]
    spans = alone(texts)
    assert np.bincount(spans.owner, minlength=7).tolist() == [0, 0, 1, 1, 0, 1, 0]
    assert len(alone([]).hashes) == 0


def test_normalised_joins_white_space():
    assert normalised(" a\n\tb  c ") == "a b c"


def draw(rng, count, words=60):
    return [" ".join(rng.choice(vocabulary(5000), words)) for _ in range(count)]


def test_a_passage_is_common_from_a_number_of_documents_on():
    """A passage of 10 may be that of versions of a text, of 11 it is a form. Copies are one document."""
    rng = np.random.default_rng(0)
    passage, texts = "a form that all of them begin with", draw(rng, 40)
    for number, left in ((10, 68), (11, 60)):
        filled = [f"{passage} {text}" if row < number else text for row, text in enumerate(texts)]
        assert alone(filled).n_own[0] == left
        copies = near_copies(audit([*filled, *[filled[0]] * 30], []))
        assert copies.n_own[0] == left


def test_a_form_that_is_hardly_filled_in_says_nothing():
    """16 words of its own are enough, and so are fewer where they are the greater part."""
    form = "please fill in this form and send it back to the office as soon as you can"
    rng = np.random.default_rng(1)
    for words, told in ((15, False), (16, True)):
        texts = [f"{form} {text}" for text in draw(rng, 60, words)]
        findings = found(audit(texts, [*texts[1:30], texts[0].upper() + " indeed"]))
        assert ("near_duplicates" in findings) == told
    short = draw(rng, 60, 9)
    assert "near_duplicates" in found(audit(short[:30], [short[0].upper(), *short[30:]]))


CHANGES = {
    "one word in 12": lambda rng, text: changed(rng, text, 12),
    "truncated": truncated,
    "another case": lambda _, text: text.swapcase(),
    "punctuation": lambda _, text: text.replace(" ", ", "),
    "something added": lambda rng, text: f"{text} {' '.join(draw(rng, 1))}",
}


@pytest.mark.parametrize("change", list(CHANGES.values()), ids=list(CHANGES))
def test_a_single_near_copy_is_found_and_named(change):
    rng = np.random.default_rng(2)
    texts = draw(rng, 80)
    finding = found(audit(texts[:40], [*texts[40:50], change(rng, texts[3]), *texts[50:]]))["near_duplicates"]
    assert (finding.details["members"], finding.details["nonmembers"]) == (1, 1)
    assert finding.details["examples"] == [{"member": "d:4", "nonmember": "d:51"}]
    assert finding.details["threshold"] == NEAR_COPY_SHARE
    assert "1 of 41 non-members (2.44 %) and 1 of 40 members are near copies" in finding.message


def test_pairs_are_the_same_from_either_side():
    rng = np.random.default_rng(4)
    texts = draw(rng, 20)
    copies = near_copies(audit(texts, [changed(rng, text, 12) for text in texts[:3]]))
    ours, theirs = np.arange(20), np.arange(20, 23)
    pairs = list(copies.pairs(ours, theirs))
    assert sorted(pairs) == [(0, 20), (1, 21), (2, 22)]
    assert list(copies.pairs(theirs, ours)) == [(right, left) for left, right in pairs]


@pytest.mark.parametrize("kind", ["tickets", "chats", "logs", "en_US", "zh_CN", "ko_KR"])
def test_near_copies_are_found_among_what_looks_alike(kind):
    """A tenth of the non-members with one word in 12 changed; without them, nothing."""
    rng = np.random.default_rng(3)
    texts = CORPORA[kind](rng, 200)
    clean = audit(texts[:100], texts[100:])
    assert not {"near_duplicates", "near_copies_joined"} & found(clean).keys()
    copies = [changed(rng, text, 12) for text in texts[:10]]
    dirty = found(audit(texts[:100], [*copies, *texts[110:]]))
    assert 3 <= dirty["near_duplicates"].details["nonmembers"] <= 10


@pytest.mark.slow
@pytest.mark.parametrize("kind", CORPORA)
def test_no_false_alarm_on_classes_that_are_drawn_alike(kind):
    """At most 1 % of 100 audits of each kind; and of half of the pairs that were rewritten, some are found."""
    alarms = Counter()
    for seed in range(100):
        rng = np.random.default_rng([12, seed])
        texts = CORPORA[kind](rng, 200)
        alarms.update(found(audit(texts[:100], texts[100:])).keys())
    assert alarms["near_duplicates"] <= 4  # of 100 at 1 %, more have a probability of 0.4 %
    if (
        kind != "tickets of 12 forms"
    ):  # the rarest are used by ten documents or fewer: joined, which errs on the safe side
        assert alarms["near_copies_joined"] <= 4


def test_a_form_that_few_use_is_no_near_copy():
    """12 forms, 100 + 100 records: those of 6 to 10 documents on both sides were told on half of the splits."""
    for seed in range(8):
        texts = CORPORA["tickets of 12 forms"](np.random.default_rng([12, seed]), 200)
        assert "near_duplicates" not in found(audit(texts[:100], texts[100:]))


def test_prompts_and_candidate_data_that_share_a_template_are_no_overlap():
    """What is said of the classes holds of what is held out: the same form is not the same text."""
    rng = np.random.default_rng(4)
    for kind in ("tickets", "chats"):
        texts = CORPORA[kind](rng, 180)
        parts = texts[:60], texts[60:120], texts[120:150]
        findings = found(audit(*parts, texts[150:]))
        assert not {"prompts_overlap_audited", "candidate_overlaps_audited", "near_duplicates"} & findings.keys()
        assert findings["ngram_overlap"].details["share"] < 0.05
        assert findings["ngram_overlap"].details["common"] > 0.5
        copied = found(audit(*parts, [*texts[150:], texts[3].upper(), texts[70].upper()]))["candidate_overlaps_audited"]
        assert copied.details["documents"] <= 2


def test_copies_and_near_copies_of_one_class_are_one_document():
    rng = np.random.default_rng(5)
    texts = draw(rng, 60)
    members = [*texts[:20], changed(rng, texts[0], 12), changed(rng, texts[0], 12), texts[7], f" {texts[7]}\n"]
    data = audit(members, [*texts[20:50], changed(rng, texts[30], 12), changed(rng, texts[1], 12)])
    copies = near_copies(data)
    joined = copies.joined(data)
    assert [record.id for record in joined.records] == [record.id for record in data.records]
    changes = {record.id: record.cluster for record in joined.records if record.cluster != record.id}
    assert changes == {"d:21": "d:1", "d:22": "d:1", "d:23": "d:8", "d:24": "d:8", "d:55": "d:35"}
    assert copies.joined(joined) == joined
    findings = {finding.code: finding for finding in check_preconditions(joined, copies)}
    assert findings.keys() == found(data).keys()
    told = findings["near_copies_joined"].details
    assert (told["count"], told["families"]) == (8, 3)
    assert told["examples"] == [["d:1", "d:21", "d:22"], ["d:8", "d:23", "d:24"], ["d:35", "d:55"]]
    assert findings["repeated_members"].details["count"] == 2
    assert "every interval counts them as one document" in findings["repeated_members"].message
    assert findings["several_records_per_document"].details["documents"] == 51
    assert findings["near_duplicates"].details["nonmembers"] == 1
    json.dumps(told)


def test_nothing_is_joined_where_nothing_is_alike():
    data = audit(draw(np.random.default_rng(6), 20), draw(np.random.default_rng(7), 20))
    assert near_copies(data).joined(data) == data
    assert "near_copies_joined" not in found(data)


def test_a_part_of_the_records_keeps_what_was_found_among_all():
    """Under --limit the names of clusters stay those of the whole audit."""
    rng = np.random.default_rng(8)
    texts = draw(rng, 40)
    data = audit([*texts[:20], changed(rng, texts[0], 12)], texts[20:])
    copies = near_copies(data)
    part = replace(copies.joined(data), records=copies.joined(data).records[1:])
    assert part.records[19].cluster == "d:1"
    assert "near_copies_joined" not in {finding.code for finding in check_preconditions(part, copies)}


def test_many_copies_take_no_time():
    """2,000 copies of a text, and a document of 3,000 blocks that are nearly the same: no pair of each is looked at."""
    rng = np.random.default_rng(9)
    text, heading = draw(rng, 2)
    blocks = [f"{heading} {number}" for number in range(3000)]
    data = audit([text] * 2000 + blocks, draw(rng, 50), cluster=lambda row: f"d:{2001 if 2000 < row <= 5000 else row}")
    copies = near_copies(data)
    assert len(copies.left) == 0
    assert len({record.cluster for record in copies.joined(data).records}) == 52


def test_words_of_languages_are_as_many_as_asked():
    assert min(len(native(locale)) for locale in ("zh_CN", "ja_JP", "th_TH", "ko_KR", "hi_IN")) > 1000
