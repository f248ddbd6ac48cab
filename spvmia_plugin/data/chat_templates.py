"""Chat templates as files and texts: read, told apart, and the ones that TRL trains with in their place."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spvmia_plugin.errors import SpvmiaError, reason_of
from spvmia_plugin.util.files import as_path
from spvmia_plugin.util.strict_json import any_loads

OPTION = "mia_chat_template"
TRAINING_TEMPLATES = Path(__file__).parent / "training_templates"
"""TRL's, unchanged: NOTICE.md there says where they come from."""

DEFAULT, TOOL_USE = "default", "tool_use"
"""The variants that transformers looks for where a tokenizer names several."""

_LARGEST = 2**20
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


def read_template(path: str, *, option: str = OPTION) -> str:
    """The text of the template in the file that an option names, line ends as TRL reads them.

    Raises:
        SpvmiaError: there is no such file, or it holds no Jinja template that reads messages.
    """
    file = as_path(path, option)
    if not file.is_file():
        raise SpvmiaError(
            f"{option}: expected a file with a Jinja template, got {path}, which is "
            f"{'a folder' if file.is_dir() else 'no file'}; correct the path"
        )
    if file.stat().st_size > _LARGEST:
        raise SpvmiaError(
            f"{option}: expected a Jinja template of at most {_LARGEST} bytes, got {path} with {file.stat().st_size}; "
            "correct the path"
        )
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise SpvmiaError(f"{option}: {path} cannot be read ({reason_of(error)}); correct the path") from error
    except UnicodeDecodeError as error:
        raise SpvmiaError(f"{option}: expected a Jinja template in UTF-8, got other bytes in {path}") from error
    _check(text, path, option)
    return text


def _check(text: str, path: str, option: str) -> None:
    """Refuse what is no template before a model is loaded for it."""
    import jinja2.ext
    import jinja2.meta
    import jinja2.nodes

    class Generation(jinja2.ext.Extension):  # type: ignore[misc]
        """The block that marks what the model writes; its contents are what counts here."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    try:
        any_loads(text)
    except ValueError:
        pass
    else:
        raise SpvmiaError(
            f"{option}: expected the text of a Jinja template, got JSON in {path}; put what its chat_template says "
            "into a file of its own"
        )
    environment = jinja2.Environment(extensions=[Generation, "jinja2.ext.loopcontrols"], autoescape=False)  # noqa: S701
    try:
        names = jinja2.meta.find_undeclared_variables(environment.parse(text))
        environment.compile(text)  # to Python, which has limits of its own
    except jinja2.TemplateSyntaxError as error:
        raise SpvmiaError(
            f"{option}: expected a Jinja template, got {path} with an error in line {error.lineno} "
            f"({reason_of(error)}); correct it"
        ) from error
    except (ValueError, ArithmeticError, SyntaxError, RecursionError, MemoryError) as error:
        raise SpvmiaError(
            f"{option}: expected a Jinja template, got {path}, in which numbers or brackets are beyond what Jinja2 or "
            f"Python take ({reason_of(error)}); correct it"
        ) from error
    if "messages" not in names:
        raise SpvmiaError(
            f"{option}: expected a Jinja template that reads 'messages', got {path}, which does not; name the chat "
            "template that the target was trained with"
        )


def variants_of(template: Any) -> dict[str, str]:
    """The texts by name of what a tokenizer has as its `chat_template`: one, several with names, or none."""
    if template is None:
        return {}
    return dict(template) if isinstance(template, Mapping) else {DEFAULT: str(template)}


def has_marks(template: str) -> bool:
    """Whether a template marks what the assistant writes (`{% generation %}`); as TRL looks for it."""
    return _GENERATION.search(template) is not None


def training_template(template: str) -> tuple[str, str] | None:
    """Name and text of the template that TRL trains with in place of one of a model, where it ships one."""
    index = json.loads((TRAINING_TEMPLATES / "index.json").read_text(encoding="utf-8"))
    name = index.get(digest(template))
    return None if name is None else (name, (TRAINING_TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8"))


def digests(template: Any) -> dict[str, str]:
    """Digests of the texts of what a tokenizer has as its `chat_template`, by name."""
    return {name: digest(text) for name, text in sorted(variants_of(template).items())}


def digest(template: str) -> str:
    """SHA-256 of a template's text in hexadecimal."""
    return hashlib.sha256(template.encode()).hexdigest()
