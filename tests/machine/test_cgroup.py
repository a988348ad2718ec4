"""Control groups: both versions, nested, in containers, half-readable; from files in a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwick.machine.cgroup import CgroupLimits, read_cgroup
from qwick.machine.cpu import read_cpu, read_memory

V2 = "31 23 0:28 {root} {mount} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "32 31 0:29 {root} {mount} rw - cgroup cgroup rw,{controller}\n"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def v2(root: Path, group: str, files: dict[str, str], mounted: str = "/") -> Path:
    base = {
        "proc/self/cgroup": f"0::{group}\n",
        "proc/self/mountinfo": V2.format(root=mounted, mount="/sys/fs/cgroup"),
    }
    return write(root, base | {f"sys/fs/cgroup/{name}": text for name, text in files.items()})


def v1(root: Path, group: str, files: dict[str, str]) -> Path:
    mounts = "".join(
        V1.format(root="/", mount=f"/sys/fs/cgroup/{c}", controller=c) for c in ("cpu", "memory")
    )
    lines = f"4:memory:{group}\n3:cpuset:/\n2:cpu,cpuacct:{group}\n"
    base = {"proc/self/cgroup": lines, "proc/self/mountinfo": mounts}
    return write(root, base | {f"sys/fs/cgroup/{name}": text for name, text in files.items()})


def test_no_limits(tmp_path: Path) -> None:
    assert read_cgroup(tmp_path) == CgroupLimits()
    root = v2(tmp_path, "/a", {"a/cpu.max": "max 100000\n", "a/memory.max": "max\n"})
    assert read_cgroup(root) == CgroupLimits()


def test_version_2(tmp_path: Path) -> None:
    files = {
        "a/b/cpu.max": "150000 100000\n",
        "a/b/memory.max": "1000\n",
        "a/b/memory.current": "700\n",
        "a/b/memory.stat": "anon 5\nfile 300\ninactive_file 200\nactive_file 9\n"
        "unevictable 70\nslab_reclaimable 40\nslab_unreclaimable 80\n",
    }
    assert read_cgroup(v2(tmp_path, "/a/b", files)) == CgroupLimits(1.5, 1000, 549)


def test_a_checkpoint_that_was_read_before_takes_no_memory(tmp_path: Path) -> None:
    """Pages of files that were read twice are active; the kernel gives them up all the same."""
    files = {
        "memory.max": "800000000\n",
        "memory.current": "415000000\n",
        "memory.stat": "inactive_file 52000000\nactive_file 353000000\n",
    }
    assert read_cgroup(v2(tmp_path, "/", files)).memory_free == 790_000_000
    files = {
        "memory/memory.limit_in_bytes": "800000000\n",
        "memory/memory.usage_in_bytes": "415000000\n",
        "memory/memory.stat": "active_file 1\ntotal_inactive_file 52000000\n"
        "total_active_file 353000000\n",
    }
    assert read_cgroup(v1(tmp_path / "1", "/", files)).memory_free == 790_000_000


def test_what_is_free_never_exceeds_the_limit(tmp_path: Path) -> None:
    """A level's usage and its figures are read one after the other; they may not fit together."""
    files = {
        "memory.max": "1000\n",
        "memory.current": "10\n",
        "memory.stat": "inactive_file 300\nactive_file 300\n",
    }
    assert read_cgroup(v2(tmp_path, "/", files)).memory_free == 1000


@pytest.mark.parametrize(("most", "high", "limit"), [("max", "500", 500), ("400", "500", 400)])
def test_the_limit_that_throttles_is_one(tmp_path: Path, most: str, high: str, limit: int) -> None:
    files = {"memory.max": most, "memory.high": high, "memory.current": "100\n"}
    assert read_cgroup(v2(tmp_path, "/", files)) == CgroupLimits(None, limit, limit - 100)


def test_the_tightest_level_counts(tmp_path: Path) -> None:
    files = {
        "a/cpu.max": "100000 100000\n",
        "a/b/cpu.max": "400000 100000\n",
        "a/memory.max": "5000\n",
        "a/memory.current": "4900\n",
        "a/b/memory.max": "3000\n",
        "a/b/memory.current": "10\n",
    }
    assert read_cgroup(v2(tmp_path, "/a/b", files)) == CgroupLimits(1.0, 3000, 100)


def test_the_tightest_level_counts_in_version_1_too(tmp_path: Path) -> None:
    files = {
        "cpu/a/cpu.cfs_quota_us": "50000\n",
        "cpu/a/cpu.cfs_period_us": "100000\n",
        "cpu/a/b/cpu.cfs_quota_us": "-1\n",
        "cpu/a/b/cpu.cfs_period_us": "100000\n",
        "memory/a/memory.limit_in_bytes": "5000\n",
        "memory/a/memory.usage_in_bytes": "4900\n",
        "memory/a/b/memory.limit_in_bytes": "9223372036854771712\n",
        "memory/a/b/memory.usage_in_bytes": "10\n",
    }
    assert read_cgroup(v1(tmp_path, "/a/b", files)) == CgroupLimits(0.5, 5000, 100)


def test_version_1(tmp_path: Path) -> None:
    files = {
        "cpu/job/cpu.cfs_quota_us": "250000\n",
        "cpu/job/cpu.cfs_period_us": "100000\n",
        "memory/job/memory.limit_in_bytes": "4096\n",
        "memory/job/memory.usage_in_bytes": "4000\n",
        "memory/job/memory.stat": "inactive_file 1\ntotal_inactive_file 96\n",
        "memory/memory.limit_in_bytes": "9223372036854771712\n",
    }
    assert read_cgroup(v1(tmp_path, "/job", files)) == CgroupLimits(2.5, 4096, 192)


def test_version_1_without_a_quota(tmp_path: Path) -> None:
    files = {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}
    assert read_cgroup(v1(tmp_path, "/", files)) == CgroupLimits()


@pytest.mark.parametrize(
    ("group", "mounted"),
    [("/docker/abc", "/docker/abc"), ("/outside", "/docker/abc"), ("/..", "/")],
)
def test_in_a_container_the_mount_is_the_group(tmp_path: Path, group: str, mounted: str) -> None:
    root = v2(tmp_path, group, {"cpu.max": "200000 100000\n"}, mounted)
    write(tmp_path, {"sys/fs/cpu.max": "1000 100000\n"})  # outside of the mount: not ours
    assert read_cgroup(root).cpus == 2.0


def test_a_mount_point_with_a_space(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/\n",
            "proc/self/mountinfo": V2.format(root="/", mount="/sys/my\\040groups"),
            "sys/my groups/cpu.max": "300000 100000\n",
        },
    )
    assert read_cgroup(tmp_path).cpus == 3.0


@pytest.mark.parametrize("text", ["", "rubbish", "1", "100 0", "-5 100000", "a b"])
def test_rubbish_is_no_limit(tmp_path: Path, text: str) -> None:
    assert read_cgroup(v2(tmp_path, "/", {"cpu.max": text, "memory.max": text[:1] and "x"})) == (
        CgroupLimits()
    )


@pytest.mark.parametrize(("quota", "usable"), [(20_000, 1), (150_000, 1), (100_000_000, None)])
def test_cores_keep_to_the_quota_but_never_fall_below_one(
    tmp_path: Path, quota: int, usable: int | None
) -> None:
    cpu = read_cpu(v2(tmp_path, "/", {"cpu.max": f"{quota} 100000\n"}))
    assert cpu.usable == (usable or cpu.physical)
    assert cpu.quota == quota / 100_000


def test_memory_is_the_lesser_of_machine_and_group(tmp_path: Path) -> None:
    root = v2(tmp_path, "/", {"memory.max": "4096000\n", "memory.current": "96000\n"})
    meminfo = "MemTotal: 8000 kB\nMemFree: 1 kB\nMemAvailable: {} kB\n"
    write(root, {"proc/meminfo": meminfo.format(7000)})
    assert read_memory(root) == type(read_memory(root))(4_096_000, 4_000_000, "cgroup")
    write(root, {"proc/meminfo": meminfo.format(3)})
    assert read_memory(root).available == 3 * 1024
    assert read_memory(root).limited_by == "machine"
