"""Make up a comparison with known numbers, for tests of statistics, tables, figures and widgets."""

from __future__ import annotations

from llmlite.bench.samples import Comparison, Measurement

SPEED = {  # (backend, type) -> nanoseconds per generated token, in each of six blocks
    ("llmlite", "F16"): [2.0e6, 2.1e6, 2.0e6, 2.2e6, 2.0e6, 2.1e6],
    ("llmlite", "Q4_0"): [1.0e6, 1.1e6, 1.0e6, 1.05e6, 1.0e6, 1.02e6],
    ("torch-f32", "F16"): [4.0e6, 4.1e6, 4.0e6, 4.2e6, 4.05e6, 4.1e6],
}
N_GEN = 10
MEMORY = {("llmlite", "F16"): (30, 40), ("llmlite", "Q4_0"): (31, 22), ("torch-f32", "F16"): (90, 210)}


def synthetic_comparison() -> Comparison:
    """Return three entries with six blocks each: llmlite F16 twice as fast as torch-f32, Q4_0 four times."""
    env = {"run_id": "run", "env_hash": "hash", "cpu_info": "a processor", "n_threads": 2}
    comparison = Comparison(environment=env)
    same = {"run_id": "run", "env_hash": "hash", "n_threads": 2}
    for (backend, model_type), per_token in SPEED.items():
        entry = {"backend": backend, "model_type": model_type, **same}
        times = {"start": 2e7, "import": 3e8, "load": 1e8, "compile": 2e9, "first_token": 5e7}
        for phase, ns in times.items():
            comparison.measurements.append(Measurement(phase=phase, samples_ns=(int(ns),), **entry))
        for block, ns in enumerate(per_token):
            for n_prompt in (64, 256):
                comparison.measurements.append(
                    Measurement(
                        phase="prefill",
                        block=block,
                        n_prompt=n_prompt,
                        samples_ns=(int(ns * n_prompt / 10),),
                        **entry,
                    )
                )
            comparison.measurements.append(
                Measurement(
                    phase="decode",
                    block=block,
                    n_gen=N_GEN,
                    n_depth=64,
                    samples_ns=(int(ns * N_GEN),),
                    steps_ns=(int(ns),) * N_GEN,
                    joules=ns * N_GEN * 2e-8,  # 20 watts
                    **entry,
                )
            )
        private, file = MEMORY[backend, model_type]
        comparison.memory.append(
            {
                "backend": backend,
                "model_type": model_type,
                "stage": "decode",
                "repetition": 0,
                "private_bytes": private * 10**6,
                "file_bytes": file * 10**6,
                "resident_bytes": None,
                "peak_bytes": (private + file) * 10**6,
                "memory_note": "",
            }
        )
        comparison.agreement.append(
            {
                "backend": backend,
                "model_type": model_type,
                "agrees": True,
                "reason": "",
                "max_abs_diff": 1e-4,
                "same_file_kl": 1e-6,
                "same_file_top1": 1.0,
                "kl": 0.01 if model_type == "Q4_0" else 1e-6,
                "top1": 0.98,
            }
        )
    comparison.models = [
        {
            "model_filename": "m-f16.gguf",
            "model_type": "F16",
            "model_size": 10_000_000,
            "model_n_params": 5_000_000,
        },
        {
            "model_filename": "m-q4_0.gguf",
            "model_type": "Q4_0",
            "model_size": 3_000_000,
            "model_n_params": 5_000_000,
        },
    ]
    comparison.skipped = [
        {"backend": "torch-bf16", "reason": "not installed: pip install 'llmlite-kit[torch]'"}
    ]
    comparison.notes = ["made up"]
    return comparison
