"""What the machine says of itself: GPU, memory, load, disk; what it does not tell is None."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any


class Gpus:
    """NVIDIA GPUs through NVML (`nvidia-ml-py`), opened once."""

    def __init__(self) -> None:
        self._nvml: Any = None
        self.note = ""
        try:
            import pynvml
        except ImportError:
            self.note = "no GPU (nvidia-ml-py is not installed)"
            return
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError:
            self.note = "no GPU"
            return
        self._nvml = pynvml

    def read(self) -> list[dict[str, Any]]:
        """Each GPU: utilisation in percent, bytes, °C, W; a value that it does not tell is None."""
        nvml = self._nvml
        if nvml is None:
            return []
        found = []
        with contextlib.suppress(nvml.NVMLError):
            for index in range(nvml.nvmlDeviceGetCount()):
                gpu = nvml.nvmlDeviceGetHandleByIndex(index)
                memory = self._ask(nvml.nvmlDeviceGetMemoryInfo, gpu)
                rates = self._ask(nvml.nvmlDeviceGetUtilizationRates, gpu)
                power = self._ask(nvml.nvmlDeviceGetPowerUsage, gpu)
                name = self._ask(nvml.nvmlDeviceGetName, gpu)
                found.append(
                    {
                        "index": index,
                        "name": name.decode() if isinstance(name, bytes) else name,
                        "utilisation_percent": None if rates is None else rates.gpu,
                        "memory_used": None if memory is None else memory.used,
                        "memory_total": None if memory is None else memory.total,
                        "temperature_c": self._ask(nvml.nvmlDeviceGetTemperature, gpu, 0),
                        "power_w": None if power is None else power / 1000,
                    }
                )
        return found

    def _ask(self, question: Any, *arguments: Any) -> Any:
        try:
            return question(*arguments)
        except self._nvml.NVMLError:
            return None


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


def snapshot(gpus: Gpus) -> dict[str, Any]:
    """GPU, memory and load of this host now."""
    found = gpus.read()
    return {
        "gpus": found,
        "gpu_note": "" if found else gpus.note or "no GPU",
        "memory": memory(),
        "load": os.getloadavg()[0],
        "cpus": os.cpu_count(),
    }
