"""A progress bar that shows the current activity and the remaining time."""

from __future__ import annotations

import time


class ProgressBar:
    """A tqdm bar that shows the current activity and the remaining time; each call advances it.

    It is full at the end. After an exception it stays at its last step, and a notebook shows it in red.

    Args:
        total: number of steps.
        shown: whether to show it.
    """

    def __init__(self, total: int, shown: bool) -> None:
        from tqdm.auto import tqdm  # a widget in a notebook, text in a terminal

        form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}{postfix}"
        self._bar = tqdm(
            total=total, disable=not shown, desc="compare", leave=False, delay=1, bar_format=form
        )
        self._in_page = hasattr(self._bar, "container")
        self._end = 0.0

    def expect(self, steps: int, seconds: float) -> None:
        """Set the number of remaining steps and the time for them."""
        self._end = time.monotonic() + seconds
        self._set_total(self._bar.n + steps)

    def __enter__(self) -> ProgressBar:
        return self

    def __call__(self, text: str) -> None:
        self._bar.set_description(text, refresh=False)
        if self._end:
            left = max(self._end - time.monotonic(), 0)
            self._bar.set_postfix_str(f"about {left:.0f} s left", refresh=False)
        self._bar.update()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._set_total(self._bar.n)  # a dropped entry leaves steps undone
            self._bar.set_postfix_str("", refresh=False)
            self._bar.leave = self._in_page  # a saved notebook keeps the bar; a terminal doesn't
        elif self._in_page:
            self._set_total(max(self._bar.total, self._bar.n + 1))  # tqdm closes a bar that isn't full in red
            self._bar.set_description("stopped", refresh=False)
        self._bar.refresh()
        self._bar.close()

    def _set_total(self, steps: int) -> None:
        self._bar.total = steps
        if self._in_page:
            _, drawn, _ = self._bar.container.children
            drawn.max = steps  # tqdm doesn't update the widget's own total
