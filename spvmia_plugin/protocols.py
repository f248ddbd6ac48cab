"""What the stages of an audit ask of each other. No torch: a backend hides it, so a pipeline can be tested without."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import Parameter, signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.paraphrases import EmbeddingNoise as EmbeddingNoise
from spvmia_plugin.paraphrases import Neighbour as Neighbour
from spvmia_plugin.paraphrases import Neighbours as Neighbours
from spvmia_plugin.paraphrases import TextEdits as TextEdits
from spvmia_plugin.paraphrases import TokenEdits as TokenEdits
from spvmia_plugin.util.handed_over import as_list, is_whole_number

if TYPE_CHECKING:  # numpy takes longer to import than all of the command line
    import numpy as np
    from numpy.typing import NDArray

    from spvmia_plugin.config import AuditConfig
    from spvmia_plugin.records import Conversation, Document, Rendered
    from spvmia_plugin.signals import Role, TokenSignals

TokenIds = Sequence[int]

OnDone = Callable[[Mapping[int, Any]], None]
"""Called as batches finish with {position in the input: result}, so that results can be stored at once."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What the target is to write next in a conversation.

    Attributes:
        opening: all that it reads before.
        room: how many tokens it may write, at least one.
        seed: of the draws.
    """

    opening: TokenIds
    room: int
    seed: int


Follow = Callable[[int, list[int]], Turn | None]
"""Told a conversation and what was written in its turn; answers its next turn, None after the last."""


@dataclass(frozen=True, slots=True)
class Frame:
    """The tokens that stand around those of a text when a model reads it.

    Attributes:
        context: read first and conditioned on, never scored: what the tokenizer itself puts before a text
            (`mia_prefix=auto`), or the harness's prefix token (`mia_prefix=harness`).
        before: scored before the text; only where the harness scores a BOS after its own prefix token.
        after: scored after the text: an EOS that the tokenizer appends, which trainers train on.
    """

    context: tuple[int, ...] = ()
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()


class _KeptHash:
    """Has room for a hash, which is no field of what it is the hash of."""

    __slots__ = ("_hash",)

    _hash: int


@dataclass(frozen=True, slots=True)
class ScoreInput(_KeptHash):
    """One sequence to score: the model reads `context_ids` and `token_ids`, and nothing else.

    Attributes:
        token_ids: the tokens to score. Where `context_ids` is empty, nothing stands before the first, which has no
            score: T = len(token_ids) - 1 then, else len(token_ids).
        context_ids: tokens conditioned on before them and not scored (a BOS, the ReCaLL prefix).
        noise: noise on the embeddings of `token_ids`, if any.
    """

    token_ids: tuple[int, ...]
    context_ids: tuple[int, ...] = ()
    noise: EmbeddingNoise | None = None

    def __hash__(self) -> int:
        # A tuple does not keep its own, and an audit looks every sequence up a dozen times.
        try:
            return self._hash
        except AttributeError:
            object.__setattr__(self, "_hash", hash((self.token_ids, self.context_ids, self.noise)))
            return self._hash

    @property
    def scored(self) -> int:
        """T: how many of `token_ids` get a score."""
        return len(self.token_ids) if self.context_ids else max(0, len(self.token_ids) - 1)


@dataclass
class Cost:
    """What a stage cost. Tokens include context, not padding."""

    forward_tokens: int = 0
    generated_tokens: int = 0
    training_tokens: int = 0
    seconds: float = 0.0
    batches: int = 0

    def __iadd__(self, other: Cost) -> Cost:
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        return self

    def __sub__(self, earlier: Cost) -> Cost:
        """What has been spent since."""
        return Cost(**{name: getattr(self, name) - getattr(earlier, name) for name in self.__dataclass_fields__})


@dataclass(frozen=True)
class BackendFeatures:
    """What a backend can do; an attack whose needs exceed it is refused by name before any work.

    `gradients` and `kth` (the log-probability of the K-th most probable token) have to be said: a backend that knows
    nothing of them has none.
    """

    logprobs: bool = True
    moments: bool = True
    embeddings: bool = True
    generate: bool = True
    train: bool = True
    gradients: bool = False
    kth: bool = False


class Backend:
    """A model of the harness as the audit sees it: scoring, sampling and reference training by role.

    Built over the harness's own LM object and its tokenizer, device, dtype, prefix token and context length. Every
    method leaves the target's weights, mode, adapters and the global random state exactly as they were.

    A backend overrides what it can do, and says in `features` what that is, or in `features_of` where roles differ.
    What is not overridden refuses, or is the answer of a backend that has nothing to say.
    """

    name: str
    features = BackendFeatures()
    max_length = 0
    vocab: int | None = None
    """V: how many token ids the target's model has an embedding for, from 0 on; None where that is not known."""
    device: Any = None
    is_asked_by_text = False
    """Whether each text that the target writes is a request of its own, which somebody may have to pay for."""
    processes: int | None = None
    """How many processes of this launch can train one reference (`mia_reference_parallel`); None if they cannot."""
    first = True
    """Whether this is the first of them."""
    at_once = 1
    """How many sequences, the longest, say how fast scoring goes: more where they are asked for side by side."""

    def __init__(self, lm: Any, config: AuditConfig, base_model: str | None = None) -> None:
        """Drive `lm` under `config`; `base_model` is the model before fine-tuning, where somebody named it."""

    @classmethod
    def accepts(cls, lm: Any) -> bool:
        """Whether this backend can drive `lm` (an `lm_eval.api.model.LM`)."""
        return False

    @property
    def notes(self) -> Sequence[str]:
        """Sentences about the models for the plan and for `mia_audit`."""
        return ()

    @property
    def slow(self) -> str | None:
        """Why a model of this process, once it was required, takes many times as long as it has to; None where it does
        not. For people who wait, before the work: it changes no number."""
        return None

    @property
    def told(self) -> Mapping[str, object]:
        """How the numbers were had, JSON-ready: for `mia_audit`, where there is more to say than which model it was."""
        return {}

    def lacks(self, role: Role) -> str | None:
        """Why a role's model has not all features, in words that end an error; None where their names say it all."""
        return None

    @property
    def chat_templates(self) -> Mapping[Role, Any]:
        """By role, what the tokenizer of a loaded model has as its `chat_template`, where that is known."""
        return {}

    def features_of(self, role: Role) -> BackendFeatures:
        """What can be done with a role's model: the target may lie behind a server, and the base in this process.

        What a role is written from or trained by is asked of the role that does it: `generate` of the target, `train`
        of a reference.
        """
        return self.features

    def encode(self, text: str) -> list[int]:
        """Tokens of the text alone, without any that the tokenizer or the harness adds before or after it."""
        raise self._unable()

    def decode(self, token_ids: TokenIds) -> str:
        """Text of tokens, special tokens left out."""
        raise self._unable()

    def frame(self, text: str) -> Frame:
        """What stands around the tokens of `text` when it is scored, by `mia_prefix`."""
        return Frame()

    def count(self, text: str) -> int:
        """How many tokens a text has: what plans and limits go by. About, where the model's tokenizer is not known."""
        return len(self.encode(text))

    def survives(self, token_ids: TokenIds) -> bool:
        """Whether these are the very tokens of their own text, so that somebody who sends text can have them read."""
        return list(self.encode(self.decode(token_ids))) == list(token_ids)

    def identity(self, role: Role) -> dict[str, object]:
        """What identifies the weights behind a role (paths, hashes, dtype), JSON-ready: store keys and provenance."""
        raise self._unable()

    def require(self, roles: Iterable[Role]) -> None:
        """Make sure the models behind `roles` (BASE at most: the trained ones need `load_reference`) can be had.

        Raises:
            SpvmiaError: no base model is known (`mia_base_model`), or its tokenizer differs from the target's.
        """
        raise self._unable()

    def is_same(self, one: Role, other: Role) -> bool:
        """Whether the models of two roles compute one function: what compares them is then unscored."""
        return False

    def unknown_ids(self, role: Role) -> frozenset[int]:
        """Token ids of the target's tokenizer that a role's model does not have: records with them are unscored."""
        return frozenset()

    def score(
        self,
        role: Role,
        inputs: Sequence[ScoreInput],
        *,
        moments: bool,
        on_done: OnDone | None = None,
        done: Collection[int] = (),
        kth: int = 0,
    ) -> list[TokenSignals | None]:
        """Token signals of every input under a role's model, in input order, T = `ScoreInput.scored` each.

        With `kth` they hold the log-probability of the K-th most probable token at each place. It is asked for under
        `mia_api_view=top_k:K` alone, of backends that have the feature.

        Batches are planned over all `inputs`. `done` are positions whose signals are in the store already: a batch
        of nothing but these is skipped (None in the answer), any other batch is computed whole. So a resumed run has
        the batches, and the bits, of one that was never interrupted.
        """
        raise self._unable()

    def check_gradients(self, role: Role) -> None:
        """Make sure that gradients of a role's loss can be had, before anything long; asked where they are needed.

        Raises:
            SpvmiaError: they cannot.
        """

    def gradient_norms(
        self,
        role: Role,
        inputs: Sequence[ScoreInput],
        counted: Sequence[NDArray[np.bool_] | None],
        *,
        on_done: OnDone | None = None,
        done: Collection[int] = (),
    ) -> list[float | None]:
        """Euclidean norm of the gradient of every input's loss, in input order.

        The loss is the mean NLL, in nats, over the scored tokens that `counted` (T,) says, over all where it is None;
        the gradient is that with respect to the weights of the model's adapter, of all weights where it has none. An
        input fits the model's context. `done` as in `score`.
        """
        raise self._unable()

    def sample_replacements(
        self,
        role: Role,
        sequences: Sequence[TokenIds],
        positions: Sequence[Sequence[NDArray[np.int64]]],
        seeds: Sequence[int],
        *,
        complete: bool = False,
    ) -> list[list[NDArray[np.int64]]]:
        """Draw replacement tokens from a role's own next-token distribution, one forward pass a sequence.

        Args:
            role: whose distribution.
            sequences: tokens of each text; the model reads the context of `frame` before them.
            positions: for each text, for each draw, the ascending positions to replace; not the first where no
                context stands before it.
            seeds: one a text; draws do not depend on batching.
            complete: the sequences are all that the model reads, as of rendered conversations: nothing stands before
                them. Asked for conversations alone.

        Returns:
            For each text, for each draw, token ids of the same shape as its positions; never the original token.
        """
        raise self._unable()

    def generate(
        self,
        prompts: Sequence[TokenIds],
        lengths: Sequence[int],
        seeds: Sequence[int],
        *,
        on_done: OnDone | None = None,
        done: Collection[int] = (),
        ends: Collection[int] | None = None,
        complete: bool = False,
    ) -> list[list[int] | None]:
        """Sample continuations from the target until prompt and continuation have `lengths` tokens, or an end token.

        Sampling follows the config (temperature, top_k, top_p). Returns prompt + continuation, end token left out.
        `seeds` are one a prompt: a continuation depends on its seed, and not on what else was asked for. `done` as in
        `score`. `ends` are tokens that end a text besides the model's own. With `complete` the prompts are all that the
        model reads: what the tokenizer puts before a text is in them already, or does not belong there. Both are asked
        for conversations alone.
        """
        raise self._unable()

    def converse(self, turns: Mapping[int, Turn], follow: Follow, *, ends: Collection[int]) -> None:
        """Have the target write conversations turn after turn, each turn as `generate` writes it from its opening.

        Here all conversations wait for the longest turn, and every turn's opening is read anew; a backend that goes on
        from what it has read overrides this.

        Args:
            turns: the first turn of each conversation.
            follow: answers the next turn of a conversation.
            ends: tokens that end a turn besides the model's own.

        Raises:
            SpvmiaError: `generate` gave no continuations of the openings, or longer ones than there is room for.
        """
        while turns:
            found = self.generate(
                [turn.opening for turn in turns.values()],
                [len(turn.opening) + turn.room for turn in turns.values()],
                [turn.seed for turn in turns.values()],
                ends=ends,
                complete=True,
            )
            if len(found) != len(turns):
                raise _no_continuations(self, f"{len(found)} texts for {len(turns)} openings")
            following = {
                i: follow(i, _new_of(self, each, text)) for (i, each), text in zip(turns.items(), found, strict=True)
            }
            turns = {i: turn for i, turn in following.items() if turn is not None}

    def continue_texts(
        self,
        prompts: Sequence[str | Conversation],
        max_tokens: Sequence[int],
        seeds: Sequence[int],
        *,
        on_done: OnDone | None = None,
        done: Collection[int] = (),
        renderer: Any = None,
    ) -> list[str | None]:
        """Let the target go on from texts, as who sees nothing but text can have it do.

        Args:
            prompts: what it goes on from: a text, or a conversation whose next turn it writes.
            max_tokens: how many tokens it may write, one a prompt.
            seeds: one a prompt, as in `generate`.
            on_done: called with {position: text} as texts finish.
            done: as in `score`.
            renderer: how conversations become tokens (`data.rendering.Renderer`); None where there are none.

        Returns:
            What it wrote after each prompt, without the prompt. Of a prompt that leaves no room in the context for so
            many tokens, the end is read.
        """
        around = len(self.frame("").context)
        openings: list[list[int]] = []
        for prompt, new in zip(prompts, max_tokens, strict=True):
            ids = list(self.encode(prompt) if isinstance(prompt, str) else renderer.opening(prompt))
            openings.append(ids[-max(1, self.max_length - around - new) :])
        lengths = [len(ids) + new for ids, new in zip(openings, max_tokens, strict=True)]

        def written(i: int, token_ids: TokenIds) -> str:
            new, prompt = token_ids[len(openings[i]) :], prompts[i]
            if not isinstance(prompt, str):
                text: str = renderer.written(new, plain=prompt.plain)
                return text
            # Decoders take the blank of a first word away: behind the prompt it is kept.
            head, whole = self.decode(openings[i]), self.decode(token_ids)
            return whole.removeprefix(head) if whole.startswith(head) else self.decode(new)

        def keep(batch: Mapping[int, TokenIds]) -> None:
            if on_done is not None:
                on_done({i: written(i, token_ids) for i, token_ids in batch.items()})

        # A backend of before there were conversations knows nothing of these two.
        more = {} if renderer is None else {"ends": renderer.ends, "complete": True}
        found = self.generate(openings, lengths, seeds, on_done=keep, done=done, **more)
        return [None if token_ids is None else written(i, token_ids) for i, token_ids in enumerate(found)]

    def train_reference(
        self,
        texts: Sequence[str],
        output_dir: Path,
        *,
        rendered: Sequence[Rendered] | None = None,
        seed: int | None = None,
    ) -> dict[str, object]:
        """Fine-tune a LoRA reference on the base and write its adapter (safetensors) to `output_dir`.

        Settings follow the config (`reference_*`, `lora_*`, `seed`). Resumes from a checkpoint in `output_dir`; the
        last one may stay there as `checkpoint*`, and the store removes it. Returns losses, tokens and seconds,
        JSON-ready. `rendered` are the texts as a model reads conversations: then it is trained on these very tokens,
        with loss on those that are `counted`. `seed` stands in for the config's: each of several references
        (`mia_references`) has its own.
        """
        raise self._unable()

    def check_training(self) -> None:
        """Make sure that a reference could be trained with the config, before anything is sampled for it.

        Raises:
            SpvmiaError: `mia_lora_targets` names no module of the base, or one on which LoRA can't be trained.
        """
        raise self._unable()

    def agree(self, value: Any) -> Any:
        """What the first of the `processes` that train together says, told to every one of them; all must ask.

        Raises:
            SpvmiaError: another process has failed.
        """
        return value

    def gather(self, value: Any) -> list[Any]:
        """What each process of the run passed, in the order of their ranks, told to every one of them; all must ask.

        Raises:
            SpvmiaError: another process has failed.
        """
        return [value]

    def load_reference(self, role: Role, path: str) -> None:
        """Put the adapter or model at `path` (folder or hub id) behind REFERENCE or CANDIDATE."""
        raise self._unable()

    def remember_base(
        self, recall: Callable[[Mapping[str, object]], str | None], keep: Callable[[Mapping[str, object], str], None]
    ) -> None:
        """Have what a base answers kept over runs: whether a target carries it is then known without loading it.

        Args:
            recall: gives what was kept for a description of a base (JSON-ready), or None.
            keep: keeps the hash of its answers.
        """

    def remember_limits(self, known: Mapping[str, int], keep: Callable[[dict[str, int]], None]) -> None:
        """Begin with the batch sizes that fitted in a run that was killed: a resumed one then has the same batches.

        Args:
            known: what `keep` was called with last; empty if nothing is known.
            keep: called with all sizes found so far whenever memory has run out.
        """

    def cost(self, role: Role) -> Cost:
        """What has been spent on a role since the backend was made."""
        return Cost()

    def close(self) -> None:
        """Take away everything that was added to the harness's model."""

    def _unable(self) -> SpvmiaError:
        return SpvmiaError(f"--model: {self.name} gives no token log-probabilities; use '--model hf'")


class Perturbation:
    """Makes paraphrases. Constructed with the config; `neighbours` is called once for some texts of an audit."""

    name: str
    passes: float = 1.0
    """About how many model passes over a text its paraphrases take: what the plan counts."""

    def __init__(self, config: AuditConfig) -> None:
        self._config = config

    @property
    def roles(self) -> Collection[Role]:
        """The models it asks through the backend: paraphrases are kept for these. It may ask base and target."""
        from spvmia_plugin.signals import Role  # brings NumPy

        return Role.BASE, Role.TARGET

    def check(self) -> None:
        """Raise `SpvmiaError` for what cannot work (a mask model that is not there), before long work starts."""

    def settings(self) -> dict[str, object]:
        """What changes its results, JSON-ready: part of the store's key."""
        raise NotImplementedError

    def neighbours(
        self,
        texts: Sequence[Document],
        backend: Backend,
        *,
        on_done: OnDone | None = None,
        done: Collection[int] = (),
    ) -> Sequence[Neighbours | None]:
        """2N paraphrases of every text, in input order; a text without any carries a reason.

        `done` are positions whose paraphrases are in the store already; None may stand for them in the answer. Batches
        are planned over all texts, as in `Backend.score`, so that a resumed run has those of one that was never
        interrupted. An implementation without the argument `done` gets the missing texts alone.

        The result for a text depends on its id, the text, the config's seed and the models, not on the other texts.
        """
        raise NotImplementedError


def takes(method: Callable[..., Any], argument: str) -> bool:
    """Whether a plugin's method knows of an argument that earlier versions did not have."""
    taken = signature(method).parameters
    return argument in taken or any(each.kind is Parameter.VAR_KEYWORD for each in taken.values())


Plugged = TypeVar("Plugged", Backend, Perturbation)


def completed(made: Any, base: type[Plugged]) -> Plugged:
    """A plugin's backend or perturbation, with the answers of `base` where it has none of its own.

    A class that derives from `base` has them. One that does not is given them here, once, so that nobody who uses it
    has to ask what it has.
    """
    if not isinstance(made, base):
        for name, default in vars(base).items():
            if not name.startswith("_") and not hasattr(made, name):
                setattr(made, name, default.__get__(made) if hasattr(default, "__get__") else default)
    if issubclass(base, Perturbation) and not {"done", "on_done"} <= signature(made.neighbours).parameters.keys():
        made.neighbours = _of_the_missing(made.neighbours, made.name)
    found: Plugged = made
    return found


def answered(found: Any, count: int, name: str) -> list[Any]:
    """What a perturbation answered for so many texts, as a list.

    Raises:
        SpvmiaError: it is no sequence of so many.
    """
    answer = as_list(found)
    if answer is None or len(answer) != count:
        raise SpvmiaError(
            f"mia_perturbation {name}: expected a list of {count} Neighbours from neighbours, one a text, got "
            f"{type(found).__name__ if answer is None else len(answer)}; correct the perturbation's plugin"
        )
    return answer


def told_of(batch: Any, count: int, name: str) -> Mapping[int, Any]:
    """What a perturbation told `on_done` of so many texts.

    Raises:
        SpvmiaError: it is no mapping by their positions.
    """
    if not isinstance(batch, Mapping) or not all(is_whole_number(i) and 0 <= int(i) < count for i in batch):
        raise SpvmiaError(
            f"mia_perturbation {name}: expected {{position: Neighbours}} with positions from 0 to {count - 1} for "
            f"on_done, got {'other positions' if isinstance(batch, Mapping) else type(batch).__name__}; correct the "
            "perturbation's plugin"
        )
    return batch


def _of_the_missing(neighbours: Callable[..., Any], name: str) -> Callable[..., Any]:
    """`Perturbation.neighbours` of an implementation without `done`, or `on_done`: it gets the missing texts alone."""

    def of_all(
        texts: Sequence[Document], backend: Backend, *, on_done: OnDone | None = None, done: Collection[int] = ()
    ) -> list[Neighbours | None]:
        asked = [i for i in range(len(texts)) if i not in done]

        def at_their_places(batch: Mapping[int, Any]) -> None:
            if on_done:
                on_done({asked[k]: of for k, of in told_of(batch, len(asked), name).items()})

        known = {"on_done": at_their_places, "done": ()}
        more = {argument: value for argument, value in known.items() if takes(neighbours, argument)}
        made = answered(neighbours([texts[i] for i in asked], backend, **more), len(asked), name)
        found = dict(zip(asked, made, strict=True))
        return [found.get(i) for i in range(len(texts))]

    return of_all


@runtime_checkable
class Frames(Protocol):
    """What `Backend` says of the tokens around a text's own. For plugins that name it."""

    def frame(self, text: str) -> Frame:
        """See `Backend.frame`."""
        ...

    def survives(self, token_ids: TokenIds) -> bool:
        """See `Backend.survives`."""
        ...


@runtime_checkable
class TrainsTogether(Protocol):
    """What `Backend` says of processes that train one reference. For plugins that name it."""

    processes: int
    first: bool

    def agree(self, value: Any) -> Any:
        """See `Backend.agree`."""
        ...


@dataclass(frozen=True)
class DatasetSource:
    """A named data set for `<attack>_mia_<name>` tasks and `spvmia finetune --data <name>`.

    Attributes:
        name: as it stands in task names.
        hub_id: Hugging Face dataset id.
        config: its configuration, or None.
        text_column: the column with the text.
        train_split: the split that members are drawn from.
        heldout_split: the split for `mia_split=paper` non-members; None takes the last tenth of `train_split`.
        clean: applied to each text (detokenisation and the like).
    """

    name: str
    hub_id: str
    config: str | None = None
    text_column: str = "text"
    train_split: str = "train"
    heldout_split: str | None = None
    clean: Callable[[str], str] = field(default=str)


def _new_of(backend: Backend, turn: Turn, text: TokenIds | None) -> list[int]:
    """What a backend's `generate` wrote in a turn."""
    if text is None:
        raise _no_continuations(backend, "None")
    opening, token_ids = list(turn.opening), list(text)
    if token_ids[: len(opening)] != opening:
        raise _no_continuations(backend, "a text that does not begin with its opening")
    if len(token_ids) > len(opening) + turn.room:
        raise _no_continuations(backend, f"{len(token_ids)} tokens where {len(opening) + turn.room} were asked for")
    return token_ids[len(opening) :]


def _no_continuations(backend: Backend, got: str) -> SpvmiaError:
    return SpvmiaError(
        f"{backend.name}.generate: expected each opening with its continuation, of at most the asked length, got "
        f"{got}; correct the backend"
    )
