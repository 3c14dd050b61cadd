"""One TensorRT engine at work: shapes and addresses by name, copies and inference in streams."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxformer.runtime.cuda import ALIGNMENT, Cuda, DeviceArray
from voxformer.runtime.engine import EngineError

Shape = tuple[int, ...]
Value = NDArray[Any] | DeviceArray


@dataclass
class Outputs:
    """Of one inference, by name: those that were copied to the host, and those that were not."""

    host: dict[str, NDArray[Any]] = field(default_factory=dict)
    device: dict[str, DeviceArray] = field(default_factory=dict)


class TrtSession:
    """An engine with one execution context for each of its profiles.

    What is enqueued runs in three streams, to the device, on it and back, so that the copies of one
    call go on while another computes. Not for several threads at once.

    Args:
        cuda: memory and streams.
        trt: the module `tensorrt` or `tensorrt_rtx`.
        path: of the engine.
        rebuild: the command that builds it anew, for messages.

    Raises:
        EngineError: the library refuses the engine.
    """

    def __init__(self, cuda: Cuda, trt: Any, path: Path, rebuild: str) -> None:
        self._cuda = cuda
        self._path = path
        self._rebuild = rebuild
        # Whoever keeps an engine keeps the runtime and the logger that it was made with.
        self._logger = trt.Logger(trt.Logger.ERROR)
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise EngineError(
                f"{path}: {trt.__name__} {trt.__version__} refuses it, its own messages are above; "
                f"build it again with {rebuild}"
            )
        engine = self._engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        modes = {name: engine.get_tensor_mode(name) for name in names}
        self.inputs = [name for name in names if modes[name] == trt.TensorIOMode.INPUT]
        self.outputs = [name for name in names if modes[name] == trt.TensorIOMode.OUTPUT]
        self.dtypes = {name: np.dtype(trt.nptype(engine.get_tensor_dtype(name))) for name in names}
        self.shapes = {name: tuple(engine.get_tensor_shape(name)) for name in names}
        self._profiles: list[dict[str, tuple[Shape, Shape]]] = []
        for profile in range(engine.num_optimization_profiles):
            ranges = {name: engine.get_tensor_profile_shape(name, profile) for name in self.inputs}
            self._profiles.append(
                {name: (tuple(least), tuple(most)) for name, (least, _, most) in ranges.items()}
            )
        self._upload, self._compute, self._download = (cuda.stream() for _ in range(3))
        self._uploaded, self._computed = cuda.event(), cuda.event()
        self._contexts: dict[int, Any] = {}
        self._in_flight: list[Any] = []

    def most(self, name: str) -> Shape:
        """The largest shape of an input in any profile."""
        return max(profile[name][1] for profile in self._profiles)

    def run(self, feeds: Mapping[str, Value], to_host: Collection[str]) -> Outputs:
        """`enqueue`, then wait."""
        outputs = self.enqueue(feeds, to_host)
        self.finish()
        return outputs

    def enqueue(self, feeds: Mapping[str, Value], to_host: Collection[str]) -> Outputs:
        """Start an inference.

        Args:
            feeds: a value for each input, on the host or on the device.
            to_host: outputs to be copied to the host; the others stay on the device.

        Returns:
            The outputs; those on the host are valid after `finish`.

        Raises:
            EngineError: a shape is in no profile, or the library reports an error.
        """
        shapes = {name: tuple(feeds[name].shape) for name in self.inputs}
        context = self._context(shapes)
        for name in self.inputs:
            if not context.set_input_shape(name, shapes[name]):
                raise self._failed(f"does not take {name} {list(shapes[name])}")
            value = self._on_device(name, feeds[name])
            self._set_address(context, name, value)
        if missing := context.infer_shapes():
            raise self._failed(f"knows no shape for {', '.join(missing)}")
        made = {}
        for name in self.outputs:
            shape = tuple(context.get_tensor_shape(name))
            made[name] = self._cuda.device_array(shape, self.dtypes[name])
            self._in_flight.append(made[name])
            self._set_address(context, name, made[name])
        self._cuda.after(self._uploaded, self._upload, self._compute)
        if not context.execute_async_v3(int(self._compute)):
            raise self._failed("could not be run")
        self._cuda.after(self._computed, self._compute, self._download)
        outputs = Outputs()
        for name, source in made.items():
            if name not in to_host:
                outputs.device[name] = source
                continue
            array, address = self._cuda.host_array(source.shape, source.dtype)
            self._in_flight.append(array)
            if source.nbytes:
                self._cuda.download(address, source.address, source.nbytes, self._download)
            outputs.host[name] = array
        return outputs

    def finish(self) -> None:
        """Wait for all that was enqueued."""
        for stream in (self._upload, self._compute, self._download):
            self._cuda.finish(stream)
        self._in_flight.clear()

    def gather(self, source: DeviceArray, rows: NDArray[np.int64], axis: int) -> DeviceArray:
        """Rows of an array on the device in another order, copied before the next inference.

        Args:
            source: an array.
            rows: indices along the axis, any number of times each.
            axis: that is indexed.
        """
        outer = int(np.prod(source.shape[:axis], dtype=np.int64))
        inner = int(np.prod(source.shape[axis + 1 :], dtype=np.int64)) * source.dtype.itemsize
        shape = (*source.shape[:axis], len(rows), *source.shape[axis + 1 :])
        target = self._cuda.device_array(shape, source.dtype)
        self._in_flight += [source, target]
        # Neighbours that stay neighbours are copied together.
        bounds = np.flatnonzero(np.diff(rows, prepend=rows[:1] - 2) != 1).tolist()
        for first, last in zip(bounds, [*bounds[1:], len(rows)], strict=True):
            if inner and outer:
                self._cuda.copy_columns(
                    target.address + first * inner,
                    len(rows) * inner,
                    source.address + int(rows[first]) * inner,
                    source.shape[axis] * inner,
                    (last - first) * inner,
                    outer,
                    self._upload,
                )
        return target

    def _on_device(self, name: str, value: Value) -> DeviceArray:
        if isinstance(value, DeviceArray):
            if value.dtype != self.dtypes[name]:
                raise self._failed(f"takes {name} as {self.dtypes[name]}, not {value.dtype}")
            if value.address % ALIGNMENT == 0:
                self._in_flight.append(value)
                return value
            return self.gather(value, np.arange(len(value)), 0)
        staged, address = self._cuda.host_array(value.shape, self.dtypes[name])
        np.copyto(staged, value, casting="same_kind")
        target = self._cuda.device_array(value.shape, self.dtypes[name])
        self._in_flight += [staged, target]
        if target.nbytes:
            self._cuda.upload(target.address, address, target.nbytes, self._upload)
        return target

    def _set_address(self, context: Any, name: str, value: DeviceArray) -> None:
        if not context.set_tensor_address(name, value.address):
            raise self._failed(f"does not take an address for {name}")

    def _context(self, shapes: Mapping[str, Shape]) -> Any:
        """The context of the first profile that all shapes are in."""
        wrong = ""
        for index, profile in enumerate(self._profiles):
            outside = [name for name in self.inputs if not _within(shapes[name], *profile[name])]
            if not outside:
                return self._contexts.get(index) or self._new_context(index)
            name = outside[0]
            least, most = profile[name]
            wrong = f"{name} may be {list(least)} to {list(most)}, not {list(shapes[name])}"
        raise EngineError(
            f"{self._path}: this engine's {wrong}; use smaller batches (batch_size), engine "
            f"onnxruntime, or a target with larger axes and {self._rebuild}"
        )

    def _new_context(self, index: int) -> Any:
        context = self._engine.create_execution_context()
        if context is None:
            raise self._failed("has no room on the device for its work; use smaller batches")
        stream = int(self._compute)
        if not context.set_optimization_profile_async(index, stream):
            raise self._failed(f"has no profile {index}")
        self._cuda.finish(self._compute)
        self._contexts[index] = context
        return context

    def _failed(self, what: str) -> EngineError:
        return EngineError(f"{self._path}: this engine {what} (built by {self._rebuild})")


def _within(shape: Sequence[int], least: Sequence[int], most: Sequence[int]) -> bool:
    return len(shape) == len(most) and all(
        low <= size <= high for low, size, high in zip(least, shape, most, strict=True)
    )
