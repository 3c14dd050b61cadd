"""What the machine says of itself: GPU, memory, load, disk; what it does not tell is None."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from voxformer.nvml import Nvml


def gpus(nvml: Nvml) -> list[dict[str, Any]]:
    """Each GPU: utilisation in percent, bytes, °C, W; a value that it does not tell is None."""
    found = []
    for index, gpu in enumerate(nvml.gpus()):
        used = nvml.ask("nvmlDeviceGetMemoryInfo", gpu)
        rates = nvml.ask("nvmlDeviceGetUtilizationRates", gpu)
        power = nvml.ask("nvmlDeviceGetPowerUsage", gpu)
        found.append(
            {
                "index": index,
                "name": nvml.ask("nvmlDeviceGetName", gpu),
                "utilisation_percent": None if rates is None else rates.gpu,
                "memory_used": None if used is None else used.used,
                "memory_total": None if used is None else used.total,
                "temperature_c": nvml.ask("nvmlDeviceGetTemperature", gpu, 0),
                "power_w": None if power is None else power / 1000,
            }
        )
    return found


def memory() -> dict[str, int] | None:
    """Bytes of host memory, `used` being what is not available to a new process."""
    values = {}
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            key, _, rest = line.partition(":")
            values[key] = int(rest.split()[0]) * 1024
        return {"total": values["MemTotal"], "used": values["MemTotal"] - values["MemAvailable"]}
    except (OSError, ValueError, KeyError, IndexError):
        return None


def disk(folder: Path) -> dict[str, int] | None:
    """Bytes of the file system that holds a folder."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return None
    return {"total": usage.total, "free": usage.free}


def snapshot(nvml: Nvml) -> dict[str, Any]:
    """GPU, memory and load of this host now."""
    found = gpus(nvml)
    return {
        "gpus": found,
        "gpu_note": "" if found else nvml.note or "no GPU",
        "memory": memory(),
        "load": os.getloadavg()[0],
        "cpus": os.cpu_count(),
    }
