"""Predictions: a question with buttons, whose answer is shown after the click.

The cell ends at once, and a click is answered whenever it comes. If nobody can click (nbval,
`jupyter execute`) or the next cell is already queued (Run All Cells), the answer is shown at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any

from llmlite.lessons import progress

ASKED = "<p class='llmlite-predict'><b>Predict first.</b> {question}</p>"
CHOICES = "<p>{choices}</p>"


def predict(
    question: str,
    choices: Sequence[str],
    answer: str | Iterable[str] | Callable[[], str | Iterable[str]] | None = None,
    reveal: Callable[[], Any] | str | None = None,
) -> None:
    """Ask a question. After the click, say whether the choice was right, and show the answer.

    Without `answer` and `reveal`, those in `lessons.json` are used, so that the copies of the lessons don't
    show them in their code.

    Args:
        question: one sentence. It identifies the prediction in the progress file, so it must not change.
        choices: two or more different texts, one for each button.
        answer: the right choice, or several if more than one counts as right; or a function that returns
            them, which is called after the click. None if only the next cell can tell.
        reveal: a text in Markdown, or a function that draws or prints. The function's result is displayed.

    Raises:
        ValueError: there are fewer than two choices, two are equal, or the answer isn't one of them.
    """
    if answer is None and reveal is None:
        answer, reveal = _kept(question)
    options = [str(choice) for choice in choices]
    if len(options) < 2 or len(set(options)) != len(options):
        raise ValueError(f"a prediction needs at least two different choices, got {options}")
    if not callable(answer):
        _right(answer, options)
    if progress.somebody_clicks() and not _another_cell_waits():
        _ask(question, options, answer, reveal)
    else:
        _tell(question, options, answer, reveal)


def _kept(question: str) -> tuple[Any, str | None]:
    """Return the stored answer and reveal of a question of the running lesson; None for what isn't stored."""
    lesson = progress.catalog().get(progress.running()) if progress.running() else None
    told = lesson.predictions.get(question, {}) if lesson else {}
    return told.get("answer"), told.get("reveal")


def _right(answer: Any, options: Sequence[str]) -> list[str]:
    """Return the choices that are right.

    Raises:
        ValueError: an answer isn't one of the choices.
    """
    found = answer() if callable(answer) else answer
    found = [] if found is None else [found] if isinstance(found, str) else [str(one) for one in found]
    for one in found:
        if one not in options:
            raise ValueError(f"the answer {one!r} is not one of the choices {list(options)}")
    return found


def _another_cell_waits() -> bool:
    """Return whether the next cell is already queued, as after Run All Cells."""
    from IPython import get_ipython

    kernel = getattr(get_ipython(), "kernel", None)
    stream = getattr(kernel, "shell_stream", None)
    try:
        import zmq

        return bool(stream is not None and stream.socket.getsockopt(zmq.EVENTS) & zmq.POLLIN)
    except Exception:  # not ipykernel, or a version with another queue: then the question is asked
        return False


def _tell(question: str, options: Sequence[str], answer: Any, reveal: Any) -> None:
    """Show the question, the choices and the answer at once."""
    from IPython.display import display

    listed = " &nbsp;·&nbsp; ".join(map(escape, options))
    html = ASKED.format(question=escape(question)) + CHOICES.format(choices=listed)
    text = f"Predict first. {question} [{' | '.join(options)}]"
    display({"text/html": html, "text/plain": text}, raw=True)
    right = _right(answer, options)
    if right:
        said = f"It is: {' or '.join(right)}."
        display({"text/html": f"<p>{escape(said)}</p>", "text/plain": said}, raw=True)
    _reveal(reveal)


def _reveal(reveal: Any) -> None:
    from IPython.display import Markdown, display

    shown = reveal() if callable(reveal) else reveal
    if shown is not None:
        display(Markdown(shown) if isinstance(shown, str) else shown)


def _ask(question: str, options: Sequence[str], answer: Any, reveal: Any) -> None:
    """Show the question with its buttons. The callback of the first click shows the answer."""
    import ipywidgets
    from IPython.display import display

    asked = ipywidgets.HTML(ASKED.format(question=escape(question)))
    buttons = [ipywidgets.Button(description=option, layout={"width": "auto"}) for option in options]
    said, shown = ipywidgets.HTML(), ipywidgets.Output()

    def clicked(button: Any) -> None:
        if button.disabled:  # a second click that was already on its way
            return
        for each in buttons:
            each.disabled = True
        button.icon = "check"
        with shown:
            right = _right(answer, options)
            came_true = button.description in right if right else None
            progress.record_prediction(question, button.description, " or ".join(right), came_true)
            said.value = _verdict(button.description, right)
            _reveal(reveal)

    for button in buttons:
        button.on_click(clicked)
    row = ipywidgets.HBox(buttons, layout={"flex_flow": "row wrap"})
    box = ipywidgets.VBox([asked, row, said, shown])
    box.add_class("llmlite-prediction")
    display(box)


def _verdict(choice: str, right: Sequence[str]) -> str:
    if not right:
        text = f"You said: {choice}."
    elif choice in right:
        text = f"You said: {choice}. So it is."
    else:
        text = f"You said: {choice}. It is: {' or '.join(right)}."
    return f'<p role="status" aria-live="polite"><b>{escape(text)}</b></p>'
