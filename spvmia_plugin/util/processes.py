"""Several processes of one launch: what they tell each other, and what is said when one of them is gone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from spvmia_plugin.errors import SpvmiaError


def is_first(processes: int) -> bool:
    """Whether this is the one of so many processes that looks, writes and shows for all."""
    import torch

    return processes == 1 or int(torch.distributed.get_rank()) == 0


def first_says(value: Any) -> Any:
    """What the first process passed, in all of them; `value` itself where there is one."""
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([value])[0]


@contextmanager
def one_of(processes: int) -> Iterator[None]:
    """While processes wait for each other.

    Raises:
        SpvmiaError: another process has failed. It has said why; this one must not wait for it.
    """
    try:
        yield
    except RuntimeError as error:  # as for want of memory: a lost connection has no type of its own in gloo
        if not re.search("connection|gloo|nccl", str(error), re.IGNORECASE):
            raise
        raise SpvmiaError(
            f"several processes: expected all {processes} to finish, got a broken connection: another one has "
            "failed, and its own last line says why; correct that and run the same command again, which continues"
        ) from error
