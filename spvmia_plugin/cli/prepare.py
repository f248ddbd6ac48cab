"""`spvmia prepare`: the reference, ahead of time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from spvmia_plugin.cli.machine import Json, Quiet, TrustRemoteCode, line_printer, print_json
from spvmia_plugin.errors import SpvmiaError


def prepare(
    model_args: Annotated[str, typer.Option("--model_args", help="As for lm_eval: pretrained=BASE,peft=ADAPTER")],
    model: Annotated[str, typer.Option("--model", help="As for lm_eval.")] = "hf",
    tasks: Annotated[str, typer.Option("--tasks", help="The task whose reference is built.")] = "spv_mia_custom",
    metadata: Annotated[
        str, typer.Option("--metadata", help="mia_* options, as for lm_eval: JSON, or key=value,key=value.")
    ] = "{}",
    device: Annotated[
        str, typer.Option("--device", help="As for lm_eval; the CPU where there is no such GPU.")
    ] = "cuda:0",
    trust_remote_code: TrustRemoteCode = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Build the self-prompt reference now; a later lm_eval run with the same options finds it.

    Sampling from the target and training the reference take most of an audit's time, and can be done where the GPU is.

        spvmia prepare --model_args pretrained=./smollm2,peft=target \\
                       --metadata '{"mia_preset": "quick"}'

    Interrupted, it continues when the same command is given again.
    """
    options = _read_options(metadata)
    from spvmia_plugin.harness.prepare import prepare as build

    say = line_printer(quiet=quiet, as_json=as_json)
    outcome = build(model, model_args, tasks, options, device=device, trust_remote_code=trust_remote_code)
    reference: Any = outcome.details["reference"]
    if as_json:
        print_json({"reference": reference, "cost": outcome.cost_json()})
    say(_in_words(reference))


def _in_words(reference: Mapping[str, Any]) -> str:
    made = "trained now" if reference["trained"] else "found in the store, trained before"
    return (
        f"reference ready: {made}, on {reference['self_prompts']} self-prompts; lm_eval finds it when it is given the "
        "same model, data and options"
    )


def _read_options(text: str) -> dict[str, Any] | str:
    """The options as a dict; text in the form `key=value` is left to the harness."""
    if "=" in text and not text.lstrip().startswith(("{", "[")):
        return text
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise SpvmiaError(f"--metadata: expected a JSON object, got text that is not JSON ({error.msg})") from error
    if not isinstance(value, dict):
        raise SpvmiaError(f"--metadata: expected a JSON object, got {type(value).__name__}")
    return value
