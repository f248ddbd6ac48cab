"""Record what a real server answers to the self-check, for `test_recorded.py` to play back.

The self-check itself runs, against a proxy that hands each request on and writes down what comes back, so what is
recorded is exactly what is asked. Run it from the repository's root, while the server runs:

    python -m tests.engines.record --url http://127.0.0.1:8471/v1/completions --model NAME --tokenizer FOLDER \\
        --engine "llama.cpp's server" --version "xllamacpp 2026.10.11549" --served-by "COMMAND" \\
        --output tests/engines/recorded/llama_cpp.json

With `--ids-as-text` prompts of token ids are handed on as the text that they are: what a server that takes text alone
would say if it took ids. The texts are those of the self-check, made up; of the tokenizer only what cuts them is kept.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
import sys
import threading
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

TELLING_HEADERS = ("content-type", "retry-after", "server")
"""What of an answer's headers the product reads, and who answered."""


class Playback:
    """A server that answers by a recording, as a context manager.

    Attributes:
        unknown: requests that are not in the recording: then the self-check asks otherwise than it did, and the
            recording is to be made anew.
    """

    def __init__(self, recording: Mapping[str, Any]) -> None:
        self.unknown: list[Any] = []
        self._answers: dict[str, list[Mapping[str, Any]]] = {}
        for each in recording["exchanges"]:
            self._answers.setdefault(_key(each["method"], each["path"], each["request"]), []).append(each)

    def answer(self, method: str, path: str, request: Any) -> tuple[int, Mapping[str, str], Any]:
        """What was answered to a request; the last time's answer if it is asked more often."""
        found = self._answers.get(_key(method, path, request))
        if found is None:
            self.unknown.append(request)
            return 418, {}, {"error": {"message": "not recorded"}}
        each = found.pop(0) if len(found) > 1 else found[0]
        return each["status"], each["headers"], each["answer"]

    def __enter__(self) -> Playback:
        self._server, self.root = _serve(self.answer)
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.shutdown()
        self._server.server_close()


class Recorder:
    """Hands requests on to a server, and keeps what came back.

    Args:
        target: the server's scheme, host and port.
        decode: makes text of prompts of token ids; None where they go on as they are.
    """

    def __init__(self, target: str, decode: Any = None) -> None:
        self.exchanges: list[dict[str, Any]] = []
        self._target, self._decode = target, decode

    def answer(self, method: str, path: str, request: Any) -> tuple[int, Mapping[str, str], Any]:
        """Ask the server, once."""
        import requests

        sent = request
        if self._decode is not None and isinstance(request, dict) and isinstance(request.get("prompt"), list):
            sent = {**request, "prompt": self._decode(request["prompt"])}
        found = requests.request(method, self._target + path, json=sent, timeout=600)
        headers = {name.lower(): value for name, value in found.headers.items() if name.lower() in TELLING_HEADERS}
        try:
            answer = found.json()
        except ValueError:
            answer = found.text
        self.exchanges.append(
            {
                "method": method,
                "path": path,
                "request": request,
                "status": found.status_code,
                "headers": headers,
                "answer": answer,
            }
        )
        return found.status_code, headers, answer


def _key(method: str, path: str, request: Any) -> str:
    return json.dumps([method, path, request], sort_keys=True)


def _serve(answer: Any) -> tuple[ThreadingHTTPServer, str]:
    """A server in a thread, and its address."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Says nothing."""

        def _reply(self, request: Any) -> None:
            status, headers, found = answer(self.command, self.path, request)
            content = found.encode() if isinstance(found, str) else json.dumps(found).encode()
            self.send_response_only(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            self._reply(None)

        def do_POST(self) -> None:
            self._reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_address[1]}"


def cut_tokenizer(tokenizer: Any, texts: Sequence[str], ids: Sequence[int]) -> dict[str, Any]:
    """The tokenizer.json of a byte-level BPE with what cuts these texts alone: the same ids from a hundredth of it."""
    whole = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = whole["model"]["vocab"]
    names = {token_id: token for token, token_id in vocabulary.items()}
    wanted = {token for token in vocabulary if len(token) == 1}  # so that every text can be cut
    wanted |= {names[i] for i in ids if i in names}
    for text in texts:
        wanted |= set(tokenizer.tokenize(text))
    pairs = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in whole["model"]["merges"]]
    parts: dict[str, set[str]] = {}
    for left, right in pairs:
        parts.setdefault(left + right, set()).update((left, right))
    grown = list(wanted)
    while grown:
        new = parts.get(grown.pop(), set()) - wanted
        wanted |= new
        grown += new
    wanted |= {each["content"] for each in whole["added_tokens"]}
    whole["model"]["vocab"] = {token: i for token, i in vocabulary.items() if token in wanted}
    whole["model"]["merges"] = [
        f"{left} {right}" for left, right in pairs if {left, right, left + right} <= set(whole["model"]["vocab"])
    ]
    return dict(whole)


def _said(exchanges: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[int]]:
    """Texts and token ids of prompts and answers."""
    texts: list[str] = []
    ids: list[int] = []
    for each in exchanges:
        prompt = (each["request"] or {}).get("prompt", "")
        if isinstance(prompt, str):
            texts.append(prompt)
        else:
            ids += prompt
        answer = each["answer"] if isinstance(each["answer"], dict) else {}
        texts += [choice["text"] for choice in answer.get("choices", ()) if isinstance(choice.get("text"), str)]
    return texts, ids


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the self-check against a server, and write the recording."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("url", "model", "tokenizer", "engine", "version", "served-by", "output"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--ids-as-text", action="store_true")
    given = parser.parse_args(arguments)

    from spvmia_plugin.config import AuditConfig
    from spvmia_plugin.data.tokenisation import PROBES
    from spvmia_plugin.engines.server import ServerBackend
    from spvmia_plugin.models.identity import TEXT
    from spvmia_plugin.signals import Role
    from tests.engines.servers import completions_lm

    where = urlsplit(given.url)
    recorder = Recorder(f"{where.scheme}://{where.netloc}")
    server, root = _serve(recorder.answer)
    lm = completions_lm(root + where.path, given.tokenizer, model=given.model, timeout=600)
    if given.ids_as_text:
        recorder._decode = lm.tokenizer.decode
    backend = ServerBackend(lm, AuditConfig(), given.tokenizer)
    print(backend.lacks(Role.TARGET) or "nothing is wrong", file=sys.stderr)
    server.shutdown()
    texts, ids = _said(recorder.exchanges)
    tokenizer = cut_tokenizer(lm.tokenizer, [TEXT, *PROBES, *texts], ids)
    parts = {
        "engine": given.engine,
        "version": given.version,
        "date": datetime.date.today().isoformat(),
        "served_by": given.served_by,
        "recorded_by": shlex.join(["python", "-m", "tests.engines.record", *(arguments or sys.argv[1:])]),
        "ids_as_text": given.ids_as_text,
        "model": given.model,
        "special_tokens": lm.tokenizer.special_tokens_map,
        "tokenizer": tokenizer,
    }
    head = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in parts.items())
    rows = ",\n".join(json.dumps(each) for each in recorder.exchanges)
    Path(given.output).write_text(f'{{\n{head},\n"exchanges": [\n{rows}\n]\n}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
