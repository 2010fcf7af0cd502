"""How many cores and how much memory a process may use: the machine's, and a container's, from simulated files."""

import os
from pathlib import Path

import pytest

from imgcls import environment
from imgcls.environment import available_memory, container_quota, default_num_threads, num_cores


def machine(root: Path, groups: str, files: dict[str, str]) -> Path:
    """Write the files of Linux' control groups below `root`."""
    for name, text in {"proc/self/cgroup": groups, **files}.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


V1 = "4:memory:/docker/1\n3:cpu,cpuacct:/docker/1\n"


@pytest.mark.parametrize(
    "groups, files, quota",
    [
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),  # inside a container, v2
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ("0::/a.slice/b.scope\n", {"sys/fs/cgroup/a.slice/cpu.max": "150000 100000\n"}, 1.5),  # of a group above
        (
            "0::/a/b\n",
            {"sys/fs/cgroup/a/cpu.max": "150000 100000\n", "sys/fs/cgroup/a/b/cpu.max": "400000 100000\n"},
            1.5,
        ),
        (
            V1,  # on the host, v1
            {
                "sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_quota_us": "300000\n",
                "sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
        (
            V1,  # inside a container, v1: its group's files are the topmost ones, and the path is the host's
            {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"},
            0.5,
        ),
        (V1, {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, None),
        ("1:cpu:/\n0::/\n", {"sys/fs/cgroup/unified/cgroup.procs": ""}, None),
        ("nothing that is known", {"sys/fs/cgroup/cpu.max": "damaged\n"}, None),
    ],
)
def test_the_smallest_quota_of_the_groups_of_a_process_counts(
    tmp_path: Path, groups: str, files: dict[str, str], quota: float | None
) -> None:
    assert container_quota(machine(tmp_path, groups, files)) == quota


def test_a_system_without_control_groups_has_no_quota(tmp_path: Path) -> None:
    assert container_quota(tmp_path) is None


@pytest.mark.parametrize("quota, cores", [(None, 8), (2.5, 3), (0.5, 1), (64.0, 8)])
def test_cores_are_those_of_the_process_and_its_container(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setattr(environment, "container_quota", lambda: quota)
    assert num_cores() == cores
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert default_num_threads() == max(1, cores // 2)


def test_cores_are_those_of_the_machine_where_affinity_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    monkeypatch.setattr(environment, "container_quota", lambda: None)
    assert num_cores() == 12


STAT = "anon 100\ninactive_file 20\nactive_file 10\ntotal_inactive_file 25\ntotal_active_file 15\n"


@pytest.mark.parametrize(
    "groups, files, free",
    [
        ("0::/\n", {}, 1024000),
        ("0::/\n", {"memory.max": "max\n", "memory.current": "500\n", "memory.stat": STAT}, 1024000),
        ("0::/\n", {"memory.max": "2000\n", "memory.current": "500\n", "memory.stat": STAT}, 1530),  # the cache counts
        ("0::/\n", {"memory.max": "9000000\n", "memory.current": "500\n", "memory.stat": STAT}, 1024000),
        (
            "0::/job/step\n",  # Slurm's limit is the job's
            {
                **{"job/memory.max": "2000\n", "job/memory.current": "700\n", "job/memory.stat": STAT},
                **{"job/step/memory.max": "max\n", "job/step/memory.current": "100\n", "job/step/memory.stat": STAT},
            },
            1330,
        ),
        (
            V1,
            {
                "memory/docker/1/memory.limit_in_bytes": "2000\n",
                "memory/docker/1/memory.usage_in_bytes": "500\n",
                "memory/docker/1/memory.stat": STAT,
            },
            1540,
        ),
        ("0::/\n", {"memory.max": "2000\n", "memory.current": "damaged\n", "memory.stat": STAT}, 1024000),
    ],
)
def test_memory_is_what_the_machine_and_the_groups_of_a_process_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: str, files: dict[str, str], free: float
) -> None:
    simulated = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    simulated["proc/meminfo"] = "MemTotal:  4000 kB\nMemFree:  100 kB\nMemAvailable:  1000 kB\nSwapFree:  9000 kB\n"
    assert available_memory(machine(tmp_path, groups, simulated)) == free
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert available_memory(tmp_path) == free / 2


def test_memory_is_unknown_where_the_system_does_not_say(tmp_path: Path) -> None:
    assert available_memory(tmp_path) is None
