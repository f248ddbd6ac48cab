"""lm_eval command lines as they stand: whatever launches them, what they say is what lm_eval reads."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from spvmia_plugin.cli.main import make_app
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.harness.command_line import Command

WORDS = ["--model", "hf", "--model_args", "pretrained=m", "--tasks", "a,b", "--metadata", '{"mia_seed": 3}']


@pytest.mark.parametrize(
    "before",
    [
        "",
        "run",
        "lm_eval",
        "lm-eval run",
        "/usr/bin/lm_eval",
        "python -m lm_eval",
        "python3.11 -X dev -m lm_eval run",
        "python /there/lm_eval/__main__.py",
        "accelerate launch -m lm_eval",
        "accelerate launch --multi_gpu --num_processes 2 --module lm_eval",
        "torchrun --nproc-per-node=2 -m lm_eval",
        "torchrun --log-dir lm_eval -m lm_eval run",
        "CUDA_VISIBLE_DEVICES=0 lm_eval",
        "uv run lm_eval",
        "spvmia run",
        "python -m spvmia_plugin run",
    ],
)
def test_the_words_of_lm_eval_are_read_as_it_reads_them(before):
    found = Command.parse([*before.split(), *WORDS])
    assert (found.tasks, found.arguments, found.metadata) == (["a", "b"], {"pretrained": "m"}, {"mia_seed": 3})


def test_a_value_is_no_program():
    assert Command.parse(["run", *WORDS, "--output_path", "lm_eval"]).output == "lm_eval"
    assert Command.parse([*WORDS, "--output_path", "lm_eval"]).tasks == ["a", "b"]


@pytest.mark.parametrize(
    ("words", "processes"),
    [
        ("lm_eval", 1),
        ("accelerate launch -m lm_eval", 1),
        ("accelerate launch --multi_gpu --num_processes 2 -m lm_eval", 2),
        ("accelerate launch --num-processes=4 -m lm_eval run", 4),
        ("torchrun --standalone --nproc-per-node=3 -m lm_eval", 3),
        ("torchrun --nproc_per_node 2 -m lm_eval", 2),
        ("torchrun --nproc_per_node gpu -m lm_eval", 1),
    ],
)
def test_how_many_processes_a_launcher_starts(words, processes):
    assert Command.parse([*words.split(), "--model", "hf", "--tasks", "a"]).processes == processes


@pytest.mark.parametrize(
    ("words", "got"),
    [
        ("", "got none"),
        ("lm_eval", "got none"),
        ("python -m lm_eval run", "got none"),
        ("results", "got 'results' without lm_eval"),
        ("accelerate launch train.py --lr 1", "got 'accelerate' without lm_eval"),
        ("lm_eval ls tasks", "got 'ls'"),
        ("validate --tasks a", "got 'validate' without lm_eval"),
    ],
)
def test_what_is_no_command_that_runs_tasks_says_what_is_expected(words, got):
    with pytest.raises(SpvmiaError) as refused:
        Command.parse(words.split())
    said = str(refused.value)
    assert said.startswith("lm_eval: expected the words of an lm_eval command that runs tasks, such as")
    assert said.endswith(got)


def test_alone_it_says_what_is_expected():
    for words in (["check"], ["check", "--json"]):
        result = CliRunner().invoke(make_app("check"), words)
        assert result.exit_code == 1
        assert result.stderr.startswith("lm_eval: expected the words of an lm_eval command")
