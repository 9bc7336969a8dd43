"""llama.cpp's report on the processor: the instruction sets of its build that this machine can run."""

from __future__ import annotations


def instructions(said: str | bytes) -> str:
    """Return the names of the features that are on, separated by spaces.

    Args:
        said: the result of llama_print_system_info, such as "CPU : SSE3 = 1 | AVX2 = 1 | AVX512 = 0 | ".
    """
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
    parts = [part.rpartition(":")[2].partition("=") for part in text.split("|")]
    return " ".join(name.strip() for name, _, value in parts if value.strip() == "1")
