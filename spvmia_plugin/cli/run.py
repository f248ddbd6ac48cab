"""`spvmia run`."""

from __future__ import annotations

import typer


def run(context: typer.Context) -> None:
    """Run lm_eval with the audit tasks included; every argument goes to lm_eval as it is.

    Needs no `spvmia enable`, and does no harm after it. Your own `--include_path` is kept.

        spvmia run --model hf --model_args pretrained=BASE,peft=adapter \\
                   --tasks spv_mia_custom,arc_easy --batch_size auto \\
                   --output_path results --log_samples

    lm_eval's own options and its list of tasks:

        spvmia run run --help
        spvmia run ls tasks

    What the `mia_*` options in `--metadata` mean: docs/options.md.
    """
    from spvmia_plugin.harness.launch import launch

    launch(context.args)
