"""A completions server over small models, in the form of vLLM's answers, which can be told to be wrong.

In a thread (`TinyServer`), or as a process of its own: `python -m tests.engines.tiny_server PORT NAME=FOLDER...`. Each
request is computed alone, so its answer is the same bits whatever else is asked.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


@dataclass
class Faults:
    """What the server does wrong; by default nothing.

    Attributes:
        shift: places by which echoed log-probabilities are moved.
        echo: answers `echo`; else it is ignored in silence.
        prompt_logprobs: answers them: "all" with -1 too, "some", "refused" (HTTP 400), "ignored" or "senseless".
        names_ids: "yes", "tokens" (as texts `token_id:7`), "no" (in silence) or "refused" (HTTP 400).
        top_logprobs: has them beside echoed log-probabilities.
        logprobs: gives any at all.
        value: what stands in place of one echoed log-probability: None is null.
        value_at: at which token of a prompt of more than 96, -1 for none.
        value_after: only after so many requests.
        missing: echoed log-probabilities that are left out at the end.
        no_logprobs: requests for log-probabilities end in this HTTP status; 0 for none.
        text_only: prompts of token ids end in this HTTP status; 0 for none.
        context: tokens that are read and written at most.
        says_context: in the list of models.
        key: that has to be sent.
        statuses: of the next answers, each once; with `retry_after`.
        retry_after: what it says then.
        half: of so many next answers only a half is sent.
        slow: seconds before each answer.
        die_after: requests after which the process is gone.
        swap_after: requests after which the first model has the weights of `swap_to`.
        swap_to: name of another model.
        other_tokenizer: folder of another tokenizer, which makes the texts.
        loads_adapters: at run time.
        applies_adapters: else what it has loaded answers as the base does.
        falls_back: name of the model that answers for names that it does not know.
        noise: added to every log-probability, growing with each request.
        knows: of the settings of sampling; a request that names another one ends in HTTP 400.
        samples_by: where a request says nothing, as by a generation_config.json.
        floor: log-probabilities of tokens that are not among so many likeliest are -100; 0 for none.
        decimals: to which log-probabilities are rounded.
        first: what stands as the log-probability of a prompt's first token.
        stale: an echo of as many tokens as an earlier one is that one again.
        finish: why texts of more than 10 tokens ended, after the second token; each second time.
        answers_as: the model of which its answers say they are.
        reads: so many tokens of a prompt at most, the last ones; 0 for all.
        replicas: names of models that answer for the first one, each in its turn.
    """

    shift: int = 0
    echo: bool = True
    prompt_logprobs: str = "all"
    names_ids: str = "yes"
    top_logprobs: bool = True
    logprobs: bool = True
    value: Any = None
    value_at: int = -1
    value_after: int = 0
    missing: int = 0
    no_logprobs: int = 0
    text_only: int = 0
    context: int = 256
    says_context: bool = True
    key: str = ""
    statuses: list[int] = field(default_factory=list)
    retry_after: str | None = None
    half: int = 0
    slow: float = 0.0
    die_after: int = -1
    swap_after: int = -1
    swap_to: str = ""
    other_tokenizer: str = ""
    loads_adapters: bool = True
    applies_adapters: bool = True
    falls_back: str = ""
    noise: float = 0.0
    knows: tuple[str, ...] = SAMPLING
    samples_by: dict[str, Any] = field(default_factory=dict)
    floor: int = 0
    decimals: int | None = None
    first: Any = None
    stale: bool = False
    finish: str = ""
    answers_as: str = ""
    reads: int = 0
    replicas: tuple[str, ...] = ()


class Served:
    """Models by name, and what is asked of them."""

    def __init__(self, models: Mapping[str, Any], tokenizer: Any, faults: Faults) -> None:
        self.models, self.tokenizer, self.faults = dict(models), tokenizer, faults
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.lock = threading.Lock()
        self.under_way, self.most_under_way = 0, 0
        self.last: tuple[Any, Any] = (None, None)  # what was computed last, of which model and ids
        self.echoed: dict[int, dict[str, Any]] = {}  # answers by the length of a prompt
        self.decoder = tokenizer
        self.decoded: dict[int, str] = {}
        if faults.other_tokenizer:
            from transformers import AutoTokenizer

            self.decoder = AutoTokenizer.from_pretrained(faults.other_tokenizer)

    @property
    def scored(self) -> list[tuple[int, ...]]:
        """The prompts of token ids that were scored, in order."""
        return [tuple(r["prompt"]) for r in self.requests if r.get("echo") or "prompt_logprobs" in r]

    def text(self, ids: list[int]) -> str:
        return str(self.decoder.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def logprobs(self, name: str, ids: list[int]) -> Any:
        """(len(ids), V): row k is of the token after ids[k]."""
        import torch

        of = (id(self.models[name]), tuple(ids))
        if self.last[0] != of:
            with torch.no_grad():
                self.last = of, self.models[name](input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)
        rows = self.last[1] - self.faults.noise * (len(self.requests) % 7)
        if self.faults.floor:
            rows = rows.masked_fill(rows < rows.topk(self.faults.floor, -1).values[:, -1:], -100.0)
        return rows if self.faults.decimals is None else rows.round(decimals=self.faults.decimals)

    def write(self, body: dict[str, Any], ids: list[int]) -> tuple[list[int], list[float], bool]:
        import torch

        generator = torch.Generator().manual_seed(int(body.get("seed") or 0))
        new: list[int] = []
        said: list[float] = []
        ends = {self.tokenizer.eos_token_id, *body.get("stop_token_ids", [])}
        for _ in range(body.get("max_tokens", 16)):
            row = self.logprobs(body["model"], [*ids, *new])[-1].clone()
            by = {**self.faults.samples_by, **body}
            penalty = by.get("repetition_penalty", 1.0)
            if penalty != 1:
                row[list({*ids, *new})] *= penalty  # log-probabilities are below 0
            temperature = by.get("temperature", 1.0)
            if temperature:
                scaled = row / temperature
                if (top_k := by.get("top_k", 0)) > 0:
                    scaled[scaled < scaled.topk(top_k).values[-1]] = float("-inf")
                token = int(torch.multinomial(scaled.softmax(-1), 1, generator=generator))
            else:
                token = int(row.argmax())
            new.append(token)
            said.append(float(row[token]))
            if token in ends:
                return new, said, True
        return new, said, False

    def complete(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        faults, prompt, asked = self.faults, body["prompt"], body["model"]
        if unknown := [name for name in SAMPLING if name in body and name not in faults.knows]:
            return 400, {"error": {"message": f"Unrecognized request argument supplied: {unknown[0]}"}}
        if faults.replicas and body["model"] == next(iter(self.models)):
            body = {**body, "model": faults.replicas[len(self.requests) % len(faults.replicas)]}
        if faults.falls_back and body["model"] not in self.models:
            body = {**body, "model": faults.falls_back}
        if body["model"] not in self.models:
            return 404, {"error": {"message": f"The model `{body['model']}` does not exist.", "code": 404}}
        if faults.text_only and not isinstance(prompt, str):
            return faults.text_only, {"error": {"message": "prompt: input should be a valid string"}}
        if faults.no_logprobs and "logprobs" in body:
            return faults.no_logprobs, {"error": {"message": "logprobs is not supported"}}
        if faults.names_ids == "refused" and "return_token_ids" in body:
            return 400, {"error": {"message": "Unrecognized request argument supplied: return_token_ids"}}
        wants = body.get("prompt_logprobs")
        knows = {"refused": False, "some": wants is None or wants >= 0}.get(faults.prompt_logprobs, True)
        if wants is not None and not knows:
            return 400, {"error": {"message": "Unrecognized request argument supplied: prompt_logprobs"}}
        ids = self.tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else list(prompt)
        if len(ids) + body.get("max_tokens", 16) > faults.context:
            said = f"This model's maximum context length is {faults.context} tokens. However, you requested "
            return 400, {"error": {"message": f"{said}{len(ids)}: {self.text(ids)}"}}  # it quotes what was sent
        if faults.stale and body.get("echo") and len(ids) in self.echoed:
            return 200, self.echoed[len(ids)]
        if wants is not None and faults.prompt_logprobs == "senseless":
            return 200, {"object": "text_completion", "usage": {}}
        ids = ids[-faults.reads :]
        new, of_new, ended = self.write(body, ids)
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop" if ended else "length"}
        if faults.finish and body.get("max_tokens", 16) > 10 and len(self.requests) % 2:
            choice["finish_reason"], new, ended = faults.finish, new[:2], False
        shown = new[:-1] if ended else new
        choice["text"] = (self.text(ids) if body.get("echo") and faults.echo else "") + self.text(shown)
        if faults.names_ids == "yes" and body.get("return_token_ids"):
            choice["token_ids"] = new
        if body.get("logprobs") is not None and faults.logprobs:
            choice["logprobs"] = self._of_text(body, ids, new, of_new)
        if wants is not None and faults.prompt_logprobs != "ignored":
            choice["prompt_logprobs"] = self._of_prompt(body["model"], ids, whole=wants < 0)
        answer = {"id": "cmpl-1", "object": "text_completion", "model": asked, "choices": [choice]}
        answer["model"] = faults.answers_as or asked
        self.echoed[len(ids)] = answer
        return 200, answer

    def _row(self, name: str, ids: list[int]) -> list[float | None]:
        """Log-probabilities of a prompt's tokens, as wrong as was asked for."""
        rows, faults = self.logprobs(name, ids), self.faults
        said: list[Any] = [faults.first, *(float(rows[k - 1, ids[k]]) for k in range(1, len(ids)))]
        if faults.shift:
            moved = [said[k - faults.shift] if 0 < k - faults.shift < len(said) else -2.5 for k in range(len(said))]
            said = [None, *moved[1:]]
        if faults.value_at >= 0 and len(ids) > 96 and len(self.requests) > faults.value_after:
            said[faults.value_at] = faults.value
        return said[: len(said) - faults.missing] if faults.missing else said

    def _of_text(self, body: dict[str, Any], ids: list[int], new: list[int], of_new: list[float]) -> dict[str, Any]:
        faults, echoed = self.faults, body.get("echo") and self.faults.echo
        said = [*(self._row(body["model"], ids) if echoed else []), *of_new]
        every = [*(ids if echoed else []), *new]
        name = (lambda i: f"token_id:{i}") if faults.names_ids == "tokens" else self._token
        rows = self.logprobs(body["model"], [*ids, *new])
        first = 0 if echoed else len(ids)
        top: list[Any] = []
        for place in range(first, first + len(said)):
            best = rows[place - 1].max(0) if place else None
            top.append(None if best is None else {name(int(best.indices)): float(best.values)})
        return {
            "tokens": [name(i) for i in every][: len(said)],
            "token_logprobs": said,
            **({"top_logprobs": top} if faults.top_logprobs else {}),
        }

    def _token(self, token: int) -> str:
        if token not in self.decoded:
            self.decoded[token] = self.text([token])
        return self.decoded[token]

    def _of_prompt(self, name: str, ids: list[int], *, whole: bool) -> list[Any]:
        import torch

        rows = self.logprobs(name, ids)
        said = self._row(name, ids)
        found: list[Any] = [said[0] if said[0] is None else {str(ids[0]): {"logprob": said[0]}}]
        for k in range(1, len(said)):
            row = rows[k - 1]
            values, ranks = row.tolist(), (len(row) - torch.searchsorted(row.sort().values, row)).tolist()
            chosen = range(len(row)) if whole else {ids[k], int(row.argmax())}
            entries = {
                str(i): {"logprob": values[i], "rank": ranks[i], "decoded_token": self._token(i)} for i in chosen
            }
            if said[k] is None:
                found.append(None)
                continue
            entries[str(ids[k])]["logprob"] = said[k]
            found.append(entries)
        return found

    def command(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """vLLM's adapters at run time."""
        if not self.faults.loads_adapters:
            return 404, {"detail": "Not Found"}
        name = body["lora_name"]
        if path.endswith("unload_lora_adapter"):
            return (200, {}) if self.models.pop(name, None) is not None else (404, {"error": {"message": "no such"}})
        if name in self.models:
            return 400, {"error": {"message": f"The lora adapter '{name}' has already been loaded."}}
        adapter = body["lora_path"] if self.faults.applies_adapters else ""
        self.models[name] = load(self.base_folder, adapter)
        return 200, {}

    base_folder = ""


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # half of an answer would wait 40 ms for the first half's receipt
    served: Served

    def log_message(self, *_: Any) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        served = self.served
        context = {"max_model_len": served.faults.context} if served.faults.says_context else {}
        rows = [{"id": name, "object": "model", **context} for name in served.models]
        self._send(200 if self.path.endswith("/models") else 404, {"object": "list", "data": rows})

    def do_POST(self) -> None:
        served, faults = self.served, self.served.faults
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with served.lock:
            served.under_way += 1
            served.most_under_way = max(served.most_under_way, served.under_way)
        time.sleep(faults.slow)
        with served.lock:
            served.under_way -= 1
            served.keys.append(self.headers.get("Authorization"))
            if faults.key and self.headers.get("Authorization") != f"Bearer {faults.key}":
                self._send(401, {"error": {"message": f"Incorrect API key provided: {faults.key}x"}})
                return
            if self.path == "/faults":  # of a process
                for name, value in body.items():
                    setattr(faults, name, value)
                self._send(200, {"requests": len(served.requests)})
                return
            if faults.statuses:
                self._send(faults.statuses.pop(0), {"error": {"message": "busy"}}, retry_after=faults.retry_after)
                return
            if "lora" in self.path:
                self._send(*served.command(self.path, body))
                return
            served.requests.append(body)
            if 0 <= faults.die_after < len(served.requests):
                os._exit(1)
            if 0 <= faults.swap_after < len(served.requests):
                served.models[next(iter(served.models))] = served.models[faults.swap_to]
            status, answer = served.complete(body)
            half = faults.half > 0
            faults.half -= half
            self._send(status, answer, half=half)

    def _send(self, status: int, answer: Any, *, retry_after: str | None = None, half: bool = False) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        if retry_after is not None:
            self.send_header("Retry-After", retry_after)
        content = content[: len(content) // 2] if half else content
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Clients that go away are no errors of ours."""


def load(folder: str, adapter: str = "") -> Any:
    """A model in float32, with an adapter if one is named."""
    import torch
    from transformers import AutoModelForCausalLM

    from spvmia_plugin.util.libraries import quiet_libraries

    with quiet_libraries():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        if adapter:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, adapter).eval()
    return model


class TinyServer:
    """The server in a thread, as a context manager.

    Args:
        models: by the names they are served by.
        tokenizer: of all.
        base_folder: what adapters are put on that are loaded at run time.
        faults: see `Faults`.
    """

    def __init__(self, models: Mapping[str, Any], tokenizer: Any, *, base_folder: str = "", **faults: Any) -> None:
        self.served = Served(models, tokenizer, Faults(**faults))
        self.served.base_folder = base_folder
        self.faults = self.served.faults

    def __enter__(self) -> TinyServer:
        handler = type("Bound", (Handler,), {"served": self.served})
        self._server = _Quiet(("127.0.0.1", 0), handler)
        self.root = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        self.url = f"{self.root}/completions"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def main() -> None:
    """Serve models of folders, `NAME=FOLDER[,ADAPTER]`, the first one's tokenizer and base for all."""
    from transformers import AutoTokenizer

    port, *named = sys.argv[1:]
    options = {f.name for f in fields(Faults)}
    parts = dict(each.split("=", 1) for each in named)
    faults = {name: json.loads(parts.pop(name)) for name in list(parts) if name in options}
    folders = {name: place.split(",") for name, place in parts.items()}
    first = next(iter(folders.values()))[0]
    models = {name: load(*place) for name, place in folders.items()}
    served = Served(models, AutoTokenizer.from_pretrained(first), Faults(**faults))
    served.base_folder = str(Path(first))
    server = _Quiet(("127.0.0.1", int(port)), type("Bound", (Handler,), {"served": served}))
    print("ready", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
