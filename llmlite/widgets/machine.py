"""The panel of the first lesson: checks of this machine, with a remedy for each problem."""

from __future__ import annotations

from html import escape

import ipywidgets

from llmlite import plots
from llmlite.bench import checks
from llmlite.widgets.base import Explorer, buttons, row

# A sign and a background for each verdict, so that it never depends on colour alone. The backgrounds are half
# transparent, so that the page's own text colour stays readable over them.
LOOKS = {
    "ready": ("✓", "rgba(0,158,115,.25)"),
    "optional": ("○", "rgba(230,159,0,.30)"),
    "wrong": ("✗", "rgba(213,94,0,.45)"),
}
CELL = "text-align:left;vertical-align:top;padding:1px 1em 1px 0;white-space:normal"


class MachinePanel(Explorer):
    """A table of all checks with their verdicts, and a button that checks again.

    A choice limits the table to checks that aren't "ready".

    Attributes:
        findings: the results of the last examination.
        looks: how often the machine was examined.
    """

    static_summary = "The list of checks, and what to do if one fails (it needs no running kernel)"

    def __init__(self) -> None:
        self.show = buttons([("everything", "all"), ("open points", "open")], "Show")
        self.again = ipywidgets.Button(description="Check again", layout={"width": "auto"})
        self.view = ipywidgets.HTML()
        self.looks = 0
        super().__init__([row("", [self.show, self.again]), self.view])
        self.again.on_click(lambda _button: self.look())
        self.look(draw=False)
        self.redraw_on([self.show])

    def look(self, *, draw: bool = True) -> None:
        """Examine the machine again.

        Args:
            draw: whether to draw the results at once.
        """
        self.findings = checks.examine(needed=("lessons",))
        self.looks += 1
        if draw:
            self.redraw()

    def redraw(self) -> None:
        shown = [f for f in self.findings if self.show.value == "all" or f.verdict != "ready"]
        self.view.value = _table(shown) if shown else "<p>Nothing to do: every check is ready.</p>"
        number = {verdict: sum(f.verdict == verdict for f in self.findings) for verdict in LOOKS}
        times = (
            "once" if self.looks == 1 else f"{self.looks} times: the button reaches Python, so widgets work"
        )
        self.say(
            f"{len(self.findings)} checks: {number['ready']} ready, {number['optional']} optional, "
            f"{number['wrong']} wrong. Checked {times}."
        )

    def static_view(self) -> plots.Table:
        """Return a table of the checks and their remedies, which is the same on every machine."""
        rows = [[check.topic, check.needs, check.remedy or "-"] for check in checks.CHECKS]
        return plots.Table(
            heading="Checks of this machine",
            columns=["check", "needed", "remedy"],
            rows=rows,
            alt=f"The {len(rows)} checks of this machine, each with its requirement and a remedy.",
        )


def machine_panel() -> MachinePanel:
    """Return a widget that checks this machine."""
    return MachinePanel()


def _table(findings: list[checks.CheckResult]) -> str:
    lines = []
    for group, title in checks.GROUPS.items():
        mine = [f for f in findings if f.group == group]
        if mine:
            lines.append(f"<tr><th colspan='3' style='{CELL};padding-top:.6em'>{escape(title)}</th></tr>")
        lines += [_line(finding) for finding in mine]
    return f"<table style='border-collapse:collapse;line-height:1.5'>{''.join(lines)}</table>"


def _line(finding: checks.CheckResult) -> str:
    sign, background = LOOKS[finding.verdict]
    todo = f"<br>→ <b>{escape(finding.remedy)}</b>" if finding.remedy else ""
    return (
        f"<tr><td style='{CELL};white-space:nowrap'><span style='background:{background};padding:0 .5em;"
        f"border-radius:3px'>{sign} {finding.verdict}</span></td>"
        f"<td style='{CELL};white-space:nowrap'>{escape(finding.topic)}</td>"
        f"<td style='{CELL};overflow-wrap:anywhere'>{escape(finding.found)}{todo}</td></tr>"
    )
