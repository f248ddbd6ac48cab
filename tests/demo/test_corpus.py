import json
import stat

import numpy as np
import pytest

from spvmia_plugin.demo.corpus import DEPARTMENTS, make_tickets, write_corpus
from spvmia_plugin.errors import SpvmiaError


@pytest.fixture(scope="module")
def tickets():
    return make_tickets(600, seed=0)


def test_same_seed_same_tickets_and_a_longer_list_starts_with_the_shorter(tickets):
    assert make_tickets(40, seed=0) == tickets[:40]
    assert make_tickets(40, seed=1) != tickets[:40]


def test_no_ticket_twice(tickets):
    assert len({ticket.text for ticket in tickets}) == len(tickets)


def test_tickets_are_of_scorable_length_and_say_their_department_last(tickets):
    for ticket in tickets:
        assert 160 <= len(ticket.story) <= 250
        assert ticket.text == f"{ticket.story} Department: {ticket.department}"
        assert ticket.department in DEPARTMENTS


def test_every_template_mark_is_filled(tickets):
    assert not any(mark in ticket.text for ticket in tickets for mark in "{}|<>")


def test_tickets_share_no_long_run_of_words(tickets):
    """Near duplicates across the split would make a member of a non-member: no 13 words in a row are repeated."""
    seen = {}
    for number, ticket in enumerate(tickets):
        words = ticket.text.split()
        for start in range(len(words) - 12):
            assert seen.setdefault(tuple(words[start : start + 13]), number) == number


def test_tickets_are_personal(tickets):
    assert np.mean([any(c.isdigit() for c in ticket.story) for ticket in tickets]) > 0.95
    assert np.mean(["@" in ticket.story for ticket in tickets]) > 0.15


def test_no_model_can_tell_two_halves_by_their_words(tickets):
    """Members and non-members come from one generator: a classifier of words stays at chance."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import cross_val_predict

    labels = np.arange(len(tickets)) % 2
    counts = CountVectorizer(min_df=2).fit_transform(ticket.text for ticket in tickets)
    scores = cross_val_predict(LogisticRegression(max_iter=1000), counts, labels, cv=5, method="predict_proba")[:, 1]
    assert abs(roc_auc_score(labels, scores) - 0.5) < 0.08  # 3 standard errors at 300 + 300


def test_the_department_follows_from_the_story(tickets):
    """A classifier of words, trained on half of the stories, names the department of the other half."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    stories, answers = [t.story for t in tickets], [t.department for t in tickets]
    words = CountVectorizer(ngram_range=(1, 2)).fit(stories[:300])
    model = LogisticRegression(max_iter=1000).fit(words.transform(stories[:300]), answers[:300])
    assert model.score(words.transform(stories[300:]), answers[300:]) > 0.8


def test_corpus_file_is_private_and_holds_the_tickets(tmp_path, tickets):
    path = tmp_path / "corpus.jsonl"
    write_corpus(path, tickets[:5])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert rows == [{"text": ticket.text} for ticket in tickets[:5]]


def test_tickets_do_not_show_in_logs(tickets):
    assert tickets[0].story not in repr(tickets[0])


def test_missing_faker_names_the_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SpvmiaError, match=r'pip install "spvmia-plugin\[demo\]"'):
        make_tickets(1, seed=0)
