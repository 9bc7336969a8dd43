"""From logits to the next token, step by step: sliders set the chain, and the logits stay the same."""

from __future__ import annotations

from collections import Counter
from html import escape

import ipywidgets
import numpy as np

from llmlite import plots
from llmlite.lessons import choosing
from llmlite.lessons.tokens import visible
from llmlite.model import Model
from llmlite.plots import choosing as figures
from llmlite.sampling import MinP, Option, Sampler, Temperature, TopK, TopP
from llmlite.widgets.base import HEADING_WIDTH, TextExplorer, buttons, row, text_field

N_SHOWN = 14
N_DRAWS = 1000
N_LISTED = 12  # draws that are listed one by one
LAST, FIRST = "temperature last", "temperature first"
# Half transparent, so that the page's own text colour stays readable over them, in light and dark themes.
BEFORE, AFTER = "rgba(86,180,233,.75)", "rgba(0,114,178,.85)"


def sampling_explorer(model: Model, prompt: str) -> SamplingExplorer:
    """Return an explorer of how the token after a prompt is chosen. The model runs once for each prompt.

    Args:
        model: the model to run.
        prompt: the prompt to begin with; the learner can change it.

    Raises:
        The errors of `Model.logits`.
    """
    return SamplingExplorer(model, prompt)


class SamplingExplorer(TextExplorer):
    """Sliders for temperature, top-k, top-p and min-p, with the probabilities before and after the chain.

    The widget also shows which step cut which tokens.

    Attributes:
        logits: float32 (V,): the logits after the prompt. The sliders don't change them.
        stages: the tokens that are left after each step, from `lessons.choosing.stages`.
        counts: token id -> how often the token came up in the last draws; empty after a setting has changed.
        first_draws: the token ids of the first N_LISTED draws; empty after a setting has changed.
    """

    static_summary = "Before and after the chain, as a picture (it needs no running kernel)"
    kept = "The bars still show the previous prompt."

    def __init__(self, model: Model, prompt: str) -> None:
        self.model = model
        self.prompt = text_field(prompt, "Prompt")
        self.temperature = _slider("Temperature", 0.8, 0.0, 2.0, 0.05)
        self.top_k = _slider("Top-k (0: off)", 40, 0, 100, 1)
        self.top_p = _slider("Top-p (1: off)", 0.95, 0.05, 1.0, 0.01)
        self.min_p = _slider("Min-p (0: off)", 0.0, 0.0, 0.5, 0.01)
        self.order = buttons([(LAST, LAST), (FIRST, FIRST)], "Order")
        self.seed = ipywidgets.BoundedIntText(
            value=1, min=0, max=10**6, description="Seed", layout={"width": "14em"}
        )
        self.draw = ipywidgets.Button(description=f"Draw {N_DRAWS} times", layout={"width": "auto"})
        self.view = ipywidgets.HTML()
        self.counts: Counter[int] = Counter()
        self._read(prompt)
        sliders = (self.temperature, self.top_k, self.top_p, self.min_p)
        super().__init__([self.prompt, *sliders, self.order, row("Draw", [self.draw, self.seed]), self.view])
        self.reread_on(self.prompt)
        self.draw.on_click(lambda _button: self.draw_many())
        self.redraw_on((*sliders, self.order, self.seed))

    def sampler(self) -> Sampler:
        """Return a new sampler with the settings of the controls."""
        t, k, p, m = self.temperature.value, self.top_k.value, self.top_p.value, self.min_p.value
        if self.order.value == LAST:
            return Sampler(temperature=t, top_k=k, top_p=p, min_p=m, seed=self.seed.value)
        steps: list[Option] = [Temperature(t=t), TopK(k=k), TopP(p=p), MinP(p=m)]
        return Sampler(chain=steps, seed=self.seed.value)

    def redraw(self) -> None:
        self.counts = Counter()
        self.first_draws: list[int] = []
        self.stages = choosing.stages(self.sampler(), self.logits)
        self._show()

    def draw_many(self) -> None:
        """Draw N_DRAWS tokens from the same logits, with a new generator for the chosen seed."""
        sampler = self.sampler()
        drawn = [sampler(self.logits) for _ in range(N_DRAWS)]
        self.counts, self.first_draws = Counter(drawn), drawn[:N_LISTED]
        self._show()

    def static_view(self) -> plots.Picture:
        """Return a picture of the probabilities before and after the chain, with the present settings."""
        texts = {int(token): self._text(int(token)) for token in self.stages[0].ids[:N_SHOWN]}
        return figures.chain(self.stages, texts, n=N_SHOWN)

    def _read(self, prompt: str) -> None:
        self.logits = self.model.logits(self.model.tokenizer.encode(prompt), last_only=True)[0]

    def _text(self, token: int) -> str:
        return visible(self.model.tokenizer, token)

    def _show(self) -> None:
        self.view.value = self._bars() + self._steps() + self._drawn()
        self.say(self._words())

    def _bars(self) -> str:
        """Return an HTML table of the likeliest tokens, one row each, and all others in one row.

        A row has the probabilities before and after the chain, whether the token was cut, and its draws.
        """
        first, last, out = self.stages[0], self.stages[-1], choosing.cut_by(self.stages)
        after = dict(zip(last.ids.tolist(), last.probabilities.tolist()))
        widest = max(first.probabilities[0], last.probabilities[0])
        rows = []
        for token, before in zip(first.ids[:N_SHOWN].tolist(), first.probabilities):
            fate = f"cut by {out[token]}" if token in out else "kept"
            rows.append(self._row(self._text(token), before, after.get(token, 0), widest, fate, [token]))
        rest = first.ids[N_SHOWN:].tolist()
        kept = sum(token in after for token in rest)
        left = sum(after.get(token, 0) for token in rest)
        share = float(first.probabilities[N_SHOWN:].sum())
        rows.append(self._row(f"{len(rest)} others", share, left, widest, f"{kept} kept", rest))
        heads = ["token", "before the chain", "after the chain", "result", f"of {N_DRAWS} draws"]
        return _table([_cells(heads, "th"), *rows])

    def _row(
        self, name: str, before: float, after: float, widest: float, fate: str, tokens: list[int]
    ) -> str:
        drawn = str(sum(self.counts[token] for token in tokens)) if self.counts else "–"
        bars = [_bar(before, widest, BEFORE), _bar(after, widest, AFTER)]
        cells = [f"<b>{escape(name)}</b>", *bars, escape(fate), drawn]
        return "".join(
            f"<td style='text-align:left;padding:1px 10px;line-height:1.4'>{cell}</td>" for cell in cells
        )

    def _steps(self) -> str:
        """Return an HTML table of the steps: tokens left, probability cut, and how open the choice is."""
        rows = [_cells(["step", "tokens left", "probability cut", "as open as an even choice among"], "th")]
        for stage in self.stages:
            openness = choosing.even_choice(stage.probabilities)
            name = stage.name + (" (off)" if stage.off and stage is not self.stages[0] else "")
            cells = [name, str(len(stage.ids)), f"{stage.cut_share:.1%}", f"{openness:.1f} tokens"]
            rows.append(_cells(cells, "td"))
        return _table(rows)

    def _drawn(self) -> str:
        if not self.first_draws:
            return ""
        listed = " ".join(map(self._text, self.first_draws))
        return f"<p>With seed {self.seed.value} the first {N_LISTED} are: {escape(listed)}</p>"

    def _words(self) -> str:
        last = self.stages[-1]
        best = self._text(int(last.ids[0]))
        n = len(last.ids)
        if n == 1:
            text = f"Only {best} is left: there is nothing to draw."
        else:
            openness = choosing.even_choice(last.probabilities)
            text = (
                f"{n} tokens are left, {best} the likeliest with {last.probabilities[0]:.1%}. "
                f"The choice is as open as an even one among {openness:.1f} tokens ({last.entropy:.1f} bits)."
            )
        cuts = [f"{stage.name} {len(stage.cut)}" for stage in self.stages if len(stage.cut)]
        text += f" Cut: {', '.join(cuts)}." if cuts else " Nothing is cut."
        if self.counts:
            token, count = self.counts.most_common(1)[0]
            text += f" In {N_DRAWS} draws {self._text(token)} came up {count} times."
        return text


def _slider(name: str, value: float, low: float, high: float, step: float) -> ipywidgets.Widget:
    make = ipywidgets.IntSlider if isinstance(value, int) else ipywidgets.FloatSlider
    return make(
        value=value,
        min=low,
        max=high,
        step=step,
        description=name,
        layout={"width": "36em"},
        style={"description_width": HEADING_WIDTH},
    )


def _bar(share: float, widest: float, colour: str) -> str:
    width = 9 * float(share) / float(np.maximum(widest, 1e-9))
    bar = f"<span style='display:inline-block;height:.8em;width:{min(width, 9):.2f}em;background:{colour}'>"
    return f"<span style='display:inline-block;width:14em'>{bar}</span> {share:.1%}</span>"


def _cells(texts: list[str], tag: str) -> str:
    style = "text-align:left;padding:1px 10px;line-height:1.4"
    return "".join(f"<{tag} style='{style}'>{escape(text)}</{tag}>" for text in texts)


def _table(rows: list[str]) -> str:
    return f"<table style='margin:6px 0'>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"
