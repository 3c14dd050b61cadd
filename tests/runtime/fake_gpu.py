"""A GPU of main memory, as strict as a real one: a CUDA runtime, and a TensorRT that runs on it.

Only what needs a device is here, with the names and arguments of the real bindings (tests hold them
against `tensorrt_api.json`). What is put into a stream is done when somebody waits for it, in a
random order that the events allow, so that a wait that is missing shows. Fresh memory is poisoned,
and every address has to lie in a living block of the right kind. An engine is an ONNX graph that
ONNX Runtime computes at the addresses that it was given.
"""

from __future__ import annotations

import ctypes
import enum
import json
from types import SimpleNamespace

import numpy as np
import onnxruntime

ALIGNMENT = 256


class FakeCudaError(AssertionError):
    """A call that would be undefined behaviour."""


class Stream:
    """Work to be done in order; its handle is what TensorRT is given."""

    handles: dict[int, Stream] = {}  # noqa: RUF012

    def __init__(self):
        self.waiting = []
        self.handle = 1000 + len(self.handles)
        self.handles[self.handle] = self

    def __int__(self):
        return self.handle


class Event:
    """Done when the work before it is."""

    def __init__(self):
        self.done = True


class cudaError_t(enum.IntEnum):
    """Of the real ones, those that are named."""

    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100


OK = (cudaError_t.cudaSuccess,)


class FakeCuda:
    """`cuda.bindings.runtime`."""

    cudaError_t = cudaError_t
    cudaStreamNonBlocking = 1
    cudaEventDisableTiming = 2
    cudaMemcpyKind = SimpleNamespace(
        cudaMemcpyHostToDevice=("host", "device"),
        cudaMemcpyDeviceToHost=("device", "host"),
        cudaMemcpyDeviceToDevice=("device", "device"),
    )
    cudaDeviceAttr = SimpleNamespace(
        cudaDevAttrComputeCapabilityMajor="major", cudaDevAttrComputeCapabilityMinor="minor"
    )

    def __init__(self, seed=0, devices=1, room=1 << 40, status=cudaError_t.cudaSuccess):
        self.blocks = {}
        self.streams = []
        self.devices = devices
        self.room = room
        self.status = status
        self.random = np.random.default_rng(seed)
        self.allocations = 0

    def cudaGetDeviceCount(self):
        return (self.status, self.devices)

    def cudaSetDevice(self, device):
        return OK

    def cudaDeviceGetAttribute(self, attr, device):
        return (*OK, {"major": 8, "minor": 9}[attr])

    def cudaGetErrorString(self, error):
        return (*OK, error.name.encode())

    def cudaMalloc(self, size):
        return self._allocate(size, "device")

    def cudaMallocHost(self, size):
        return self._allocate(size, "host")

    def cudaFree(self, devPtr):
        return self._release(devPtr, "device")

    def cudaFreeHost(self, ptr):
        return self._release(ptr, "host")

    def cudaStreamCreateWithFlags(self, flags):
        self.streams.append(Stream())
        return (*OK, self.streams[-1])

    def cudaEventCreateWithFlags(self, flags):
        return (*OK, Event())

    def cudaEventRecord(self, event, stream):
        mark = Event()
        mark.done = False
        event.mark = mark
        stream.waiting.append((None, lambda: setattr(mark, "done", True)))
        return OK

    def cudaStreamWaitEvent(self, stream, event, flags):
        stream.waiting.append((event.mark, lambda: None))
        return OK

    def cudaMemcpyAsync(self, dst, src, count, kind, stream):
        self.check(src, count, kind[0])
        self.check(dst, count, kind[1])
        stream.waiting.append((None, lambda: ctypes.memmove(dst, src, count)))
        return OK

    def cudaMemcpy2DAsync(self, dst, dpitch, src, spitch, width, height, kind, stream):
        self.check(src, spitch * (height - 1) + width, kind[0])
        self.check(dst, dpitch * (height - 1) + width, kind[1])
        if width > min(dpitch, spitch):
            raise FakeCudaError("rows overlap")

        def copy():
            for row in range(height):
                ctypes.memmove(dst + row * dpitch, src + row * spitch, width)

        stream.waiting.append((None, copy))
        return OK

    def cudaStreamSynchronize(self, stream):
        while stream.waiting:
            ready = [
                other
                for other in self.streams
                if other.waiting and (other.waiting[0][0] is None or other.waiting[0][0].done)
            ]
            chosen = ready[self.random.integers(len(ready))]
            _, work = chosen.waiting.pop(0)
            work()
        return OK

    def check(self, address, size, kind):
        """Raise unless so many bytes from the address on are in a living block."""
        for start, (_, length, own) in self.blocks.items():
            if start <= address and address + size <= start + length:
                if own != kind:
                    raise FakeCudaError(f"{kind} memory was wanted, and this is of the {own}")
                return
        raise FakeCudaError(f"{size} bytes at {address} are in no block")

    def _allocate(self, size, kind):
        if sum(length for _, length, _ in self.blocks.values()) + size > self.room:
            return (cudaError_t.cudaErrorMemoryAllocation, None)
        memory = ctypes.create_string_buffer(b"\xff" * (size + ALIGNMENT))
        address = -(-ctypes.addressof(memory) // ALIGNMENT) * ALIGNMENT
        self.blocks[address] = (memory, size, kind)
        self.allocations += 1
        return (*OK, address)

    def _release(self, address, kind):
        if self.blocks.pop(address)[2] != kind:
            raise FakeCudaError("freed as memory of another kind")
        return OK


class FakeTensorRT:
    """The module `tensorrt`, as far as engines are run with it."""

    __name__ = "tensorrt"
    __version__ = "0.0"
    TensorIOMode = enum.Enum("TensorIOMode", ["INPUT", "OUTPUT"])

    class Logger:
        """See the bindings."""

        ERROR = 1

        def __init__(self, min_severity=None):
            pass

    def __init__(self, cuda):
        self.cuda = cuda

    def Runtime(self, logger):
        return Runtime(self)

    def nptype(self, trt_type):
        return trt_type


class Runtime:
    """See the bindings."""

    def __init__(self, trt):
        self.trt = trt

    def deserialize_cuda_engine(self, serialized_engine):
        if not serialized_engine.startswith(b"{"):
            return None
        values = json.loads(serialized_engine)
        return ICudaEngine(self.trt, values["onnx"], values["profiles"])


TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32}


class ICudaEngine:
    """See the bindings; a graph, and the shapes that it takes."""

    def __init__(self, trt, path, profiles):
        self.trt = trt
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self.profiles = profiles
        given, made = self.session.get_inputs(), self.session.get_outputs()
        self.values = {value.name: value for value in (*given, *made)}
        self.modes = dict.fromkeys((v.name for v in given), trt.TensorIOMode.INPUT)
        self.modes |= dict.fromkeys((v.name for v in made), trt.TensorIOMode.OUTPUT)
        self.num_io_tensors = len(self.values)
        self.num_optimization_profiles = len(profiles)

    def get_tensor_name(self, index):
        return list(self.values)[index]

    def get_tensor_mode(self, name):
        return self.modes[name]

    def get_tensor_dtype(self, name):
        return TYPES[self.values[name].type]

    def get_tensor_shape(self, name):
        return [size if isinstance(size, int) else -1 for size in self.values[name].shape]

    def get_tensor_profile_shape(self, name, profile_index):
        return [tuple(shape) for shape in self.profiles[profile_index][name]]

    def create_execution_context(self):
        return IExecutionContext(self)


class IExecutionContext:
    """See the bindings."""

    def __init__(self, engine):
        self.engine = engine
        self.shapes = {}
        self.addresses = {}
        self.profile = None

    def set_optimization_profile_async(self, profile_index, stream_handle):
        assert stream_handle in Stream.handles
        self.profile = self.engine.profiles[profile_index]
        return True

    def set_input_shape(self, name, shape):
        least, _, most = self.profile[name]
        # What was inferred from other shapes is void.
        self.shapes = {n: s for n, s in self.shapes.items() if n in self.profile}
        self.shapes[name] = tuple(shape)
        return all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True))

    def infer_shapes(self):
        inputs = [value.name for value in self.engine.session.get_inputs()]
        return [name for name in inputs if name not in self.shapes]

    def get_tensor_shape(self, name):
        if name not in self.shapes:
            self._infer()
        return self.shapes[name]

    def set_tensor_address(self, name, memory):
        if memory % ALIGNMENT or not memory:
            raise FakeCudaError(f"{name} is at {memory}, which is not aligned")
        self.addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle):
        self._infer()
        engine, shapes, addresses = self.engine, dict(self.shapes), dict(self.addresses)
        views = {
            name: self._view(address, shapes[name], engine.get_tensor_dtype(name))
            for name, address in addresses.items()
        }
        assert set(views) == set(engine.values)
        inputs = {value.name: views[value.name] for value in engine.session.get_inputs()}

        def run():
            for name, array in zip(
                [value.name for value in engine.session.get_outputs()],
                engine.session.run(None, {name: view.copy() for name, view in inputs.items()}),
                strict=True,
            ):
                assert array.shape == views[name].shape
                views[name][...] = array

        Stream.handles[stream_handle].waiting.append((None, run))
        return True

    def _view(self, address, shape, dtype):
        count = int(np.prod(shape))
        size = count * np.dtype(dtype).itemsize
        self.engine.trt.cuda.check(address, size, "device")
        if not count:
            return np.empty(shape, dtype)
        held = (ctypes.c_byte * size).from_address(address)
        return np.frombuffer(held, dtype, count).reshape(shape)

    def _infer(self):
        """Shapes of the outputs: those of an inference on zeros."""
        session = self.engine.session
        zeros = {
            value.name: np.zeros(self.shapes[value.name], TYPES[value.type])
            for value in session.get_inputs()
        }
        for value, array in zip(session.get_outputs(), session.run(None, zeros), strict=True):
            self.shapes[value.name] = array.shape
