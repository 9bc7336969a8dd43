"""The vector vocabulary that kernels are written in: `vectors`, `arithmetic`, `block_vectors` and `tiles`.

Each name is written once, where it is defined. Only files of `llmlite.engine.kernels` import this module: it
imports numba.
"""

from llmlite.engine.arithmetic import *  # noqa: F403
from llmlite.engine.block_vectors import *  # noqa: F403
from llmlite.engine.tiles import *  # noqa: F403
from llmlite.engine.vectors import *  # noqa: F403
