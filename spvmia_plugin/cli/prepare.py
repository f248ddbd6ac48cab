"""`spvmia prepare`: the reference, ahead of time."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from spvmia_plugin.errors import SpvmiaError


def prepare(
    model_args: Annotated[str, typer.Option("--model_args", help="As for lm_eval: pretrained=BASE,peft=ADAPTER")],
    model: Annotated[str, typer.Option("--model", help="As for lm_eval.")] = "hf",
    tasks: Annotated[str, typer.Option("--tasks", help="The task whose reference is built.")] = "spv_mia_custom",
    metadata: Annotated[str, typer.Option("--metadata", help="mia_* options as JSON, as for lm_eval.")] = "{}",
    device: Annotated[
        str, typer.Option("--device", help="As for lm_eval; the CPU where there is no such GPU.")
    ] = "cuda:0",
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON.")] = False,
) -> None:
    """Build the self-prompt reference now; a later lm_eval run with the same options finds it.

    Example: spvmia prepare --model_args pretrained=./base,peft=./adapter --metadata '{"mia_preset": "quick"}'
    """
    options = _read_json(metadata)
    from spvmia_plugin.harness.prepare import prepare as build

    outcome = build(model, model_args, tasks, options, device=device)
    reference = outcome.details["reference"]
    if as_json:
        typer.echo(json.dumps({"reference": reference, "cost": outcome.cost_json()}))
        return
    typer.echo(f"reference ready: {json.dumps(reference)}")


def _read_json(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise SpvmiaError(f"--metadata: expected a JSON object, got text that is not JSON ({error.msg})") from error
    if not isinstance(value, dict):
        raise SpvmiaError(f"--metadata: expected a JSON object, got {type(value).__name__}")
    return value
