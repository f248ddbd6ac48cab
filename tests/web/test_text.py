"""Numbers, commands and other people's names as they are shown."""

from __future__ import annotations

import math
import re
import shlex

import pytest

from spvmia_plugin.web.text import csv_text, markdown, printed, typed, unlinked


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (0.004, "0.4"), (0.07, "7"), (0.0996, "10"), (0.36, "36"), (1.0, "100")]
)
def test_of_a_hundred(value, text):
    assert printed(value, "per_hundred") == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.5043, "50.4"), (0.49962, "49.96"), (0.9973, "99.7"), (0.01021, "1.02"), (0.04963, "4.96")],
)
def test_what_is_above_a_guess_is_not_printed_as_one(value, text):
    assert printed(value, "per_hundred") == text


@pytest.mark.parametrize(("value", "text"), [(0.5, "50"), (0.01, "1"), (0.05, "5"), (0.001, "0.1"), (0.29, "29")])
def test_a_guess_is_printed_as_one(value, text):
    assert printed(value, "per_hundred") == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.89, "0.8900"), (-3.0432, "-3.043"), (12345.6, "1.235e+04"), (1234.4, "1234"), (0.0, "0.000")],
)
def test_scores_have_four_digits(value, text):
    assert printed(value, "score") == text


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_what_is_not_resolved_is_a_dash(value):
    assert printed(value) == "–"


@pytest.mark.parametrize(
    ("text", "cell"),
    [("=1+1", "'=1+1"), ("@a", "'@a"), (" -2", "' -2"), ("\t=1", "'\\x09=1"), ("a=b", "a=b"), ("", "")],
)
def test_text_never_starts_a_formula(text: str, cell: str) -> None:
    assert csv_text(text).replace("'\\x09", "'\\x09") == cell or csv_text(text) == cell.removeprefix("'")
    assert not csv_text(text).lstrip().startswith(("=", "+", "-", "@", "\t", "\r"))


def test_markdown_shows_markup_as_it_is() -> None:
    assert markdown("a|b *c* _d_ [e](f) <g> `h`") == r"a\|b \*c\* \_d\_ \[e\](f) \<g\> \`h\`"


@pytest.mark.parametrize(
    ("text", "live"),
    [
        ("ask @octocat", r"@\w"),
        ("see #12 and org/repo#7", r"#\d"),
        ("GH-12", r"GH-\d"),
        ("write to mallory@example.com", r"@\w"),
        ("mailto:mallory@example.com", r"@\w"),
        ("HTTPS://example.com", r"://"),
        ("WWW.example.com", r"(?i)www\.e"),
        ("ftp://example.com", r"://"),
    ],
)
def test_nothing_in_a_name_is_a_link_or_calls_anybody(text: str, live: str) -> None:
    for shown_text in (markdown(text), unlinked(text)):
        rendered = re.sub(r"\\([^\w\s])", r"\1", shown_text) if live in (r"@\w", r"#\d", r"GH-\d") else shown_text
        assert not re.search(live, rendered)
        assert re.sub(r"[\\\u2060]", "", shown_text) == text


def test_ordinary_names_stay_as_they_are() -> None:
    assert unlinked("meta-llama/Llama-3.1-8B, TPR at 1 % FPR: 0.5") == "meta-llama/Llama-3.1-8B, TPR at 1 % FPR: 0.5"


@pytest.mark.parametrize("value", ['{"a": "$(rm) `x`"}', "--x; rm -rf ~"])
def test_a_command_survives_the_shell(value):
    words = ["lm_eval", "run", "--model_args", "pretrained=a b,peft='x'", "--metadata", value]
    assert shlex.split(typed(words).replace("\\\n", " ")) == words
