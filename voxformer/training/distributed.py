"""Several processes that train one model: who they are, what they tell each other.

Every process computes its own micro-batches of a step; what a step adds up to is known to all
before anything is divided by it, and every process applies the same update. Everything else
(evaluating, saving, logging, the decision to stop) is the first process's, which then shares what
came of it, so that all are at the same position after every step.

Messages travel over gloo, gradients over NCCL where the devices are GPUs. A process that dies
closes its connections, and whoever waits for it raises `LostProcessError` at once. A host that
vanishes without a word is noticed after `training.process_timeout_minutes` in a step; while the
first process evaluates or saves, the others wait for as long as its connection stands.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from voxformer.config import RunConfig
from voxformer.training.setup import RunError, choose_device

logger = logging.getLogger("voxformer.training")

T = TypeVar("T")

UNLIMITED = timedelta(days=365)
LOST = ("imed out", "closed", "reset", "roken pipe", "refused", "aborted")
"""In what torch says of a connection that is gone."""


class LostProcessError(RunError):
    """Another process of the run has ended, or does not answer."""


class Processes:
    """The processes of a run; with one of them nothing is sent.

    Attributes:
        rank: this process, from 0.
        count: all of them.
        device: where this one computes.
    """

    def __init__(self, rank: int = 0, count: int = 1, device: torch.device | None = None) -> None:
        self.rank, self.count = rank, count
        self.device = device or torch.device("cpu")
        self._steps: dist.ProcessGroup | None = None
        self._waits: dist.ProcessGroup | None = None
        self._gradients: dist.ProcessGroup | None = None

    @property
    def first(self) -> bool:
        """Whether this process is the one that evaluates, writes and decides."""
        return self.rank == 0

    def connect(self, timeout: timedelta) -> None:
        """Open the connections: with time limits for steps, without for waiting.

        Raises:
            LostProcessError: not all of them could be opened.
        """
        with self._talking():
            self._steps = dist.group.WORLD
            self._waits = dist.new_group(backend="gloo", timeout=UNLIMITED)
            self._gradients = self._steps
        kinds = self.gather(self.device.type)
        if len(set(kinds)) > 1:
            other = next(rank for rank, kind in enumerate(kinds) if kind != kinds[0])
            raise RunError(
                f"training.device: process 0 computes on {kinds[0]}, process {other} on "
                f"{kinds[other]}; name one device for all, such as cpu or cuda"
            )
        if self.device.type == "cuda":
            with self._talking():
                self._gradients = dist.new_group(backend="nccl", timeout=timeout)

    def leave(self) -> None:
        """Close the connections and end their threads.

        A thread of theirs that lets go of a tensor while the interpreter shuts down aborts it.
        """
        dist.destroy_process_group()
        # Their threads live as long as the last reference; a run is a cycle that keeps this object.
        self._steps = self._waits = self._gradients = None

    def gather(self, value: T) -> list[T]:
        """What every process says, by rank; all have to call this within the time limit."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        with self._talking():
            dist.all_gather_object(values, value, group=self._steps)
        return values

    def add(self, values: Mapping[str, float]) -> dict[str, float]:
        """Sums over all processes, by name; a name that one of them lacks counts 0 there."""
        totals: dict[str, float] = {}
        for one in self.gather(dict(values)):
            for key, value in one.items():
                totals[key] = totals.get(key, 0.0) + value
        return totals

    def add_tensor(self, tensor: Tensor) -> Tensor:
        """The sum of a CPU tensor over all processes, in place."""
        if self.count > 1:
            with self._talking():
                dist.all_reduce(tensor, group=self._steps)
        return tensor

    def start_adding(self, tensor: Tensor) -> Any:
        """Begin to sum a tensor on the device in place; `wait_for` what this returns."""
        with self._talking():
            return dist.all_reduce(tensor, group=self._gradients, async_op=True)

    def wait_for(self, work: Any) -> None:
        """Wait for a sum that `start_adding` began."""
        with self._talking():
            work.wait()

    def share(self, value: T) -> T:
        """The first process's value; the others wait as long as it takes. Tensors arrive on CPU."""
        if self.count == 1:
            return value
        tensors: list[Tensor] = []
        box = [_without_tensors(value, tensors) if self.first else None]
        with self._talking():
            dist.broadcast_object_list(box, 0, group=self._waits)
            received = _with_tensors(box[0], tensors)
            for tensor in tensors:
                if tensor.numel():
                    dist.broadcast(tensor, 0, group=self._waits)
        return value if self.first else received

    def from_first(self, function: Callable[[], T]) -> T:
        """What `function` returns in the first process, where alone it runs, for all of them."""
        with self.together():
            value = function() if self.first else None
        return self.share(value)  # type: ignore[arg-type,return-value]

    def agree(self, what: str, values: dict[str, Any]) -> None:
        """Check that all processes have the same named values.

        Raises:
            RunError: they differ; one process names the first difference.
        """
        if self.count == 1:
            return
        digests = self.gather(hashlib.sha256(repr(sorted(values.items())).encode()).digest())
        if len(set(digests)) == 1:
            return
        everyone = self.gather(values)
        with self.together():
            for rank, other in enumerate(everyone):
                for key in everyone[0] | other:
                    there, here = other.get(key, "missing"), everyone[0].get(key, "missing")
                    if there != here:
                        raise RunError(
                            f"{what} differ: {key} is {there!r} in process {rank} and {here!r} in "
                            "process 0; all processes need the same config, data and version"
                        )

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """What fails in one process ends all of them, and one of them says why.

        The first that failed raises its error; the others wait until it has left, and raise
        SystemExit with 2. Nothing in the block may wait for another process.
        """
        if self.count == 1:
            yield
            return
        error: Exception | None = None
        try:
            yield
        except (ValueError, OSError) as caught:
            error = caught
        # Over the group without a limit: reading a large corpus takes one process longer.
        failures: list[Any] = [None] * self.count
        with self._talking():
            dist.all_gather_object(failures, error is not None, group=self._waits)
        if not any(failures):
            return
        if error is not None and failures.index(True) == self.rank:
            raise error
        with contextlib.suppress(LostProcessError), self._talking():
            dist.barrier(group=self._waits)
        raise SystemExit(2)

    @contextlib.contextmanager
    def _talking(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # torch's, whatever the backend
            reason = " ".join(str(error).split())
            what = "does not answer" if "imed out" in reason else "has ended"
            if not any(words in reason for words in LOST):
                what = f"cannot be reached: {reason[:200]}"
            raise LostProcessError(
                f"another of the {self.count} processes {what}; its own last words say why "
                f"(noticed by process {self.rank})"
            ) from None


def planned(environment: Mapping[str, str]) -> tuple[int, int, int, int]:
    """Rank, number of processes, rank on this host and number on it, as torchrun sets them.

    Raises:
        RunError: `WORLD_SIZE` is there without the others, or they contradict each other.
    """
    try:
        count = int(environment.get("WORLD_SIZE", "1"))
        if count <= 1:
            return 0, 1, 0, 1
        rank = int(environment["RANK"])
        local_rank = int(environment.get("LOCAL_RANK", rank))
        local_count = int(environment.get("LOCAL_WORLD_SIZE", count))
        missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in environment]
        if missing:
            raise KeyError(missing[0])
        if not (0 <= rank < count and 0 <= local_rank < local_count <= count):
            raise ValueError("contradiction")
    except KeyError as error:
        raise RunError(
            f"WORLD_SIZE is {environment['WORLD_SIZE']} but {error.args[0]} is not set; start with "
            "`torchrun --nproc-per-node N $(which voxformer) train ...`, or unset WORLD_SIZE"
        ) from None
    except ValueError:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        found = ", ".join(f"{name}={environment[name]}" for name in names if name in environment)
        raise RunError(f"{found} do not fit together; start with torchrun") from None
    return rank, count, local_rank, local_count


@contextlib.contextmanager
def join_processes(config: RunConfig) -> Iterator[Processes]:
    """Meet the other processes of the run, if torchrun or the like started any.

    Raises:
        RunError: they cannot be met, were started with another config, or lack a device.
    """
    rank, count, local_rank, local_count = planned(os.environ)
    wanted = config.training.device
    if count == 1:
        yield Processes(0, 1, choose_device(wanted))
        return
    if rank:
        logger.setLevel(logging.CRITICAL)  # one of them writes the log
    device = _own_device(wanted, local_rank, local_count)
    timeout = timedelta(minutes=config.training.process_timeout_minutes)
    # Its functions keep the group that is there when somebody imports it, as a default.
    importlib.import_module("torch.distributed.nn.functional")
    try:
        dist.init_process_group("gloo", rank=rank, world_size=count, timeout=timeout)
    except (RuntimeError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:160]
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise RunError(
            f"process {rank} of {count} did not meet the others at {place} within "
            f"{config.training.process_timeout_minutes:g} minutes: {reason}"
        ) from None
    processes = Processes(rank, count, device)
    processes.connect(timeout)
    processes.agree("the configs", _flat(config.model_dump(mode="json")))
    yield processes
    # Not after an error: there the others are gone, and leaving must not wait for them.
    processes.leave()


def _own_device(wanted: str, local_rank: int, local_count: int) -> torch.device:
    """The GPU of this process's number on its host, or the CPU."""
    device = choose_device(wanted)
    if device.type != "cuda":
        return device
    if ":" in wanted:
        raise RunError(
            f"training.device: {wanted} is one device for {local_count} processes; use cuda, which "
            "gives each its own"
        )
    there = torch.cuda.device_count()
    if local_count > there:
        raise RunError(
            f"{local_count} processes on a host with {there} CUDA device(s); start it with "
            f"--nproc-per-node {there}"
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


def _flat(section: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in section.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


@dataclasses.dataclass(frozen=True)
class _Place:
    """A tensor that was taken out of a value, by its number in the list."""

    index: int
    shape: torch.Size
    dtype: torch.dtype


def _without_tensors(value: Any, tensors: list[Tensor]) -> Any:
    """A value whose tensors are replaced by places, and moved to the list."""
    if isinstance(value, Tensor):
        tensors.append(value.detach().cpu().contiguous())
        return _Place(len(tensors) - 1, value.shape, value.dtype)
    return _mapped(value, lambda inner: _without_tensors(inner, tensors))


def _with_tensors(value: Any, tensors: list[Tensor]) -> Any:
    """The value again, with room for its tensors, which is appended to the list in their order."""
    if isinstance(value, _Place):
        if len(tensors) == value.index:
            tensors.append(torch.empty(value.shape, dtype=value.dtype))
        return tensors[value.index]
    return _mapped(value, lambda inner: _with_tensors(inner, tensors))


def _mapped(value: Any, function: Callable[[Any], Any]) -> Any:
    if type(value) is dict:
        return {key: function(inner) for key, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(function(inner) for inner in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value) if field.init]
        return dataclasses.replace(value, **{n: function(getattr(value, n)) for n in names})
    return value
