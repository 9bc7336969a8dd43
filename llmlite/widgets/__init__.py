"""Things to move in a notebook. Each shows a static picture where no kernel runs, and works by keyboard.

ipywidgets is imported in this folder only, on first use.
"""

TYPE_CHECKING = False  # type checkers take the name for true; spares importing typing
if TYPE_CHECKING:
    from llmlite.widgets.attention import attention_map, erase_sentence
    from llmlite.widgets.base import Explorer
    from llmlite.widgets.block_explorer import block_explorer
    from llmlite.widgets.choosing import sampling_explorer
    from llmlite.widgets.dashboard import ComparisonDashboard, compare_dashboard
    from llmlite.widgets.file_layout import byte_map
    from llmlite.widgets.half_the_bits import half_the_bits
    from llmlite.widgets.kernels import kernel_ladder, roofline
    from llmlite.widgets.lens import logit_lens
    from llmlite.widgets.type_picker import type_picker
    from llmlite.widgets.which_bit import which_bit

_NAMES = {
    "Explorer": "base",
    "block_explorer": "block_explorer",
    "attention_map": "attention",
    "erase_sentence": "attention",
    "byte_map": "file_layout",
    "compare_dashboard": "dashboard",
    "ComparisonDashboard": "dashboard",
    "sampling_explorer": "choosing",
    "logit_lens": "lens",
    "kernel_ladder": "kernels",
    "roofline": "kernels",
    "half_the_bits": "half_the_bits",
    "type_picker": "type_picker",
    "which_bit": "which_bit",
}


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name in _NAMES:
        return getattr(import_module(f"llmlite.widgets.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'llmlite.widgets' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(_NAMES)
