"""Many clients at once: nothing is lost, memory stays bounded, and the server comes to rest."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra serve (starlette) is not installed")
pytest.importorskip("uvicorn", reason="the extra serve (uvicorn) is not installed")
pytest.importorskip("psutil", reason="psutil is not installed")


@pytest.fixture(scope="module")
def serve_load() -> Any:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "serve_load.py"
    spec = importlib.util.spec_from_file_location("serve_load", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules["serve_load"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_of_many_clients_every_one_gets_its_text_or_is_told_when_to_come_again(serve_load: Any) -> None:
    options = argparse.Namespace(
        model="tales:Q4_0", clients=24, seconds=4.0, tokens=32, threads=2, ctx=128, parallel=4, queue=6
    )
    found = serve_load.measured(options)
    assert found["lost"] == 0
    assert found["texts"] >= 24
    assert found["refused"] > 0, "24 clients, and room for 4 + 6"
    assert found["at_rest_afterwards"]
    assert found["rss_highest_mib"] - found["rss_before_mib"] < 150
