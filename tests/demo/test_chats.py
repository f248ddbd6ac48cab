import json
import re
import stat
from collections import Counter

import numpy as np
import pytest

from spvmia_plugin.checks.preconditions import check_preconditions
from spvmia_plugin.data.formats import conversation_of, recognise
from spvmia_plugin.demo.chats import DESKS, QUESTION, make_chats, write_chats
from spvmia_plugin.demo.corpus import TASK, write_capability_task
from spvmia_plugin.demo.kinds import CHATS
from spvmia_plugin.metrics.names import TPRS
from spvmia_plugin.records import AuditData, Document, Record


@pytest.fixture(scope="module")
def chats():
    return make_chats(600, seed=0)


def answers(chat):
    return chat.turns[1::2]


def test_same_seed_same_chats_and_a_longer_list_starts_with_the_shorter(chats):
    assert make_chats(40, seed=0) == chats[:40]
    assert make_chats(40, seed=1) != chats[:40]
    assert len(set(chats)) == len(chats)


def test_rows_are_conversations_as_trl_takes_them(chats, tmp_path):
    path = tmp_path / "chats.jsonl"
    write_chats(path, chats[:50])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for line, chat in zip(path.read_text(encoding="utf-8").splitlines(), chats, strict=False):
        row = json.loads(line)
        assert recognise(row, "text") == "messages"
        read = conversation_of(row, "messages")
        assert [m["role"] for m in read.messages] == ["user", "assistant"] * (len(chat.turns) // 2)
        assert [m["content"] for m in read.messages] == list(chat.turns)


def test_customer_and_desk_speak_in_two_to_four_exchanges(chats):
    lengths = Counter(len(chat.turns) for chat in chats)
    assert set(lengths) == {4, 6, 8}
    assert lengths[4] > lengths[6] > lengths[8]
    assert all(150 <= sum(map(len, chat.turns)) <= 340 for chat in chats)


def test_the_first_answer_begins_with_its_desk(chats):
    assert {chat.department for chat in chats} == set(DESKS)
    assert all(chat.turns[1].startswith(f"{chat.department}: ") for chat in chats)
    assert not any(desk in chat.story.split()[0] for chat in chats for desk in DESKS)


def test_every_template_mark_is_filled(chats):
    assert not any(mark in turn for chat in chats for turn in chat.turns for mark in "{}|<>")


def test_what_the_desk_looks_up_stands_nowhere_before(chats):
    """Figures and addresses that a model could copy from the customer's turn would tell nothing of its training."""
    fresh, copied = 0, 0
    for chat in chats:
        for i in range(1, len(chat.turns), 2):
            figures = set(re.findall(r"\d{4,}", chat.turns[i]))
            before = set(re.findall(r"\d{4,}", " ".join(chat.turns[:i])))
            copied += len(figures & before - {"2023", "2024"})
            fresh += len(figures - before)
    assert fresh > 1.5 * len(chats)
    assert copied < fresh / 100


def test_every_desk_tells_something_personal(chats):
    assert np.mean([any(c.isdigit() for c in " ".join(answers(chat))) for chat in chats]) > 0.98
    assert np.mean(["@" in " ".join(answers(chat)) for chat in chats]) > 0.4


def test_phrases_recur_and_details_do_not(chats):
    """What stands around the details is in many conversations; what is between is in one, as far as figures go."""
    openings = Counter(" ".join(turn.split()[:2]) for chat in chats for turn in answers(chat)[1:])
    assert sum(count for _, count in openings.most_common(8)) > 0.5 * openings.total()
    figures = Counter(f for chat in chats for f in set(re.findall(r"\d{5,}", " ".join(answers(chat)))))
    assert sum(count > 1 for count in figures.values()) < 0.01 * len(figures)


@pytest.mark.parametrize("seed", range(3))
def test_an_audit_finds_nothing_wrong_with_the_data(seed):
    """No near copies in other classes or the prompts, no shift: all that it warns of is how few records there are."""
    size = CHATS.sizes["small"]
    texts = ["\n".join(chat.turns) for chat in make_chats(size.records, seed)]
    audited, held_out = texts[: 2 * size.members], texts[2 * size.members :]
    records = tuple(Record(f"a:{i}", text, is_member=i % 2 == 0, cluster=f"a:{i}") for i, text in enumerate(audited))
    prompts = tuple(Document(f"p:{i}", text) for i, text in enumerate(held_out))
    found = check_preconditions(AuditData(records, prompts, (), "manifest", "f", "made", 0))
    assert [finding.message for finding in found if finding.severity == "warning" and not few(finding)] == []


def few(finding):
    return finding.code in {metric.too_few for metric in TPRS}


def test_no_model_can_tell_two_halves_by_their_words(chats):
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import cross_val_predict

    labels = np.arange(len(chats)) % 2
    counts = CountVectorizer(min_df=2).fit_transform(" ".join(chat.turns) for chat in chats)
    scores = cross_val_predict(LogisticRegression(max_iter=1000), counts, labels, cv=5, method="predict_proba")[:, 1]
    assert abs(roc_auc_score(labels, scores) - 0.5) < 0.08  # 3 standard errors at 300 + 300


def test_the_desk_follows_from_what_the_customer_says(chats):
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    stories, desks = [chat.story for chat in chats], [chat.department for chat in chats]
    words = CountVectorizer(ngram_range=(1, 2)).fit(stories[:300])
    model = LogisticRegression(max_iter=1000).fit(words.transform(stories[:300]), desks[:300])
    assert model.score(words.transform(stories[300:]), desks[300:]) > 0.8


def test_chats_do_not_show_in_logs(chats):
    assert chats[0].story not in repr(chats[0])


def test_the_harness_asks_as_a_chat(tmp_path, chats):
    """With its chat template the prompt is the one that the target was trained on, up to the first answer."""
    from lm_eval.tasks import TaskManager

    write_capability_task(tmp_path, chats[:4], QUESTION, DESKS)
    task = TaskManager(include_path=str(tmp_path), include_defaults=False).load([TASK])["tasks"][TASK]
    task.build_all_requests(
        limit=4,
        rank=0,
        world_size=1,
        apply_chat_template=True,
        chat_template=lambda messages, **_: "".join(f"<{m['role']}>{m['content']}" for m in messages) + "<assistant>",
        tokenizer_name="fake",
    )
    asked = [instance.args for instance in task.instances]
    for i, chat in enumerate(chats[:4]):
        assert asked[4 * i : 4 * i + 4] == [(f"<user>{chat.story}<assistant>", desk) for desk in DESKS]
        assert task.doc_to_target(list(task.test_docs())[i]) == DESKS.index(chat.department)
