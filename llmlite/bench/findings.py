"""The findings on the article's claims: one Finding for each, and a table of all."""

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
    """The finding on one claim.

    Attributes:
        key: name of the claim.
        claim: the article's sentence, translated.
        verdict: one of VERDICTS.
        figure: a sentence with the measured numbers, or with the reason for their absence.
        command: the command that measures the claim.
        values: the numbers that the verdict is based on, by name.
    """

    key: str
    claim: str
    verdict: str
    figure: str
    command: str
    values: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(f"{self.key}: verdict {self.verdict!r} is not one of {', '.join(VERDICTS)}")


@dataclass(kw_only=True, repr=False)
class Claims(Saved):
    """All findings; `print(claims)` shows a table, and a notebook shows the same table as HTML."""

    KIND: ClassVar[str] = "claims"
    SAMPLE: ClassVar[str] = "samples/claims.json"

    findings: list[Finding] = field(default_factory=list)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __getitem__(self, key: str) -> Finding:
        """Return the finding on the claim called `key`.

        Raises:
            KeyError: the key is unknown; the message lists the known keys.
        """
        for each in self.findings:
            if each.key == key:
                return each
        raise KeyError(f"{key!r}; there are: {', '.join(each.key for each in self.findings)}")

    def records(self) -> list[dict[str, Any]]:
        """Return one JSON object per finding, for pandas.DataFrame."""
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
