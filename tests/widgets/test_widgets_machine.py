"""The panel of the first lesson, moved without a browser."""

from __future__ import annotations

import pytest

pytest.importorskip("ipywidgets")

import llmlite as ll
from llmlite.bench import checks
from llmlite.widgets.machine import MachinePanel


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[checks.CheckResult]:
    findings = [
        checks.CheckResult(group="machine", topic="memory", found="25 GB"),
        checks.CheckResult(group="peers", topic="torch", found="<not here>", remedy="install it"),
        checks.CheckResult(
            group="files", topic="bundled data", found="missing", ok=False, remedy="reinstall"
        ),
    ]
    monkeypatch.setattr(checks, "examine", lambda *_args, **_options: findings)
    return findings


def test_it_counts_names_and_says_what_to_do(found: list[checks.CheckResult]) -> None:
    panel = MachinePanel()
    assert "3 checks: 1 ready, 1 optional, 1 wrong. Checked once." in panel.words.value
    assert "✗ wrong" in panel.view.value and "reinstall" in panel.view.value
    assert "&lt;not here&gt;" in panel.view.value, "what a package says is text, not markup"


def test_only_what_can_be_done(found: list[checks.CheckResult]) -> None:
    panel = MachinePanel()
    panel.show.value = "open"
    assert "memory" not in panel.view.value and "torch" in panel.view.value
    found[1:] = []
    panel.again.click()
    assert "every check is ready" in panel.view.value
    assert "Checked 2 times" in panel.words.value


def test_without_a_kernel_the_list_of_checks_stays_the_same_on_every_machine(
    found: list[checks.CheckResult],
) -> None:
    table = MachinePanel().static_view()
    assert [row[0] for row in table.rows] == [check.topic for check in checks.CHECKS]
    assert "25 GB" not in table.html()


def test_in_a_lesson_its_packages_are_necessary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "version", lambda *_names: None)
    verdicts = {f.topic: f.verdict for f in ll.widgets.machine_panel().findings}
    assert verdicts["matplotlib"] == "wrong" and verdicts["torch"] == "optional"
