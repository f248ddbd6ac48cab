"""The board in the format that a file's ending names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.leaderboard.board import Board
from spvmia_plugin.leaderboard.machine import to_csv, to_json
from spvmia_plugin.leaderboard.markdown import to_markdown
from spvmia_plugin.leaderboard.page import to_html
from spvmia_plugin.util.files import check_file_to_write

FORMATS: Mapping[str, Callable[[Board], str]] = {
    ".html": to_html,
    ".md": to_markdown,
    ".csv": to_csv,
    ".json": to_json,
}
"""File ending -> what makes the text."""


def check_output(path: Path) -> None:
    """Refuse an output that cannot be written, before any work.

    Raises:
        SpvmiaError: an ending that is none of `FORMATS`, a folder, or no folder to write to.
    """
    if path.suffix.lower() not in FORMATS:
        known = ", ".join(FORMATS)
        raise SpvmiaError(f"--output: expected a file that ends in one of {known}, got {str(path)!r}; name one")
    if path.is_dir() or not path.parent.is_dir():
        what = "a folder" if path.is_dir() else f"no folder {path.parent}"
        raise SpvmiaError(f"--output: expected a file in a folder that is there, got {what}; name another file")


def write_board(board: Board, path: Path) -> None:
    """Write the board to a file.

    Raises:
        SpvmiaError: as `check_output`, or the file cannot be written.
    """
    check_output(path)
    check_file_to_write(path, "--output")
    text = FORMATS[path.suffix.lower()](board)
    try:
        path.write_bytes(text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise SpvmiaError(
            f"--output: expected a file that can be written, got {path} ({error.strerror}); name another file"
        ) from error
