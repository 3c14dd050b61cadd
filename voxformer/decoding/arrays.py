"""Arrays as the extension takes them, without a copy where that can be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

LogProbArray: TypeAlias = npt.NDArray[np.float32] | npt.NDArray[np.float16]


def as_log_probs(values: npt.ArrayLike, shape: str) -> LogProbArray:
    """Float32 or float16 whose rows have no gaps; a copy only where it is neither.

    Args:
        values: an array, or what can be seen as one: by DLPack (a tensor of PyTorch, JAX or ONNX
            Runtime in host memory), by the buffer protocol, or nested sequences.
        shape: for messages: `[time, vocab]`.

    Raises:
        ValueError: the values are on a device, of a type that NumPy lacks, or not of this many
            dimensions.
    """
    if hasattr(values, "__dlpack__") and not isinstance(values, np.ndarray):
        try:
            values = np.from_dlpack(cast("Any", values))
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"log_probs cannot be read where it is ({error}); give float32 or float16 in host "
                "memory: for PyTorch, log_probs.detach().float().cpu()"
            ) from None
    array = np.asarray(values)
    if array.ndim != shape.count(",") + 1:
        raise ValueError(f"log_probs has shape {array.shape}; expected {shape}")
    if array.dtype not in (np.float32, np.float16):
        return np.ascontiguousarray(array, dtype=np.float32)
    size = array.itemsize
    rows_are_whole = array.shape[-1] <= 1 or array.strides[-1] == size
    steps_are_whole = all(step >= 0 and step % size == 0 for step in array.strides[:-1])
    if rows_are_whole and steps_are_whole and array.flags.aligned:
        return array
    return np.ascontiguousarray(array)


def check_batch(
    log_probs: npt.ArrayLike, lengths: npt.ArrayLike | None
) -> tuple[LogProbArray, npt.NDArray[np.int64]]:
    """`log_probs` by `as_log_probs`, and `lengths` by `check_lengths`."""
    batch = as_log_probs(log_probs, "[batch, time, vocab]")
    return batch, check_lengths(lengths, len(batch))


def check_lengths(lengths: npt.ArrayLike | None, batch_size: int) -> npt.NDArray[np.int64]:
    """`lengths` as int64, empty for None.

    Raises:
        ValueError: their number or type does not fit.
    """
    if lengths is None:
        return np.empty(0, dtype=np.int64)
    frames = np.asarray(lengths)
    if frames.shape != (batch_size,):
        raise ValueError(
            f"lengths has shape {frames.shape}; expected [{batch_size}], one for each utterance"
        )
    if frames.dtype.kind not in "iu" and frames.size > 0:
        raise ValueError(f"lengths has type {frames.dtype}; expected whole numbers of frames")
    return np.ascontiguousarray(frames, dtype=np.int64)


def check_token_ids(token_ids: npt.ArrayLike) -> npt.NDArray[np.int32]:
    """Ids of any whole type as int32.

    Raises:
        ValueError: they are not whole numbers, or do not fit.
    """
    ids = np.asarray(token_ids)
    if ids.dtype.kind not in "iu":
        raise ValueError(f"token_ids has type {ids.dtype}; expected whole numbers")
    limits = np.iinfo(np.int32)
    if (
        ids.dtype.itemsize >= 4
        and ids.size
        and not limits.min <= ids.min() <= ids.max() <= limits.max
    ):
        raise ValueError("token_ids has numbers that do not fit in 32 bits")
    return np.ascontiguousarray(ids, dtype=np.int32)


def check_vocabulary(
    tokens: Sequence[str] | None, vocab: int, what: str = "log_probs has {} columns"
) -> None:
    """Raise ValueError unless each of `vocab` ids has a token; `what` says in it where they are."""
    if tokens is not None and len(tokens) < vocab:
        raise ValueError(
            f"{what.format(vocab)}, but there are only {len(tokens)} tokens; the model and the "
            "vocabulary do not belong together"
        )


def check_values(log_probs: LogProbArray, utterance: int) -> None:
    """Raise ValueError, naming the frame, if a value of [time, vocab] is NaN or +inf."""
    bad = np.isnan(log_probs) | np.isposinf(log_probs)
    if bad.any():
        frame, token = np.argwhere(bad)[0]
        what = "NaN" if np.isnan(log_probs[frame, token]) else "+inf"
        raise ValueError(
            f"utterance {utterance}, frame {frame}: log_probs is {what} for token {token}; natural "
            f"logarithms of probabilities are expected"
        )
