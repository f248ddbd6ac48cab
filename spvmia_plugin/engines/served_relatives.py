"""Whether what a server has beside the target is what it is called: the base that is named, an adapter applied."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spvmia_plugin.engines.completions import Ids
from spvmia_plugin.engines.http import Connection, Refused
from spvmia_plugin.engines.remote import ALIKE
from spvmia_plugin.engines.served import Known, alike, distance
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.signals import Role

PROBE = "The train to the coast leaves at seven in the morning, and we will refund order 4711 soon."
"""What a served base and that of this process are compared by."""
OTHER_SERVER = 3 * ALIKE
"""Mean difference, in nats a token, from which a served base and that of this process are two models."""
QUICKLY_READ = 4e9
"""Bytes of weights that are read for nothing but this comparison; where references are trained they are read anyway."""


def check_names(connection: Connection, ids: Ids, base_served: str) -> None:
    """Make sure that a name stands for a model there: some servers answer for every name with the one that they have.

    Raises:
        SpvmiaError: the server answers for a name that was made up.
    """
    made_up = f"spvmia-no-model-{secrets.token_hex(4)}"
    try:
        connection.command(connection.url, {"model": made_up, "prompt": list(ids), "max_tokens": 1, "temperature": 0})
    except Refused:
        return
    raise SpvmiaError(
        f"mia_base_served: expected a server that knows its models by name, got one ({connection.shown}) that answers "
        f"for a made-up name too, so nobody knows which model answers for {base_served!r} or for an adapter; leave the "
        "option out (base and references are then read in this process), or ask a server that refuses unknown names"
    )


def applied(known: Mapping[Role, Known], role: Role) -> tuple[str | None, str | None]:
    """Whether a server applies an adapter, by what its models answered to a fixed text.

    Args:
        known: by role, the adapter's among them; those of which nothing is known are left out.
        role: the adapter's.

    Returns:
        Why it is no use, where the server answers for it as for the base; and a note, where it does as for the target.
    """
    apart = {
        other: distance(each.vector, known[role].vector)
        for other, each in known.items()
        if other is not role and role in known and alike(each, known[role])
    }
    found = {
        other: f"{far:.2g} nats a token apart, within what its own answers differ by" for other, far in apart.items()
    }
    if Role.BASE in found:
        return (
            f"the server answers for it as for the base ({found[Role.BASE]}): it does not apply the adapter, or that "
            "changes nothing"
        ), None
    if Role.TARGET in found:
        return None, (
            f"the server answers for the {role.value} as for the target ({found[Role.TARGET]}): it is the target's own "
            "adapter, or is not applied"
        )
    return None, None


def difference(base_served: str, served: NDArray[np.float32], here: NDArray[np.float32]) -> float:
    """By how much the served base and that of this process differ, in nats a token of `PROBE`.

    Raises:
        SpvmiaError: they are two models.
    """
    apart = float(np.abs(served - here).mean())
    if apart > OTHER_SERVER:
        raise SpvmiaError(
            f"mia_base_served: expected the model that mia_base_model names, got {base_served!r}, whose "
            f"log-probabilities of a fixed text differ from it by {apart:.2g} nats a token; correct one of the two"
        )
    return apart


def told(apart: float) -> str:
    """A note on that difference."""
    more = ", more than rounding in bfloat16 explains (about .05): they may be two models" if apart > ALIKE else ""
    return f"the served base and mia_base_model differ by {apart:.2g} nats a token{more}"


def why_not_read(name: str | None) -> str | None:
    """Why a model is not read for nothing but a comparison, None if it is."""
    if name is None:
        return "nobody names mia_base_model"
    size = _bytes_of_weights(name)
    if not size:
        return "the weights that mia_base_model names are not on this machine"
    return f"mia_base_model has {size / 1e9:.0f} GB of weights to read" if size > QUICKLY_READ else None


def _bytes_of_weights(name: str) -> int:
    """Bytes of the weights of a folder, or of a hub id that was downloaded before."""
    folder = Path(name)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(name, local_files_only=True))
        except (OSError, ValueError):  # not there, or no name of the hub's
            return 0
    return sum(path.stat().st_size for kind in ("*.safetensors", "*.bin") for path in folder.glob(kind))
