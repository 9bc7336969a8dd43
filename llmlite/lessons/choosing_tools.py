"""The claims of the article with their measurements, for the lesson on which tool to choose."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from llmlite.bench.article import FAILS, HOLDS, PARTLY, UNKNOWN, Claims

VERDICTS = (HOLDS, PARTLY, FAILS, UNKNOWN)  # the choices of a prediction
QUICK = ("hardware",)  # claims that together take less than ten seconds to measure


def said(found: Claims, key: str) -> str:
    """Return a claim's verdict, figure and command as one Markdown text, for the reveal of a prediction.

    Args:
        found: the measured claims.
        key: the key of the claim.
    """
    each = found[key]
    return f"**{each.verdict}**: {each.figure}. Measured with `{each.command}`."


def predicted(found: Claims, key: str) -> tuple[tuple[str, ...], Callable[[], str], str]:
    """Return the arguments that `ll.lessons.predict` needs for a prediction about a claim.

    Args:
        found: the measured claims.
        key: the key of the claim.

    Returns:
        The choices, a function that returns the right choice, and the text of the reveal.
    """
    return VERDICTS, lambda: found[key].verdict, said(found, key)


def rows(found: Claims, keys: Iterable[str] = ()) -> list[tuple[str, str, str]]:
    """Return (key, claim, verdict) for each claim among `keys`, or for all claims if `keys` is empty."""
    chosen = set(keys)
    return [(each.key, each.claim, each.verdict) for each in found if not chosen or each.key in chosen]


def taken(found: Claims) -> str:
    """Return the date on which the claims were measured, and the processor."""
    machine = found.environment
    return (
        f"{str(machine.get('test_time', 'no date'))[:10]}, {machine.get('cpu_info', 'an unknown processor')}"
    )


def tool(*, trains: bool, known_architecture: bool, on_cpu: bool) -> str:
    """Return the tool to choose by the lesson's rule: "framework" or "engine".

    Args:
        trains: whether the work changes the model's weights.
        known_architecture: whether the engine supports the model's architecture.
        on_cpu: whether the model runs on an ordinary processor, without a GPU.
    """
    return "engine" if known_architecture and on_cpu and not trains else "framework"
