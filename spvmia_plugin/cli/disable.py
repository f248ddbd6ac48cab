"""`spvmia disable`."""

from __future__ import annotations


def disable() -> None:
    """Take away what `spvmia enable` put into lm_eval.

    Removes the task files, and the folder if nothing else lies in it. Do this before `pip uninstall spvmia-plugin`.
    `spvmia run` goes on working without it.
    """
    from spvmia_plugin.harness.enable import disable as take_tasks_away

    print(take_tasks_away())
