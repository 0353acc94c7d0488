"""How many compiles fit into this host's memory at once: the compiler needs tens of gigabytes for each."""

import os

_GB = 1e9


def available_memory() -> float:
    """Return the bytes that can be had: of the host, or of the container (cgroup) if that allows less."""
    limits = [_meminfo(), *_cgroup_limits()]
    return min((limit for limit in limits if limit is not None), default=float("inf"))


def jobs_that_fit(gigabytes: float) -> int:
    """Return how many jobs of so many GB fit, at least one."""
    if gigabytes <= 0:
        return os.cpu_count() or 1
    return max(1, int(min(available_memory() / (gigabytes * _GB), 1e6)))


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def _meminfo() -> "float | None":
    try:
        with open("/proc/meminfo") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return float(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def _cgroup_limits() -> "list[float]":
    """Return what the cgroup leaves, version 2 and version 1, as far as it can be read."""
    places = [
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ]
    found = []
    for limit_path, used_path in places:
        limit, used = _number(limit_path), _number(used_path)
        if limit is not None and limit < 1 << 60:
            found.append(max(0.0, limit - (used or 0.0)))
    return found


def _number(path: str) -> "float | None":
    try:
        with open(path) as file:
            return float(file.read())
    except (OSError, ValueError):  # "max" is no number
        return None
