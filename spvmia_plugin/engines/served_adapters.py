"""Adapters that a server is given while it runs: vLLM's `load_lora_adapter`, and what it takes to keep them there."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from spvmia_plugin.engines.http import Connection, Refused
from spvmia_plugin.engines.lora_requests import misread, peft_config
from spvmia_plugin.engines.self_check import served_models
from spvmia_plugin.errors import SpvmiaError

T = TypeVar("T")


@dataclass(frozen=True)
class _Adapter:
    """An adapter that this run had the server load.

    Attributes:
        path: of its folder.
        called: what results and the store have as its name: that of its content. On the server it has one of this run's
            own, so that no other audit takes it away.
    """

    path: str
    called: str


class ServedAdapters:
    """The adapters of one run on a server.

    Args:
        connection: to the server.
        note: told what a reader of the results should know.
    """

    def __init__(self, connection: Connection, note: Callable[[str], None]) -> None:
        self._connection = connection
        self._note = note
        self._loaded: dict[str, _Adapter] = {}  # by their names on the server
        self._run = secrets.token_hex(4)
        self._loading = threading.Lock()

    def called(self, model: str) -> str:
        """The name of a model of the server in results and in the store."""
        return self._loaded[model].called if model in self._loaded else model

    def load(self, path: str) -> tuple[str, None] | tuple[None, str]:
        """Have the server load an adapter: its name there, or why that can't be."""
        if (why := not_for_a_server(path)) is not None:
            return None, why
        called = f"spvmia-{_digest_of(path)[:16]}"
        name = f"{called}-{self._run}"
        if name not in self._loaded:
            try:
                self._load(name, path)
            except Refused as refused:
                return None, f"the server loads no adapter at run time (HTTP {refused.status})"
            self._loaded[name] = _Adapter(path, called)
        return name, None

    def reaching(self, model: str, ask: Callable[[], T]) -> T:
        """What a model answers; an adapter of ours that the server has lost, as after a restart, is loaded once more.

        Raises:
            Refused: the server has said no.
            SpvmiaError: it does not load the adapter again; and whatever else `ask` raises.
        """
        try:
            return ask()
        except Refused as refused:
            if refused.status != 404 or model not in self._loaded:
                raise
        with self._loading:  # of requests side by side one does it for all
            if model not in served_models(self._connection):
                adapter = self._loaded[model]
                try:
                    self._load(model, adapter.path)
                except Refused as refused:
                    raise SpvmiaError(
                        f"base_url: expected the server at {self._connection.shown} to have the adapter "
                        f"{model!r} that it loaded for this audit, got HTTP 404, and HTTP {refused.status} when it was "
                        "to load it again: it may have been started anew without adapters at run time "
                        "(VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, --enable-lora); start it as before, and run the same "
                        "command again, which continues"
                    ) from None
                self._note(f"{adapter.called!r} was loaded again: the server had lost it while the audit ran")
        return ask()

    def unload(self, name: str) -> None:
        """Take an adapter from the server that it loaded for this run."""
        del self._loaded[name]
        with contextlib.suppress(SpvmiaError):  # it may be gone
            self._command("unload_lora_adapter", {"lora_name": name})

    def close(self) -> None:
        """Take from the server what it loaded for this run."""
        for name in list(self._loaded):
            self.unload(name)

    def _load(self, name: str, path: str) -> None:
        """Have the server load an adapter.

        Raises:
            Refused: it does not.
        """
        self._command("load_lora_adapter", {"lora_name": name, "lora_path": str(Path(path).absolute())})

    def _command(self, what: str, body: Mapping[str, Any]) -> None:
        """One of vLLM's commands: the answer is no JSON."""
        root = self._connection.root
        if root is None:
            raise Refused(f"base_url: expected an address that ends in /completions to {what}, got another", 404, "")
        self._connection.command(f"{root}/{what}", body)


def not_for_a_server(path: str) -> str | None:
    """Why an adapter can't be given to a server, None if it can: a folder that any vLLM reads as peft does."""
    if not (Path(path) / "adapter_config.json").is_file():
        return "it is no folder with an adapter"
    reason = misread(path, peft_config(path), patterns=False)  # which version it is, nobody knows
    return None if reason is None else f"vLLM does not take this adapter ({reason})"


def _digest_of(path: str) -> str:
    found = hashlib.sha256()
    for file in sorted(Path(path).glob("adapter_*")):
        found.update(file.name.encode() + file.read_bytes())
    return found.hexdigest()
