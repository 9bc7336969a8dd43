"""The part of test_triton.py that runs in Triton's environment: asks with tritonclient, prints JSON.

python triton_side.py HTTP_PORT GRPC_PORT LLMLITE_URL
"""

from __future__ import annotations

import json
import queue
import statistics
import sys
import time
import urllib.request
from typing import Any

import numpy as np
import tritonclient.grpc as tgrpc
import tritonclient.http as thttp

PROMPT = "The fox"
ENDLESS = [1, 5, 9]  # greedy, the bundled model repeats one word after these
N_TIMED = 30
N_TRIES = 8  # a small model may write a whole text before its cancellation arrives
CANCELLED, RUNNING = "llmlite_cancelled_total", "llmlite_running"


def inputs(module: Any, **values: Any) -> list[Any]:
    kinds = {"text_input": "BYTES", "input_ids": "INT32", "max_tokens": "INT32", "temperature": "FP64"}
    types = {"BYTES": np.object_, "INT32": np.int32, "FP64": np.float64}
    found = []
    for name, value in values.items():
        data = value if isinstance(value, list) else [value.encode() if isinstance(value, str) else value]
        entry = module.InferInput(name, [len(data)], kinds[name])
        entry.set_data_from_numpy(np.array(data, types[kinds[name]]))
        found.append(entry)
    return found


def texts_and_ids(result: Any) -> dict[str, Any]:
    return {
        "text": result.as_numpy("text_output")[0].decode(),
        "ids": result.as_numpy("output_ids").tolist(),
    }


def metric(url: str, name: str) -> float:
    lines = urllib.request.urlopen(f"{url}/metrics", timeout=10).read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(name))


def until_cancelled(url: str, wanted: float) -> bool:
    limit = time.monotonic() + 10
    while metric(url, CANCELLED) < wanted and time.monotonic() < limit:
        time.sleep(0.02)
    return metric(url, CANCELLED) >= wanted


def whole_cancelled(grpc: Any, url: str) -> bool:
    """Whether leaving one long text ended it in llmlite. False too if the text was whole before that."""
    before = metric(url, CANCELLED)
    answers: queue.Queue[Any] = queue.Queue()
    whole = inputs(tgrpc, input_ids=ENDLESS, max_tokens=900, temperature=0.0)
    running = grpc.async_infer("tales", whole, lambda result, error: answers.put((result, error)))
    while not metric(url, RUNNING) and answers.empty():
        time.sleep(0.005)
    running.cancel()
    if answers.get(timeout=60)[1] is None:
        return False  # the text came before the cancellation did
    return until_cancelled(url, before + 1)


def seconds(call: Any) -> list[float]:
    found = []
    for _ in range(N_TIMED):
        begin = time.perf_counter()
        call()
        found.append(time.perf_counter() - begin)
    return found


def main() -> None:
    http_port, grpc_port, url = sys.argv[1:]
    http = thttp.InferenceServerClient(f"127.0.0.1:{http_port}", network_timeout=60)
    grpc = tgrpc.InferenceServerClient(f"127.0.0.1:{grpc_port}")
    asked = {"text_input": PROMPT, "max_tokens": 24, "temperature": 0.0}
    report: dict[str, Any] = {"version": http.get_server_metadata()["version"]}
    report["http"] = texts_and_ids(http.infer("tales", inputs(thttp, **asked)))
    report["grpc"] = texts_and_ids(grpc.infer("tales", inputs(tgrpc, **asked)))
    try:
        http.infer("tales", inputs(thttp, **{**asked, "temperature": -1.0}))
    except Exception as error:
        report["refused"] = str(error)

    # piece by piece
    answers: queue.Queue[Any] = queue.Queue()
    grpc.start_stream(lambda result, error: answers.put((result, error)))
    grpc.async_stream_infer("tales_stream", inputs(tgrpc, **asked), enable_empty_final_response=True)
    pieces = []
    while True:
        result, error = answers.get(timeout=60)
        assert error is None, error
        if result.get_response().parameters["triton_final_response"].bool_param:
            break
        pieces.append(result.as_numpy("text_output")[0].decode())
    report["pieces"] = pieces
    # left in the middle of a text; 900 tokens are more than both calls see
    before = metric(url, CANCELLED)
    grpc.async_stream_infer(
        "tales_stream", inputs(tgrpc, **{**asked, "text_input": "iron " * 40, "max_tokens": 900})
    )
    report["first_piece"] = answers.get(timeout=60)[1] is None
    grpc.stop_stream(cancel_requests=True)
    report["stream_cancelled"] = until_cancelled(url, before + 1)
    report["whole_cancelled"] = any(whole_cancelled(grpc, url) for _ in range(N_TRIES))

    # what Triton adds: the same request of one token, in turns
    own = thttp.InferenceServerClient(url.removeprefix("http://"), network_timeout=60)
    text = inputs(thttp, text_input=PROMPT)
    values = {"max_tokens": 1, "temperature": 0}
    direct, through = [], []
    for _ in range(3):
        direct += seconds(lambda: own.infer("tales", text, parameters=values))
        through += seconds(lambda: http.infer("tales", inputs(thttp, **{**asked, "max_tokens": 1})))
    report["direct_ms"] = statistics.median(direct) * 1000
    report["through_ms"] = statistics.median(through) * 1000
    for client in (http, own, grpc):
        client.close()
    print(json.dumps(report))


if __name__ == "__main__":
    main()
