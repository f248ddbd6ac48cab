"""Equal JSON values are worked on once, and values that only look equal are not taken for each other."""

from __future__ import annotations

from spvmia_plugin.util.once import Once


def test_equal_values_are_one_object() -> None:
    once = Once()
    first = once.same({"a": [1, {"b": None}], "c": "text"})
    assert once.same({"a": [1, {"b": None}], "c": "te" + "".join(["x", "t"])}) is first
    assert once.same({"c": "text", "a": [1, {"b": None}]}) is not first  # the order is part of a file, too


def test_values_of_other_types_are_others() -> None:
    once = Once()
    kept = [once.same({"a": value}) for value in (1, 1.0, True, "1", float("nan"), -0.0, 0.0)]
    assert len({id(value) for value in kept}) == 7
    assert [type(value["a"]) for value in kept[:3]] == [int, float, bool]


def test_what_is_made_is_made_once_by_name_and_object() -> None:
    once, calls = Once(), []

    def make(value: list[int]) -> tuple[int, ...]:
        calls.append(value)
        return tuple(value)

    value = once.same([1, 2])
    made = once.made("tuple", value, make)
    assert once.made("tuple", once.same([1, 2]), make) is made
    assert len(calls) == 1
    assert once.made("another", value, make) is not None
    assert once.made("tuple", [1, 2], make) == made  # an object of its own is made anew
    assert len(calls) == 3


def test_an_id_that_is_used_again_is_no_hit() -> None:
    once = Once()
    assert [once.made("sum", [number], sum) for number in range(200)] == list(range(200))
