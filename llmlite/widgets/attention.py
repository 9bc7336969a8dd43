"""Widgets about attention: a map by layer, head and token, and a tale whose sentences can be erased."""

from __future__ import annotations

from html import escape

import ipywidgets
import numpy as np

from llmlite import plots
from llmlite.errors import LlmliteError
from llmlite.lessons import erase
from llmlite.lessons.attention import AttentionMaps, attention
from llmlite.model import Model
from llmlite.widgets.base import HEADING_WIDTH, Explorer, TextExplorer, View, buttons, text_field

MEAN = "mean"
NOTHING = -1
LOOKED_AT, LOOKS = "rgba(230,159,0,{:.2f})", "2px solid #0072B2"
N_TOP = 4
LONGEST = 160  # tokens that are shown as text; the last ones of a longer text


def attention_map(model: Model, text: str) -> AttentionMap:
    """Return a widget that shows the attention weights of a text. The model runs once for each text.

    Args:
        model: the model to run.
        text: the text to begin with; the learner can change it.

    Raises:
        The errors of `Model.trace`.
    """
    return AttentionMap(model, text)


class AttentionMap(TextExplorer):
    """A text whose tokens are shaded by the attention that the chosen token pays to them.

    Controls choose the layer, the head and the token.

    Attributes:
        found: the attention weights of the present text.
        picture: the heat map that was drawn last. It is drawn only for texts of at most 24 tokens; None until
            then.
    """

    static_summary = "All layers and heads as a picture (it needs no running kernel)"
    kept = "The map still shows the previous text."

    def __init__(self, model: Model, text: str) -> None:
        self.model = model
        style = {"description_width": HEADING_WIDTH}
        self.text = text_field(text)
        config = model.config
        self.layer = buttons([(str(i), i) for i in range(config.n_layer)], "Layer", value=config.n_layer - 1)
        self.head = buttons([*((str(i), i) for i in range(config.n_head)), (MEAN, MEAN)], "Head")
        self.query = ipywidgets.IntSlider(description="Token", min=0, max=1, style=style)
        self.query.layout.width = "46em"
        self.view, self.figure = ipywidgets.HTML(), ipywidgets.HTML()
        self.picture: plots.Picture | None = None
        self._read(text)
        super().__init__([self.text, self.layer, self.head, self.query, self.view, self.figure])
        self.reread_on(self.text)
        self.redraw_on((self.layer, self.head, self.query))

    def redraw(self) -> None:
        layer, query = self.layer.value, self.query.value
        head = None if self.head.value == MEAN else self.head.value
        self.view.value = self._text(self.found.row(layer, head, query), query)
        self.figure.value = ""
        if len(self.found.ids) <= 24:
            weights = self.found.weights[layer]
            self.picture = plots.attention.heat_map(
                weights.mean(axis=0) if head is None else weights[head],
                self.found.texts,
                heading=f"layer {layer}, {'mean of the heads' if head is None else f'head {head}'}",
                theme="page",
            )
            self.figure.value = plots.svg(self.picture)
        top = ", ".join(
            f"{self.found.texts[i]} ({share:.0%})" for i, share in self.found.top(layer, head, query, N_TOP)
        )
        who = f"the mean of layer {layer}'s heads" if head is None else f"head {head} of layer {layer}"
        self.say(f"Token {query}, {self.found.texts[query]}, in {who}, attends to: {top}.")

    def static_view(self) -> plots.Picture:
        """Return small heat maps of all heads of all layers."""
        return plots.attention.all_heads(self.found)

    def _read(self, text: str) -> None:
        self.found: AttentionMaps = attention(self.model, text)
        self.query.max = len(self.found.ids) - 1
        self.query.value = self.query.max

    def _text(self, row: np.ndarray, query: int) -> str:
        start = max(0, len(row) - LONGEST)
        cells = []
        for i in range(start, len(row)):
            border = LOOKS if i == query else "2px solid transparent"
            faded = "opacity:.45;" if i > query else ""  # a token can't attend to later ones
            cells.append(
                f"<span title='{row[i]:.1%}' style='background:{LOOKED_AT.format(min(1.0, row[i] * 1.2))};"
                f"border:{border};{faded}padding:1px 3px;margin:1px;display:inline-block;border-radius:3px'>"
                f"{escape(self.found.texts[i])}</span>"
            )
        return f"<div style='line-height:1.9em'>{''.join(cells)}</div>"


def erase_sentence(model: Model, n_examples: int = 3) -> EraseSentence:
    """Return a widget with tales, each with a question. Sentences of a tale can be erased one at a time.

    Args:
        model: the model that answers.
        n_examples: the largest number of tales.

    Raises:
        LlmliteError: the bundled questions are missing, or the model answers none of them.
    """
    return EraseSentence(model, erase.examples(model, n_examples))


class EraseSentence(Explorer):
    """A tale and a question, with a button for each sentence that erases it.

    The widget shows the model's answer, and how much attention each sentence got.

    Attributes:
        answers: (index of the tale, index of the erased sentence or None) -> the model's answer. An answer is
            added when it is first needed.
        picture: the picture that is shown now.
    """

    static_summary = "Where the model looked, as a picture (it needs no running kernel)"

    def __init__(self, model: Model, examples: list[erase.Question]) -> None:
        if not examples:
            raise LlmliteError("this model answers none of the bundled questions: nothing to erase")
        self.model, self.examples = model, examples
        self.tale = buttons([(f"{i + 1}: {q.kind}", i) for i, q in enumerate(examples)], "Tale")
        longest = max(len(q.sentences) for q in examples)
        self.erased = buttons([("nothing", NOTHING), *((str(i + 1), i) for i in range(longest))], "Erase")
        self.view, self.figure = ipywidgets.HTML(), ipywidgets.HTML()
        self.answers: dict[tuple[int, int | None], str] = {}
        self.view.layout.width, self.figure.layout.width = "56%", "43%"
        beside = View([self.view, self.figure], layout={"flex_flow": "row"})
        super().__init__([self.tale, self.erased, beside])
        self.tale.observe(lambda _change: self._other_tale(), names="value")
        self._silent = False
        self.redraw_on((self.erased,))

    @property
    def question(self) -> erase.Question:
        """The question that is shown."""
        return self.examples[self.tale.value]

    def answer(self, erased: int | None) -> str:
        """Return the model's answer without the sentence at index `erased`, or with the whole tale for None.

        The model is asked only once.
        """
        key = (self.tale.value, erased)
        if key not in self.answers:
            self.answers[key] = erase.ask(self.model, self.question, erased)
        return self.answers[key]

    def redraw(self) -> None:
        if self._silent:
            return
        question = self.question
        erased = None if self.erased.value == NOTHING else self.erased.value
        if erased is not None and erased >= len(question.sentences):
            self.say(f"This tale has only {len(question.sentences)} sentences.")
            return
        whole, answer = self.answer(None), self.answer(erased)
        shares = erase.looked_at(self.model, question, answer, erased)
        self.view.value = self._tale(answer, shares)
        self.picture = plots.attention.sentences(
            question.sentences, shares, erased=erased, numbered=True, theme="page"
        )
        self.figure.value = plots.svg(self.picture)
        most = f"It looked most at sentence {int(np.argmax(shares)) + 1}."
        if erased is None:
            self.say(f"{question.question} The answer: {answer} {most}")
        else:
            same = "the same as before" if answer == whole else f"different (it was {whole})"
            self.say(f"Without sentence {erased + 1} the answer is {same}: {answer} {most}")

    def static_view(self) -> plots.Picture:
        """Return a picture of the attention that each sentence of the whole tale got."""
        question = self.question
        shares = erase.looked_at(self.model, question, self.answer(None))
        return plots.attention.sentences(question.sentences, shares)

    def _other_tale(self) -> None:
        self._silent = True
        self.erased.value = NOTHING
        self._silent = False
        self.redraw()

    def _tale(self, answer: str, shares: np.ndarray) -> str:
        lines = []
        for i, sentence in enumerate(self.question.sentences):
            gone = i == self.erased.value
            style = "text-decoration:line-through;opacity:.5" if gone else ""
            shade = LOOKED_AT.format(min(0.85, 1.6 * float(shares[i])))
            lines.append(f"<li style='background:{shade};{style};padding:1px 4px'>{escape(sentence)}</li>")
        return (
            f"<ol style='line-height:1.35em;margin:.2em 0'>{''.join(lines)}</ol>"
            f"<p><b>{escape(self.question.question)}</b> {escape(answer)}</p>"
        )
