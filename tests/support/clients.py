"""Import the clients of other projects that test the server; `make clients` installs them."""

from __future__ import annotations

import importlib
import os
from typing import Any

import pytest


def installed(module: str, package: str, goal: str = "clients") -> Any:
    """Import a client that `make GOAL` installs.

    If it is missing, skip the test and name the client, or fail if CLIENTS=required is set.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        text = f"the client {package} is not installed: make {goal} ({error})"
        if os.environ.get("CLIENTS") == "required":
            pytest.fail(text)
        pytest.skip(text)
