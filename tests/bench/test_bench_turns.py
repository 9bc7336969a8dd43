"""Turns: every second round backwards, ratios within a round."""

from __future__ import annotations

from llmlite.bench import turns


def test_every_second_round_goes_backwards_and_ratios_are_within_a_round() -> None:
    order: list[str] = []
    speeds = {"a": iter([10.0, 20.0, 30.0]), "b": iter([5.0, 20.0, 10.0])}

    def turn(name: str) -> dict[str, float]:
        order.append(name)
        return {"decode": next(speeds[name])}

    found = turns.rounds("ab", turn, 3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    one = turns.standing(found, "decode", "a", "b")
    assert one.values == (5.0, 20.0, 10.0) and one.ratios == (2.0, 1.0, 3.0)
    assert str(one) == "   2.00  1.00 to 3.00"
    assert turns.standing(found, "decode", "a", "a").ratios == (1.0, 1.0, 1.0)
