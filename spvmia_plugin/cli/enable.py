"""`spvmia enable`."""

from __future__ import annotations


def enable() -> None:
    """Put the audit tasks where the stock lm_eval command finds them.

    Copies the task files into the folder `tasks/spv_mia` of the lm_eval that this Python imports, regular or editable,
    and changes nothing else there. Run it again after an upgrade; `spvmia disable` takes the folder away. Then:

        lm_eval ls tasks | grep mia
        lm_eval --model hf --model_args pretrained=BASE,peft=adapter \\
                --tasks spv_mia_custom,loss_mia_custom --output_path results
    """
    from spvmia_plugin.harness.enable import enable as put_tasks

    print(put_tasks())
