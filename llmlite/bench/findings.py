"""What was found of the article's claims: one Finding each, and all of them as a table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from html import escape
from typing import Any, ClassVar, Self

from llmlite.bench.saved import Saved

HOLDS, PARTLY, FAILS, UNKNOWN = "holds", "holds partly", "doesn't hold here", "not measured"
VERDICTS = (HOLDS, PARTLY, FAILS, UNKNOWN)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What was found of one claim.

    Args:
        key: its name. claim: in the article's words, translated. verdict: one of VERDICTS.
        figure: the measured numbers in a sentence, or why there are none. command: that measures it.
        values: the numbers it is based on, by name.
    """

    key: str
    claim: str
    verdict: str
    figure: str
    command: str
    values: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(f"{self.key}: verdict {self.verdict!r} is none of {', '.join(VERDICTS)}")


@dataclass(kw_only=True, repr=False)
class Claims(Saved):
    """All findings; `print(claims)` shows a table, a notebook the same as HTML."""

    KIND: ClassVar[str] = "claims"
    SAMPLE: ClassVar[str] = "samples/claims.json"

    findings: list[Finding] = field(default_factory=list)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __getitem__(self, key: str) -> Finding:
        """Return the finding called `key`; KeyError names those there are."""
        for each in self.findings:
            if each.key == key:
                return each
        raise KeyError(f"{key!r}; there are: {', '.join(each.key for each in self.findings)}")

    def records(self) -> list[dict[str, Any]]:
        """Return one JSON object per finding: what pandas.DataFrame takes."""
        return [asdict(each) for each in self.findings]

    def __repr__(self) -> str:
        return f"Claims({', '.join(f'{each.key}: {each.verdict}' for each in self.findings)})"

    def __str__(self) -> str:
        parts = [f"measured on {self.environment.get('cpu_info', 'an unknown processor')}"]
        for each in self.findings:
            parts.append(f"{each.verdict.upper()}: {each.claim}\n  {each.figure}\n  $ {each.command}")
        return "\n\n".join(parts)

    def _repr_html_(self) -> str:
        rows = "".join(
            f'<tr><th scope="row">{escape(each.claim)}</th><td>{escape(each.verdict)}</td>'
            f"<td>{escape(each.figure)}</td><td><code>{escape(each.command)}</code></td></tr>"
            for each in self.findings
        )
        head = "".join(f'<th scope="col">{name}</th>' for name in ("claim", "verdict", "figure", "command"))
        return f"<table><caption>The article's claims</caption><tr>{head}</tr>{rows}</table>"

    @classmethod
    def _from_object(cls, found: Any) -> Self:
        return cls(
            environment=dict(found["environment"]),
            findings=[Finding(**each) for each in found["findings"]],
        )
