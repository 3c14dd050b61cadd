"""Export: a checkpoint becomes a bundle that runs without PyTorch, or nothing is written."""

from .bundle import Provenance, export_bundle
from .checkpoint import export_checkpoint
from .errors import ExportRefused
from .onnx_export import EXPORTERS, Exporter
from .precision import PRECISIONS, Precision

__all__ = [
    "EXPORTERS",
    "PRECISIONS",
    "ExportRefused",
    "Exporter",
    "Precision",
    "Provenance",
    "export_bundle",
    "export_checkpoint",
]
