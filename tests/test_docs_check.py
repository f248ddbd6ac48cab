"""`docs/check.py`, which keeps the documentation true, finds what it should find."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

CHECK = Path(__file__).parent.parent / "docs" / "check.py"


@pytest.fixture(scope="module")
def check() -> Any:
    spec = importlib.util.spec_from_file_location("docs_check", CHECK)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["docs_check"] = module  # its dataclass looks itself up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def parsers(check: Any) -> Any:
    return check.Parsers()


def test_finds_blocks_with_their_place_language_and_excuse(check: Any) -> None:
    page = (
        "a\n\n```bash\nls\n```\n\n<!-- not run: no network -->\n\n```python\nx = 1\n```\n"
        "<!-- other -->\n```\nout\n```\n"
    )
    assert list(check.blocks(page, "p.md")) == [
        check.Block("p.md:3", "bash", "ls\n", None),
        check.Block("p.md:9", "python", "x = 1\n", "no network"),
        check.Block("p.md:13", "", "out\n", None),
    ]


def test_takes_commands_apart(check: Any) -> None:
    body = "a --b 'c | d' && e \\\n  f | g > h  # comment\n\n# i\nj \"$(k l)\" ; m\n"
    assert list(check.commands(body)) == [["a", "--b", "c | d"], ["e", "f"], ["g"], ["j", "$(k l)"], ["m"]]


@pytest.mark.parametrize(
    "line",
    [
        "spvmia enable",
        "spvmia --version",
        "spvmia tasks --write my_attack custom --output mine",
        "spvmia run --tasks spv_mia_custom,arc_easy -s --output_path x",
        "spvmia run ls tasks",
        "lm_eval ls tasks",
        "NO_COLOR=1 lm_eval --tasks mia_xsum --metadata '{\"mia_seed\": 3}' --model_args pretrained=x",
        "accelerate launch -m lm_eval --tasks privacy",
        "pip install anything",
    ],
)
def test_accepts_what_the_real_parsers_accept(check: Any, parsers: Any, line: str) -> None:
    (command,) = check.commands(line)
    assert parsers.check(command) is None


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("spvmia enabel", "no command 'enabel'"),
        ("spvmia enable --force", "--force"),
        ("spvmia tasks --write one", "requires 2 arguments"),
        ("spvmia cache shred", "no command 'shred'"),
        ("lm_eval --taks x", "--taks"),
        ("spvmia run --taks x", "--taks"),
        ("accelerate launch -m lm_eval --taks x", "--taks"),
        ("lm_eval --tasks spv_mia_wikitex", "no task 'spv_mia_wikitex'"),
        ('lm_eval --tasks spv_mia_custom --metadata \'{"mia_preset": "quik"}\'', "mia_preset: expected one of"),
        ("lm_eval --tasks spv_mia_custom --metadata '{\"mia_sed\": 1}'", "did you mean 'mia_seed'?"),
        ("rm -rf /", "unknown program 'rm'"),
    ],
)
def test_refuses_what_they_refuse(check: Any, parsers: Any, line: str, problem: str) -> None:
    (command,) = check.commands(line)
    assert problem in parsers.check(command)


def test_python_blocks_are_run(check: Any) -> None:
    def block(body: str, excuse: str | None = None) -> Any:
        return check.Block("p.md:1", "python", body, excuse)

    assert check.check_block(block("import spvmia_plugin\n"), None) == []
    assert check.check_block(block("1 / 0\n"), None) == ["p.md:1: ZeroDivisionError: division by zero"]
    assert check.check_block(block("1 / 0\n", "shows an error"), None) == []
    assert check.check_block(block("1 / 0\n", ""), None) == ["p.md:1: expected a reason after 'not run:'"]


def test_links_lead_somewhere(check: Any, tmp_path: Path) -> None:
    (tmp_path / "there.md").touch()
    text = "[a](there.md#x) [b](https://x.org) [c](#here) [d](gone.md)\n```\n[e](code.md)\n```\n"
    assert check.broken_links(text, tmp_path / "page.md") == ["page.md: no file 'gone.md' to link to"]


TABLE = """
| message | what to do |
|---|---|
| `a: expected ..., got ...` (x) | b |
| c | d |

| other | e |
| `f` | g |
"""


def test_quoted_messages_are_those_of_tables_of_messages(check: Any) -> None:
    assert check.messages(TABLE) == ["a: expected ..., got ..."]


SOURCE = """
raise ValueError(f"{option}: expected {what}, got {value!r}; do "
                 f"{'this' if x else 'that'}")
line = "one line"
"""


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("...: expected ..., got ...; do ...", True),
        ("expected ..., got", True),
        ("one line", True),
        ("got ..., expected ...", False),
        ("expected ... one line", False),
        ("expected ..., gets ...", False),
        ("...", False),
    ],
)
def test_a_message_is_in_the_sources_if_one_string_holds_its_fixed_parts(check: Any, message: str, said: bool) -> None:
    assert check.is_said(message, check.templates([SOURCE])) is said


def test_a_message_that_nothing_says_is_found(check: Any) -> None:
    assert check.unsaid(TABLE.replace("a: expected", "mia_cache_dir: hoped for")) == [
        "mia_cache_dir: hoped for ..., got ..."
    ]


def test_the_quoted_messages_are_the_ones_the_code_says(check: Any) -> None:
    page = (CHECK.parent / "troubleshooting.md").read_text(encoding="utf-8")
    assert len(check.messages(page)) > 30
    assert check.unsaid(page) == []


def test_the_help_of_every_command_has_examples_that_parse(check: Any, parsers: Any) -> None:
    blocks = list(parsers.help_blocks())
    assert {"spvmia --help", "spvmia finetune --help", "spvmia cache clear --help"} <= {block.place for block in blocks}
    assert [problem for block in blocks for problem in check.check_block(block, parsers.check)] == []
    without = {block.place for block in blocks if not list(check.commands(block.body))}
    assert without <= {"spvmia cache --help"}


@pytest.mark.parametrize(
    ("text", "is_opened"),
    [
        ("# A page\n\nWhat it is for.\n", True),
        ("<!-- made by x -->\n# A page\n\n`spvmia gate` holds an audit against a limit.\n", True),
        ("# A page\n\n## A section\n", False),
        ("# A page\n\n```bash\nls\n```\n", False),
        ("# A page\n\n| a | b |\n", False),
        ("What it is for.\n", False),
        ("# A page\n", False),
    ],
)
def test_a_page_begins_with_what_it_is_for(check: Any, text: str, is_opened: bool) -> None:
    assert (check.unopened(text, Path("p.md")) == []) is is_opened


@pytest.mark.parametrize(
    ("tag", "is_loaded"),
    [
        ('<script src="https://cdn.example/x.js">', True),
        ("<img src=//cdn.example/x.png>", True),
        ('<link rel="stylesheet" href="https://fonts.example/css">', True),
        ('<link rel="preconnect" href="https://fonts.example" crossorigin>', True),
        ('<script src="assets/x.js">', False),
        ('<link rel="canonical" href="https://docs.example/">', False),
        ('<a href="https://arxiv.org/abs/2311.06062">', False),
    ],
)
def test_what_a_page_of_the_site_would_load_from_elsewhere(check: Any, tag: str, is_loaded: bool) -> None:
    assert bool(check.loaded_from_elsewhere(f"<p>{tag}</p>")) is is_loaded
