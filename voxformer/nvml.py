"""What NVIDIA GPUs say of themselves through NVML (`nvidia-ml-py`), where it is installed."""

from __future__ import annotations

from typing import Any


class Nvml:
    """NVML, opened once.

    Attributes:
        note: why there is none; empty where there is.
    """

    def __init__(self) -> None:
        self._library: Any = None
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
        self._library = pynvml

    def ask(self, question: str, *arguments: Any) -> Any:
        """What a function of NVML answers, such as `nvmlDeviceGetName` of one of `gpus`.

        Returns:
            None where there is no NVML, or where a GPU does not tell: a share of one has no power
            limit of its own. Bytes of older bindings are text.
        """
        if self._library is None:
            return None
        try:
            answer = getattr(self._library, question)(*arguments)
        except self._library.NVMLError:
            return None
        return answer.decode() if isinstance(answer, bytes) else answer

    def gpus(self) -> list[Any]:
        """NVML's handles of the GPUs that can be asked."""
        count = self.ask("nvmlDeviceGetCount") or 0
        handles = (self.ask("nvmlDeviceGetHandleByIndex", index) for index in range(count))
        return [handle for handle in handles if handle is not None]
