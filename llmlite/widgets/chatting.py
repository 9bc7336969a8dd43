"""A conversation in a notebook: the answer as it is written, and the likely alternatives of each token."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from math import exp
from typing import Any

import ipywidgets

from llmlite import plots
from llmlite.errors import LlmliteError
from llmlite.generate import Generation
from llmlite.generate.logprobs import TokenLogprob
from llmlite.lessons.tokens import visible
from llmlite.model import Model
from llmlite.repl.conversation import Conversation, figures
from llmlite.widgets.base import HEADING_WIDTH, Explorer, row

N_TOP = 5
N_MARKED = 2000  # tokens with a tooltip; many more would slow down a browser
REFRESH_SECONDS = 0.1  # between two updates of an answer that is being written
SUBMIT_SECONDS = 0.2  # waited after Enter, because the last letters may arrive after it
LOG = (
    '<div role="log" tabindex="0" aria-label="Conversation" style="height:200px;box-sizing:border-box;'
    "overflow-y:auto;display:flex;flex-direction:column-reverse;border:1px solid rgba(128,128,128,.5);"
    'padding:4px 8px;line-height:1.5">'
    "<div>{turns}</div></div>"
)
TURN = "<p style='margin:.3em 0;white-space:pre-wrap'><b>{who}</b> {text}</p>"
# Half transparent, so that the page's own text colour stays readable over it, in light and dark themes.
UNLIKELY = "border-bottom:2px solid rgba(213,94,0,{:.2f})"
CHOSEN = ";outline:2px solid rgba(0,114,178,.9)"
BAR = "rgba(86,180,233,.75)"


def chat_panel(
    model: Model, question: str | None = None, *, system: str = "", n_top: int = N_TOP, **options: Any
) -> ChatPanel:
    """Return a panel to talk with a model.

    Args:
        model: the model to talk with.
        question: a first question. It is answered before the panel is shown, so that the static view has it.
        system: the system message; "" for none.
        n_top: how many of the likeliest tokens are shown for each token, from 1 to 10.
        options: options of `Model.stream`, such as max_tokens, temperature and seed.

    Raises:
        ModelError: the model has no chat template.
        ValueError: there is no such option, or one is outside its range.
        The errors of `Model.chat`, if there is a question.
    """
    if not 1 <= n_top <= 10:
        raise ValueError(f"n_top must be 1 to 10, got {n_top}")
    panel = ChatPanel(model, system=system, n_top=n_top, options=options)
    if question is not None:
        panel.ask(question)
    return panel


@dataclass(frozen=True)
class Token:
    """A token of an answer.

    Attributes:
        text: the text that the token adds to the answer.
        score: the log probabilities of the token and of its alternatives.
    """

    text: str
    score: TokenLogprob


@dataclass
class Turn:
    """A message of the conversation.

    Attributes:
        who: "You" or "Model".
        text: the text of the message.
        tokens: the tokens of an answer; empty until the answer is complete, and for a question.
    """

    who: str
    text: str
    tokens: list[Token] = field(default_factory=list)


class ChatPanel(Explorer):
    """A panel with the conversation, a text field, the buttons Send, Stop and New, and a slider.

    Hovering over a token shows its probability and the likeliest alternatives. The slider does the same by
    keyboard for the tokens of the last answer. Probabilities are the model's own, before temperature and
    cuts. The stronger a token is underlined, the less likely it was.

    Attributes:
        turns: the messages so far.
        conversation: the messages and options for the next answer.
        running: whether an answer is being written.
        tokens: the tokens of the last answer.
    """

    static_summary = "The conversation as a table (it needs no running kernel)"

    def __init__(self, model: Model, *, system: str, n_top: int, options: dict[str, Any]) -> None:
        self.conversation = Conversation(model, {**options, "logprobs": n_top}, system=system)
        self.conversation.check()
        self.conversation.check_options(self.conversation.options)
        self.turns: list[Turn] = []
        self._generation: Generation | None = None
        self._thread: threading.Thread | None = None
        self._display: Any = None
        style = {"description_width": HEADING_WIDTH}
        self.transcript, self.speed, self.detail = ipywidgets.HTML(), ipywidgets.HTML(), ipywidgets.HTML()
        self.transcript.layout.width = "100%"
        self.field = ipywidgets.Text(
            description="Message", placeholder="Enter sends it", layout={"width": "46em"}, style=style
        )
        self.send_button, self.stop_button, self.new_button = (
            ipywidgets.Button(description=name, tooltip=text, layout={"width": "auto"})
            for name, text in (
                ("Send", "Ask the model"),
                ("Stop", "Stop the answer; its text so far is kept"),
                ("New", "Start a new conversation"),
            )
        )
        self.token = ipywidgets.IntSlider(description="Token", min=0, max=0, readout=False, style=style)
        self.token.layout.width = "46em"
        pressed = [self.send_button, self.stop_button, self.new_button, self.speed]
        super().__init__([self.transcript, self.field, row("", pressed), self.token, self.detail])
        self.field.on_msg(self._submitted)
        self.send_button.on_click(lambda _button: self.send())
        self.stop_button.on_click(lambda _button: self.stop())
        self.new_button.on_click(lambda _button: self.reset())
        self._ready()
        self.redraw_on([self.token])
        self.say("Write a message; Enter sends it.")

    # ---- the buttons -------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether an answer is being written."""
        return self._thread is not None and self._thread.is_alive()

    def send(self) -> None:
        """Ask the question in the text field. A thread writes the answer, so that Stop still works."""
        text = self.field.value
        if self.running or self.send_button.disabled or not text.strip():
            return
        self.field.value = ""
        self._ask(text)
        thread = threading.Thread(target=self._answer, name="llmlite-chat", daemon=True)
        thread.start()
        self._thread = thread  # set after the start, because another thread may call `wait`, which joins it

    def ask(self, text: str) -> str:
        """Ask a question, wait for the answer and return it.

        If an error ends the answer, the question is taken back.

        Raises:
            RuntimeError: an answer is already being written.
            The errors of `Model.chat`.
        """
        if self.running:
            raise RuntimeError("an answer is being written; call stop() and wait()")
        self._ask(text)
        self._answer(raises=True)
        return self.turns[-1].text

    def stop(self) -> None:
        """End the answer after the present step."""
        if self._generation is not None:
            self._generation.cancel()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the answer that is being written, and return whether it has ended.

        Args:
            seconds: the longest time to wait; None for no limit.
        """
        if self._thread is not None:
            self._thread.join(seconds)
        return not self.running

    def reset(self) -> None:
        """Begin a new conversation. An answer that is being written is stopped first."""
        self.stop()
        self.wait()
        self.conversation.reset()
        self.turns.clear()
        self._choose()
        self.say("A new conversation.")

    def _submitted(self, _widget: Any, content: Any, _buffers: Any) -> None:
        if isinstance(content, dict) and content.get("event") == "submit":
            threading.Timer(SUBMIT_SECONDS, self.send).start()

    # ---- an answer ---------------------------------------------------------------------------------------

    def _ask(self, text: str) -> None:
        self.conversation.ask(text)
        self.turns += [Turn("You", text), Turn("Model", "")]
        self._generation = None
        self.send_button.disabled, self.stop_button.disabled = True, False

    def _answer(self, *, raises: bool = False) -> None:
        try:
            generation = self._generation = self.conversation.answer()
            shown = 0.0
            for _ in generation:
                if time.monotonic() - shown > REFRESH_SECONDS:
                    self._progress(generation)
                    shown = time.monotonic()
            self.conversation.keep(generation)
            self.turns[-1].text = generation.text
            self.turns[-1].tokens = self._tokens(generation)
            self._choose()
            self.say(figures(generation)[:1].upper() + figures(generation)[1:] + ".")
        except (LlmliteError, ValueError, MemoryError) as error:
            self._take_back(str(error))
            if raises:
                raise
        except BaseException:  # an interrupt or a bug: the panel must not stay locked
            self._take_back("The answer was interrupted")
            raise
        finally:
            self._ready()
        self._update_static()

    def _take_back(self, why: str) -> None:
        self.conversation.take_back()
        question, _ = self.turns.pop(-2), self.turns.pop()
        if not self.field.value:
            self.field.value = question.text
        self._choose()
        self.say(f"{why}. The question was taken back.")

    def _progress(self, generation: Generation) -> None:
        self.turns[-1].text = generation.text
        self._draw_log()
        speed = generation.decode_tokens_per_second
        self.speed.value = f"<span>{len(generation.ids)} tokens, {speed:.1f} tokens/s</span>"

    def _ready(self) -> None:
        self.send_button.disabled, self.stop_button.disabled = False, True
        if self.conversation.last is not None:
            speed = self.conversation.last.decode_tokens_per_second
            self.speed.value = f"<span>{len(self.conversation.last.ids)} tokens, {speed:.1f} tokens/s</span>"

    def _tokens(self, generation: Generation) -> list[Token]:
        """Return the tokens of an answer, each with the text that it completes, without a stop text."""
        decoder = generation._model.tokenizer.stream(skip_special=True)
        left, found = len(generation.text), []
        for score in generation.logprobs or ():
            text = decoder.push(score.id)[:left]
            left -= len(text)
            found.append(Token(text, score))
        if found and (rest := decoder.flush()[:left]):
            found[-1] = Token(found[-1].text + rest, found[-1].score)
        return found

    # ---- the view ----------------------------------------------------------------------------------------

    @property
    def tokens(self) -> Sequence[Token]:
        """The tokens of the last answer."""
        return self.turns[-1].tokens if self.turns else ()

    def _choose(self) -> None:
        """Set the slider to the first token of the last answer."""
        self.token.max = max(0, len(self.tokens) - 1)
        self.token.disabled = not self.tokens
        self.token.value = 0
        self.redraw()

    def redraw(self) -> None:
        self._draw_log()
        self.detail.value = self._alternatives()

    def _draw_log(self) -> None:
        n_left, parts = N_MARKED, []
        for turn in reversed(self.turns):
            marked = bool(turn.tokens) and n_left > 0
            chosen = self.token.value if turn is self.turns[-1] else -1
            text = self._marked(turn.tokens, chosen) if marked else escape(turn.text)
            n_left -= len(turn.tokens)
            parts.append(TURN.format(who=turn.who, text=text))
        self.transcript.value = LOG.format(turns="".join(reversed(parts)))

    def _marked(self, tokens: Sequence[Token], chosen: int) -> str:
        spans = []
        for place, token in enumerate(tokens):
            style = UNLIKELY.format(1 - exp(token.score.logprob)) + CHOSEN * (place == chosen)
            title = escape(self._title(token.score), quote=True)
            spans.append(f'<span title="{title}" style="{style}">{escape(token.text)}</span>')
        return "".join(spans)

    def _title(self, score: TokenLogprob) -> str:
        others = ", ".join(f"{self._name(i)} {exp(p):.1%}" for i, p in score.top if i != score.id)
        return f"{self._name(score.id)} {exp(score.logprob):.1%}; others: {others}"

    def _alternatives(self) -> str:
        """Return an HTML table of the likeliest tokens at the chosen place, one row each."""
        if not self.tokens:
            return "<div style='height:130px'></div>"
        score = self.tokens[self.token.value].score
        pairs = list(score.top)
        if score.id not in dict(pairs):
            pairs.append((score.id, score.logprob))
        rows = [self._row(i, exp(p), i == score.id) for i, p in pairs]
        heading = f"Token {self.token.value + 1} of {len(self.tokens)}, and its likely alternatives"
        return (
            f"<div style='height:130px;overflow-y:auto' tabindex='0'><table aria-label='{heading}'>"
            f"<caption style='text-align:left'>{heading}</caption>{''.join(rows)}</table></div>"
        )

    def _row(self, token: int, probability: float, is_chosen: bool) -> str:
        bar = (
            f"<span style='display:inline-block;height:.8em;width:{12 * probability:.2f}em;background:{BAR}'>"
        )
        name = escape(self._name(token))
        cells = [f"<b>{name}</b> (written)" if is_chosen else name, f"{probability:.1%}", f"{bar}</span>"]
        style = "text-align:left;padding:0 10px;line-height:1.3"
        return f"<tr>{''.join(f'<td style={style!r}>{cell}</td>' for cell in cells)}</tr>"

    def _name(self, token: int) -> str:
        return visible(self.conversation.model.tokenizer, token)

    # ---- without a kernel --------------------------------------------------------------------------------

    def static_view(self) -> plots.Table:
        """Return the conversation so far as a table."""
        rows = [[str(i + 1), turn.who, turn.text] for i, turn in enumerate(self.turns)]
        said = " ".join(f"{turn.who}: {turn.text}" for turn in self.turns) or "Nothing has been said yet."
        return plots.Table(
            heading="A conversation",
            columns=("turn", "who", "text"),
            rows=rows,
            alt=f"A conversation. {said}",
        )

    def _ipython_display_(self) -> None:
        """Show the panel, then a table of the conversation, which is updated after each answer."""
        from IPython.display import DisplayHandle

        from llmlite.widgets.base import publish_display_data

        data = self._repr_mimebundle_()
        publish_display_data(data[0] if isinstance(data, tuple) else data)
        self._display = DisplayHandle()
        self._display.display(self.static_bundle(), raw=True)

    def _update_static(self) -> None:
        if self._display is not None:
            self._display.update(self.static_bundle(), raw=True)
