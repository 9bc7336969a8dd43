"""Take shipped samples again: run each measurement that they need once, and replace all samples together.

Each result is stored in a folder as soon as it is available, so that an interrupted run can be continued.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmlite import resources
from llmlite.bench.backends import by_name
from llmlite.bench.canary import Canary
from llmlite.bench.consistency import SampleFigure, disagreements
from llmlite.errors import LlmliteError
from llmlite.system import files

QUIET = 1.25  # the slowest canary over the fastest; above this ratio, the machine was busy


@dataclass(frozen=True, kw_only=True)
class Run:
    """One measurement that samples are made of.

    Attributes:
        name: its key.
        minutes: time that it takes on two quiet cores.
        measure: function that measures; its argument is a function that reports progress.
        save, load: functions that store the result in a folder and read it.
        backends, models: names of the backends and models that it needs.
    """

    name: str
    minutes: float
    measure: Callable[[Callable[[str], None]], Any]
    save: Callable[[Any, Path], None]
    load: Callable[[Path], Any]
    backends: tuple[str, ...] = ()
    models: tuple[str, ...] = ()

    def missing(self) -> list[str]:
        """Return a sentence for each backend or model that is missing."""
        said = []
        for name in self.backends:
            if reason := by_name(name).unavailable():
                said.append(f"{self.name} needs the backend {name}, {reason}")
        for name in self.models:
            try:
                resources.model_path(name)
            except (LlmliteError, OSError) as error:
                said.append(f"{self.name} needs the model {name}: {error}")
        return said


@dataclass(frozen=True, kw_only=True)
class SampleFile:
    """One shipped file.

    Attributes:
        name: its key.
        file: path below the samples' folder.
        runs: names of the runs that it is made from.
        write: function of the results of those runs by name, and of the path to write.
        figures: function that reads the file and returns its figures, to compare them with other samples.
    """

    name: str
    file: str
    runs: tuple[str, ...]
    write: Callable[[Mapping[str, Any], Path], None]
    figures: Callable[[Path], list[SampleFigure]] = lambda _: []


@dataclass(kw_only=True)
class Taking:
    """The process of taking samples.

    Attributes:
        runs, samples: all known runs and samples.
        kept: folder of the results.
        target: folder of the samples.
        say: called with lines that report progress.
        canaries: nanoseconds of the canary before and after each run, by name of the run.
    """

    runs: Sequence[Run]
    samples: Sequence[SampleFile]
    kept: Path
    target: Path
    say: Callable[[str], None]
    canaries: dict[str, tuple[int, int]] = field(default_factory=dict)

    def needed(self, chosen: Sequence[SampleFile]) -> list[Run]:
        """Return the runs that samples need, in the order of all runs."""
        names = {name for sample in chosen for name in sample.runs}
        return [run for run in self.runs if run.name in names]

    def choose(self, names: Sequence[str]) -> list[SampleFile]:
        """Return the samples with these names; all samples if no name is given.

        Raises:
            LlmliteError: a name is unknown.
        """
        known = {sample.name: sample for sample in self.samples}
        for name in names:
            if name not in known:
                raise LlmliteError(f"no sample {name!r}; there are: {', '.join(known)}")
        return [known[name] for name in names or known]

    def measure(self, chosen: Sequence[SampleFile], *, resume: bool = False) -> dict[str, Any]:
        """Run the measurements that samples need; return the results of those that finished, by name.

        Args:
            chosen: the samples.
            resume: read the results that are already in the folder instead of measuring them again.

        Raises:
            LlmliteError: a backend or model that a run needs is missing; nothing was measured.
        """
        runs = self.needed(chosen)
        done = [run for run in runs if resume and (self.kept / run.name / "done").exists()]
        missing = [said for run in runs if run not in done for said in run.missing()]
        if missing:
            raise LlmliteError("nothing was measured: " + "; ".join(missing))
        results = {run.name: run.load(self.kept / run.name) for run in done}
        for run in done:
            self.canaries[run.name] = tuple(json.loads((self.kept / run.name / "done").read_text()))
        left = [run for run in runs if run not in done]
        canary = Canary()
        for number, run in enumerate(left):
            minutes = sum(each.minutes for each in left[number:])
            self.say(f"{number + 1} of {len(left)}: {run.name}; about {minutes:.0f} min left")
            try:
                results[run.name] = self._one(run, canary)
            except (LlmliteError, OSError) as error:
                self.say(f"{run.name} failed: {error}")
        return results

    def _one(self, run: Run, canary: Canary) -> Any:
        folder = self.kept / run.name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "done").unlink(missing_ok=True)
        begin, before = time.monotonic(), canary.sing()
        result = run.measure(lambda text: self.say(f"  {run.name}: {text}"))
        after = canary.sing()
        run.save(result, folder)
        files.write_text(folder / "done", json.dumps([before, after]) + "\n")
        self.canaries[run.name] = before, after
        self.say(
            f"  {run.name}: took {(time.monotonic() - begin) / 60:.1f} min, planned {run.minutes:g}; canary "
            f"{before / 1e6:.2f} ms before, {after / 1e6:.2f} ms after"
        )
        return result

    def is_quiet(self) -> bool:
        """Return whether all canaries, before and after the runs, were about equally fast."""
        songs = [ns for both in self.canaries.values() for ns in both]
        return bool(songs) and max(songs) <= QUIET * min(songs)

    def write(self, chosen: Sequence[SampleFile], results: Mapping[str, Any]) -> dict[str, Path]:
        """Write the samples whose runs have finished to the folder of results; return their paths by name."""
        folder = self.kept / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        written = {}
        for sample in chosen:
            if set(sample.runs) <= set(results):
                sample.write(results, folder / sample.file)
                written[sample.name] = folder / sample.file
        return written

    def disagreements(self, written: Mapping[str, Path]) -> list[str]:
        """Return the contradictions between samples, with the new ones in place of the old ones."""
        return disagreements(
            figure
            for sample in self.samples
            for figure in sample.figures(written.get(sample.name, self.target / sample.file))
        )

    def install(self, written: Mapping[str, Path]) -> None:
        """Replace the shipped files by the new ones, all together."""
        with files.together():
            for path in written.values():
                with files.replacing(self.target / path.name) as file:
                    file.write(path.read_bytes())
