"""The default number of threads, on machines described by files: SMT, hybrid CPUs, quotas, affinity masks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from llmlite.bench import checks
from llmlite.engine import cpu
from llmlite.engine.cpu import cgroup_quota, choose_threads


def machine(folder: Path, cores: list[list[int]], **speeds: dict[int, int]) -> str:
    """Describe a machine: the hardware threads of each core, and files of a CPU with its number in each."""
    for core in cores:
        for number in core:
            (folder / f"cpu{number}" / "topology").mkdir(parents=True)
            text = ",".join(map(str, core)) + "\n"
            (folder / f"cpu{number}" / "topology" / "thread_siblings_list").write_text(text)
            for name, values in speeds.items():
                path = folder / f"cpu{number}" / name.replace("__", "/")
                path.parent.mkdir(exist_ok=True)
                path.write_text(f"{values[number]}\n")
    return str(folder)


def test_two_hardware_threads_of_a_core_count_once(tmp_path: Path) -> None:
    found = choose_threads(sysfs=machine(tmp_path, [[i, i + 4] for i in range(4)]), cpus=range(8))
    assert (found.n, found.n_cores, found.n_allowed, found.n_slow) == (4, 4, 8, 0)
    assert str(found) == "4 by default: 4 cores with 8 hardware threads"


def test_the_newer_name_of_the_siblings_is_read(tmp_path: Path) -> None:
    folder = machine(tmp_path, [[0, 1], [2, 3]])
    for path in tmp_path.rglob("thread_siblings_list"):
        path.rename(path.with_name("core_cpus_list"))
    assert choose_threads(sysfs=folder, cpus=range(4)).n == 2


def test_an_affinity_mask_with_one_thread_of_each_core_keeps_all_of_them(tmp_path: Path) -> None:
    folder = machine(tmp_path, [[i, i + 4] for i in range(4)])
    assert choose_threads(sysfs=folder, cpus={0, 1, 6}).n == 3
    assert choose_threads(sysfs=folder, cpus={1, 5}).n == 1


def test_a_hybrid_laptop_uses_its_efficient_cores_but_not_those_of_low_power(tmp_path: Path) -> None:
    # Six fast cores with two threads, eight efficient ones, two of low power: an Intel Core Ultra 7 155H
    cores = [[2 * i, 2 * i + 1] for i in range(6)] + [[i] for i in range(12, 22)]
    clocks = {i: 4_800_000 if i < 12 else 3_800_000 if i < 20 else 2_100_000 for i in range(22)}
    found = choose_threads(sysfs=machine(tmp_path, cores, cpufreq__cpuinfo_max_freq=clocks), cpus=range(22))
    assert (found.n, found.n_cores, found.n_slow) == (14, 16, 2)
    assert "2 of them left out as slow" in str(found)


def test_small_arm_cores_are_left_out_by_the_capacity_that_the_system_gives(tmp_path: Path) -> None:
    capacities = {0: 250, 1: 250, 2: 250, 3: 250, 4: 780, 5: 780, 6: 780, 7: 1024}
    clocks = dict.fromkeys(range(8), 2_000_000)  # says nothing, and is not asked
    folder = machine(
        tmp_path, [[i] for i in range(8)], cpu_capacity=capacities, cpufreq__cpuinfo_max_freq=clocks
    )
    assert choose_threads(sysfs=folder, cpus=range(8)).n == 4
    assert choose_threads(sysfs=folder, cpus=range(4)).n == 4, "the fastest of those allowed is what counts"


@pytest.mark.parametrize("quota, n", [(0.2, 1), (0.5, 1), (1.5, 2), (2.4, 2), (3.0, 3), (99.0, 4), (None, 4)])
def test_a_quota_bounds_the_threads(tmp_path: Path, quota: float | None, n: int) -> None:
    folder = machine(tmp_path, [[i] for i in range(4)])
    found = choose_threads(sysfs=folder, cpus=range(4), quota=quota)
    assert found.n == n
    assert ("quota" in str(found)) == (quota is not None)


def test_a_system_that_describes_nothing_counts_what_is_allowed(tmp_path: Path) -> None:
    assert choose_threads(sysfs=str(tmp_path / "none"), cpus=range(3)).n == 3
    (tmp_path / "cpu0").mkdir()
    (tmp_path / "cpu0" / "cpu_capacity").write_text("not a number\n")
    assert choose_threads(sysfs=str(tmp_path), cpus=range(3)).n == 3


def test_on_macos_the_performance_cores_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(cpu, "_fast_cores_of_macos", lambda: 4)
    assert choose_threads(sysfs=str(tmp_path), cpus=range(10)).n == 4
    monkeypatch.setattr(cpu, "_fast_cores_of_macos", lambda: 0)  # an Intel Mac doesn't know the name
    assert choose_threads(sysfs=str(tmp_path), cpus=range(10)).n == 10


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="cgroups are Linux's")


@on_linux
def test_version_1_quotas_are_found_along_the_path_and_at_a_containers_root(tmp_path: Path) -> None:
    member = tmp_path / "cgroup"
    member.write_text("5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n")
    base = tmp_path / "cpu,cpuacct"
    # A container sees its own group as the root of the mount, though the path is that of the host
    write(base, cpu__cfs_quota_us="250000\n", cpu__cfs_period_us="100000\n")
    assert cgroup_quota(str(tmp_path), str(member)) == 2.5
    write(base / "docker", cpu__cfs_quota_us="-1\n", cpu__cfs_period_us="100000\n")
    write(base / "docker" / "abc", cpu__cfs_quota_us="50000\n", cpu__cfs_period_us="100000\n")
    assert cgroup_quota(str(tmp_path), str(member)) == 0.5


@on_linux
def test_version_2_takes_the_smallest_quota_of_all_groups_above(tmp_path: Path) -> None:
    member = tmp_path / "cgroup"
    member.write_text("0::/pods/one\n")
    write(tmp_path / "pods" / "one", cpu__max="max 100000\n")
    write(tmp_path / "pods", cpu__max="400000 100000\n")
    write(tmp_path, cpu__max="300000 100000\n")
    assert cgroup_quota(str(tmp_path), str(member)) == 3.0


@on_linux
@pytest.mark.parametrize("text", ["", "max\n", "x y\n", "100000 0\n", "-5 100000\n"])
def test_a_quota_that_says_nothing_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "cgroup").write_text("0::/\n")
    write(tmp_path, cpu__max=text)
    assert cgroup_quota(str(tmp_path), str(tmp_path / "cgroup")) is None


def test_doctor_says_the_number_of_threads_with_the_reason() -> None:
    (found,) = [f for f in checks.examine(["machine"]) if f.topic == "threads"]
    assert found.found.startswith(f"{cpu.usable_threads()} by default: ")
    assert "core" in found.found
