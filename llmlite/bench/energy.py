"""Energy from RAPL, the counters in Intel's and AMD's processors (Linux powercap), if they are readable.

Each package has a counter in microjoules that wraps at `max_energy_range_uj`. Since 2020, only root may read
it on most systems. Virtual machines rarely have it. Without a counter there is no figure: nothing is
estimated.
Source: the Linux kernel's Documentation/power/powercap/powercap.rst.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/class/powercap")
NOT_READABLE = "not readable here"


@dataclass(frozen=True, kw_only=True)
class Zone:
    """One counter.

    Attributes:
        name: name of the package, such as "package-0".
        path: folder of the counter.
        limit: microjoules at which it wraps.
    """

    name: str
    path: Path
    limit: int

    def read(self) -> int:
        """Return the microjoules since an arbitrary start.

        Raises:
            OSError, ValueError: the counter can't be read.
        """
        return int((self.path / "energy_uj").read_text())


def zones(root: Path = ROOT) -> list[Zone]:
    """Return the packages with a readable counter; their parts (cores, DRAM) would be counted twice."""
    found = []
    for path in sorted(root.glob("*-rapl:*")):
        if path.name.count(":") != 1:
            continue
        try:
            name = (path / "name").read_text().strip()
            zone = Zone(name=name, path=path, limit=int((path / "max_energy_range_uj").read_text()))
            zone.read()
        except (OSError, ValueError):
            continue
        if name.startswith("package") and zone.limit > 0:
            found.append(zone)
    return found


class Meter:
    """A meter of the joules that all packages use between `start` and `stop`.

    The figure is for the whole machine, other programs included. A measurement must be shorter than the time
    in which a counter wraps, which is minutes at full power.

    Args:
        root: folder of the counters.
    """

    def __init__(self, root: Path = ROOT) -> None:
        self.zones = zones(root)
        self._begin: list[int] = []

    @property
    def note(self) -> str:
        """The text that a table shows in place of a figure; "" if there is a figure."""
        return "" if self.zones else NOT_READABLE

    def start(self) -> None:
        self._begin = self._read()

    def stop(self) -> float | None:
        """Return the joules since `start`; None if no counter can be read."""
        if not self.zones or not self._begin:
            return None
        end = self._read()
        if len(end) != len(self._begin):
            return None
        used = (
            last - first if last >= first else last + zone.limit - first
            for zone, first, last in zip(self.zones, self._begin, end)
        )
        return sum(used) / 1e6

    def _read(self) -> list[int]:
        try:
            return [zone.read() for zone in self.zones]
        except (OSError, ValueError):
            return []
