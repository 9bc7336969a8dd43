"""Run a grid of measurements, on this machine or on several with Dask. Run it again to resume.

Each result is a file in the output folder, tagged with its machine. Results of different machines are never
combined.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from llmlite.bench.sweep import KINDS
from llmlite.cli.run import number
from llmlite.terminal import complain, json_text, progress, say

HELP = "run a grid of measurements, here or on several machines"
EXAMPLES = f"""\
examples:
  llmlite sweep model=tales:Q4_0,tales:Q8_0 threads=1,2 n_gen=64 round=0,1,2
  llmlite sweep job=perplexity model=tales,tales:Q4_0 chunks=8
  llmlite sweep job=questions model=tales,tales:Q2_K n=20 --workers 2
  llmlite sweep ... --scheduler tcp://host:8786      workers: dask worker tcp://host:8786 --nthreads 1
  llmlite sweep --slurm --scheduler tcp://host:8786  print the job script for SLURM (dask-jobqueue)

jobs and their keys:
{chr(10).join(f"  {kind}: {', '.join(keys)}" for kind, keys in KINDS.items())}

After a stop, or the loss of a worker or the scheduler, run the same command again: finished tasks are not
repeated. docs/sweep.md describes SSH and SLURM.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "grid", nargs="*", metavar="KEY=A,B", help="values of a key; all combinations are measured"
    )
    parser.add_argument(
        "--scheduler",
        default="",
        metavar="tcp://HOST:PORT",
        help="a Dask scheduler (default: start one here)",
    )
    parser.add_argument(
        "--workers", type=number(int, 1), default=1, metavar="N", help="workers to start here (default: 1)"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("results/sweep"),
        metavar="FOLDER",
        help="default: %(default)s",
    )
    parser.add_argument("--slurm", action="store_true", help="print the job script and stop")


def run(options: argparse.Namespace) -> int:
    from llmlite.bench import sweep

    if options.slurm:
        say(sweep.job_script(options.scheduler).rstrip())
        return 0
    tasks = sweep.grid(options.grid)
    with progress() as shown:
        _, failed = sweep.run(
            tasks,
            options.output,
            scheduler=options.scheduler,
            n_workers=options.workers,
            progress=shown.show,
        )
    wanted = {task.id for task in tasks}
    for row in sweep.summary([each for each in sweep.results(options.output) if each["task"] in wanted]):
        say(json_text(row))
    for sentence in failed:
        complain(sentence)
    return 1 if failed else 0
