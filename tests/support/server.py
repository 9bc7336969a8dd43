"""Run `llmlite serve` in its own process."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Server:
    """Run `llmlite serve`, and send requests to it."""

    def __init__(self, *options: str) -> None:
        command = [sys.executable, "-m", "llmlite", "serve", "tales", "--port", "0", *options]
        self.process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        found = re.search(r"http://[\d.]+:\d+", line)
        assert found, line + self.process.stderr.read()
        self.url = found[0]
        for _ in range(100):
            try:
                self.get("/health")
                return
            except OSError:
                time.sleep(0.1)
        raise AssertionError("the server doesn't answer")

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return answer.read().decode()

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)
