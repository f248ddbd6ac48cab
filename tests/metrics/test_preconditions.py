from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import spvmia_plugin
from spvmia_plugin.checks.preconditions import check_preconditions, check_tokenisation
from spvmia_plugin.data.tokenisation import probe_digest
from spvmia_plugin.data.weights import BELOW, MERGED, UNMERGED
from spvmia_plugin.protocols import Frame
from spvmia_plugin.records import AuditData, Conversation, Document, Record
from spvmia_plugin.util.schema import as_json
from tests.timing import grows_by_less


def make_texts(n, seed=0, words=40):
    rng = np.random.default_rng(seed)
    return [" ".join(f"word{w:04d}" for w in rng.integers(0, 10_000, words)) for _ in range(n)]


def records(texts, members, source="data.txt", start=0, cluster=None):
    ids = [f"{source}:{start + row + 1}" for row in range(len(texts))]
    return [Record(i, text, members, i if cluster is None else cluster(i)) for i, text in zip(ids, texts, strict=True)]


def audit(members, nonmembers, prompts=(), candidate=(), membership="manifest"):
    return AuditData(
        records=tuple(members) + tuple(nonmembers),
        prompts=tuple(prompts),
        candidate=tuple(candidate),
        membership=membership,
        fingerprint="f",
        source="data.txt",
        block_size=0,
    )


TEXTS = make_texts(2300)
MEMBERS = records(TEXTS[:1000], True)
NONMEMBERS = records(TEXTS[1000:2000], False, start=1000)
HELD_OUT = [Document(f"data.txt:{row + 1}", TEXTS[row]) for row in range(2000, 2300)]


def found(data):
    findings = {finding.code: finding for finding in check_preconditions(data)}
    written = json.dumps([as_json(finding) for finding in findings.values()], allow_nan=False)
    assert not re.search(r"word\d", written)  # ids, never text
    return findings


def replaced(rows, index, text):
    row = rows[index]
    return [*rows[:index], Record(row.id, text, row.is_member, row.cluster), *rows[index + 1 :]]


def test_sound_data_have_only_the_measured_overlap():
    findings = found(audit(MEMBERS, NONMEMBERS, HELD_OUT[:150], HELD_OUT[150:]))
    assert set(findings) == {"ngram_overlap"}
    assert findings["ngram_overlap"].severity == "note"
    assert findings["ngram_overlap"].details["share"] == 0


@pytest.mark.parametrize("without", [1, 3])
def test_records_of_nobody_beside_those_of_somebody(without):
    owned = [replace(record, unit=f"u{i // 2}") for i, record in enumerate([*MEMBERS, *NONMEMBERS])]
    rows = [replace(record, unit=None) if i < without else record for i, record in enumerate(owned)]
    data = replace(audit(rows[:1000], rows[1000:]), unit_column="who")
    finding = found(data)["units_incomplete"]
    assert (finding.severity, finding.details["count"]) == ("warning", without)
    assert finding.message.startswith(f"{without} of 2000 records belong to no unit")
    assert "units_incomplete" not in found(replace(data, unit_column=None))
    assert "units_incomplete" not in found(replace(data, records=tuple(owned)))


def test_one_duplicated_record_is_named():
    copy = replaced(NONMEMBERS, 7, "  " + TEXTS[3].replace(" ", "\n "))
    finding = found(audit(MEMBERS, copy))["exact_duplicates"]
    assert finding.severity == "warning"
    assert finding.details == {
        "count": 1,
        "share": 0.001,
        "examples": [{"member": "data.txt:4", "nonmember": "data.txt:1008"}],
    }
    assert "AUROC and every TPR come out too low" in finding.message
    assert "near_duplicates" not in found(audit(MEMBERS, copy))


def test_a_near_duplicate_is_named_once():
    edited = " ".join([*TEXTS[3].split()[:32], "and", "something", "else"])
    finding = found(audit(MEMBERS, replaced(NONMEMBERS, 7, edited)))["near_duplicates"]
    assert (finding.details["members"], finding.details["nonmembers"]) == (1, 1)
    assert finding.details["examples"] == [{"member": "data.txt:4", "nonmember": "data.txt:1008"}]


def test_a_member_inside_a_longer_nonmember_is_found():
    longer = TEXTS[3] + " " + " ".join(make_texts(3, seed=9))
    finding = found(audit(MEMBERS, replaced(NONMEMBERS, 7, longer)))["near_duplicates"]
    assert (finding.details["members"], finding.details["nonmembers"]) == (1, 1)
    assert finding.details["examples"] == [{"member": "data.txt:4", "nonmember": "data.txt:1008"}]


def test_examples_are_few_however_many_there_are():
    findings = found(audit(MEMBERS, records(TEXTS[:1000], False, start=1000)))
    assert findings["exact_duplicates"].details["count"] == 1000
    assert len(findings["exact_duplicates"].details["examples"]) == 5
    edited = [text.rsplit(" ", 1)[0] for text in TEXTS[:1000]]
    assert len(found(audit(MEMBERS, records(edited, False, start=1000)))["near_duplicates"].details["examples"]) == 5


def test_repeats_within_a_class_are_a_note_unless_of_one_document():
    findings = found(audit(replaced(MEMBERS, 5, TEXTS[6]), replaced(NONMEMBERS, 5, TEXTS[1006])))
    assert findings["repeated_members"].severity == "note"
    assert findings["repeated_members"].details["count"] == 1
    assert findings["repeated_members"].details["examples"] == [["data.txt:6", "data.txt:7"]]
    assert "repeated_nonmembers" in findings
    same = records([TEXTS[0]] * 2, True, cluster=lambda _: "data.txt:1") + MEMBERS[2:]
    assert "repeated_members" not in found(audit(same, NONMEMBERS))


def test_prompts_taken_from_nonmembers_are_told():
    prompts = [Document(f"p:{row}", TEXTS[1000 + row]) for row in range(20)] + HELD_OUT
    finding = found(audit(MEMBERS, NONMEMBERS, prompts))["prompts_overlap_audited"]
    assert finding.severity == "warning"
    assert (finding.details["members"], finding.details["nonmembers"], finding.details["documents"]) == (0, 20, 20)
    assert finding.details["examples"][0] == {"audited": "data.txt:1001", "held_out": "p:0"}
    assert "with non-members among them AUROC comes out too high" in finding.message


def test_short_prompts_cut_from_long_members_are_told():
    prompts = [Document("p:1", " ".join(TEXTS[3].split()[:16])), *HELD_OUT]
    finding = found(audit(MEMBERS, NONMEMBERS, prompts))["prompts_overlap_audited"]
    assert (finding.details["members"], finding.details["documents"]) == (1, 1)
    assert finding.details["examples"] == [{"audited": "data.txt:4", "held_out": "p:1"}]
    assert finding.details["document_examples"] == ["p:1"]


def test_candidate_data_that_are_audited_are_told():
    candidate = [Document(f"c:{row}", TEXTS[row]) for row in range(3)]
    finding = found(audit(MEMBERS, NONMEMBERS, HELD_OUT, candidate))["candidate_overlaps_audited"]
    assert (finding.details["members"], finding.details["nonmembers"]) == (3, 0)
    assert "the scores that it calibrates drop" in finding.message


def test_length_shift_is_a_warning_and_a_slight_one_a_note():
    short = records(make_texts(1000, seed=2, words=30), False, start=1000)
    finding = found(audit(MEMBERS, short))["length_shift"]
    assert finding.severity == "warning"
    assert finding.details["auroc"] == 1
    assert finding.details["median_members"] > finding.details["median_nonmembers"]
    slight = [Record(r.id, r.text + " xy" * (row % 12 == 0), r.is_member, r.cluster) for row, r in enumerate(MEMBERS)]
    assert found(audit(slight, NONMEMBERS))["length_shift"].severity == "note"


@pytest.mark.parametrize(("longer", "auroc", "severity"), [(80, 0.54, "note"), (120, 0.56, "warning")])
def test_a_shift_is_a_warning_from_an_auroc_of_055_on(longer, auroc, severity):
    """Of 1000 members so many are longer than every non-member, and all others are as long as these."""
    members = [Record(r.id, f"{row:049}a" + "a" * (row < longer), True, r.cluster) for row, r in enumerate(MEMBERS)]
    nonmembers = [Record(r.id, f"{row:049}b", False, r.cluster) for row, r in enumerate(NONMEMBERS)]
    finding = found(audit(members, nonmembers))["length_shift"]
    assert finding.details["auroc"] == pytest.approx(auroc)
    assert finding.severity == severity


def with_years(rows, years, every=1):
    return [
        Record(
            r.id,
            f"{r.text} in {years[row % len(years)]}" if row % every == 0 else f"{r.text} in then",
            r.is_member,
            r.cluster,
        )
        for row, r in enumerate(rows)
    ]


def test_date_shift_is_told_with_both_medians():
    findings = found(audit(with_years(MEMBERS, [2016, 2017]), with_years(NONMEMBERS, [2023, 2024, 2024])))
    assert findings["date_shift"].severity == "warning"
    assert findings["date_shift"].details["median_nonmembers"] == 2024
    assert "different times" in findings["date_shift"].message
    assert "date_shift" not in found(audit(with_years(MEMBERS, [2016, 2017]), with_years(NONMEMBERS, [2017, 2016])))
    few = audit(with_years(MEMBERS, [2016], every=100), with_years(NONMEMBERS, [2023]))
    assert "date_shift" not in found(few)


def test_different_files_are_a_note():
    finding = found(audit(MEMBERS, records(TEXTS[1000:2000], False, source="other.txt")))["source_shift"]
    assert finding.details == {"members": ["data.txt"], "nonmembers": ["other.txt"]}
    numbered = [Record(str(row), text, False, str(row)) for row, text in enumerate(TEXTS[1000:2000])]
    assert "source_shift" not in found(audit(MEMBERS, numbered))


def test_thirty_nonmembers_are_too_few_for_both_rates():
    findings = found(audit(MEMBERS, NONMEMBERS[:30]))
    assert "at least 100 are needed; the TPR at 1 % FPR is not resolved" in findings["too_few_nonmembers_1pct"].message
    assert (
        "at least 1000 are needed; the TPR at 0.1 % FPR is not resolved"
        in findings["too_few_nonmembers_0.1pct"].message
    )
    assert "too_few_nonmembers_1pct" not in found(audit(MEMBERS, NONMEMBERS[:100]))


@pytest.mark.parametrize(
    ("members", "nonmembers", "missing"), [([], NONMEMBERS, "members"), (MEMBERS, [], "non-members")]
)
def test_an_empty_class_is_told(members, nonmembers, missing):
    assert f"there are no {missing}:" in found(audit(members, nonmembers))["empty_class"].message


def test_no_records_at_all():
    assert set(found(audit([], [], HELD_OUT))) == {"empty_class"}


def test_texts_without_words_have_no_overlap_to_speak_of():
    assert "ngram_overlap" not in found(audit(records(["..."] * 30, True), records(["!"] * 30, False, start=50)))


def test_several_records_of_a_document_and_few_documents():
    def ten(record_id):
        return f"d{int(record_id.split(':')[1]) // 100}"

    data = audit(records(TEXTS[:1000], True, cluster=ten), records(TEXTS[1000:2000], False, start=1000, cluster=ten))
    findings = found(data)
    assert findings["several_records_per_document"].details["largest"] == 100
    assert "only 11 documents" in findings["few_documents"].message
    assert findings["document_in_both_classes"].details["examples"] == ["d10"]
    owned = [replace(record, unit=record.cluster) for record in data.records]
    findings = found(replace(data, records=tuple(owned)))
    assert "come from 21 units" in findings["several_records_per_document"].message
    assert "only 11 units" in findings["few_documents"].message
    assert findings["document_in_both_classes"].message.startswith("1 units have")


def test_membership_that_nobody_vouches_for_is_a_warning_and_comes_before_notes():
    findings = check_preconditions(audit(MEMBERS, NONMEMBERS, membership="assumed"))
    assert [finding.code for finding in findings] == ["membership_assumed", "ngram_overlap"]
    assert "the numbers say nothing about its privacy" in findings[0].message
    assert found(audit(MEMBERS, NONMEMBERS, membership="declared"))["membership_declared"].severity == "note"


def test_what_a_trainer_did_otherwise_than_declared_or_scored():
    def of(trainer):
        data = audit(MEMBERS, NONMEMBERS)
        return found(replace(data, provenance={"trainer": trainer}))

    matched = of({"data": "matched", "notes": []})
    assert not {"trainer_data", "training_differs"} & set(matched)
    differing = of({"data": "differs: members a:1 are not among the trainer's rows", "notes": ["packed", "smoothed"]})
    assert differing["trainer_data"].severity == "warning"
    assert ": members a:1 are not among the trainer's rows; the labels" in differing["trainer_data"].message
    assert differing["training_differs"].severity == "note"
    assert differing["training_differs"].message.endswith("what is scored: packed; smoothed")


def test_an_adapters_manifest_that_was_found_beside_whole_weights_is_a_warning():
    data = audit(MEMBERS, NONMEMBERS)
    finding = found(replace(data, provenance={"weights": UNMERGED}))["manifest_of_other_weights"]
    assert finding.severity == "warning"
    assert "nothing shows that these are the merged adapter" in finding.message
    finding = found(replace(data, provenance={"weights": BELOW}))["manifest_of_other_weights"]
    assert finding.severity == "warning"
    assert "beside the model that the adapter was put on" in finding.message
    for told in ("matched", MERGED):
        assert "manifest_of_other_weights" not in found(replace(data, provenance={"weights": told}))


def test_the_time_grows_as_the_records_do():
    texts = make_texts(10_000, seed=3, words=128)

    def seconds(n):
        data = audit(records(texts[: n // 2], True), records(texts[n // 2 : n], False, start=n // 2), HELD_OUT)
        start = time.process_time()
        check_preconditions(data)
        return time.process_time() - start

    seconds(100)  # what is done once
    assert grows_by_less(seconds, 2_500, 10_000, times=10)  # four times the records; pairs would be sixteen times


def by_words(text):
    return [len(word) for word in text.split()]


def by_letters(text):
    return [ord(letter) for letter in text]


def test_records_of_another_length_in_tokens_are_counted_by_class():
    rows = [*records(["a b c", "a b"], True), *records(["a b c", "a", "a b c d"], False, start=2)]
    data = replace(audit(rows[:2], rows[2:]), block_size=3)
    (finding,) = check_tokenisation(data, rows, by_words, Frame())
    assert (finding.code, finding.severity) == ("token_lengths_changed", "warning")
    assert finding.details["examples"] == ["data.txt:2", "data.txt:4", "data.txt:5"]
    assert (finding.details["members"], finding.details["nonmembers"]) == (1, 2)
    assert "3 of 5 records (60 %; 1 members, 2 non-members) do not have the 3 tokens" in finding.message
    assert check_tokenisation(data, [rows[0], rows[2]], by_words, Frame()) == []
    assert check_tokenisation(replace(data, block_size=0), rows, by_words, Frame()) == []


def test_another_tokenizer_than_the_manifests_is_told():
    data = replace(audit(MEMBERS, NONMEMBERS), provenance={"tokenizer": probe_digest(by_words)})
    assert check_tokenisation(data, MEMBERS, by_words, Frame()) == []
    (finding,) = check_tokenisation(data, MEMBERS, by_letters, Frame())
    assert (finding.code, finding.severity) == ("tokenizer_changed", "warning")
    assert "AUROC comes out too low" in finding.message
    assert check_tokenisation(replace(data, provenance={"tokenizer": None}), MEMBERS, by_letters, Frame()) == []


def test_every_finding_is_in_the_documentation():
    """A code is what programs read; its row says what it means for the number."""
    page = (Path(__file__).parents[2] / "docs" / "statistics.md").read_text("utf-8")
    sources = [path.read_text("utf-8") for path in Path(spvmia_plugin.__file__).parent.rglob("*.py")]
    codes = {code for source in sources for code in re.findall(r'Finding\(\s*"(\w+)"', source)}
    assert len(codes) > 12
    assert sorted(code for code in codes if f"`{code}`" not in page) == [], (
        "docs/statistics.md: a row of the table of preconditions"
    )


def test_another_context_than_that_of_the_training_is_told():
    frame = {"before": [1], "after": []}
    data = replace(audit(MEMBERS, NONMEMBERS), provenance={"frame": frame})
    assert check_tokenisation(data, MEMBERS, by_words, Frame((1,))) == []
    (finding,) = check_tokenisation(data, MEMBERS, by_words, Frame((), (), (2,)))
    assert (finding.code, finding.severity) == ("context_changed", "warning")
    assert finding.details == {"scored": {"before": [], "after": [2]}, "manifest": frame}
    assert "tokens [] before and [2] after each, trained with [1] and []" in finding.message
    assert check_tokenisation(replace(data, provenance={"frame": None}), MEMBERS, by_words, Frame()) == []


ASKED = {"role": "user", "content": "word0001 word0002"}
CALL = [{"type": "function", "function": {"name": "refund", "arguments": {}}}]


def answered(rows, answers):
    """Records that are conversations with these answers, and with one of words after these."""
    return [
        replace(row, conversation=Conversation((ASKED, {"role": "assistant", **answer})))
        for row, answer in zip(rows, answers, strict=False)
    ] + [
        replace(row, conversation=Conversation((ASKED, {"role": "assistant", "content": "word0003"})))
        for row in rows[len(answers) :]
    ]


@pytest.mark.parametrize(
    ("answers", "severity"),
    [([{"content": ""}] * 2, "note"), ([{"content": " \n"}, {}] * 10, "warning")],
)
def test_conversations_with_an_empty_answer_are_counted(answers, severity):
    of_members = answered(MEMBERS[:60], answers)
    finding = found(audit(of_members, answered(NONMEMBERS[:60], [{"content": ""}])))["empty_answers"]
    assert finding.severity == severity
    assert (finding.details["count"], finding.details["members"]) == (len(answers) + 1, len(answers))
    assert finding.details["examples"][0] == MEMBERS[0].id
    assert f"({len(answers)} members, 1 non-members) have an empty answer" in finding.message


@pytest.mark.parametrize(
    "conversation",
    [
        Conversation((ASKED, {"role": "assistant", "content": "", "tool_calls": CALL})),
        Conversation(({**ASKED, "content": ""}, {"role": "assistant", "content": "word0003"})),
        Conversation((ASKED, {"role": "assistant", "content": "word0003"}, {**ASKED, "content": ""}), prompt=1),
    ],
)
def test_a_call_is_an_answer_and_an_empty_question_is_none(conversation):
    rows = [replace(row, conversation=conversation) for row in MEMBERS[:30]]
    assert "empty_answers" not in found(audit(rows, answered(NONMEMBERS[:30], [])))


def test_an_empty_rejected_answer_counts():
    both = Conversation(
        (ASKED, {"role": "assistant", "content": "word0003"}), 1, rejected=({"role": "assistant", "content": ""},)
    )
    rows = [replace(row, conversation=both) for row in MEMBERS[:30]]
    assert found(audit(rows, answered(NONMEMBERS[:30], [])))["empty_answers"].details["count"] == 30
