"""A target that gives text alone: by other people's LMs, by the harness's chat class and a server, died and resumed."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from spvmia_plugin.attacks.text_only import halves
from spvmia_plugin.auditing.run import Job, Run
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.engines import text as module
from spvmia_plugin.engines.text import END, GO_ON, TextTarget
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.harness.request import NullBackend, open_backend
from spvmia_plugin.metrics.roc import auroc
from spvmia_plugin.seeds import stable_seed
from spvmia_plugin.signals import Role
from spvmia_plugin.store.store import Store
from tests.auditing.test_probes import data_of
from tests.auditing.test_run import REGISTRY
from tests.chat import FakeRenderer, chat_data, conversation
from tests.tiny import tiny_texts

ROOT = Path(__file__).parents[2]
TEXTS = tiny_texts(24, seed=3, words=(14, 20))
DATA = data_of(*TEXTS)
PROMPTS = tiny_texts(8, seed=9, words=(20, 30))


def own_words(*parts):
    return " " + tiny_texts(1, seed=stable_seed(*parts) % 10**6, words=(30, 40))[0]


class Writer:
    """An LM of somebody's: goes on by heart from what it knows, each second time."""

    max_length = 512

    def __init__(self, known=(), *, dies=None, answers=None):
        self.known = {halves(text)[0]: text for text in known}
        self.dies, self.answers = dies, answers
        self.asked = []

    def generate_until(self, requests, disable_tqdm=False):
        if self.answers is not None:
            return self.answers(requests)
        found = []
        for request in requests:
            if self.dies is not None and len(self.asked) >= self.dies:
                raise ConnectionError("http://user:secret@host/v1 went away: " + str(request.args[0]))
            times = sum(request.args[0] == before for before, _ in self.asked)
            self.asked.append(request.args)
            found.append(self.write(request.args[0], times))
        return found

    def write(self, context, times):
        learnt = self.known.get(context)
        return learnt[len(context) :] if learnt and times % 2 else own_words(context, times)


class ChatLM(Writer):
    """One that takes messages, as the harness's chat classes do."""

    def apply_chat_template(self, messages, add_generation_prompt=True):
        return json.dumps(messages)

    def write(self, context, times):
        said = json.loads(context)[-1]["content"].removeprefix(GO_ON.format(""))
        return super().write(said, times).strip()


def members():
    return [record.text for record in DATA.records if record.is_member]


def config_of(**options):
    return AuditConfig.from_metadata(
        {"mia_continuations": 4, "mia_block_size": 0, "mia_self_prompts": 6, "mia_prompt_tokens": 6, **options},
        REGISTRY.attack_options,
    )


def audited(tmp_path, lm, names=("ngram",), *, data=DATA, base_model=None, quiet=True, **options):
    config = config_of(**options)
    attacks = {f"{name}_mia_custom": REGISTRY.attack(name, config) for name in names}
    job = Job(data, config, attacks, data.records, data.records)
    with Store(tmp_path / "store") as store, open_backend(lm, REGISTRY, config, base_model) as backend:
        assert isinstance(backend, TextTarget)
        return Run(job, backend, REGISTRY, store, quiet=quiet).execute()


def scores(outcome, task="ngram_mia_custom"):
    return {record_id: each.score for record_id, each in outcome.results[task].items()}


def auroc_of(outcome, task="ngram_mia_custom"):
    found = scores(outcome, task)
    return auroc([found[record.id] for record in DATA.records], [record.is_member for record in DATA.records])


@pytest.mark.parametrize("kind", [Writer, ChatLM])
def test_any_lm_that_writes_is_audited(tmp_path, kind):
    lm = kind(members())
    assert auroc_of(audited(tmp_path, lm)) > 0.95
    assert len(lm.asked) == 24 * 4


def test_what_an_lm_is_asked(tmp_path):
    lm = Writer(members())
    audited(tmp_path, lm, mia_temperature=0.7)
    assert Counter(context for context, _ in lm.asked) == {halves(text)[0]: 4 for text in TEXTS}
    for context, settings in lm.asked:
        (text,) = (text for text in TEXTS if text.startswith(context))
        limit = settings.pop("max_gen_toks")
        assert limit % 8 == 0
        assert 0 <= limit - len(text[len(context) :].encode()) / 4 < 9
        assert settings == {"until": [END], "temperature": 0.7, "do_sample": True}


def test_a_chat_model_is_asked_by_message(tmp_path):
    lm = ChatLM(members())
    audited(tmp_path, lm)
    prompts = {json.loads(context)[0]["content"] for context, _ in lm.asked}
    assert prompts == {GO_ON.format(halves(text)[0]) for text in TEXTS}
    assert {len(json.loads(context)) for context, _ in lm.asked} == {1}


def test_the_caching_wrapper_is_passed_by(tmp_path):
    class CachingLM:
        def __init__(self, lm):
            self.lm = lm

        def generate_until(self, requests):
            raise AssertionError("would give the same text for every draw")

    lm = Writer(members())
    audited(tmp_path, CachingLM(lm))
    assert len(lm.asked) == 96


def test_a_second_run_asks_nothing(tmp_path):
    first = audited(tmp_path, Writer(members()))
    lm = Writer(members())
    again = audited(tmp_path, lm)
    assert scores(again) == scores(first)
    assert not lm.asked
    assert not [note for note in first.notes if "earlier run" in note]
    assert [note for note in again.notes if note.startswith("all that Writer wrote comes from an earlier run")]


@pytest.mark.parametrize("after", [0, 1, 63, 64, 80])
def test_what_was_written_before_a_model_went_away_is_kept(tmp_path, after, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 16)
    with pytest.raises(SpvmiaError) as caught:
        audited(tmp_path, Writer(members(), dies=after))
    assert str(caught.value) == (
        "--model: expected text from Writer, got ConnectionError; what was written so far is kept: see to the model, "
        "and run the same command again"
    )
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    lm = Writer(members())
    audited(tmp_path, lm)
    assert len(lm.asked) == 96 - after // 16 * 16


class Refused(Exception):
    def __init__(self, status):
        super().__init__("for url: http://key@host")
        self.response = type("Response", (), {"status_code": status})()


class Tired(Exception):
    """As tenacity's RetryError."""

    def __init__(self, inner):
        super().__init__()
        self.last_attempt = type("Attempt", (), {"exception": lambda _: inner})()


def raises(error):
    def answer(requests):
        raise error

    return answer


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        (raises(Refused(401)), "got HTTP status 401;"),
        (raises(Tired(Refused(429))), "got HTTP status 429;"),
        (raises(Tired(TimeoutError())), "got TimeoutError;"),
        (raises(NotImplementedError()), "got NotImplementedError;"),
        (lambda requests: ["half"] * (len(requests) // 2), "expected 64 texts from Writer, got 32;"),
        (lambda requests: [None] * len(requests), "got 64 empty answers and no other;"),
        (lambda requests: [" \n"] * len(requests), "got 64 empty answers and no other;"),
    ],
)
def test_faults_of_a_model_are_told_in_a_line(tmp_path, answers, told):
    with pytest.raises(SpvmiaError) as caught:
        audited(tmp_path, Writer(answers=answers))
    message = str(caught.value)
    assert told in message
    assert message.startswith("--model: expected ")
    assert "\n" not in message
    assert "host" not in message


def test_some_empty_answers_are_noted(tmp_path):
    outcome = audited(tmp_path, Writer(answers=lambda requests: ["", *(own_words(i) for i in range(1, len(requests)))]))
    assert "2 of 96 texts that the target wrote are empty" in outcome.notes


def test_what_needs_log_probabilities_is_refused_by_name_and_what_does_not_is_offered(tmp_path):
    with pytest.raises(SpvmiaError) as caught:
        audited(tmp_path, ChatLM(), ["loss", "spv_wbc", "min_k_pp", "ngram", "grad_norm"])
    assert str(caught.value) == (
        "--model: 'ChatLM' lacks what these attacks need, so they can't run: grad_norm_mia_custom, loss_mia_custom, "
        "min_k_pp_mia_custom, spv_wbc_mia_custom; these can run: ngram_mia_custom; use '--model hf' or a backend "
        "plugin that gives token log-probabilities, or attacks that need none of the target's: ngram, semantic, "
        "surrogate, bag_of_words"
    )


def test_an_object_that_does_not_even_write_is_refused(tmp_path):
    class Mute:
        pass

    with open_backend(Mute(), REGISTRY, AuditConfig(), None) as backend:
        assert isinstance(backend, NullBackend)


def test_the_plan_says_what_is_asked_for(tmp_path, capsys):
    audited(tmp_path, ChatLM(members()), quiet=False)
    told = capsys.readouterr().err
    assert "continuing the records  96 texts" in told
    assert "note: 96 requests to ChatLM: about" in told


def test_an_identity_holds_no_address_and_no_key_and_tells_models_of_one_server_apart(tmp_path):
    def identity(folder="one", **attributes):
        lm = Writer()
        vars(lm).update(attributes)
        return TextTarget(lm, AuditConfig(cache_dir=str(tmp_path / folder))).identity(Role.TARGET)

    plain = identity(model="m", base_url="http://host:1/v1")
    assert set(plain) == {"backend", "class", "model", "address"}
    assert "host" not in json.dumps(plain)
    assert plain == identity(model="m", base_url="http://host:1/v1", api_key="secret", _header={"X-Api-Key": "secret"})
    places = [
        "http://host:2/v1",
        "http://host:1/v1?deployment=a",
        "http://host:1/v1?deployment=b",
        "http://u@host:1/v1",
    ]
    others = [identity(model="m", base_url=place) for place in places]
    others += [identity(model="n", base_url="http://host:1/v1")]
    others += [identity(model="m", base_url="http://host:1/v1", _header={"X-Deployment": "a"})]
    assert len({json.dumps(each) for each in (plain, *others)}) == 7
    assert not any(word in json.dumps(others) for word in ("host", "deployment", "Deployment"))
    assert plain != identity("two", model="m", base_url="http://host:1/v1")  # nobody tries addresses without the key
    assert identity(pretrained="p", model=object()) == {"backend": "text", "class": "Writer", "pretrained": "p"}


# --- with a base in this process ---


@pytest.fixture(scope="module")
def base(models):
    return str(models / "base")


TRAINING = {"mia_reference_epochs": 1, "mia_lora_rank": 4, "mia_reference_batch": 2}


@pytest.mark.parametrize("kind", [Writer, ChatLM])
def test_a_surrogate_is_trained_on_what_it_writes(tmp_path, kind, base):
    data = data_of(*TEXTS[:6], base_model=base)
    held_out = data_of(*PROMPTS).records
    data = type(data)(**{**vars_of(data), "prompts": tuple(_document(each) for each in held_out)})
    lm = kind()
    outcome = audited(tmp_path, lm, ["surrogate", "ngram"], data=data, mia_base_model=base, **TRAINING)
    found = outcome.results["surrogate_mia_custom"].values()
    assert all(each.score is not None for each in found)
    assert all(each.target is None and each.reference is not None and each.n_tokens for each in found)
    assert outcome.details["self_prompts"]["texts"] == 6
    assert set(outcome.models) == {"base", "reference", "target"}
    prompts = [context for context, _ in lm.asked]
    if kind is ChatLM:
        prompts = [json.loads(context)[0]["content"].removeprefix(GO_ON.format("")) for context in prompts]
    begun = [prompt for prompt in prompts if any(text.startswith(prompt) for text in PROMPTS)]
    assert len(begun) == 6
    again = kind()
    audited(tmp_path, again, ["surrogate", "ngram"], data=data, mia_base_model=base, **TRAINING)
    assert not again.asked


def vars_of(data):
    return {name: getattr(data, name) for name in data.__dataclass_fields__}


def _document(record):
    from spvmia_plugin.records import Document

    return Document(f"p{record.id}", record.text)


def test_a_surrogate_without_a_base_is_refused_by_name(tmp_path):
    with pytest.raises(SpvmiaError, match=r"^mia_base_model: expected the model before fine-tuning"):
        audited(tmp_path, Writer(), ["surrogate"])
    with pytest.raises(SpvmiaError, match=r"^mia_base_model: expected .*, got '/nowhere/at/all'"):
        audited(tmp_path, Writer(), ["surrogate"], mia_base_model="/nowhere/at/all")


def test_tokens_of_a_generation_are_those_of_its_text(base):
    lm = Writer()
    backend = TextTarget(lm, config_of(mia_base_model=base))
    prompts = [backend.encode(text)[:6] for text in PROMPTS[:3]]
    reported = {}
    found = backend.generate(prompts, [20, 6, 40], [1, 2, 3], on_done=reported.update)
    assert [len(ids) for ids in found] == [20, 6, 40]
    assert dict(enumerate(found)) == reported
    for ids, (context, _) in zip(found, sorted(lm.asked, key=lambda each: PROMPTS.index(_of(each[0]))), strict=True):
        assert backend.decode(ids).startswith(context)
    skipped = TextTarget(other := Writer(), config_of(mia_base_model=base))
    assert skipped.generate(prompts, [20] * 3, [1, 2, 3], done={0, 2})[0] is None
    assert len(other.asked) == 1


def _of(context):
    return next(text for text in PROMPTS if text.startswith(context))


def test_a_chat_models_first_word_is_apart_from_the_prompt():
    backend = TextTarget(ChatLM(), config_of())
    joined = {("the cat", "sat"): " sat", ("the cat ", "sat"): "sat", ("the cat", ", too"): ", too", ("", "a"): "a"}
    assert {pair: backend._joined(*pair) for pair in joined} == joined
    assert TextTarget(Writer(), config_of())._joined("the cat", "s sat") == "s sat"


# --- conversations ---

CHATS = [conversation(f"where is {text}", text, "and then", text[::-1]) for text in tiny_texts(6, words=(6, 9))]


def test_conversations_are_asked_for_by_message(tmp_path, base):
    lm = ChatLM()
    backend = TextTarget(lm, config_of(mia_base_model=base))
    renderer = FakeRenderer(backend.encode, backend.decode, 0)
    data = chat_data(CHATS, CHATS[:3], renderer)
    outcome = audited(tmp_path, lm, ["surrogate", "ngram"], data=data, mia_base_model=base, **TRAINING)
    assert all(each.score is not None for each in outcome.results["surrogate_mia_custom"].values())
    asked = [json.loads(context) for context, _ in lm.asked]
    assert {each[-1]["role"] for each in asked} == {"user"}
    own = [each for each in asked if each[0]["content"].startswith("where is")]
    assert len(own) == len(asked) == 6 * 4 + 6 * 2  # continuations, and two turns of each self-prompt
    firsts = [chat.contents() for chat in CHATS]
    longest = [
        chat.messages[: 1 if len(first[1]) >= len(first[3]) else 3] for chat, first in zip(CHATS, firsts, strict=True)
    ]
    assert Counter(map(str, asked)) >= Counter(str(list(map(dict, each))) for each in longest for _ in range(4))


def test_whole_conversations_are_not_to_be_had(tmp_path, base):
    lm = ChatLM()
    backend = TextTarget(lm, config_of(mia_base_model=base))
    data = chat_data(CHATS, CHATS[:3], FakeRenderer(backend.encode, backend.decode, 0))
    with pytest.raises(SpvmiaError, match=r"^mia_self_prompt: expected reply .*, because ChatLM answers"):
        audited(tmp_path, lm, ["surrogate"], data=data, mia_base_model=base, mia_self_prompt="whole", **TRAINING)


def test_an_lm_of_text_reads_conversations_as_they_are_rendered(tmp_path, base):
    lm = Writer()
    backend = TextTarget(lm, config_of(mia_base_model=base))
    renderer = FakeRenderer(backend.encode, backend.decode, 0)
    backend.continue_texts([CHATS[0]], [10], [1], renderer=renderer)
    tokenizer = backend._tokens.tokenizer
    assert lm.asked[0][0] == tokenizer.decode(renderer.opening(CHATS[0]))


# --- the harness's own class, over HTTP ---


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.asked.append((body, self.headers["Authorization"], self.path))
            fault = server.faults.pop(0) if server.faults else None
            refusal, unknown = server.unknown
            fault = refusal if set(unknown) & set(body) else fault
            fault = 500 if server.counts_from_0 and body.get("top_k", 0) < 0 else fault
        if fault is not None:
            self.send_response(fault)
            if server.leads_to:
                self.send_header("Location", server.leads_to)
            self.end_headers()
            self.wfile.write(json.dumps({"detail": body}).encode())  # as FastAPI quotes what it refuses
            return
        said = body["messages"][-1]["content"].removeprefix(GO_ON.format(""))
        learnt = server.known.get(said)
        text = learnt[len(said) :] if learnt and body["seed"] % 2 else own_words(said, body["seed"])
        answer = {"choices": [{"index": 0, "message": {"role": "assistant", "content": text.strip()}}]}
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.faults, server.lock = [], [], threading.Lock()
    server.unknown = (400, ())  # what a request with one of these settings ends in
    server.leads_to = ""  # where its refusals say that the answer is
    server.counts_from_0 = False  # and answers HTTP 500 to a `top_k` below
    server.known = {halves(text)[0]: text for text in members()}
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def chat_lm(server, **options):
    from lm_eval.models.openai_completions import LocalChatCompletion

    address = f"http://127.0.0.1:{server.server_port}/v1/chat/completions"
    return LocalChatCompletion(base_url=address, model="some-chat", max_retries=2, **options)


@pytest.mark.parametrize("concurrent", [1, 8])
def test_the_harness_chat_class_over_http(tmp_path, server, monkeypatch, concurrent):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    outcome = audited(tmp_path, chat_lm(server, num_concurrent=concurrent), mia_top_p=0.9)
    assert auroc_of(outcome) > 0.9
    assert len(server.asked) == 96
    bodies = [body for body, _, _ in server.asked]
    assert {key for body in bodies for key in body} == {
        *("messages", "model", "max_tokens", "temperature", "stop", "seed", "top_p"),
        *("top_k", "min_p", "repetition_penalty", "repeat_penalty"),
    }
    assert {(body["top_p"], body["top_k"], body["min_p"], body["repetition_penalty"]) for body in bodies} == {
        (0.9, -1, 0.0, 1.0)
    }
    assert {body["repeat_penalty"] for body in bodies} == {1.0}
    assert {body["temperature"] for body in bodies} == {1.0}
    seeds = {json.dumps(body["messages"]): set() for body in bodies}
    for body in bodies:
        seeds[json.dumps(body["messages"])].add(body["seed"])
    assert {len(each) for each in seeds.values()} == {4}  # the draws of one prompt differ
    assert len({body["seed"] for body in bodies}) == 4  # and those of all go side by side
    for path in (tmp_path / "store").rglob("*"):
        assert not path.is_file() or b"sk-very-secret" not in path.read_bytes()
    assert "sk-very-secret" not in json.dumps(outcome.models)
    assert str(server.server_port) not in json.dumps(outcome.models)


@pytest.mark.parametrize("status", [400, 422])
def test_a_chat_server_that_does_not_know_settings_of_sampling_is_told_less(tmp_path, server, status):
    server.unknown = (status, ("min_p", "top_k", "repetition_penalty"))
    outcome = audited(tmp_path, chat_lm(server))
    told = [body for body, _, _ in server.asked if "min_p" not in body]
    assert len(told) == 96
    assert not any({"top_p", "top_k", "repetition_penalty"} & set(body) for body in told)
    (note,) = [note for note in outcome.notes if "refuses to be told" in note]
    wanted = "LocalChatCompletion refuses to be told top_p, top_k, min_p, repetition_penalty"
    assert note.startswith(f"{wanted} (HTTP {status})")


def test_a_server_that_counts_top_k_from_0_is_told_the_same_in_its_own_words(tmp_path, server):
    """llama-cpp-python's: it answers HTTP 500 to -1, and without these cuts to 40 tokens and punishes repetition."""
    server.counts_from_0 = True
    outcome = audited(tmp_path, chat_lm(server))
    answered = [body for body, _, _ in server.asked if body["top_k"] >= 0]
    assert len(answered) == 96
    assert {(body["top_k"], body["min_p"], body["repeat_penalty"]) for body in answered} == {(0, 0.0, 1.0)}
    assert not [note for note in outcome.notes if "refuses to be told" in note]
    assert auroc_of(outcome) > 0.9


@pytest.mark.parametrize("status", [400, 422])
def test_a_server_that_knows_the_names_of_vllm_alone_is_told_by_these(tmp_path, server, status):
    server.unknown = (status, ("repeat_penalty",))
    outcome = audited(tmp_path, chat_lm(server))
    answered = [body for body, _, _ in server.asked if "repeat_penalty" not in body]
    assert len(answered) == 96
    assert {(body["top_k"], body["min_p"], body["repetition_penalty"]) for body in answered} == {(-1, 0.0, 1.0)}
    assert not [note for note in outcome.notes if "refuses to be told" in note]


def test_requests_beside_one_that_failed_print_no_traceback(tmp_path, server, caplog):
    server.faults += [500] * 999
    with pytest.raises(SpvmiaError, match="got HTTP status 500;") as error:
        audited(tmp_path, chat_lm(server, num_concurrent=8))
    del error
    gc.collect()
    assert [each.getMessage() for each in caplog.records if each.name == "asyncio"] == []


def test_a_chat_server_that_refuses_everything_is_not_taken_for_one_that_knows_less(tmp_path, server):
    server.unknown = (400, ("messages",))
    with pytest.raises(SpvmiaError, match=r"^--model: expected text from LocalChatCompletion, got HTTP status 400;"):
        audited(tmp_path, chat_lm(server))


@pytest.mark.parametrize(
    ("names", "neutral"),
    [
        (("LocalCompletionsAPI", "LocalChatCompletion", "OpenAIChatCompletion"), {"top_p": 1.0}),
        (("HFLM",), {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}),
        (("VLLM",), {}),
        (("LocalCompletionsAPI", "AnthropicChat"), {}),
        (("Anything",), {}),
    ],
)
def test_each_kind_of_model_is_told_what_it_knows(names, neutral):
    """The class `generate` of transformers takes 50 as top_k where nothing is said."""
    made = object
    for name in names:
        made = type(name, (made,), {"generate_until": lambda self, requests: []})
    target = TextTarget(made(), AuditConfig())
    settings = target._settings(0, 1, 8)
    assert {name: settings[name] for name in ("top_p", "top_k", "min_p", "repetition_penalty") if name in settings} == (
        neutral
    )


def test_a_server_that_refuses_ends_the_run_with_its_status_and_the_next_goes_on(tmp_path, server, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 8)
    whole = audited(tmp_path / "whole", chat_lm(server))
    server.asked.clear()
    server.faults += [None] * 20 + [500] * 2
    with pytest.raises(SpvmiaError, match=r"^--model: expected text from LocalChatCompletion, got HTTP status 500;"):
        audited(tmp_path / "killed", chat_lm(server))
    server.asked.clear()
    resumed = audited(tmp_path / "killed", chat_lm(server))
    assert len(server.asked) == 96 - 16
    assert scores(resumed) == scores(whole)


def test_no_server_at_the_address(tmp_path, server):
    lm = chat_lm(server)
    server.shutdown()
    server.server_close()
    with pytest.raises(SpvmiaError, match=r"got ConnectionError; what was written so far is kept"):
        audited(tmp_path, lm)


MANY = tiny_texts(48, seed=4, words=(14, 20))


def evaluated(server, tmp_path, tasks, **options):
    import lm_eval
    from lm_eval.tasks import TaskManager

    from tests.harness.conftest import TASKS, write_jsonl

    metadata = {
        "mia_members": write_jsonl(tmp_path / "members.jsonl", MANY[:24]),
        "mia_nonmembers": write_jsonl(tmp_path / "others.jsonl", MANY[24:]),
        "mia_prompts": write_jsonl(tmp_path / "prompts.jsonl", PROMPTS),
        "mia_block_size": 0,
        "mia_continuations": 4,
        "mia_cache_dir": str(tmp_path / "cache"),
        **options,
    }
    server.known = {halves(text)[0]: text for text in MANY[:24]}
    arguments = {"model": "some-chat", "base_url": f"http://127.0.0.1:{server.server_port}/v1/chat/completions"}
    manager = TaskManager(metadata={**arguments, **metadata}, include_path=[str(TASKS)], include_defaults=False)
    return lm_eval.simple_evaluate(
        model="local-chat-completions", model_args=arguments, tasks=list(tasks), task_manager=manager, metadata=metadata
    )


def test_the_harness_runs_it_as_any_task(tmp_path, server, capsys):
    found = evaluated(server, tmp_path, ["ngram_mia_custom", "bag_of_words_mia_custom"])
    told = found["configs"]["ngram_mia_custom"]["metadata"]["mia_audit"]
    assert found["results"]["ngram_mia_custom"]["auroc,none"] > 0.9
    attacker = told["attacker"]
    assert (attacker["given"], attacker["api_view"], attacker["known"]) == (["sampling"], "text", 0)
    assert {each["kind"] for each in attacker["asked"]} == {"continued"}
    assert told["models"]["target"]["class"] == "LocalChatCompletion"
    blind = found["configs"]["bag_of_words_mia_custom"]["metadata"]["mia_audit"]
    assert blind["attacker"]["api_view"] == "nothing"
    assert told["cost"]["continuing the records"]["generated_tokens"] > 0
    assert "requests to LocalChatCompletion" in capsys.readouterr().err
    sample = json.loads(found["samples"]["ngram_mia_custom"][0]["resps"][0][0])
    assert sample["target"] is None
    assert 0 <= sample["score"] <= 1


def test_the_harness_refuses_what_needs_log_probabilities(tmp_path, server):
    with pytest.raises(SpvmiaError, match=r"^--model: 'LocalChatCompletion' lacks .*: loss_mia_custom; .* ngram, sem"):
        evaluated(server, tmp_path, ["loss_mia_custom", "ngram_mia_custom"])
    assert not server.asked


KILLED = """
import sys
from pathlib import Path
from tests.engines.test_text import Elsewhere, audited, chat_lm
from spvmia_plugin.engines import text

text.CHUNK = 8
audited(Path(sys.argv[2]), chat_lm(Elsewhere(int(sys.argv[1]))))
"""


@dataclass(frozen=True)
class Elsewhere:
    """A server that another process runs."""

    server_port: int


@pytest.mark.parametrize(
    "after", [pytest.param(3, marks=pytest.mark.slow), 40, pytest.param(90, marks=pytest.mark.slow)]
)
def test_kill_9_loses_a_chunk_at_most(tmp_path, server, after):
    whole = audited(tmp_path / "whole", chat_lm(server))
    server.asked.clear()
    command = [sys.executable, "-c", KILLED, str(server.server_port), str(tmp_path / "killed")]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        while len(server.asked) < after and process.poll() is None:
            time.sleep(0.002)
        process.kill()
    assert after <= len(server.asked) < 96
    reached, _ = len(server.asked), server.asked.clear()
    resumed = audited(tmp_path / "killed", chat_lm(server))
    assert 96 - reached <= len(server.asked) <= 96 - reached + 9  # the chunk under way, and an answer nobody read
    assert scores(resumed) == scores(whole)
