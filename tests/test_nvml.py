"""What GPUs say of themselves, with a library in NVML's place, for there is no GPU here."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest

from voxformer.dashboard import system
from voxformer.evaluation.circumstances import circumstances
from voxformer.nvml import Nvml
from voxformer.runtime.trt_build import local_capability


@pytest.fixture
def share_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """One GPU that does not tell its power, as a share of one or a laptop's does not."""
    library: Any = ModuleType("pynvml")

    class NVMLError(Exception):
        pass

    def does_not_tell(*_: Any) -> None:
        raise NVMLError

    library.NVMLError = NVMLError
    library.nvmlInit = lambda: None
    library.nvmlDeviceGetCount = lambda: 1
    library.nvmlDeviceGetHandleByIndex = lambda index: index
    library.nvmlDeviceGetName = lambda gpu: b"NVIDIA H100"
    library.nvmlSystemGetDriverVersion = lambda: "580.1"
    library.nvmlDeviceGetCudaComputeCapability = lambda gpu: (9, 0)
    library.nvmlDeviceGetTemperature = lambda gpu, sensor: 40
    for name in (
        "nvmlDeviceGetPowerManagementLimit",
        "nvmlDeviceGetPowerUsage",
        "nvmlDeviceGetMemoryInfo",
        "nvmlDeviceGetUtilizationRates",
    ):
        setattr(library, name, does_not_tell)
    monkeypatch.setitem(sys.modules, "pynvml", library)
    made: ModuleType = library
    return made


@pytest.mark.usefixtures("share_of_a_gpu")
def test_what_a_gpu_does_not_tell_is_none() -> None:
    [gpu] = circumstances()["machine"]["gpus"]
    assert gpu == {"name": "NVIDIA H100", "power_limit_w": None, "driver": "580.1"}
    [shown] = system.gpus(Nvml())
    assert (shown["name"], shown["temperature_c"]) == ("NVIDIA H100", 40)
    assert shown["power_w"] is None
    assert shown["memory_used"] is None
    assert local_capability() == "9.0"


def test_without_a_driver_there_is_no_gpu(
    share_of_a_gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(share_of_a_gpu, "nvmlInit", share_of_a_gpu.nvmlDeviceGetPowerUsage)
    assert Nvml().note == "no GPU"
    assert circumstances()["machine"]["gpus"] == []
    assert local_capability() == ""


def test_without_the_package_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "nvidia-ml-py" in Nvml().note
    assert Nvml().gpus() == []
