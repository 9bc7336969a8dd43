"""A slider from 32 bits per weight down to 2, with the memory, the speed, and the tale itself."""

from __future__ import annotations

from html import escape

import ipywidgets

from llmlite import plots
from llmlite.lessons import fewer_bits as rungs
from llmlite.lessons.fewer_bits import LADDER, BackendFigures, ShippedFigures, Told, TypeLadder
from llmlite.plots import COLOURS
from llmlite.quants import by_name
from llmlite.widgets.base import Explorer
from llmlite.widgets.texts import beside, common_words, marked, panel

STARTS_AT = "F16"


def half_the_bits() -> HalfTheBits:
    """Return a widget with the bundled model at fewer and fewer bits.

    Raises:
        LlmliteError: bundled data is missing.
    """
    return HalfTheBits(TypeLadder(), rungs.sample())


class HalfTheBits(Explorer):
    """A slider over the rungs of `lessons.fewer_bits.LADDER`, with bars and tales for the chosen rung.

    The tales and the upper, blue bars are computed on this machine. The lower, orange bars are from the
    shipped sample, in which llmlite and PyTorch were measured on the same machine. No group of bars mixes the
    two.

    Attributes:
        ladder: the model at every rung.
        sample: the shipped measurements.
        type: the slider.
        told: the tale and the figures of the chosen rung, computed on this machine.
    """

    static_summary = "The shipped sample as a table (it needs no running kernel)"

    def __init__(self, ladder: TypeLadder, sample: ShippedFigures) -> None:
        self.ladder, self.sample = ladder, sample
        self.type = ipywidgets.SelectionSlider(
            options=[(f"{name}: {by_name(name).bits_per_weight:.3g} bits", name) for name in LADDER],
            value=STARTS_AT,
            description="Each weight",
            continuous_update=False,
            style={"description_width": "7.5em"},
            layout={"width": "640px"},
        )
        self.view = ipywidgets.HTML()
        super().__init__([self.type, self.view])
        self.redraw_on((self.type,))

    def redraw(self) -> None:
        self.told = self.ladder.told(self.type.value)
        exact = self.ladder.told(LADDER[0])
        sampled = [self.sample.llmlite(self.told.type), *self.sample.others]
        here = [
            _bars(
                "Measured now: weights in memory, MB",
                [(f"llmlite, {each.type}", f"{each.n_bytes / 1e6:.2f}") for each in (exact, self.told)],
                COLOURS["blue"],
            ),
            _bars(
                "Measured now: tokens per second",
                [(f"llmlite, {each.type}", f"{each.tokens_per_second:.0f}") for each in (exact, self.told)],
                COLOURS["blue"],
            ),
        ]
        elsewhere = [
            _bars(
                "Sample: weights in memory, MB",
                [(row.backend, f"{row.weight_bytes / 1e6:.2f}") for row in sampled],
                COLOURS["orange"],
            ),
            _bars(
                "Sample: tokens per second",
                [(row.backend, f"{row.tokens_per_second}") for row in sampled],
                COLOURS["orange"],
            ),
            _bars(
                "Sample: the process's own memory, MB",
                [(row.backend, f"{row.private_bytes / 1e6:.0f}") for row in sampled],
                COLOURS["orange"],
            ),
        ]
        tales = [
            panel("32 bits", escape(exact.text)),
            panel(
                f"{self.told.type}: {self.told.bits_per_weight:.3g} bits", marked(self.told.text, exact.text)
            ),
        ]
        note = f"<small>Sample: taken on {escape(self.sample.machine)}. Times vary from run to run.</small>"
        self.view.value = beside(*tales) + beside(*here) + beside(*elsewhere) + note
        self.say(self._words(exact))

    def _words(self, exact: Told) -> str:
        told = self.told
        share = told.n_bytes / exact.n_bytes
        kl = rungs.divergence(told.type)
        text = (
            f"{told.type}: {told.n_bytes / 1e6:.2f} MB of weights, {share:.0%} of 32 bits. "
            f"KL divergence {kl:.2g}. "
        )
        if told.n_same == len(exact.ids) == len(told.ids):
            return text + "The tale is the same, token for token."
        if not told.n_same:
            return text + "The tale differs from its first token on."
        return text + f"The first {told.n_same} tokens of the tale are the same; the next one differs."

    def static_view(self) -> plots.Table:
        """Return the shipped sample as a table: the rungs of llmlite, then PyTorch."""
        exact = self.sample.llmlite(LADDER[0]).tale
        rows = [self._cells(row, exact) for row in self.sample.rows]
        heading = f"Half the bits, the same tale? A sample taken on {self.sample.machine}"
        last = self.sample.llmlite(LADDER[-1])
        first = self.sample.llmlite(LADDER[0])
        alt = (
            f"{heading}. {len(rows)} rows. llmlite's weights go from {first.weight_bytes / 1e6:.1f} MB "
            f"in {first.type} to {last.weight_bytes / 1e6:.1f} MB in {last.type}, whose tale shares "
            f"{common_words(exact, last.tale)} words with that of {first.type} before they differ."
        )
        columns = [
            "backend",
            "type",
            "bits",
            "weights, MB",
            "own memory, MB",
            "tokens/s",
            "same words",
            "the tale",
        ]
        return plots.Table(heading=heading, columns=columns, rows=rows, alt=alt)

    @staticmethod
    def _cells(row: BackendFigures, exact: str) -> list[object]:
        bits = by_name(row.type).bits_per_weight
        sizes = [
            f"{row.weight_bytes / 1e6:.2f}",
            f"{row.private_bytes / 1e6:.0f}",
            str(row.tokens_per_second),
        ]
        if not row.tale:
            return [row.backend, row.type, f"{bits:.3g}", *sizes, "–", "–"]
        n = common_words(exact, row.tale)
        n_words = len(exact.split())
        same = "all" if n == n_words else f"{n} of {n_words}"
        return [row.backend, row.type, f"{bits:.3g}", *sizes, same, row.tale.strip()]


def _bars(heading: str, values: list[tuple[str, str]], colour: str) -> str:
    """Return HTML bars of one colour, each with its number, under a heading.

    All values must come from this machine, or all from the sample.
    """
    top = max(float(value) for _, value in values) or 1.0
    lines = []
    for name, value in values:
        lines.append(
            f'<div style="margin:3px 0">{escape(name)}: <b>{value}</b>'
            f'<div aria-hidden="true" style="height:14px;width:{100 * float(value) / top:.1f}%;min-width:2px;'
            f'background:{colour}"></div></div>'
        )
    return panel(heading, "".join(lines))
