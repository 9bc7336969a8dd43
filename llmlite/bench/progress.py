"""A progress bar that shows the current activity and the remaining time."""

from __future__ import annotations

import time


class Progress:
    """A tqdm bar that shows the current activity and the remaining time; each call advances it."""

    def __init__(self, total: int, shown: bool) -> None:
        from tqdm.auto import tqdm  # a widget in a notebook, text in a terminal

        form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}{postfix}"
        self._bar = tqdm(
            total=total, disable=not shown, desc="compare", leave=False, delay=1, bar_format=form
        )
        self._end = 0.0

    def expect(self, steps: int, seconds: float) -> None:
        """Set the number of remaining steps and the time for them."""
        self._end = time.monotonic() + seconds
        self._bar.total = self._bar.n + steps

    def __enter__(self) -> Progress:
        return self

    def __call__(self, text: str) -> None:
        self._bar.set_description(text, refresh=False)
        if self._end:
            left = max(self._end - time.monotonic(), 0)
            self._bar.set_postfix_str(f"about {left:.0f} s left", refresh=False)
        self._bar.update()

    def __exit__(self, *_: object) -> None:
        self._bar.total = self._bar.n  # an entry may have left early
        # a saved notebook keeps the bar; a terminal doesn't
        self._bar.leave = hasattr(self._bar, "container")
        self._bar.refresh()
        self._bar.close()
