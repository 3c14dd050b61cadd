"""The network: pure modules, no input or output, no reading of files."""

from voxformer.model.voxformer import FRAME_SHIFT_S, VoxFormer, count_parameters

__all__ = ["FRAME_SHIFT_S", "VoxFormer", "count_parameters"]
