"""Quantised copies: whether one folder holds another's model with packed weights, as bitsandbytes saves it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_NOT_THE_FUNCTION = frozenset(
    {
        *("_name_or_path", "transformers_version", "quantization_config", "dtype", "torch_dtype", "use_cache"),
        *("architectures", "pad_token_id", "unsloth_version", "unsloth_fixed", "_attn_implementation_autoset"),
    }
)
"""Settings in which a copy that computes the same may differ from the original."""
_ROWS = 64
"""Of every tensor that is not packed, so many rows are compared."""
_PACKED = 8
"""Of those that are packed, so many at either end are compared by their scales: those of a layer, which hold all
modules that an adapter may have been merged into."""
_BLOCK = 64
"""Weights that bitsandbytes scales together in 4 bits, by its default."""


def quantised_copy(name: str, original: str, revision: str | None = None) -> str | None:
    """How a model is a copy of another that bitsandbytes has packed, in words; None if that cannot be shown.

    Shown it is by the settings, the tokens, the weights that are not packed (embeddings, norms), which are the
    original's to the copy's precision, and the scales of those that are: the largest of every block or row of the
    original. Scales that are packed in their turn (`bnb_4bit_use_double_quant`) are not looked at.

    Args:
        name: folder or hub id of the one in question.
        original: of the model before quantisation.
        revision: of `name`.
    """
    config, of_original = _config(name, revision), _config(original)
    quantisation = config.get("quantization_config")
    if not isinstance(quantisation, Mapping) or not of_original:
        return None
    bits = [number for number in (4, 8) if quantisation.get(f"load_in_{number}bit")]
    if quantisation.get("quant_method") != "bitsandbytes" or len(bits) != 1:
        return None
    settings = [{k: v for k, v in each.items() if k not in _NOT_THE_FUNCTION} for each in (config, of_original)]
    if settings[0] != settings[1] or not _have_same_tokens(name, original, revision):
        return None
    ours, theirs = _Tensors(name, revision), _Tensors(original)
    same = _have_same_plain_weights(ours, theirs) and _have_same_scales(ours, theirs)
    return f"{bits[0]} bits (bitsandbytes)" if same else None


def _config(name: str, revision: str | None = None) -> dict[str, Any]:
    """What `config.json` says, with the defaults of its kind; empty if there is none. Runs no code of the model."""
    from transformers import AutoConfig

    try:
        found: dict[str, Any] = AutoConfig.from_pretrained(
            name, revision=revision or "main", trust_remote_code=False
        ).to_dict()
    except (OSError, ValueError):
        return {}
    return found


def _have_same_tokens(name: str, original: str, revision: str | None) -> bool:
    from transformers import AutoTokenizer

    try:
        copied = AutoTokenizer.from_pretrained(name, revision=revision or "main", trust_remote_code=False)
        vocab: dict[str, int] = AutoTokenizer.from_pretrained(original, trust_remote_code=False).get_vocab()
    except (OSError, ValueError):  # one of the two cannot be had here
        return False
    return bool(copied.get_vocab() == vocab)


def _have_same_plain_weights(ours: _Tensors, theirs: _Tensors) -> bool:
    """Whether all weights of a copy that are not packed are the original's, and there are such."""
    import torch

    compared = 0
    for key in sorted(ours.files.keys() & theirs.files.keys()):
        copied, whole = ours.rows(key), theirs.rows(key)
        if not copied.is_floating_point() or copied.shape != whole.shape:
            continue
        if not torch.equal(copied, whole.to(copied.dtype)):
            return False
        compared += 1
    return compared > 0


def _have_same_scales(ours: _Tensors, theirs: _Tensors) -> bool:
    """Whether weights of a copy that are packed have the scales of the original's."""
    packed = [key for key in sorted(theirs.files.keys() & ours.files.keys()) if key.endswith(".weight")]
    blocks = [(key, f"{key}.absmax") for key in packed if f"{key}.absmax" in ours.files]
    rows = [(key, scale) for key in packed if (scale := f"{key.removesuffix('weight')}SCB") in ours.files]
    all_packed = [*blocks, *rows]
    for key, scale in dict([*all_packed[:_PACKED], *all_packed[-_PACKED:]]).items():
        found = ours.whole(scale)
        if not found.is_floating_point():
            continue
        weights = theirs.whole(key)
        if (key, scale) in blocks:
            if weights.numel() != found.numel() * _BLOCK:
                return False
            weights = weights.reshape(-1, _BLOCK)
        largest = weights.abs().amax(-1)
        # In which precision it was packed is not said: the scales are a rounding of these.
        if not any(bool((largest.to(kind).float() == found.float()).all()) for kind in _kinds()):
            return False
    return True


def _kinds() -> tuple[Any, ...]:
    import torch

    return torch.float32, torch.bfloat16, torch.float16


class _Tensors:
    """The first rows of the tensors of a folder, or of what lies in the hub's cache.

    Attributes:
        files: by the tensor's name.
    """

    def __init__(self, name: str, revision: str | None = None) -> None:
        from safetensors import SafetensorError, safe_open

        self.files: dict[str, Path] = {}
        folder = _folder(name, revision)
        for path in sorted(folder.glob("*.safetensors")) if folder else ():
            try:
                with safe_open(path, framework="pt") as file:
                    self.files |= dict.fromkeys(file.keys(), path)
            except (OSError, SafetensorError):  # loading it says what is wrong
                continue

    def whole(self, key: str) -> Any:
        from safetensors import safe_open

        with safe_open(self.files[key], framework="pt") as file:
            return file.get_tensor(key)

    def rows(self, key: str) -> Any:
        from safetensors import safe_open

        with safe_open(self.files[key], framework="pt") as file:
            part = file.get_slice(key)
            return part[:_ROWS] if part.get_shape() else file.get_tensor(key)


def _folder(name: str, revision: str | None) -> Path | None:
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=True))
    except (OSError, ValueError):  # not there, no name for a hub, no cache: nothing is shown then
        return None
