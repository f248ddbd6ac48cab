"""Many models side by side: what they can do, and how much they give away of what they were trained on."""

from spvmia_plugin.leaderboard.board import Board, Options, build_board
from spvmia_plugin.leaderboard.formats import FORMATS, write_board

__all__ = ["FORMATS", "Board", "Options", "build_board", "write_board"]
