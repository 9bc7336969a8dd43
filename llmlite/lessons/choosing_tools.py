"""The article's claims beside their measurements, for the lesson on which tool to choose."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from llmlite.bench.article import FAILS, HOLDS, PARTLY, UNKNOWN, Claims

VERDICTS = (HOLDS, PARTLY, FAILS, UNKNOWN)  # one of which is predicted
QUICK = ("hardware",)  # claims that take under ten seconds here, in all


def said(found: Claims, key: str) -> str:
    """Return a claim's verdict and figure in one text, as a reveal shows it."""
    each = found[key]
    return f"**{each.verdict}**: {each.figure}. Measured with `{each.command}`."


def predicted(found: Claims, key: str) -> tuple[tuple[str, ...], Callable[[], str], str]:
    """Return choices, answer and reveal of a prediction about a claim, as `ll.lessons.predict` takes them."""
    return VERDICTS, lambda: found[key].verdict, said(found, key)


def rows(found: Claims, keys: Iterable[str] = ()) -> list[tuple[str, str, str]]:
    """Return (key, claim, verdict) of each claim; of all claims if no key is given."""
    chosen = set(keys)
    return [(each.key, each.claim, each.verdict) for each in found if not chosen or each.key in chosen]


def taken(found: Claims) -> str:
    """Return when the claims were measured, and on which processor."""
    machine = found.environment
    return (
        f"{str(machine.get('test_time', 'no date'))[:10]}, {machine.get('cpu_info', 'an unknown processor')}"
    )


def tool(*, trains: bool, known_architecture: bool, on_cpu: bool) -> str:
    """Return "framework" or "engine": the rule of the lesson.

    Args:
        trains: whether weights change. known_architecture: whether the engine's list has the model's.
        on_cpu: whether it runs on an ordinary processor, without a GPU.
    """
    return "engine" if known_architecture and on_cpu and not trains else "framework"
