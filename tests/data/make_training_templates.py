"""Copies TRL's training templates into the package, as they are.

    python -m tests.data.make_training_templates

For each pair of `trl.chat_template_utils.get_training_chat_template`: the training template as `NAME.jinja`, and in
`index.json` the SHA-256 of the text that it stands for. `NOTICE.md` says where they come from. Run it when TRL ships
others; tests/data/test_rendering_trl.py tells.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from importlib.metadata import version

from spvmia_plugin.data.chat_templates import TRAINING_TEMPLATES

LEFT_OUT = ("idefics3", "llava_next", "smolvlm")
"""Their templates take nothing but lists of parts, with images: a text is an error to them."""

_PAIR = re.compile(r"if chat_template == (\w+)_chat_template:\s+return (\w+)_training_chat_template")

NOTICE = """\
# Training templates

The `.jinja` files of this folder come from [TRL](https://github.com/huggingface/trl) {version}
(`trl/chat_templates/NAME.jinja`), Copyright 2020-2026 The HuggingFace Team, licensed under the Apache License,
Version 2.0, as this package is (`LICENSE`). They are unchanged, byte for byte.

`index.json` has the SHA-256 of the template of a model and the name of the one that TRL trains with in its place where
the loss is on the assistant's turns only. `python -m tests.data.make_training_templates` writes the folder. Left out
are those of {left_out}, which take images.
"""


def pairs() -> dict[str, str]:
    """Of all that TRL ships: name of a training template -> the text of the template that it stands for."""
    from trl import chat_template_utils as trl

    found = _PAIR.findall(inspect.getsource(trl.get_training_chat_template))
    return {f"{training}_training": getattr(trl, f"{original}_chat_template") for original, training in found}


def contents() -> dict[str, bytes]:
    """Names and contents of the files of the folder."""
    from trl import chat_template_utils as trl

    originals = {name: text for name, text in pairs().items() if name.removesuffix("_training") not in LEFT_OUT}
    index = {hashlib.sha256(text.encode()).hexdigest(): name for name, text in originals.items()}
    notice = NOTICE.format(version=version("trl"), left_out=", ".join(LEFT_OUT))
    return {
        **{f"{name}.jinja": (trl._CHAT_TEMPLATES_DIR / f"{name}.jinja").read_bytes() for name in originals},
        "index.json": (json.dumps(dict(sorted(index.items(), key=lambda item: item[1])), indent=2) + "\n").encode(),
        "NOTICE.md": notice.encode(),
    }


def main() -> None:
    """Write the folder anew."""
    new = contents()
    for path in TRAINING_TEMPLATES.iterdir():
        if path.name not in new:
            path.unlink()
    for name, content in new.items():
        (TRAINING_TEMPLATES / name).write_bytes(content)


if __name__ == "__main__":
    main()
