"""Schedules add up and know every lesson; a code holds what doctor found, and a damaged one is refused."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmlite import cli
from llmlite.bench import checks
from llmlite.errors import LlmliteError
from llmlite.workshop import codes, laptops, mail, schedule
from llmlite.workshop.codes import ALPHABET, SYSTEMS, TOPICS, VERDICTS, MachineSummary, decode, encode

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "notebooks" / "source").glob("[0-9]*.py"))
summaries = st.builds(
    MachineSummary,
    system=st.sampled_from(SYSTEMS),
    machine=st.sampled_from(codes.MACHINES),
    python=st.integers(0, 31),
    version=st.tuples(st.integers(0, 31), st.integers(0, 63), st.integers(0, 63)),
    memory=st.integers(0, 255).map(lambda n: n / 4),
    disk=st.integers(0, 255),
    threads=st.integers(0, 127),
    verdicts=st.fixed_dictionaries({topic: st.sampled_from(VERDICTS) for topic in TOPICS}),
)


# --- schedule, mail -----------------------------------------------------------------------------------------


def test_the_three_routes_take_what_their_names_say() -> None:
    assert schedule.total("90-minutes") == 90
    assert schedule.total("3-hours") == 180
    assert 360 <= schedule.total("day") <= 450
    for route in schedule.ROUTES:
        rows = schedule.rows(route)[1:]
        assert all(a[1] == b[0] for a, b in pairwise(rows)), "each slot begins when the one before ends"
        longest = max(sum(int(row[2]) for row in rows[a:b]) for a, b in _between_breaks(rows))
        assert longest <= 105, f"{route}: {longest} minutes without a break"


def _between_breaks(rows: list[list[str]]) -> list[tuple[int, int]]:
    breaks = [i for i, row in enumerate(rows) if row[3] in ("Break", "Lunch")]
    edges = [-1, *breaks, len(rows)]
    return [(a + 1, b) for a, b in pairwise(edges)]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_every_lesson_is_in_the_table_with_its_own_minutes(source: Path) -> None:
    text = source.read_text(encoding="utf-8")
    title = schedule.key(re.search(r"^# # (.+)$", text, re.M)[1])
    assert title in schedule.LESSONS, "give the lesson a line in LESSONS, and a place in a route"
    assert int(re.search(r"\*About (\d+) minutes", text)[1]) == schedule.LESSONS[title]
    assert any(slot.what == title for slot in schedule.ROUTES["day"])


def test_the_document_has_the_schedules_and_the_mail_of_the_code() -> None:
    text = (ROOT / "docs" / "workshop.md").read_text(encoding="utf-8")
    assert schedule.everything() in text
    assert mail.letter() in text


def test_a_route_or_a_time_that_cannot_be_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(LlmliteError, match="there are: 90-minutes"):
        schedule.rows("week")
    assert cli.main(["workshop", "schedule", "--start", "25:00"]) == 2
    assert "expected a time of day" in capsys.readouterr().err


# --- codes --------------------------------------------------------------------------------------------------


def test_every_check_of_doctor_is_in_the_code() -> None:
    assert {check.topic for check in checks.CHECKS} <= set(TOPICS), (
        "add new topics at the end of codes.TOPICS"
    )


@given(summaries)
def test_a_code_gives_back_what_it_was_made_of(summary: MachineSummary) -> None:
    assert decode(encode(summary)) == summary
    assert (
        decode(encode(summary).lower().replace("0", "o").replace("1", "i").replace("lli", "ll1")) == summary
    )
    assert len(encode(summary)) <= 40


@given(summaries, st.data())
def test_a_wrong_letter_and_two_that_changed_places_are_refused(
    summary: MachineSummary, data: st.DataObject
) -> None:
    code = encode(summary)
    i = data.draw(st.sampled_from([i for i in range(4, len(code)) if code[i] != "-"]))
    letter = data.draw(st.sampled_from([c for c in ALPHABET if c != code[i]]))
    with pytest.raises(LlmliteError):
        decode(code[:i] + letter + code[i + 1 :])
    letters = code[4:].replace("-", "")
    j = data.draw(st.integers(0, len(letters) - 2))
    swapped = letters[:j] + letters[j + 1] + letters[j] + letters[j + 2 :]
    if swapped != letters:
        with pytest.raises(LlmliteError):
            decode("LL1" + swapped)


@given(st.text(max_size=200))
def test_no_text_does_worse_than_be_refused(text: str) -> None:
    for attempt in (text, "LL1-" + text):
        try:
            decode(attempt)
        except LlmliteError as error:
            assert len(str(error)) < 600
    laptops.read(text.splitlines(), "file")


def test_doctors_code_decodes_to_this_machine_and_a_table(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    cli.main(["doctor", "--code"])
    code = capsys.readouterr().out.strip()
    held = decode(code)
    assert held.verdicts["numpy"] == "ready" and held.threads >= 1
    file = tmp_path / "codes.txt"
    file.write_text(
        f"# room 2.17\nAda Lovelace: {code}\n{code[:-1]}{'0' if code[-1] != '0' else '1'}\n\n", "utf-8"
    )
    assert cli.main(["doctor", "--decode", str(file), code]) == 2
    shown = capsys.readouterr()
    assert "Ada Lovelace" in shown.out and "2 decoded" in shown.out and "1 refused" in shown.out
    assert "line 3" in shown.err and "checksum" in shown.err


def test_a_code_of_a_newer_version_says_so() -> None:
    with pytest.raises(LlmliteError, match="newer llmlite"):
        decode("LL2-ABCD-EFGH")
