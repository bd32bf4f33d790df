"""A network that was exported to ONNX, where a configuration expects a torch module."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from monai.utils import convert_to_numpy, optional_import
from torch import Tensor, nn

from monai_ext.base.errors import InputError

__all__ = ["OnnxNetwork"]

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


class OnnxNetwork(nn.Module):
    """Runs an ONNX file by onnxruntime: torch tensors in and out, so that nothing around a network need know.

    What asks for a network's layers or gradients, such as :class:`~monai_ext.explain.EvidenceMap`, cannot use it.
    Its representation carries the SHA-256 of what it was read from, by which slides tell whether they were computed by
    the same weights.

    Args:
        path: a file with one input, such as ``python -m monai.bundle onnx_export`` writes.
        device: where to compute; CUDA needs the package onnxruntime-gpu.
        threads: of onnxruntime on the CPU; by default as many as torch has.

    Raises:
        InputError: no onnxruntime, none for the device, no such file, or one that cannot be used.
    """

    def __init__(self, path: str | Path, device: torch.device | str = "cpu", threads: int | None = None) -> None:
        super().__init__()
        onnxruntime, installed = optional_import("onnxruntime")
        if not installed:
            raise InputError("onnxruntime", "the package (pip install onnxruntime)", "none")
        path, device = Path(path), torch.device(device)
        if not path.is_file():
            raise InputError(path, "a network that onnx_export wrote", "no such file")
        if device.type == "cuda" and _CUDA not in onnxruntime.get_available_providers():
            raise InputError("device", "cpu, or the package onnxruntime-gpu", str(device))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        gpu = [(_CUDA, {"device_id": device.index or 0})] if device.type == "cuda" else []
        try:
            self.session = onnxruntime.InferenceSession(path, options, providers=[*gpu, _CPU])
        # onnxruntime's exceptions for damaged and for unsupported files have no common base
        except Exception as error:
            raise InputError(path, "an ONNX file", " ".join(str(error).split())[:200]) from error
        inputs = [each.name for each in self.session.get_inputs()]
        if len(inputs) != 1:
            raise InputError(path, "a network with one input", f"{len(inputs)}: {', '.join(inputs)}")
        self.input, self.outputs = inputs[0], [each.name for each in self.session.get_outputs()]
        # torch.onnx.export itself, unlike MONAI's command, puts weights beside the graph
        files = [each for each in (path, path.with_name(f"{path.name}.data")) if each.is_file()]
        self.digest = hashlib.sha256(b"".join(each.read_bytes() for each in files)).hexdigest()

    def extra_repr(self) -> str:
        """What computes, and of which file."""
        return f"sha256={self.digest}, {self.session.get_providers()[0]}"

    def forward(self, images: Tensor) -> Tensor | dict[str, Tensor]:
        """What the exported network gives.

        Args:
            images: ``(B, C, H, W)`` of any floating type, of a size that the file takes.

        Returns:
            its output, or several by their names, on the device of ``images``.
        """
        feed = {self.input: np.ascontiguousarray(convert_to_numpy(images.float()))}
        found = [torch.from_numpy(each).to(images.device) for each in self.session.run(None, feed)]
        return found[0] if len(found) == 1 else dict(zip(self.outputs, found, strict=True))
