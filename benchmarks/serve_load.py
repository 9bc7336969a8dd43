"""Load `llmlite serve` with many clients, and compare its throughput with llama.cpp's server.

    python benchmarks/serve_load.py MODEL.gguf --record FILE.json        # 64 clients for a minute
    python benchmarks/serve_load.py MODEL.gguf --compare --rounds 3      # 1 and 8 clients, servers in turns

Every client asks for one streamed text after another, each with its own prompt. An answer is complete if it
ends with a reason, its usage and [DONE]. It is refused if the server answers 429 with Retry-After; the client
then waits for that time. All other answers count as lost. Memory is the server's resident set at the start
and at its highest. The comparison needs xllamacpp, whose wheel has no AVX-512, so its row is at a
disadvantage.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

PEER = """
import sys, time, xllamacpp
path, threads, slots, ctx = sys.argv[1], *map(int, sys.argv[2:])
p = xllamacpp.CommonParams()
p.model.path, p.n_parallel, p.n_ctx, p.warmup, p.verbosity = path, slots, slots * ctx, False, -1
p.hostnames, p.port = ["127.0.0.1"], 0
p.cpuparams.n_threads = p.cpuparams_batch.n_threads = threads
server = xllamacpp.Server(p)
print("at", server.listening_address, flush=True)
time.sleep(1e6)
"""


@dataclass
class Seen:
    """Hold the results of all clients; times are in seconds since the request."""

    first: list[float] = field(default_factory=list)
    n_tokens: int = 0
    done: int = 0
    refused: int = 0
    lost: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def running(kind: str, options: argparse.Namespace, slots: int) -> Iterator[tuple[int, psutil.Process]]:
    """Start a server; yield its port and its process."""
    threads, ctx = str(options.threads), str(options.ctx)
    if kind == "llmlite":
        command = [sys.executable, "-m", "llmlite", "serve", options.model, "--port", "0", "--quiet"]
        command += ["--threads", threads, "--ctx", ctx, "--parallel", str(slots)]
        command += ["--queue", str(options.queue)]
    else:
        command = [sys.executable, "-c", PEER, options.model, threads, str(slots), ctx]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        log = ""
        for line in process.stdout:
            log += line
            found = re.search(r"http://[\d.]+:(\d+)", line)
            if found:
                break
        else:
            raise SystemExit(f"the server of {kind} didn't start:\n{log}")
        threading.Thread(target=process.stdout.read, daemon=True).start()
        wait_for(int(found[1]))
        yield int(found[1]), psutil.Process(process.pid)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(port: int, seconds: float = 60) -> None:
    """Wait until the server is healthy."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise SystemExit(f"no healthy server at port {port}")


def ask(port: int, number: int, n_tokens: int, seen: Seen) -> None:
    """Ask for one streamed text of `n_tokens` tokens and record the result."""
    body = {
        "prompt": f"Tale {number}: Once upon a time",
        "max_tokens": n_tokens,
        "stream": True,
        "seed": number,
    }
    body["stream_options"] = {"include_usage": True}
    begin, first, made, ended, status, reason, wait = time.monotonic(), 0.0, 0, False, 0, "", ""
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
        answer = connection.getresponse()
        status, wait = answer.status, answer.getheader("retry-after") or ""
        for raw in answer if status == 200 else ():
            line = raw.decode().strip()
            if line == "data: [DONE]":
                ended = True
            elif line.startswith("data: "):
                part = json.loads(line[6:])
                if part.get("usage"):
                    made = part["usage"]["completion_tokens"]
                choice = (part.get("choices") or [{}])[0]
                reason = choice.get("finish_reason") or reason
                if not first and choice.get("text"):
                    first = time.monotonic() - begin
        connection.close()
    except (OSError, http.client.HTTPException, ValueError):
        pass
    with seen.lock:
        whole, refused = ended and bool(reason) and made > 0, status == 429 and wait.isdigit()
        seen.n_tokens += made
        seen.done += whole
        seen.refused += refused
        seen.lost += not whole and not refused
        if first:
            seen.first.append(first)
    if refused:
        time.sleep(int(wait))


def load(port: int, clients: int, seconds: float, n_tokens: int) -> tuple[Seen, float]:
    """Let clients ask until `seconds` are over; return their results and the total seconds."""
    seen, begin = Seen(), time.monotonic()

    def client(number: int) -> None:
        while time.monotonic() - begin < seconds:
            ask(port, number, n_tokens, seen)
            number += clients

    threads = [threading.Thread(target=client, args=(i,)) for i in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen, time.monotonic() - begin


def share(times: list[float], part: float) -> float:
    """Return the time below which a share `part` of the times lies; nan if there are none."""
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else float("nan")


def at_rest(port: int, seconds: float = 10) -> bool:
    """Wait until nothing runs or waits in the server; return whether that happens within `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/health")
        state = json.loads(connection.getresponse().read())
        connection.close()
        if (state["running"], state["waiting"]) == (0, 0):
            return True
        time.sleep(0.1)
    return False


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Load one server; return the measured figures."""
    with running("llmlite", options, options.parallel) as (port, process):
        load(port, 1, 0.1, 8)
        before = highest = process.memory_info().rss
        over = threading.Event()

        def watch() -> None:
            nonlocal highest
            while not over.wait(0.2):
                highest = max(highest, process.memory_info().rss)

        watcher = threading.Thread(target=watch)
        watcher.start()
        seen, took = load(port, options.clients, options.seconds, options.tokens)
        over.set()
        watcher.join()
        rests = at_rest(port)
    return {
        "model": Path(options.model).name,
        "machine": machine(),
        "clients": options.clients,
        "parallel": options.parallel,
        "queue": options.queue,
        "threads": options.threads,
        "tokens_of_a_text": options.tokens,
        "seconds": round(took, 1),
        "texts": seen.done,
        "refused": seen.refused,
        "lost": seen.lost,
        "first_token_p50_s": round(share(seen.first, 0.5), 3),
        "first_token_p95_s": round(share(seen.first, 0.95), 3),
        "tokens_per_s": round(seen.n_tokens / took, 1),
        "rss_before_mib": round(before / 2**20),
        "rss_highest_mib": round(highest / 2**20),
        "at_rest_afterwards": rests,
    }


def machine() -> dict[str, Any]:
    """Describe the machine without names or paths."""
    from llmlite.engine.cpu import target

    load = round(psutil.getloadavg()[0], 1)
    return {"cpu": target().name, "cores": psutil.cpu_count(logical=False), "load_average_at_end": load}


def one_load(options: argparse.Namespace) -> int:
    """Load one server; print the figures, and write them to a file if asked.

    Returns:
        The exit code: 1 if an answer was lost, or the server didn't come to rest.
    """
    found = measured(options)
    for name, value in found.items():
        print(f"{name:20} {value}")
    if options.record:
        Path(options.record).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 1 if found["lost"] or not found["at_rest_afterwards"] else 0


def speeds(kind: str, options: argparse.Namespace) -> dict[int, float]:
    """Start a server of this kind and return its tokens per second, by the number of clients."""
    found = {}
    with running(kind, options, 8) as (port, _process):
        load(port, 1, 0.1, 8)
        for clients in (1, 8):
            seen, took = load(port, clients, options.seconds, options.tokens)
            if seen.lost:
                raise SystemExit(f"{kind} lost {seen.lost} answers of {clients} clients")
            found[clients] = seen.n_tokens / took
    return found


def compare(options: argparse.Namespace) -> int:
    """Run both servers in turns with 1 and 8 clients; print the best round of each."""
    best: dict[tuple[str, int], float] = {}
    for kind in ("llmlite", "llama.cpp") * options.rounds:
        for clients, speed in speeds(kind, options).items():
            best[kind, clients] = max(best.get((kind, clients), 0.0), speed)
    for (kind, clients), speed in best.items():
        print(f"{kind:10} {clients} clients {speed:8.1f} tokens/s")
    print(f"llmlite, 8 clients over 1: {best['llmlite', 8] / best['llmlite', 1]:.2f} times as fast")
    print(f"8 clients, llmlite over llama.cpp: {best['llmlite', 8] / best['llama.cpp', 8]:.2f} times as fast")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", help="a GGUF file")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0, help="default: %(default)s")
    parser.add_argument("--tokens", type=int, default=32, help="tokens of each text (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ctx", type=int, default=256)
    parser.add_argument(
        "--parallel", type=int, default=8, help="texts generated together (default: %(default)s)"
    )
    parser.add_argument("--queue", type=int, default=64, help="texts that may wait (default: %(default)s)")
    parser.add_argument("--record", metavar="FILE", help="write the figures as JSON")
    parser.add_argument(
        "--compare", action="store_true", help="compare with llama.cpp's server, with 1 and 8 clients"
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds of --compare (default: %(default)s)")
    options = parser.parse_args()
    return compare(options) if options.compare else one_load(options)


if __name__ == "__main__":
    sys.exit(main())
