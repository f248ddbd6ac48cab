"""What weights are recognised by: tensors by content, whatever they are called and wherever they lie."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from spvmia_plugin.data.weights import HEAD_BYTES, MERGED, MOST, UNMERGED, check_weights, spread, tensors_in, weights_of
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.trainers.facts import weights_in

NAME = "adapter_model.safetensors"


def tensors(seed: int, number: int = 20) -> dict[str, torch.Tensor]:
    made = torch.Generator().manual_seed(seed)
    return {f"layer.{i}.weight": torch.randn(3, i + 1, generator=made) for i in range(number)}


def saved(folder: Path, held: dict[str, torch.Tensor], name: str = NAME) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(held, folder / name)
    return folder


def test_the_header_is_read_as_safetensors_does(tmp_path):
    held = {**tensors(1), "half": torch.ones(2, 2, dtype=torch.bfloat16), "none": torch.zeros(0, 3)}
    saved(tmp_path, held)
    found = {tensor.shape: tensor for tensor in tensors_in(tmp_path / NAME)}
    assert sorted(found) == sorted(tuple(tensor.shape) for tensor in held.values())
    half = found[2, 2]
    with (tmp_path / NAME).open("rb") as file:
        file.seek(half.start)
        assert file.read(half.size) == held["half"].view(torch.uint8).numpy().tobytes()


def test_names_shards_and_places_make_no_difference(tmp_path):
    held = tensors(1)
    bound = weights_of(saved(tmp_path / "one", held))
    assert bound["kind"] == "adapter"
    assert len(bound["tensors"]) == len(held) > MOST
    renamed = {f"base_model.{name}": tensor for name, tensor in held.items()}
    assert check_weights(bound, saved(tmp_path / "two", renamed), tmp_path) == "matched"
    whole = weights_of(saved(tmp_path / "three", held, "model.safetensors"))
    names = list(held)
    sharded = saved(tmp_path / "four", {n: held[n] for n in names[:9]}, "model-00001-of-00002.safetensors")
    saved(sharded, {n: held[n] for n in names[9:]}, "model-00002-of-00002.safetensors")
    assert check_weights(whole, sharded, tmp_path) == "matched"


def test_other_weights_are_refused(tmp_path):
    bound = weights_of(saved(tmp_path / "one", tensors(1)))
    other = saved(tmp_path / "two", tensors(2))
    with pytest.raises(
        SpvmiaError, match=rf"expected the weights it was written for, got others in {other} \(20 of 20"
    ):
        check_weights(bound, other, tmp_path / "mia_manifest.json")


@pytest.mark.parametrize("named", [True, False])
def test_a_manifest_of_whole_weights_is_refused_for_an_adapter(tmp_path, named):
    whole = weights_of(saved(tmp_path / "whole", tensors(1), "model.safetensors"))
    adapter = saved(tmp_path / "adapter", tensors(2))
    path = adapter / "mia_manifest.json"
    with pytest.raises(SpvmiaError) as caught:
        check_weights(whole, adapter, path, named=named)
    assert str(caught.value).startswith(
        f"mia_manifest: {path}: expected the whole weights it was written for, got an adapter in {adapter}, which"
    )
    assert str(caught.value).endswith("or give mia_members and mia_nonmembers in a folder without it")
    # One that torch has to read is an adapter, too.
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "adapter_model.bin").write_bytes(b"of torch")
    with pytest.raises(SpvmiaError, match=rf"got an adapter in {pickled}, which"):
        check_weights(whole, pickled, pickled / "mia_manifest.json", named=named)
    assert check_weights(weights_of(adapter), pickled, path).startswith("not told: no weights in safetensors")
    # A wrapper may hide from the callback that what it trains is an adapter: its tensors tell.
    assert check_weights({**weights_of(adapter), "kind": "whole"}, adapter, path) == "matched"


def test_a_tensor_that_a_library_writes_otherwise_is_no_other_model(tmp_path):
    held = tensors(1, 10)
    bound = {**weights_of(saved(tmp_path / "one", held)), "all": False}  # as a training knows its own in memory
    changed = {name: tensor.T.contiguous() if i < 5 else tensor for i, (name, tensor) in enumerate(held.items())}
    assert check_weights(bound, saved(tmp_path / "two", changed), tmp_path) == "matched"
    changed["layer.9.weight"] = held["layer.9.weight"] + 1
    with pytest.raises(SpvmiaError, match="6 of 10 tensors differ"):
        check_weights(bound, saved(tmp_path / "three", changed), tmp_path)


def test_a_base_and_a_sibling_with_the_same_frozen_layers_are_others(tmp_path):
    base = tensors(1, 200)
    trained, sibling = ({**base, "layer.7.weight": base["layer.7.weight"] + step} for step in (1, 2))
    bound = weights_of(saved(tmp_path / "one", trained, "model.safetensors"))
    names = list(trained)
    sharded = saved(tmp_path / "two", {n: trained[n] for n in names[:9]}, "model-00001-of-00002.safetensors")
    saved(sharded, {n: trained[n] for n in names[9:]}, "model-00002-of-00002.safetensors")
    assert check_weights(bound, sharded, tmp_path) == "matched"
    for name, other in (("base", base), ("sibling", sibling)):
        with pytest.raises(SpvmiaError, match="1 of 200 tensors differ"):
            check_weights(bound, saved(tmp_path / name, other, "model.safetensors"), tmp_path)
    # A manifest of an earlier version names some tensors, and does not say that they are all.
    older = {name: value for name, value in bound.items() if name != "all"}
    assert check_weights(older, saved(tmp_path / "again", base, "model.safetensors"), tmp_path) == "matched"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_in_memory_are_those_of_the_file(tmp_path, dtype):
    model = torch.nn.Sequential(torch.nn.Linear(700, 800), torch.nn.Linear(800, 3)).to(dtype)
    assert model[0].weight.numel() * model[0].weight.element_size() > HEAD_BYTES
    folder = saved(tmp_path / "one", dict(model.state_dict()), "model.safetensors")
    assert set(weights_in(model)["tensors"]) == set(weights_of(folder)["tensors"])
    with torch.no_grad():
        model[0].bias[0] += 1
    assert set(weights_in(model)["tensors"]) != set(weights_of(folder)["tensors"])


def test_what_is_sharded_or_frozen_is_not_bound():
    model = torch.nn.Linear(3, 3)
    model.weight.ds_id = 1
    assert weights_in(model) is None
    assert weights_in(torch.nn.Linear(3, 3).requires_grad_(False)) is None
    assert weights_in(None) is None


def test_what_cannot_be_told(tmp_path):
    folder = saved(tmp_path / "one", tensors(1))
    bound = weights_of(folder)
    assert check_weights(None, folder, tmp_path).startswith("not told: the manifest does not say")
    merged = saved(tmp_path / "merged", tensors(1), "model.safetensors")
    assert check_weights(bound, merged, tmp_path) == MERGED
    assert check_weights(bound, merged, tmp_path, named=False) == UNMERGED
    (tmp_path / "empty").mkdir()
    assert weights_of(tmp_path / "empty") is None
    assert check_weights(bound, tmp_path / "empty", tmp_path) == "not told: no weights in safetensors beside it"
    assert check_weights({"kind": "adapter"}, folder, tmp_path).startswith("not told: the weights cannot be read")


def headed(header: object) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\xff" * 40, headed([]), headed(b"nope"), headed(b"[" * 100_000), headed("text"), headed(5)),
        *(headed({"a": told}) for told in (None, 5, [], {}, {"shape": []}, {"data_offsets": [0, 0]})),
        *(
            headed({"a": {"shape": [], "data_offsets": offsets}})
            for offsets in (["0", "1"], [0], [0, 1, 2], [0.0, 0.0], [-9, 0], [1, 0], [0, 10**30], None)
        ),
        *(headed({"a": {"shape": shape, "data_offsets": [0, 0]}}) for shape in (None, 3, "12", [-1], [[]])),
    ],
)
def test_damaged_files(tmp_path, content):
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(ValueError):  # noqa: PT011 - of a few kinds, all told by check_weights
        list(tensors_in(tmp_path / NAME))
    assert check_weights({"kind": "adapter", "tensors": []}, tmp_path, tmp_path).startswith(
        "not told: the weights cannot"
    )


def test_no_code_of_a_header_is_followed_out_of_the_file(tmp_path):
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [10**9, 10**9 + 4]}}).encode()
    (tmp_path / NAME).write_bytes(struct.pack("<Q", len(header)) + header + b"1234")
    (found,) = tensors_in(tmp_path / NAME)
    assert found.digest()  # of nothing: it is another tensor's


def test_spread_is_even():
    assert spread(range(5), 9) == [0, 1, 2, 3, 4]
    assert spread(range(101), 5) == [0, 25, 50, 75, 100]
