"""A hook of hatchling: put the kernels that `make wheel` compiled into the wheel.

The folder is named by LLMLITE_WHEEL_KERNELS, which only `make wheel` sets; nothing is compiled here. Without
it, as when pip builds from a source distribution or a repository, the wheel carries no kernels.
"""

import os

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Hook(BuildHookInterface):
    """Adds the folder as llmlite/_kernels."""

    def initialize(self, version, build_data):
        folder = os.environ.get("LLMLITE_WHEEL_KERNELS")
        if folder and version != "editable":
            if not os.path.isdir(folder):
                raise FileNotFoundError(f"LLMLITE_WHEEL_KERNELS={folder}: no such folder")
            build_data["force_include"][folder] = "llmlite/_kernels"
