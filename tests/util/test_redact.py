"""Credentials: what is one, what is none, and that they are gone wherever results are handed on."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from spvmia_plugin.export import FORMATS as EXPORTS
from spvmia_plugin.export import ExportOptions
from spvmia_plugin.leaderboard import FORMATS, Options, build_board
from spvmia_plugin.leaderboard.entrants import Source
from spvmia_plugin.report.command import command
from spvmia_plugin.report.facts import report_facts
from spvmia_plugin.report.html import render
from spvmia_plugin.results import read_latest
from spvmia_plugin.util.redact import without_secrets, without_secrets_in
from tests.results.builders import fake_audit, fake_records, write_run
from tests.timing import TRIES, grows_by_less

SECRET = "Zq9xKw7LmT3vRb8nYc"
SHAPED = [
    "AKIAIOSFODNN7EXAMPLE",
    "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
    "github_pat_11ABCDEFG0abcdefghijkl",
    "sk-abcdefghijklmnopqrstuvwx",
    "sk-ant-api03-AbC_dEf-123456789",
    "hf_abcdefghijklmnopqrstuvw",
    "glpat-abcdefghij1234567890",
    "xoxb-1234567890-abcdefghij",
    "AIzaSyA1234567890abcdefghijklmnopqrstuv",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----",
    "-----BEGIN PGP PRIVATE KEY BLOCK-----\nlQOY\n-----END PGP PRIVATE KEY BLOCK-----",
    *(
        f"{beginning}Zq9xKw7LmT3vRb8nYcPd4s"
        for beginning in (
            *("xai-", "pplx-", "fw_", "tgp_v1_", "csk-", "jina_", "hvs.", "dop_v1_", "shpat_", "xapp-1-A0-", "glsa_"),
        )
    ),
]
NAMED = [
    "base_url=http://host/v1?api_key={}&x=1,model=m",
    "pretrained=a,token={}",
    "http://host/?apiKey={}",
    "https://host/x?X-Amz-Signature={}&a=b",
    "https://host/x?sig={}",
    "https://user:{}@host/x",
    "root:{}@host/db",
    "Authorization: Bearer {}",
    "x-api-key: {}",
    "--hf-token {} --batch 3",
    "password={}",
    'secret="{} and more, still"',
    '{{"api_key": "{}, {}"}}',
    '{{\\"access_token\\": \\"{}\\"}}',
    "header={{'Authorization': 'Basic {}', 'a': 'b'}},m=1",
    "http%3A%2F%2Fhost%2F%3Fapi_key%3D{}%26x%3D1",
    "http://host/?u=http%253A%252F%252Fq%252F%253Ftoken%253D{}",
    "AccountKey={};EndpointSuffix=x",
    "PGPASSWORD={} psql",
    "TOKEN2={}",
    "api_key_2: {}",
    "user_pass={}",
    "pass={}",
    "Authorization: ApiKey {}",
    "Authorization: {} {}",
    "auth: u {}",
    "auth=('u', '{}'),m=1",
    "Proxy-Authorization: Custom a {}",
    "Cookie: a=b; c={}",
    "connection_string=Server=h;Pwd={}",
]
IN_ADDRESSES = [
    "http://host/v1/completions?code={}&tenant=t",
    "http://host/v1/completions?t=t&k={}",
    "http://host/v1?{}",
    "https://host/v1?k=a,{}",
    "https://host/v1?k=(a)[b]{{c}}'{}'",
    "https://host:8000/gw/{}7/v1/completions",
    "https://host/accounts/023e105f4ecef8ad9ca31a8372d0c353{}9/ai",
    "model=m,base_url=https://host/v1?tenant={},tokenizer=org/model",
    "see https://host/{}1/v1/models; then go on",
    '{{"base_url": "https://user:pa,ss@host/v1?code={}", "model": "m"}}',
    "wss://host/stream?k={};v=1",
    "HTTPS://host/?c={}",
    "base_url%3Dhttps%3A%2F%2Fhost%2Fv1%3Fcode%3D{}",
    "https://host/v1?code=a%20{}%20b",
    "https://host/gw%2F{}5%2Fx/v1",
    "ftp://host/x?k={}",
    "gs://host/x?access={}",
    "abfss://host/x?{}",
    "s3+x://host/x?a=1&b={}",
]
"""Under names that nobody knows for those of credentials."""
SEVERAL = [
    "s3://AKIAIOSFODNN7EXAMPLE:{}@bucket/t5",
    "AKIAIOSFODNN7EXAMPLE:{}@bucket",
    "https://ghp_16C7e42F292c6912E7710c838347Ae178B4a:{}@github.com/org/x",
    "hf_abcdefghijklmnopqrstuvw:{}@host/x",
    "Bearer sk-abcdefghijklmnopqrstuvwx:{}@host",
    "https://u:Bearer {}@host/x?token={}",
    "token=hf_abcdefghijklmnopqrstuvw password={}",
    "api_key=https://AKIAIOSFODNN7EXAMPLE:{}@h/x?y",
    "http://h/?u=https%3A%2F%2FAKIAIOSFODNN7EXAMPLE%3A{}%40h",
]
"""More than one form in one place."""
ORDINARY = [
    "meta-llama/Llama-3.1-8B-Instruct",
    "hf-internal-testing/tiny-random-gpt2",
    "org/sk-learn-classifier-v2-large",
    "EleutherAI/pythia-160m@step3000",
    "git@github.com:org/model.git",
    "/home/alice/runs/token-classification/key/adapter",
    "C:\\models\\secret-garden",
    "pretrained=gpt2,dtype=bfloat16,add_bos_token=True,tokenizer=gpt2",
    "think_end_token=</think>,pad_token=<pad>",
    "support.jsonl:214#3",
    "3 non-members repeat members: the AUROC is too low",
    "the token: one of the vocabulary",
    "7ef9" * 16,
    "2026-11-23T19:43:12",
    "100% of them",
    "http://127.0.0.1:8000/v1/completions",
    "https://host/openai/deployments/gpt-35-turbo-instruct-0914/completions",
    "https://host/models/Llama-3.1-8B-Instruct-AWQ/chatcompletions",
    "https://huggingface.co/datasets/org/name/resolve/023e105f4ecef8ad9ca31a8372d0c353b7a51c2e/train.jsonl",
    "https://arxiv.org/abs/2508.09603",
    "is that so? see https://host/docs, then: what?",
    "https://host/models/SmolLM2-135M-Instruct/v1",
    "https://host/models/sk-learn-classifier-v2/v1",
    "https://host/org/Mixtral-8x7B-Instruct-v0.1-GPTQ-Int4",
    "https://host/org/Qwen2-VL-7B-Instruct_Q4_K_M-GGUF",
    "https://host/org/paraphrase-multilingual-MiniLM-L12-v2",
    "https://host/runs/2026-11-27T18-05-29_run-12_seed-3",
    "s3://bucket/0a1b2c3d4e5f60718293/part-00001.parquet",
    "jina_embeddings_v3_small_english",
    "fw_representation_learning_v2",
    "pass@1: 0.37, pass_at_1=0.37",
    "it did pass: all of 3",
    "keys=3, layer_keys=4, max_tokens=64, prefix_token_id=2, tokenizer=org/t5",
    "bearer: the one who holds it",
]


@pytest.mark.parametrize("text", SEVERAL)
def test_one_pass_is_enough(text: str) -> None:
    told = without_secrets_in(text.format(*[SECRET] * 2))
    assert SECRET not in told
    assert without_secrets_in(told) == told


@pytest.mark.parametrize("text", [each.format(*[SECRET] * 2) for each in (*NAMED, *IN_ADDRESSES)] + SHAPED)
@pytest.mark.parametrize(
    "place", ["{}", "https://{}:{}@host/x", "a {} b={}", "token={},key={}", "[{}]?{}", "https://h/{}?{}"]
)
def test_again_changes_nothing(text: str, place: str) -> None:
    once = without_secrets({"a": [place.format(text, text)]})
    assert without_secrets(once) == once


@pytest.mark.parametrize("text", SHAPED)
def test_what_looks_like_one_is_hidden_wherever_it_stands(text: str) -> None:
    for place in (text, f"use {text} here", {"a": [{"b": text}]}, {text: 1}):
        assert text not in json.dumps(without_secrets(place))
        assert "***" in json.dumps(without_secrets(place))


@pytest.mark.parametrize("text", NAMED)
def test_what_is_named_as_one_is_hidden(text: str) -> None:
    told = without_secrets_in(text.format(*[SECRET] * 2))
    assert SECRET not in told
    assert "and more" not in told
    assert "***" in told
    assert without_secrets_in(told) == told


@pytest.mark.parametrize("text", IN_ADDRESSES)
def test_an_address_is_shown_without_what_may_open_it(text: str) -> None:
    told = without_secrets_in(text.format(SECRET))
    assert SECRET not in told
    assert "***" in told
    assert without_secrets_in(told) == told
    assert all(part in told for part in ("host", "tokenizer=org/model", "then go on", '"model": "m"') if part in text)


def test_a_uuid_in_a_path_is_a_token_too() -> None:
    assert (
        without_secrets_in("https://host/hooks/0b9d1c1e-7a35-4bb4-8a55-1f2e3d4c5b6a/v1") == "https://host/hooks/***/v1"
    )


@pytest.mark.parametrize("text", ORDINARY)
def test_what_is_none_stays(text: str) -> None:
    assert without_secrets_in(text) == text


def test_entries_are_judged_by_their_names() -> None:
    told = without_secrets({"password": 12345, "apiKey": SECRET, "X-Api-Key": SECRET, "cost": {"forward_tokens": 3}})
    assert told == {"password": "***", "apiKey": "***", "X-Api-Key": "***", "cost": {"forward_tokens": 3}}
    kept = {"eos_token": "</s>", "answer_key": "b", "tokens": [1], "add_bos_token": True, "token": None}
    assert without_secrets(kept) == kept


NAMES = [
    *(
        "api_keys",
        "api_key_2",
        "pass",
        "jwt",
        "bearer",
        "user_pass",
        "db_pass",
        "pw",
        "PGPASSWORD",
        "token_1",
        "TOKEN2",
    ),
    *("key1", "groq_key", "together_key", "mistral_key", "accessKeyId", "aws_access_key_id", "connection_string"),
    *("ConnectionString", "GROQ_KEY", "openai_keys", "smtpPass", "hf_token_2", "password3", "x-functions-key"),
]
ORDINARY_NAMES = [
    *(
        "pad_token",
        "prefix_token_id",
        "max_tokens",
        "tokenizer",
        "pass_at_1",
        "pass@1",
        "pass@10,none",
        "tokens",
        "keys",
    ),
    *("eot_token_id", "tokenizer_pad_token", "forward_pass", "single_pass", "answer_key", "sort_keys", "key_value"),
    *("tpr_at_1pct_fpr", "auroc_stderr", "mean_token_2", "pad_token_1", "best_id", "bypass", "doc_id", "signal_1"),
    *("task_hashes", "access", "string", "connections", "authors", "n_keys", "block_size_2", "seed1", "compass"),
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [SECRET, "two words"])
def test_names_of_credentials(name: str, value: str) -> None:
    assert without_secrets({"a": {name: value}}) == {"a": {name: "***"}}
    assert without_secrets({"cmd": ["run", f"--{name}", value, "x"]}) == {"cmd": ["run", f"--{name}", "***", "x"]}
    assert without_secrets({"env": [{"name": name, "value": value}]}) == {"env": [{"name": name, "value": "***"}]}
    assert without_secrets_in(f"m=1,{name}={SECRET},a=b") == f"m=1,{name}=***,a=b"


@pytest.mark.parametrize("name", ORDINARY_NAMES)
def test_names_of_none(name: str) -> None:
    for kept in (
        {name: SECRET},
        {"cmd": [f"--{name}", SECRET]},
        {"name": name, "value": SECRET},
        [[name, SECRET]],
        f"{name}={SECRET}",
    ):
        assert without_secrets(kept) == kept


def test_a_list_may_be_a_name_with_its_value() -> None:
    assert without_secrets([["api_key", SECRET], ["token", SECRET], ("a", "b")]) == [
        ["api_key", "***"], ["token", "***"], ["a", "b"],
    ]  # fmt: skip
    kept = [
        ["token", "text"],
        ["key", "value"],
        ["password", "user"],
        ["--token"],
        ["--token", "--batch"],
        ["token", 3],
    ]
    assert without_secrets(kept) == kept


def test_counts_are_no_credentials() -> None:
    kept = {"pass": 12, "fail": 3, "name": "token", "value": 0.5}
    assert without_secrets(kept) == kept


@pytest.mark.parametrize(
    "part",
    ["Zq9xKw7L_mT3vRb8nYc-x", "Zq9xKw7LmT3vRb8_nYc", "a7-Kd93hQz_P0sLw2Xe", "v1_Zq9xKw7L-mT3vRb8nYc"],
)
def test_base64_of_addresses_is_a_token_in_a_path(part: str) -> None:
    assert without_secrets_in(f"https://gw.example/{part}/v1") == "https://gw.example/***/v1"


def test_what_holds_none_takes_little() -> None:
    """It is called on every string of 200 results files."""
    texts = [f"spv_mia_custom_{i},none" for i in range(2000)] + [f"org/model-{i}" for i in range(2000)]

    def seconds(count: int) -> float:
        started = time.process_time()
        for text in texts[:count]:
            without_secrets_in(text)
        return time.process_time() - started

    # A millisecond each, where a tenth of that is taken.
    assert any(seconds(len(texts)) < 4.0 for _ in range(TRIES))


@pytest.mark.parametrize(
    "part",
    [
        "a",
        "a.",
        "a:",
        "a=",
        "sk-",
        "eyJ",
        "token=",
        "%25",
        "a b ",
        '"',
        "token='",
        "key: ",
        "http://a",
        "http://a?",
        "?/",
        "a+",
        "auth: ",
        "Cookie: a;",
        "fw_a",
        "xapp-",
        "https://a/Zq9_",
    ],
)
def test_long_texts_take_no_longer_than_their_length(part: str) -> None:
    def seconds(length: int) -> float:
        started = time.process_time()
        without_secrets_in(part * (length // len(part)))
        return time.process_time() - started

    # Eight times the text; tried from each of its places it would take 64 times. A clock's step counts as nothing.
    assert grows_by_less(seconds, 12_500, 100_000, times=30, least=0.002)


def test_nothing_that_is_handed_on_holds_one(tmp_path: Path) -> None:
    """In model_args, options, provenance, names and messages; in every format."""
    settings = {"mia_cache_dir": f"/x?token={SECRET}", "mia_reference": f"https://u:{SECRET}@host/model"}
    audit = fake_audit({"spv": 1.0, "loss": 0.1}, records=fake_records(40, 40), findings=(), settings=settings)
    arguments = {
        "base_url": f"http://host/v1?api_key={SECRET}",
        "pretrained": "m",
        "password": SECRET,
        "headers": {"Authorization": SECRET},
        "nested": {"deep": [f"token={SECRET}"]},
        "note": f"http%3A%2F%2Fh%2F%3Fsecret%3D{SECRET}",
    }
    capabilities = {f"task?key={SECRET}": {"acc": 0.5}}
    path = write_run(tmp_path, [audit], model_args=arguments, capabilities=capabilities, model="m")
    raw = json.loads(path.read_text())
    raw["model_name"] = f"http://host/v1?api_key={SECRET}"
    record = raw["configs"]["spv_mia_custom"]["metadata"]["mia_audit"]
    record["models"]["target"]["source"] = f"s3://{SHAPED[0]}:{SECRET}@bucket"
    record["data"]["source"] = f"https://host/records.jsonl?sig={SECRET}"
    record["preconditions"] = [{"code": "x", "severity": "note", "message": f"token={SECRET}", "details": {}}]
    path.write_text(json.dumps(raw))
    run = read_latest(tmp_path)
    board = build_board([Source(tmp_path)], Options())
    told = [render(run), json.dumps(report_facts(run)), " ".join(command(run))]
    told += [write(board) for write in FORMATS.values()]
    for write in EXPORTS.values():
        files = write(run, ExportOptions(benchmark="a/b", instances=True))
        told += [f"{name} {''.join(text)}" for name, text in files.items()]
    assert len(told) > 9
    assert [text for text in told if SECRET in text or SHAPED[0] in text] == []
    assert "base_url=" in " ".join(command(run)) or "base_url" in " ".join(command(run))


def test_what_we_write_holds_none() -> None:
    [task] = fake_audit(
        {"loss": 0.1},
        findings=(),
        settings={"mia_cache_dir": f"/x?token={SECRET}"},
        provenance={"place": f"https://u:{SECRET}@host"},
    )
    record = task.config["metadata"]["mia_audit"]  # type: ignore[index]
    assert SECRET not in json.dumps(record)
    assert record["settings"]["mia_seed"] == 0
