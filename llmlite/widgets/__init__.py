"""Interactive widgets for notebooks. All work by keyboard, and show a static picture if no kernel runs.

ipywidgets is imported only in this folder, and only on first use.
"""

TYPE_CHECKING = False  # type checkers take this name for True, so typing needn't be imported
if TYPE_CHECKING:
    from llmlite.widgets.attention import attention_map, erase_sentence
    from llmlite.widgets.base import Explorer
    from llmlite.widgets.blocks import block_explorer
    from llmlite.widgets.caching import cache_grid
    from llmlite.widgets.chatting import ChatPanel, chat_panel
    from llmlite.widgets.choosing import sampling_explorer
    from llmlite.widgets.dashboard import ComparisonDashboard, compare_dashboard
    from llmlite.widgets.fewer_bits import half_the_bits
    from llmlite.widgets.file_layout import byte_map
    from llmlite.widgets.flip import which_bit
    from llmlite.widgets.kernels import kernel_ladder, roofline
    from llmlite.widgets.large import large_type
    from llmlite.widgets.lens import logit_lens
    from llmlite.widgets.machine import machine_panel
    from llmlite.widgets.memory import memory_timeline
    from llmlite.widgets.mixers import mixer_memory
    from llmlite.widgets.one_token import token_path
    from llmlite.widgets.training import loss_curve
    from llmlite.widgets.type_sweep import type_picker

_NAMES = {
    "Explorer": "base",
    "cache_grid": "caching",
    "block_explorer": "blocks",
    "attention_map": "attention",
    "erase_sentence": "attention",
    "byte_map": "file_layout",
    "compare_dashboard": "dashboard",
    "ComparisonDashboard": "dashboard",
    "chat_panel": "chatting",
    "ChatPanel": "chatting",
    "sampling_explorer": "choosing",
    "large_type": "large",
    "logit_lens": "lens",
    "machine_panel": "machine",
    "memory_timeline": "memory",
    "kernel_ladder": "kernels",
    "roofline": "kernels",
    "half_the_bits": "fewer_bits",
    "type_picker": "type_sweep",
    "which_bit": "flip",
    "token_path": "one_token",
    "loss_curve": "training",
    "mixer_memory": "mixers",
}


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name in _NAMES:
        return getattr(import_module(f"llmlite.widgets.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'llmlite.widgets' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(_NAMES)
