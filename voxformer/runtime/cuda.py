"""What TensorRT leaves to its user: device and page-locked memory, streams and copies.

Through NVIDIA's cuda-bindings, which call the CUDA runtime as it is documented and bring it along;
nothing else of CUDA, and no PyTorch, is needed to run an engine. Memory is kept in blocks that go
back to their pool when nothing holds them: after the first batches of a kind nothing is allocated.
"""

from __future__ import annotations

import ctypes
import importlib
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from voxformer.runtime.engine import EngineError

ALIGNMENT = 256
"""Of the addresses that TensorRT takes."""

INSTALL = "pip install 'voxformer[trt-rtx]' (or 'voxformer[trt]')"


class Cuda:
    """The CUDA runtime on the first device that this process sees.

    Args:
        runtime: `cuda.bindings.runtime`.

    Raises:
        EngineError: there is no device, or its driver is too old for the bindings.
    """

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        count, *_ = self.call("cudaGetDeviceCount")
        if count == 0:
            raise EngineError("no NVIDIA GPU is visible here; use engine onnxruntime")
        self.call("cudaSetDevice", 0)
        self.device = Memory(self, "cudaMalloc", "cudaFree")
        self.pinned = Memory(self, "cudaMallocHost", "cudaFreeHost")

    @classmethod
    def load(cls) -> Cuda:
        """Import the bindings and look for a device.

        Raises:
            EngineError: the bindings are not installed, or as above.
        """
        try:
            runtime = importlib.import_module("cuda.bindings.runtime")
        except ImportError as error:
            raise EngineError(
                f"running TensorRT engines needs cuda-bindings: {INSTALL} ({error})"
            ) from None
        return cls(runtime)

    @property
    def capability(self) -> str:
        """Compute capability of the device, such as `8.9`."""
        attribute = self._runtime.cudaDeviceAttr
        parts = [
            self.call("cudaDeviceGetAttribute", which, 0)[0]
            for which in (
                attribute.cudaDevAttrComputeCapabilityMajor,
                attribute.cudaDevAttrComputeCapabilityMinor,
            )
        ]
        return ".".join(map(str, parts))

    def call(self, name: str, *arguments: Any) -> tuple[Any, ...]:
        """Call a function of the runtime; what it returns after its error code.

        Raises:
            EngineError: CUDA reports an error.
        """
        code, *results = getattr(self._runtime, name)(*arguments)
        if int(code) == 0:
            return tuple(results)
        errors = self._runtime.cudaError_t
        text = self._runtime.cudaGetErrorString(code)[1]
        said = text.decode() if isinstance(text, bytes) else str(text)
        hint = ""
        if code == errors.cudaErrorInsufficientDriver:
            hint = (
                ": there is no NVIDIA driver, or it is older than the CUDA of cuda-bindings; "
                "update it, or pip install 'cuda-bindings<13' for a driver of CUDA 12"
            )
        elif code == errors.cudaErrorNoDevice:
            hint = ": no NVIDIA GPU is visible here; use engine onnxruntime"
        elif code == errors.cudaErrorMemoryAllocation:
            hint = ": use smaller batches (batch_size, batch_seconds)"
        raise EngineError(f"CUDA: {name}: {said}{hint}")

    def stream(self) -> Any:
        """A stream that does not wait for the default one."""
        return self.call("cudaStreamCreateWithFlags", self._runtime.cudaStreamNonBlocking)[0]

    def event(self) -> Any:
        """A mark in a stream that another can wait for."""
        return self.call("cudaEventCreateWithFlags", self._runtime.cudaEventDisableTiming)[0]

    def after(self, event: Any, first: Any, then: Any) -> None:
        """What is put into stream `then` from now on waits for what is in stream `first` now."""
        self.call("cudaEventRecord", event, first)
        self.call("cudaStreamWaitEvent", then, event, 0)

    def finish(self, stream: Any) -> None:
        """Wait for a stream."""
        self.call("cudaStreamSynchronize", stream)

    def upload(self, target: int, source: int, size: int, stream: Any) -> None:
        """Copy bytes from page-locked memory to the device."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self.call("cudaMemcpyAsync", target, source, size, kind, stream)

    def download(self, target: int, source: int, size: int, stream: Any) -> None:
        """Copy bytes from the device to page-locked memory."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self.call("cudaMemcpyAsync", target, source, size, kind, stream)

    def copy_columns(
        self,
        target: int,
        target_pitch: int,
        source: int,
        source_pitch: int,
        width: int,
        height: int,
        stream: Any,
    ) -> None:
        """Copy `height` rows of `width` bytes within the device, rows so many bytes apart."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        pitches = (target, target_pitch, source, source_pitch, width, height)
        self.call("cudaMemcpy2DAsync", *pitches, kind, stream)

    def device_array(self, shape: Sequence[int], dtype: DTypeLike) -> DeviceArray:
        """An array on the device, whatever is in it."""
        made = np.dtype(dtype)
        block = self.device.take(int(np.prod(shape, dtype=np.int64)) * made.itemsize)
        return DeviceArray(block, block.address, tuple(map(int, shape)), made)

    def host_array(self, shape: Sequence[int], dtype: DTypeLike) -> tuple[NDArray[Any], int]:
        """An array in page-locked memory, whatever is in it, and its address.

        The memory goes back to its pool with the last view of the array.
        """
        made = np.dtype(dtype)
        count = int(np.prod(shape, dtype=np.int64))
        block = self.pinned.take(count * made.itemsize)
        held = (ctypes.c_byte * block.size).from_address(block.address)
        held.block = block  # type: ignore[attr-defined]
        flat = np.frombuffer(memoryview(held), made, count) if count else np.empty(0, made)
        return flat.reshape(shape), block.address


class Block:
    """Memory at an address; goes back to its pool when nothing holds it."""

    def __init__(self, pool: Memory, address: int, size: int) -> None:
        self._pool = pool
        self.address = address
        self.size = size

    def __del__(self) -> None:
        self._pool.give_back(self.address, self.size)


class Memory:
    """A pool of blocks of one kind of memory.

    Args:
        cuda: the runtime.
        allocate: name of the function that takes a size and gives an address.
        free: name of the function that takes the address.
    """

    def __init__(self, cuda: Cuda, allocate: str, free: str) -> None:
        self._cuda = cuda
        self._allocate = allocate
        self._free = free
        self._lock = threading.Lock()
        self._spare: list[tuple[int, int]] = []
        # A block may be collected while this thread holds the lock.
        self._returned: deque[tuple[int, int]] = deque()
        self.allocations = 0

    def take(self, size: int) -> Block:
        """A block of at least so many bytes; there is no empty one, since addresses must be real.

        Raises:
            EngineError: the memory is used up.
        """
        size = _rounded(size)
        with self._lock:
            self._sort_in()
            fitting = [spare for spare in self._spare if size <= spare[0] <= 2 * size]
            if fitting:
                chosen = min(fitting)
                self._spare.remove(chosen)
                return Block(self, chosen[1], chosen[0])
        try:
            [address] = self._cuda.call(self._allocate, size)
        except EngineError:
            self.release()  # blocks of other sizes may be what is missing
            [address] = self._cuda.call(self._allocate, size)
        self.allocations += 1
        return Block(self, int(address), size)

    def give_back(self, address: int, size: int) -> None:
        """For the next who asks."""
        self._returned.append((size, address))

    def release(self) -> None:
        """Free what nobody holds."""
        with self._lock:
            self._sort_in()
            spare, self._spare = self._spare, []
        for _, address in spare:
            self._cuda.call(self._free, address)

    def _sort_in(self) -> None:
        while self._returned:
            self._spare.append(self._returned.popleft())


def _rounded(size: int) -> int:
    """Up to an eighth of a power of two, so that shapes that differ a little share blocks."""
    step = max(ALIGNMENT, 1 << max(0, size.bit_length() - 4))
    return max(step, -(-size // step) * step)


@dataclass(frozen=True)
class DeviceArray:
    """An array on the device, contiguous; what holds it holds its memory.

    Attributes:
        block: the memory.
        address: of the first element.
        shape: of the array.
        dtype: of its elements.
    """

    block: Block
    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Of all elements."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> DeviceArray:
        """Neighbouring rows, in the same memory."""
        first, last, _ = rows.indices(len(self))
        row_bytes = self.nbytes // max(1, len(self))
        shape = (max(0, last - first), *self.shape[1:])
        return replace(self, address=self.address + first * row_bytes, shape=shape)
