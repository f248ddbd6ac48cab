"""What a model is: the content of its files, not where they lie; and what it computes, asked by running it.

Configurations, files and tensors say what a model was made of. What it computes depends on more: which adapters are
active, how they are scaled, whether they are merged or switched off, what hooks do. So models are told apart, and
found equal, by what they answer to fixed tokens.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from spvmia_plugin.models.forward import inner_model
from spvmia_plugin.models.precision import dtype_of
from spvmia_plugin.util.files import file_digest
from spvmia_plugin.util.libraries import quiet_libraries

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
_CONFIGS = ("config.json", "adapter_config.json", "generation_config.json")
_NOT_SETTINGS = frozenset({"_name_or_path", "transformers_version", "use_cache"})


def model_identity(model: Any) -> dict[str, object]:
    """Class, settings and precision of a loaded model: the same files give other numbers in another dtype."""
    inner = inner_model(model)
    quantised = getattr(getattr(inner, "config", None), "quantization_config", None)
    method = getattr(quantised, "quant_method", None)
    # The settings it runs with: `model_args` may override those of its files.
    settings = inner.config.to_dict() if getattr(inner, "config", None) is not None else {}
    dtype = str(dtype_of(inner) or "none")
    return {
        "class": type(inner).__name__,
        "config": settings_digest(settings),
        "dtype": dtype.removeprefix("torch."),
        **({"quantisation": str(getattr(method, "value", method))} if method is not None else {}),
    }


def settings_digest(settings: Mapping[str, Any]) -> str:
    """Hash of what a model's configuration says that changes what it computes."""
    told = {key: value for key, value in settings.items() if key not in _NOT_SETTINGS}
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


def same_model(one: str, other: str) -> bool:
    """Whether two names (folders or hub ids) mean one model."""
    if one == other:
        return True
    both = Path(one), Path(other)
    try:
        return all(path.exists() for path in both) and both[0].resolve() == both[1].resolve()
    except OSError:  # no name that a file could have
        return False


class Weights:
    """Names weights by their content. Each folder is read once a process.

    Args:
        single: by the name of a folder that holds several files of weights (quantised in several ways, as GGUF): the
            one that is loaded. All of a folder's files are a model's otherwise.
    """

    def __init__(self, single: Mapping[str, str] | None = None) -> None:
        self._single = dict(single or {})
        self._known: dict[str, dict[str, object]] = {}

    def of(self, name: str, revision: str | None = None) -> dict[str, object] | None:
        """Identity of the folder or hub model `name`; None if there is no telling (then hash the loaded tensors)."""
        key = f"{name}@{revision}"
        if key not in self._known:
            found = _files(Path(name), self._single.get(name)) if Path(name).is_dir() else _hub(name, revision)
            if found is None:
                return None
            self._known[key] = found
        return self._known[key]


def _files(folder: Path, single: str | None) -> dict[str, object] | None:
    names = sorted(path.name for path in folder.iterdir())
    weights = [name for name in names if Path(name).suffix in _WEIGHTS] if single is None else [single]
    if not weights or not all((folder / name).is_file() for name in weights):
        return None
    configs = [name for name in names if name in _CONFIGS]
    return {"files": {name: file_digest(folder / name) for name in sorted({*weights, *configs})}}


def _hub(name: str, revision: str | None) -> dict[str, object] | None:
    """Hub id and commit of what lies in the hub's cache; the cache names its folders by commit."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    for file in ("adapter_config.json", "config.json"):
        try:
            path = try_to_load_from_cache(name, file, revision=revision)
        except HFValidationError:
            return None
        if isinstance(path, str):
            return {"hub": name, "commit": Path(path).parent.name}
    return None


def tensors_digest(model: torch.nn.Module) -> dict[str, object]:
    """Identity of a model by its tensors in memory: for models that came from nowhere one could name."""
    return _digest(model.state_dict())


def adapter_free_digest(model: torch.nn.Module) -> dict[str, object]:
    """The same for what is under a model's adapters: theirs are left out, and the names that they have changed."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    inner = inner_model(model)
    # What peft wraps is kept as this child of the wrapper; everything else in there belongs to adapters.
    kept = {
        name: "base_layer" if isinstance(module, BaseTunerLayer) else "original_module"
        for name, module in inner.named_modules()
        if isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper))
    }
    found = {}
    for name, tensor in inner.state_dict().items():
        bare = _unwrapped_name(name, kept)
        if bare is not None:
            found[bare] = tensor
    return _digest(found)


def _unwrapped_name(name: str, kept: Mapping[str, str]) -> str | None:
    """A tensor's name without the wrappers around it, None for a tensor of an adapter."""
    parts, bare = name.split("."), []
    for i, part in enumerate(parts):
        child = kept.get(".".join(parts[:i]))
        if child is None:
            bare.append(part)
        elif part != child:
            return None
    return ".".join(bare)


def _digest(tensors: Mapping[str, Any]) -> dict[str, object]:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        if not isinstance(tensor, torch.Tensor):
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return {"tensors": digest.hexdigest()}


EQUAL = 1e-5
"""Log-probabilities of one function differ by at most this, in nats. Two models that do the same arithmetic on the same
weights give the same bits on the same shapes, in half precision too; what is further apart is another function."""

NEARLY_EQUAL = 1e-3
"""The same function by another arithmetic: a fresh PiSSA adapter takes its matrices from the weights and adds them
again, which moves SmolLM2's answers by 1.4e-4 in float32. Training that is worth the name moves them by far more."""

ROWS, WIDTH = 4, 16
TEXT = "On 12 May, Dr. Smith's team wrote: the café (in Paris) refunds order #4711; def f(x): return x + 1"
"""Some of everything: names, digits, punctuation, code, a character of two bytes."""


def probe_rows(vocab: int, text_ids: Sequence[int], context: int) -> list[list[list[int]]]:
    """Batches of token ids: `ROWS` rows spread evenly over the ids from 0 to `vocab` - 1, and a text by itself.

    Args:
        vocab: how many ids the model has embeddings for.
        text_ids: tokens of `TEXT`; ids that the model does not have are left out.
        context: tokens that the model can read at once. Half of it is used at most: prompts of peft take room, too.
    """
    width = max(1, min(WIDTH, context // 2))
    count = ROWS * width
    spread = [i * (vocab - 1) // (count - 1) for i in range(count)]
    text = [token_id for token_id in text_ids if token_id < vocab][:width] or [0]
    return [[spread[row::ROWS] for row in range(ROWS)], [text]]


@dataclass(frozen=True)
class Answer:
    """What a model answered.

    Attributes:
        vocab: how many ids the model has embeddings for.
        logprobs: float32 log-probabilities of every next token, (tokens, V), one tensor a row of the probe.
        embeddings: (vocab,) float32, one number for the embedding of each token: the probe holds few of them.
    """

    vocab: int
    logprobs: tuple[torch.Tensor, ...]
    embeddings: torch.Tensor

    def digest(self) -> str:
        """Hash of the exact bits."""
        found = hashlib.sha256()
        for values in (*self.logprobs, self.embeddings):
            found.update(f"{tuple(values.shape)}".encode() + values.contiguous().numpy().tobytes())
        return found.hexdigest()

    def distance(self, other: Answer) -> float:
        """The largest difference; infinite between models of different sizes of vocabulary, or where one gives NaN."""
        pairs = list(zip((*self.logprobs, self.embeddings), (*other.logprobs, other.embeddings), strict=True))
        if any(a.shape != b.shape for a, b in pairs):
            return float("inf")
        return max(
            float(torch.where(a == b, 0.0, (a - b).abs()).nan_to_num(nan=float("inf"), posinf=float("inf")).max())
            for a, b in pairs
            if a.numel()
        )


def ask(model: Any, text_ids: Sequence[int], context: int, autocast: torch.dtype | None) -> Answer:
    """Run a model, in the mode that it is in, on the probe.

    Args:
        model: a causal LM, wrapped by peft or not.
        text_ids: tokens of `TEXT`.
        context: tokens that it can read at once.
        autocast: dtype of the harness's mixed precision, or None.
    """
    device = torch.device(model.device)
    vocab = embedding_rows(model)
    precision = torch.autocast(device.type, dtype=autocast, enabled=autocast is not None)
    with _one_thread(), quiet_libraries(), torch.no_grad(), precision:
        found = []
        for rows in probe_rows(vocab, text_ids, context):
            ids = torch.tensor(rows, device=device)
            logits = model(input_ids=ids, use_cache=False).logits[:, -ids.shape[1] :]  # virtual tokens come before
            found += [row.float().log_softmax(-1).cpu() for row in logits]
        return Answer(vocab, tuple(found), _embeddings(model, vocab, device))


def embedding_rows(model: Any) -> int:
    """How many token ids a model has embeddings for."""
    embed = model.get_input_embeddings()
    return int(getattr(embed, "num_embeddings", 0) or embed.weight.shape[0])


def _embeddings(model: Any, vocab: int, device: torch.device) -> torch.Tensor:
    embed = model.get_input_embeddings()
    parts = []
    for ids in torch.arange(vocab, device=device).split(4096):
        rows = embed(ids).float()
        parts.append((rows * torch.arange(rows.shape[-1], device=rows.device).cos()).sum(-1).cpu())
    return torch.cat(parts)


@contextmanager
def _one_thread() -> Iterator[None]:
    """How many threads share a sum changes its last bits; a model's name must not change with the machine's load."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
