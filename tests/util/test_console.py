"""What a terminal shows while something runs, and that a file is given none of it."""

from __future__ import annotations

import fcntl
import io
import os
import re
import struct
import sys
import termios

import pytest

from spvmia_plugin.util.console import Bar, bars_called, bars_of, columns, following, show
from tests.auditing.fakes import make_data
from tests.auditing.test_run import run


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def stderr(monkeypatch):
    def made(stream):
        monkeypatch.setattr(sys, "stderr", stream)
        return stream

    return made


def states(stream):
    """What stood in the last line, one after another."""
    return [state.strip() for state in re.split(r"[\r\n]|\x1b\[A", stream.getvalue()) if state.strip()]


def test_a_bar_says_what_is_done_how_far_it_is_and_how_fast(stderr):
    stream = stderr(Terminal())
    with Bar(total=4, desc="scoring: target", unit="texts", initial=1) as bar:
        bar.update(3)
    first, *_, last = states(stream)
    assert re.fullmatch(r"scoring: target +25 %, \S+ left \|.*\| 1/4 texts, .*texts/s", first)
    assert re.fullmatch(r"scoring: target +100 %, 00:00 left \|\S+\| 4/4 texts, .* texts/s", last)


@pytest.mark.parametrize(("stream", "quiet"), [(io.StringIO(), False), (Terminal(), True)])
def test_elsewhere_and_beside_another_process_there_is_none(stderr, stream, quiet):
    stderr(stream)
    with Bar(total=2, desc="work", unit="texts", quiet=quiet) as bar:
        bar.update(2)
    assert stream.getvalue() == ""


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_who_follows_is_told_of_each_step_whether_it_is_seen_or_not(stderr, stream):
    stderr(stream)
    told = []

    def follower(name, share, *, kept=False):
        told.append((name, share, kept))
        return "about 3 min in all"

    with (
        following(follower),
        bars_called("training the reference"),
        Bar(total=4, desc="reference", unit="steps", initial=1) as bar,
    ):
        bar.update(1)
        bar.update(2)
    assert told == [
        ("training the reference", 0.25, True),
        ("training the reference", 0.25, False),
        ("training the reference", 0.5, False),
    ]
    with Bar(total=4, desc="reference", unit="steps") as bar:
        bar.update(1)
    assert len(told) == 3
    if stream.isatty():
        assert states(stream)[0].startswith("training the reference  25 %, ? left, about 3 min in all |")
        assert states(stream)[-1].startswith("reference  25 %")


def test_a_bar_says_which_part_it_counts_and_who_follows_counts_the_stage(stderr):
    stream, told = stderr(Terminal()), []

    def follower(name, share, *, kept=False):
        told.append(name)
        return ""

    for part in ("part 2 of 50", ""):
        with following(follower), bars_of(part), Bar(total=4, desc="scoring: target", unit="texts") as bar:
            bar.update(1)
    seen = states(stream)
    assert seen[0].startswith("scoring: target, part 2 of 50   0 %")
    assert seen[-1].startswith("scoring: target   0 %")
    assert set(told) == {"scoring: target"}


def test_a_line_above_a_bar_leaves_the_bar_whole(stderr):
    stream = stderr(Terminal())
    with Bar(total=4, desc="work", unit="texts") as bar:
        bar.update(1)
        show("spvmia: a line\nof two\x1b[2J")
        assert "spvmia: a line\nof two\\x1b[2J\n" in stream.getvalue()
        assert states(stream)[-1].startswith("work")


def test_a_followed_bar_goes_when_it_is_done(stderr):
    stream = stderr(Terminal())
    with following(lambda name, share, *, kept=False: ""), Bar(total=1, desc="work", unit="texts") as bar:
        bar.update(1)
    assert stream.getvalue().endswith("\r")
    assert not stream.getvalue().rsplit("\r", 2)[1].strip()


def test_a_narrow_terminal_keeps_the_time_left_on_one_line(monkeypatch):
    screen, side = os.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 70, 0, 0))
    with open(side, "w") as stream, open(screen, "rb", buffering=0) as seen:
        monkeypatch.setattr(sys, "stderr", stream)
        with (
            following(lambda name, share, *, kept=False: "about 12 min in all"),
            Bar(total=9, desc="self-prompting the target", unit="texts") as bar,
        ):
            bar.update(3)
        shown = io.StringIO(seen.read(4096).decode())
    assert all(len(state) <= 70 for state in states(shown))
    assert states(shown)[0].startswith("self-prompting the target   0 %, ? left, about 12 min in all |")


def test_columns_stand_one_under_the_other():
    assert columns([("stage", "count"), ("scoring", "1,000"), ("", "7")], "<>") == [
        "  stage    count",
        "  scoring  1,000",
        "               7",
    ]
    assert columns([("a", "bb"), ("ccc", "d")], "<<") == ["  a    bb", "  ccc  d"]


SPV = {"mia_perturbation": "causal"}


def test_an_audit_shows_its_stages_on_a_terminal(stderr, tmp_path):
    stream = stderr(Terminal())
    run(tmp_path, ["spv"], data=make_data(6, prompts=4), quiet=False, **SPV)
    for stage in ("self-prompting the target", "paraphrases (causal)", "scoring: target", "scoring: reference"):
        assert re.search(rf"^{re.escape(stage)} +\d+ %", "\n".join(states(stream)), re.M), stage


def test_an_audit_in_a_file_is_the_plan_and_nothing_that_drives_a_terminal(stderr, tmp_path):
    stream = stderr(io.StringIO())
    data = make_data(6, prompts=4)
    run(tmp_path, ["spv"], data=data, quiet=False, **SPV)
    lines = stream.getvalue().splitlines()
    assert all(character == "\n" or character.isprintable() for character in stream.getvalue())
    assert lines[0].startswith("spvmia: 12 records")
    assert len(lines) == 3 + 6  # title, heading, six stages, how to shrink it: no stage took long
    assert not any(record.text in stream.getvalue() for record in data.records)
