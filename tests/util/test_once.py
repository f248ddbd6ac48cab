"""Equal JSON values are worked on once, and values that only look equal are not taken for each other."""

from __future__ import annotations

from spvmia_plugin.util.once import Once


def test_what_is_made_of_equal_values_is_made_once() -> None:
    once, calls = Once(), []

    def make(value: dict[str, object]) -> list[str]:
        calls.append(value)
        return list(value)

    first = once.of_equal("keys", {"a": [1, {"b": None}], "c": "text"}, make)
    assert once.of_equal("keys", {"a": [1, {"b": None}], "c": "te" + "".join(["x", "t"])}, make) is first
    assert len(calls) == 1
    assert once.of_equal("keys", {"c": "text", "a": [1, {"b": None}]}, make) == ["c", "a"]  # their order counts, too
    assert once.of_equal("length", {"a": [1, {"b": None}], "c": "text"}, len) == 2


def test_values_of_other_types_are_others() -> None:
    once = Once()
    values = (1, 1.0, True, "1", float("nan"), -0.0, 0.0)
    made = [once.of_equal("type", {"a": value}, lambda told: (type(told["a"]), str(told["a"]))) for value in values]
    assert made == [(type(value), str(value)) for value in values]


def test_what_is_made_of_an_object_is_made_once_by_name() -> None:
    once, calls = Once(), []

    def make(value: list[int]) -> tuple[int, ...]:
        calls.append(value)
        return tuple(value)

    value = [1, 2]
    made = once.made("tuple", value, make)
    assert once.made("tuple", value, make) is made
    assert len(calls) == 1
    assert once.made("another", value, make) is not None
    assert once.made("tuple", [1, 2], make) == made  # an object of its own is made anew
    assert len(calls) == 3


def test_an_id_that_is_used_again_is_no_hit() -> None:
    once = Once()
    assert [once.made("sum", [number], sum) for number in range(200)] == list(range(200))
