"""Another engine in the place of torch, once it was seen to give the same."""

from __future__ import annotations

import hashlib
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from monai.utils import convert_to_numpy, optional_import
from torch import Tensor, nn

from monai_ext.base.errors import InputError
from monai_ext.base.files import atomic_path
from monai_ext.instances.sparse import SparseInstances
from monai_ext.networks.folding import fold_normalization
from monai_ext.networks.onnx_network import OnnxNetwork
from monai_ext.networks.utils import weights_digest

__all__ = ["RUNTIMES", "OpenVinoNetwork", "RuntimeNetwork", "with_runtime"]

RUNTIMES = ("torch", "auto", "onnxruntime", "openvino")

_AGREE = 1e-3  # of probabilities
_SIZES = 2  # so many sizes of images are compared
_PROBE = 512  # px, the side of the square of the first image by which speed is measured
_PROBES = 3
_EXAMPLE = (2, 3, 128, 160)  # sides that differ, and differ from the batch: none is taken for another
_RESULT = "pred"
_LEVEL = "level "  # before a name that is a number, such as a pyramid's "0", which ONNX takes for its own


class OpenVinoNetwork(nn.Module):
    """Runs an ONNX file by OpenVINO on the CPU, in float32: a tensor in, tensors by their names out.

    Args:
        path: a file with one input.
        threads: by default as many as torch has.

    Raises:
        InputError: no OpenVINO, no such file, or one that it cannot use.
    """

    def __init__(self, path: str | os.PathLike, threads: int | None = None) -> None:
        super().__init__()
        openvino, installed = optional_import("openvino")
        if not installed:
            raise InputError("openvino", "the package (pip install openvino)", "none")
        settings = {"INFERENCE_NUM_THREADS": threads or torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
        core = openvino.Core()
        try:
            model = core.read_model(str(path))
            self.names = [output.any_name for output in model.outputs]  # compiled, a tensor may have others besides
            self.compiled = core.compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise InputError(path, "an ONNX file", " ".join(str(error).split())[:200]) from error

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """What the network gives for ``(B, C, H, W)`` of any floating type: float32, by the names of its outputs."""
        found = self.compiled(np.ascontiguousarray(convert_to_numpy(images.float())))
        return {
            name: torch.from_numpy(each).to(images.device)
            for name, each in zip(self.names, found.values(), strict=True)
        }


class _WithMaps(nn.Module):
    """A network that gives maps of some of its layers besides: of a layer that gives several, ``layer:key``.

    What a network gives by names keeps these; a tensor is ``pred``. Of a network that finds instances it is what they
    are found in.
    """

    def __init__(self, network: nn.Module, layers: Sequence[str]) -> None:
        super().__init__()
        self.network, self.layers = network, tuple(layers)
        self.eval()  # what exports a module puts it, and all that it holds, back into the mode that it had

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps: dict[str, Tensor] = {}

        def keep(name: str, key: str) -> Callable[..., None]:
            return lambda _, __, output: maps.update({name: output[key] if key else output})

        parts = [(name, *name.partition(":")[::2]) for name in self.layers]
        hooks = [self.network.get_submodule(layer).register_forward_hook(keep(name, key)) for name, layer, key in parts]
        try:
            found = getattr(self.network, "compute_dense", self.network)(images)
            named = found if isinstance(found, Mapping) else {_RESULT: found}
            return {**{_LEVEL + name if name.isdigit() else name: x for name, x in named.items()}, **maps}
        finally:
            for hook in hooks:
                hook.remove()


class _OnnxByName(OnnxNetwork):
    """One output comes by its name too."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        found = super().forward(images)
        return found if isinstance(found, dict) else {_RESULT: found}


_ENGINES: dict[str, Callable[[Path], nn.Module]] = {"openvino": OpenVinoNetwork, "onnxruntime": _OnnxByName}
_EXTRAS = {"openvino": "openvino", "onnxruntime": "onnx"}  # of this package


def with_runtime(
    network: nn.Module,
    runtime: str = "torch",
    layers: Sequence[str] = (),
    cache_dir: str | os.PathLike | None = None,
    size: Sequence[int] | None = None,
) -> nn.Module:
    """A network for inference: computed by another engine where that is possible, and by torch where not.

    For torch, its normalisation becomes a part of its convolutions, see :func:`~monai_ext.networks.fold_normalization`.

    Args:
        network: see :class:`RuntimeNetwork`, as are those without a word.
        runtime: ``torch``; ``onnxruntime`` or ``openvino``; ``auto`` for the fastest of those that are installed.
        layers: whose maps are handed on.
        cache_dir: where exported networks are kept.
        size: height and width of all images, of a network that takes no others.

    Returns:
        for ``torch`` the network, folded if that can be; else a :class:`RuntimeNetwork`.

    Raises:
        InputError: an unknown runtime.

    Examples:
        >>> import torch
        >>> from monai_ext.networks import with_runtime
        >>> network = torch.nn.Conv2d(3, 1, 3)
        >>> with_runtime(network, "torch") is network
        True
    """
    if runtime not in RUNTIMES:
        raise InputError("runtime", ", ".join(RUNTIMES), repr(runtime))
    network = fold_normalization(network, layers)
    return network if runtime == "torch" else RuntimeNetwork(network, runtime, layers, cache_dir, size)


class RuntimeNetwork(nn.Module):
    """Computes a torch network by ONNX Runtime or OpenVINO, once they were seen to agree on the images at hand.

    The first batch is computed by torch and by each engine that comes into question. An engine is used if no
    probability (the sigmoid of each output) differs by more than .001, and, with ``auto``, if it is the fastest on a
    square of the first image; the first batch of a second size is compared as well. Which one computes, how much faster
    it is and by how much it differs is printed to standard error. Whatever stands against it (a package that is
    missing, a network that cannot be exported, a GPU, gradients, lower precision) is said in one line, and torch
    computes.

    Of an :class:`~monai_ext.networks.nets.InstanceBackEnd` the engine computes ``compute_dense``, in which the network
    finds the instances (:meth:`find`). As these maps may be features, no logits, none of their values differs by more
    than .001 of the map's largest either (of 1, where that is less).

    Args:
        network: of one tensor ``(B, 3, H, W)`` in, of any batch and size, and one out, or several by their names; or
            an :class:`~monai_ext.networks.nets.InstanceBackEnd`.
        runtime: ``auto``, ``onnxruntime`` or ``openvino``.
        layers: whose maps are handed to who listens, see :class:`~monai_ext.networks.TissueFeatures`; no other can be
            listened to.
        cache_dir: where exported networks are kept under the digest of their weights and the versions of what exported
            them; ``None`` for ``monai_ext`` beside torch's own cache (``TORCH_HOME``).
        size: height and width of the images that engines compute, px, of a network that is only right at these; torch
            computes others. ``None`` for any.

    Attributes:
        chosen: the engine that computes; ``None`` before the first batch.
        difference: the largest that was seen between the results of it and of torch, as above.
        listeners: each is called with the images and the maps of the layers, once for each batch.
    """

    def __init__(
        self,
        network: nn.Module,
        runtime: str = "auto",
        layers: Sequence[str] = (),
        cache_dir: str | os.PathLike | None = None,
        size: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.network, self.runtime, self.layers = network.eval(), runtime, tuple(layers)
        self.size = None if size is None else tuple(size)
        self.listeners: list[Callable[[Tensor, Mapping[str, Tensor]], None]] = []
        self.cache_dir = Path(cache_dir) if cache_dir else Path(torch.hub.get_dir()).parent / "monai_ext"
        self.chosen: str | None = None
        self.difference = 0.0
        self._engine: list[nn.Module] = []  # no layer of this one: its weights would be counted twice
        self._compared: set[tuple[int, ...]] = set()

    def extra_repr(self) -> str:
        """Which engine was asked for: part of what tells results apart."""
        return f"runtime={self.runtime}"

    def decline(self, reason: str) -> None:
        """Let torch compute, as what asks for the network needs more of it than its results; say so."""
        self._torch(reason)

    def forward(self, images: Tensor) -> Tensor | dict[str, Tensor]:
        """What the network gives for a batch ``(B, 3, H, W)``."""
        if self.chosen is None:
            maps = self._choose(images)
        elif self.chosen == "torch" or not self._possible(images):
            maps = self._by_torch(images)
        else:
            maps = self._engine[0](images)
            if tuple(images.shape[2:]) not in self._compared and len(self._compared) < _SIZES:
                maps = self._compare(images, maps)
        for listener in self.listeners:
            listener(images, maps)
        if _RESULT in maps:
            return maps[_RESULT]
        return {name.removeprefix(_LEVEL): x for name, x in maps.items() if name not in self.layers}

    @torch.no_grad()
    def find(self, images: Tensor) -> list[SparseInstances]:
        """The instances of each image, of a network that finds them."""
        return self.network.find(images, self)

    def _possible(self, images: Tensor) -> bool:
        """Whether engines can compute this batch."""
        fits = self.size in (None, tuple(images.shape[2:]))
        return fits and not (images.requires_grad or torch.is_autocast_enabled(images.device.type))

    def _choose(self, images: Tensor) -> dict[str, Tensor]:
        """Decide by the first batch; what torch gives for it."""
        if images.device.type != "cpu":
            return self._torch(f"no engine but torch is used on {images.device.type}", images)
        if not self._possible(images):
            return self._torch("in lower precision, for gradients and at other sizes only torch computes", images)
        names = list(_ENGINES) if self.runtime == "auto" else [self.runtime]
        installed = [name for name in names if _version(name)]
        if not installed:
            missing = "no other is installed" if self.runtime == "auto" else "it is not installed"
            return self._torch(f'{missing} (pip install "monai_ext[{_EXTRAS[names[0]]}]")', images)
        expected = self._by_torch(images)
        try:
            path = self._exported(list(expected))
        except Exception as error:
            return self._torch(f"the network cannot be exported to ONNX ({_line(error)})", found=expected)
        probe = images[:1, :, :_PROBE, :_PROBE] if self.size is None else images
        torch_s = _seconds(self._by_torch, probe)
        best, reasons = (math.inf, "", None, 0.0), []
        for name in installed:
            try:
                engine = _ENGINES[name](path)
                found, seconds = engine(images), _seconds(engine, probe)
            except Exception as error:
                reasons.append(f"{name} cannot use the network ({_line(error)})")
                continue
            difference = self._difference(found, expected)
            if not difference <= _AGREE:
                reasons.append(f"{name} differs by {difference:.2g}")
            elif seconds < best[0]:
                best = (seconds, name, engine, difference)
        seconds, name, engine, difference = best
        if engine is None or (self.runtime == "auto" and seconds >= torch_s):
            return self._torch("; ".join(reasons) or "it is the fastest here", found=expected)
        self.chosen, self.difference = name, difference
        self._engine = [engine]
        self._compared.add(tuple(images.shape[2:]))
        speed = f"{torch_s / seconds:.2f} times as fast as torch on a part of the first image"
        print(f"runtime: {name}, {speed}, results differ by {difference:.1g}", file=sys.stderr)
        return expected

    def _compare(self, images: Tensor, found: dict[str, Tensor]) -> dict[str, Tensor]:
        """What an engine found for images of a size that is new, or what torch does if that is something else."""
        expected = self._by_torch(images)
        difference = self._difference(found, expected)
        if not difference <= _AGREE:
            size = " x ".join(str(side) for side in images.shape[:1:-1])
            return self._torch(f"{self.chosen} differs by {difference:.2g} on images of {size} px", found=expected)
        self._compared.add(tuple(images.shape[2:]))
        self.difference = max(self.difference, difference)
        return found

    def _difference(self, found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
        """Of all results; layers are for who listens."""
        results = {name: x for name, x in expected.items() if name not in self.layers}
        return _difference(found, results, features=hasattr(self.network, "compute_dense"))

    def _torch(
        self, reason: str, images: Tensor | None = None, found: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Let torch compute from now on; what it gives for images, or has found."""
        self.chosen, self._engine = "torch", []
        print(f"runtime: torch instead of {self.runtime}: {reason}", file=sys.stderr)
        return self._by_torch(images) if images is not None else found or {}

    def _by_torch(self, images: Tensor) -> dict[str, Tensor]:
        return _WithMaps(self.network, self.layers)(images)

    def _exported(self, outputs: Sequence[str]) -> Path:
        """The network as ONNX with these outputs, exported unless the cache has it."""
        parts = [f"{name} {metadata.version(name)}" for name in ("torch", "onnx")]
        parts += [weights_digest(self.network), *outputs, *([] if self.size is None else [str(self.size)])]
        name = hashlib.sha256("\n".join(parts).encode()).hexdigest()
        path = self.cache_dir / f"{name}.onnx"
        if path.is_file():
            return path
        device = next(self.network.parameters()).device
        with atomic_path(path) as temporary, warnings.catch_warnings():
            # that the older exporter is deprecated, and of Python values of sizes, which the comparison judges
            warnings.simplefilter("ignore")
            dynamic = [0, 2, 3] if self.size is None else [0]
            torch.onnx.export(
                _WithMaps(self.network, self.layers),
                (torch.rand(*_EXAMPLE[:2], *(self.size or _EXAMPLE[2:]), device=device),),
                temporary,
                dynamo=False,
                input_names=["image"],
                output_names=list(outputs),
                dynamic_axes=dict.fromkeys(("image", *outputs), dynamic),
            )
        return path


def _version(name: str) -> str | None:
    """The version of an engine and of onnx, which writes what it reads; ``None`` where one of them is missing."""
    try:
        return f"{metadata.version(name)}, {metadata.version('onnx')}"
    except metadata.PackageNotFoundError:
        return None


def _seconds(network: Callable[[Tensor], dict[str, Tensor]], images: Tensor) -> float:
    """What a network takes once it is warm: the least of a few times, as other processes only add to it."""
    network(images)
    taken = []
    for _ in range(_PROBES):
        began = time.perf_counter()
        network(images)
        taken.append(time.perf_counter() - began)
    return min(taken)


def _difference(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], features: bool) -> float:
    """The largest difference of probabilities; of features too, as a share of a map's largest value, or of 1 if less.

    Not a number where something is none, or of another shape.
    """
    differences = [torch.zeros(())]
    for name, right in expected.items():
        one, other = found[name].float(), right.float()
        if one.shape != other.shape:
            return math.nan
        differences.append((one.sigmoid() - other.sigmoid()).abs().max())
        if features:
            differences.append((one - other).abs().max() / other.abs().max().clamp(min=1))
    return float(torch.stack(differences).max())


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]
