"""Tasks of one run share data that are read alike, and no others."""

from __future__ import annotations

import pytest

from spvmia_plugin.harness.task import AuditTask
from tests.tiny import tiny_texts, tiny_tokenizer


@pytest.fixture
def made(files, base, tmp_path):
    """Make a task on packed records, as the harness would with further arguments of the model."""

    def make(attack="loss", **arguments):
        metadata = {**files, "mia_block_size": 16, "mia_cache_dir": str(tmp_path), "pretrained": str(base), **arguments}
        own = {"spvmia_attack": attack, "spvmia_dataset": "custom"}
        return AuditTask({"task": f"{attack}_mia_custom", **own, "metadata": metadata})

    return make


def test_attacks_on_the_same_data_read_them_once(made):
    one, other = made("loss"), made("zlib")
    assert one.data is other.data


def test_records_cut_by_another_tokenizer_are_other_records(made, tmp_path):
    """Two models may be given in one process: the data of the first were those of the second."""
    tiny_tokenizer(tiny_texts(40, seed=11), vocab_size=290).save_pretrained(tmp_path / "tokenizer")
    one, other = made(), made(tokenizer=str(tmp_path / "tokenizer"))
    assert one.data is not other.data
    assert [record.text for record in one.data.records] != [record.text for record in other.data.records]


@pytest.mark.parametrize("argument", [{"revision": "main"}, {"trust_remote_code": "True"}, {"tokenizer": "{base}"}])
def test_whatever_loads_the_tokenizer_tells_data_apart(made, base, argument):
    one = made()
    other = made(**{name: value.format(base=base) for name, value in argument.items()})
    assert one.data is not other.data
