"""How many bytes are free: on a device, in the host's memory, in a directory."""

from __future__ import annotations

import os
import pathlib
import shutil

import jax
import psutil

_CGROUPS = pathlib.Path("/sys/fs/cgroup")


def device_free(device: jax.Device | None = None) -> int:
    """Bytes that a program may still take on a device; of a CPU, those of the host.

    Args:
      device: the default one if it is None.

    Raises:
      NotImplementedError: the device does not say how much memory it has.
    """
    device = device or jax.local_devices()[0]
    if device.platform == "cpu":
        return host_free()
    statistics = device.memory_stats() or {}
    if "bytes_limit" not in statistics:
        raise NotImplementedError(
            f"{device} does not say how much memory it has. Say what may be used with memory=."
        )
    return max(statistics["bytes_limit"] - statistics.get("bytes_in_use", 0), 0)


def host_free() -> int:
    """Bytes of memory that this process may still take, within the limits of its control groups."""
    return max(min([psutil.virtual_memory().available, *_left_in_groups()]), 0)


def disk_free(directory: str | os.PathLike) -> int:
    """Bytes that this user may still write in a directory.

    Raises:
      OSError: there is no such directory.
    """
    return shutil.disk_usage(directory).free


def in_memory(directory: str | os.PathLike) -> bool:
    """Whether the files of a directory are in memory: then they are no place for what does not fit
    there."""
    real = os.path.realpath(directory)
    mounts = [
        mount for mount in psutil.disk_partitions(all=True) if _is_under(real, mount.mountpoint)
    ]
    # The last one of a place hides those before it.
    where = max(enumerate(mounts), key=lambda pair: (len(pair[1].mountpoint), pair[0]))
    return bool(mounts) and where[1].fstype in ("tmpfs", "ramfs")


def _is_under(path: str, mount: str) -> bool:
    return path == mount or path.startswith(mount.rstrip("/") + "/")


def _left_in_groups(root: pathlib.Path = _CGROUPS, process: str = "self") -> list[int]:
    """What is left of the memory of each control group around a process (version 1 or 2).

    Memory that the system takes back when it is needed, which is that of files, counts as left.
    """
    try:
        lines = pathlib.Path(f"/proc/{process}/cgroup").read_text().splitlines()
    except OSError:
        return []
    return _left(root, lines)


def _left(root: pathlib.Path, lines: list[str]) -> list[int]:
    left = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            base, names = root, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            base = root / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        group = base / path.lstrip("/")
        for folder in [group, *group.parents]:
            if not folder.is_relative_to(base):
                break
            left += _left_in(folder, *names)
    return left


def _left_in(folder: pathlib.Path, limit: str, usage: str, reclaimed: str) -> list[int]:
    try:
        most = (folder / limit).read_text().strip()
        if most == "max":
            return []
        statistics = dict(
            line.split() for line in (folder / "memory.stat").read_text().splitlines()
        )
        used = int((folder / usage).read_text()) - int(statistics.get(reclaimed, 0))
        return [int(most) - used]
    except (OSError, ValueError):
        return []  # The group has no such limit, or is not visible from inside a container.
