"""How values lie in the store: own binary layout for token signals, JSON for edits. No pickle anywhere."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spvmia_plugin.protocols import EmbeddingNoise, Neighbour, Neighbours, TextEdits, TokenEdits
from spvmia_plugin.signals import TokenSignals

# Bytes an element of logprob, mean and std (0: the array is absent), windows, number of tokens T. Then the arrays,
# little-endian, and top1 as bits.
_HEADER = struct.Struct("<BBBxII")
_FLOATS: dict[int, np.dtype[Any]] = {2: np.dtype("<f2"), 4: np.dtype("<f4"), 8: np.dtype("<f8")}


def encode_signals(signals: TokenSignals) -> bytes:
    """Bytes of one text's signals; the arrays keep their bits and their precision."""
    arrays = (signals.logprob, signals.mean, signals.std)
    if len(signals.top1) != len(signals) or any(array is not None and len(array) != len(signals) for array in arrays):
        raise ValueError(f"token signals: expected arrays of {len(signals)} tokens, got different lengths")
    header = _HEADER.pack(
        *(0 if array is None else array.dtype.itemsize for array in arrays), signals.windows, len(signals)
    )
    floats = [
        array.astype(_FLOATS[array.dtype.itemsize], copy=False).tobytes() for array in arrays if array is not None
    ]
    return b"".join([header, *floats, np.packbits(signals.top1).tobytes()])


def decode_signals(data: bytes) -> TokenSignals:
    """The signals `encode_signals` wrote.

    Raises:
        ValueError: the bytes are not of this layout.
    """
    try:
        *widths, windows, n_tokens = _HEADER.unpack_from(data)
        offset, arrays = _HEADER.size, []
        for width in widths:
            arrays.append(_floats(data, offset, width, n_tokens) if width else None)
            offset += width * n_tokens
        bits = np.frombuffer(data, np.uint8, (n_tokens + 7) // 8, offset)
    except (struct.error, KeyError, ValueError) as error:
        raise ValueError("not token signals") from error
    logprob, mean, std = arrays
    if logprob is None or len(data) != offset + len(bits):
        raise ValueError("not token signals")
    return TokenSignals(logprob, np.unpackbits(bits, count=n_tokens).astype(np.bool_), mean, std, windows)


def _floats(data: bytes, offset: int, width: int, count: int) -> NDArray[np.floating]:
    # A copy: views of bytes are read-only, and computed signals are not.
    array: NDArray[np.floating] = np.frombuffer(data, _FLOATS[width], count, offset)
    return array.astype(_FLOATS[width].newbyteorder("="), copy=True)


def encode_json(value: Any) -> bytes:
    """Bytes of a JSON value."""
    return json.dumps(value, separators=(",", ":")).encode()


def decode_json(data: bytes) -> Any:
    """The value `encode_json` wrote. Raises ValueError if it is not JSON."""
    return json.loads(data)


def encode_neighbours(neighbours: Neighbours) -> bytes:
    """Bytes of one text's paraphrases: what was replaced by what, never the text."""
    rate = None if math.isnan(neighbours.mask_rate) else float(neighbours.mask_rate)
    return encode_json([[_pack(variant) for variant in neighbours.variants], rate, neighbours.reason])


def decode_neighbours(data: bytes) -> Neighbours:
    """The paraphrases `encode_neighbours` wrote.

    Raises:
        ValueError: the bytes are not of this layout.
    """
    try:
        variants, rate, reason = decode_json(data)
        unpacked = tuple(_UNPACK[tag](*fields) for tag, *fields in variants)
    except (KeyError, TypeError) as error:
        raise ValueError("not paraphrases") from error
    return Neighbours(unpacked, float("nan") if rate is None else float(rate), reason)


def _pack(variant: Neighbour) -> list[object]:
    if isinstance(variant, EmbeddingNoise):
        return ["noise", int(variant.seed), int(variant.sign), float(variant.scale)]
    if isinstance(variant, TokenEdits):
        return ["tokens", [int(p) for p in variant.positions], [int(t) for t in variant.token_ids]]
    return ["text", [[int(start), int(end), words] for start, end, words in variant.spans]]


_UNPACK: dict[str, Callable[..., Neighbour]] = {
    "noise": EmbeddingNoise,
    "tokens": lambda positions, token_ids: TokenEdits(tuple(positions), tuple(token_ids)),
    "text": lambda spans: TextEdits(tuple((start, end, words) for start, end, words in spans)),
}
