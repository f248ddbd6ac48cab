"""`kill -9` of the client and of the server, at any moment: the same command continues, and ends with the same bits."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests

from tests.harness.kills import read_results
from tests.tiny import tiny_texts

TASKS = ("loss", "lowercase", "spv_wbc", "ez", "zlib")
ROOT = Path(__file__).parents[2]


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Server:
    """The tests' server in a process of its own, which can be killed and started again at the same address."""

    def __init__(self, models):
        self.models, self.port = models, free_port()
        self.url = f"http://127.0.0.1:{self.port}/v1/completions"
        self.start()

    def start(self):
        named = [f"target={self.models / 'base'},{self.models / 'lora'}", f"base={self.models / 'base'}"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.engines.tiny_server", str(self.port), *named],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert self.process.stdout.readline() == "ready\n"

    def seen(self, **faults):
        """How many requests it had; and give it faults."""
        found = requests.post(f"http://127.0.0.1:{self.port}/faults", json=faults, timeout=60)
        return found.json()["requests"]

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


class Client:
    """`spvmia run` in processes that are forked, so that what takes long is imported once."""

    def __init__(self, models, folder):
        self.models, self.folder, self.number = models, folder, 0
        texts = tiny_texts(70, seed=7, words=(30, 60))
        for name, part in (("members", texts[:20]), ("nonmembers", texts[20:40]), ("prompts", texts[40:])):
            rows = "".join(json.dumps({"text": text}) + "\n" for text in part)
            (folder / f"{name}.jsonl").write_text(rows)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.harness.recorder"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def start(self, url, cache):
        """Begin an audit; returns the child's process id."""
        self.number += 1
        self.place = self.folder / f"run{self.number}"
        self.place.mkdir()
        metadata = {
            **{f"mia_{name}": str(self.folder / f"{name}.jsonl") for name in ("members", "nonmembers", "prompts")},
            "mia_base_model": str(self.models / "base"),
            "mia_base_served": "base",
            "mia_block_size": 0,
            "mia_self_prompts": 10,
            "mia_prompt_tokens": 12,
            "mia_reference_epochs": 1,
            "mia_lora_rank": 4,
            "mia_cache_dir": str(cache),
        }
        args = f"model=target,base_url={url},tokenizer={self.models / 'base'},tokenizer_backend=huggingface,"
        args += "max_length=256,num_concurrent=2,max_retries=1"
        tasks = ",".join(f"{name}_mia_custom" for name in TASKS)
        arguments = ["--model", "local-completions", "--model_args", args, "--tasks", tasks]
        arguments += ["--metadata", json.dumps(metadata), "--output_path", str(self.place / "out"), "--log_samples"]
        order = {"arguments": arguments, "log": str(self.place / "log"), "said": str(self.place / "said")}
        print(json.dumps(order), file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())

    def wait(self):
        """Exit status and what it said."""
        return int(self.process.stdout.readline()), (self.place / "said").read_text()

    def run(self, url, cache):
        """An audit that ends well: metrics and scores."""
        self.start(url, cache)
        status, said = self.wait()
        assert status == 0, said
        return read_results(self.place / "out")

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=600)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def whole(models, tmp_path_factory):
    """A server, a client, what an audit gives that nobody kills, and how many requests it takes."""
    folder = tmp_path_factory.mktemp("kills")
    server, client = Server(models), Client(models, folder)
    before = server.seen()
    expected = client.run(server.url, folder / "whole")
    yield server, client, expected, server.seen() - before
    client.close()
    server.kill()


def client_is_killed(whole, cache, share):
    server, client, expected, count = whole
    begun = server.seen()
    child = client.start(server.url, cache)
    while server.seen() - begun < share * count:
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    assert client.wait()[0] == -signal.SIGKILL
    resumed = server.seen()
    assert client.run(server.url, cache) == expected
    return server.seen() - resumed


def server_is_killed(whole, cache, share):
    server, client, expected, count = whole
    server.seen(die_after=server.seen() + max(1, int(share * count)))
    client.start(server.url, cache)
    status, said = client.wait()
    assert status == 1, said
    last = said.strip().splitlines()[-1]
    assert last.startswith("base_url: expected a server at this address, got none that answers"), said
    assert "the same command then continues" in last
    server.kill()
    server.start()
    assert client.run(server.url, cache) == expected
    return server.seen()


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.8])
def test_a_client_that_is_killed_continues(whole, tmp_path, share):
    *_, count = whole
    assert client_is_killed(whole, tmp_path, share) < count * (1.3 - share)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.35])
def test_a_server_that_is_killed_is_no_end(whole, tmp_path, share):
    *_, count = whole
    assert server_is_killed(whole, tmp_path, share) < count * (1.3 - share)


@pytest.mark.slow
@pytest.mark.parametrize("kill", [client_is_killed, server_is_killed])
def test_at_ten_moments(whole, tmp_path, kill):
    moments = random.Random(3)
    for number in range(10):
        kill(whole, tmp_path / str(number), (number + moments.random()) / 10)
