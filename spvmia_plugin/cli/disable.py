"""`spvmia disable`."""

from __future__ import annotations


def disable() -> None:
    """Take away what `spvmia enable` put into lm_eval.

    Removes the task files, and the folder if nothing else lies in it. `spvmia run` goes on working without it. Do this
    before uninstalling:

        spvmia disable && pip uninstall spvmia-plugin
    """
    from spvmia_plugin.harness.enable import disable as take_tasks_away

    print(take_tasks_away())
