"""``monai-ext doctor``: what is installed, and whether it works; everything is tried, not only looked up."""

from __future__ import annotations

import importlib
import os
import platform
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from json import dumps
from pathlib import Path
from typing import Any

from monai_ext import __version__
from monai_ext.base.errors import InputError

__all__ = ["Finding", "doctor", "findings"]

#: Of the packages in the requirements these serve formats that no bundle needs for its work, or bring a library that
#: the system may have as well.
_OPTIONAL = frozenset({"itk-io", "openslide-bin", "protobuf"})
_MODULES = {
    "itk-io": "itk",
    "opencv-python-headless": "cv2",
    "openslide-python": "openslide",
    "pillow": "PIL",
    "protobuf": "google.protobuf",
    "pytorch-ignite": "ignite",
    "pyyaml": "yaml",
    "scikit-image": "skimage",
}
_CODECS = ("none", "zlib", "lzw", "jpeg", "jpeg2000", "zstd", "webp")
_RARE = ("zstd", "webp", "NIfTI", "NRRD")  # of slides and images that one seldom meets
_SIDE = 256  # px of the images that are written and read back
_TOLERANCE = 12  # grey levels that a lossy codec may change a smooth image by


@dataclass(frozen=True)
class Finding:
    """One thing that was tried.

    Attributes:
        group: packages, readers, devices or extras.
        name: what was tried.
        works: it does.
        needed: by a bundle.
        detail: its version, or why it does not work.
    """

    group: str
    name: str
    works: bool
    needed: bool
    detail: str

    def line(self) -> str:
        """A row of the table."""
        state = "ok" if self.works else "MISSING" if self.needed else "no"
        return f"{self.group:9} {state:8} {self.name:28} {self.detail}"


def doctor(json: bool = False) -> str:
    """Try packages, readers of images, devices and optional extras, and print what works in a table.

    A row is ``ok``, ``MISSING`` (a bundle needs it) or ``no`` (an extra that is not there).

    Args:
        json: print an object with the same rows in place of the table, for programs.

    Returns:
        The last line of the table.

    Raises:
        InputError: something that a bundle needs does not work.
    """
    rows = []
    for row in findings():
        rows.append(row)
        if not json:
            print(row.line(), flush=True)
    missing = [row.name for row in rows if row.needed and not row.works]
    if json:
        print(dumps({"monai_ext": __version__, "works": not missing, "rows": [asdict(row) for row in rows]}, indent=1))
    if missing:
        raise InputError("doctor", "all that the bundles need", f"not working: {', '.join(missing)}")
    return "" if json else "All that the bundles need works."


def findings() -> Iterator[Finding]:
    """Try one thing after the other."""
    yield Finding("packages", "python", True, True, f"{platform.python_version()} on {platform.platform(terse=True)}")
    yield Finding("packages", "monai_ext", True, True, f"{__version__} in {Path(__file__).parent}")
    for text in _requirements():
        yield from _package(text)
    yield _tried("packages", "torch with torchvision", _paired)
    with tempfile.TemporaryDirectory() as folder:
        for name, attempt in _readers(Path(folder)).items():
            yield _tried("readers", name, attempt, not name.endswith(_RARE))
    yield from _devices()
    for name, attempt in _EXTRAS.items():
        yield _tried("extras", name, attempt, needed=False)


def _tried(group: str, name: str, attempt: Callable[[], str], needed: bool = True) -> Finding:
    try:
        return Finding(group, name, True, needed, attempt())
    except Exception as error:  # whatever is wrong with an installation is what is asked for
        first = f"{error}".strip().split("\n")[0]
        return Finding(group, name, False, needed, f"{type(error).__name__}: {first}"[:160])


def _requirements() -> list[str]:
    """The pins: those of the repository or of an exported bundle, beside the package, else of the installed package."""
    path = Path(__file__).parents[1] / "requirements.txt"
    if path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines()
        return [line for line in lines if line.strip() and not line.startswith(("#", "-"))]
    try:
        return metadata.requires("monai_ext") or []
    except metadata.PackageNotFoundError:
        return []


def _package(requirement: str) -> Iterator[Finding]:
    """A package that is installed in the version that is asked for, and can be imported."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        yield Finding("packages", requirement, False, True, "cannot be looked up without the package packaging")
        return
    wanted = Requirement(requirement)
    if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
        return

    def attempt() -> str:
        installed = metadata.version(wanted.name)
        if not wanted.name.startswith("openslide-bin"):  # a library that openslide-python loads
            importlib.import_module(_MODULES.get(wanted.name, wanted.name.replace("-", "_")))
        fits = wanted.specifier.contains(installed, prereleases=True)
        return installed if fits else f"{installed}, tested with {wanted.specifier}"

    yield _tried("packages", wanted.name, attempt, wanted.name not in _OPTIONAL)


def _paired() -> str:
    """Call what torchvision compiled against torch, which fails where the two are no pair."""
    import torch
    from torchvision.ops import nms

    boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2], [5, 5, 6, 6]])
    if nms(boxes, torch.tensor([3.0, 2, 1]), 0.5).tolist() != [0, 2]:
        raise ValueError("non-maximum suppression has the wrong result")
    return "a pair: compiled operators work"


def _gradient() -> Any:
    """A smooth image ``(H, W, 3)`` uint8 RGB, which lossy codecs hardly change."""
    import numpy as np

    row, col = np.mgrid[:_SIDE, :_SIDE]
    return np.stack([row, col, (row + col) // 2], axis=-1).astype(np.uint8)


def _same(array: Any, name: str) -> str:
    import numpy as np

    image = _gradient()
    if array is None or np.shape(array) != image.shape:
        raise ValueError(f"shape {image.shape} was written, {np.shape(array)} was read")
    change = int(np.abs(np.asarray(array, np.int16) - image).max())
    if change > _TOLERANCE:
        raise ValueError(f"the image that was read differs by {change} grey levels")
    return f"{name}: written and read, {change} grey levels apart"


def _readers(folder: Path) -> dict[str, Callable[[], str]]:
    """What reads images and slides; each writes a small file and reads it back."""
    attempts = {f"Pillow {kind}": partial(_by_pillow, folder, kind) for kind in ("png", "jpeg", "bmp")}
    attempts["OpenCV png"] = partial(_by_opencv, folder)
    attempts |= {f"tifffile {codec}": partial(_by_tifffile, folder, codec) for codec in _CODECS}
    attempts["OpenSlide pyramid"] = partial(_by_openslide, folder)
    return attempts | {"nibabel NIfTI": partial(_by_nibabel, folder), "ITK NRRD": partial(_by_itk, folder)}


def _by_pillow(folder: Path, kind: str) -> str:
    import PIL
    from PIL import Image

    path = folder / f"pillow.{kind}"
    Image.fromarray(_gradient()).save(path)
    with Image.open(path) as image:
        return _same(image.convert("RGB"), f"Pillow {PIL.__version__}")


def _by_opencv(folder: Path) -> str:
    import cv2

    path = str(folder / "opencv.png")
    if not cv2.imwrite(path, _gradient()[..., ::-1].copy()):
        raise ValueError("cannot write PNG")
    return _same(cv2.imread(path)[..., ::-1], f"OpenCV {cv2.__version__}")


def _write_tiff(path: Path, codec: str) -> None:
    import tifffile

    compression = None if codec == "none" else codec
    with tifffile.TiffWriter(path) as tiff:
        for step in (1, 2):
            tiff.write(_gradient()[::step, ::step], photometric="rgb", tile=(128, 128), compression=compression)


def _by_tifffile(folder: Path, codec: str) -> str:
    import tifffile

    path = folder / f"tifffile_{codec}.tif"
    _write_tiff(path, codec)
    return _same(tifffile.imread(path, key=0), f"tifffile {tifffile.__version__}")


def _by_openslide(folder: Path) -> str:
    import numpy as np
    import openslide

    path = folder / "openslide.tif"
    _write_tiff(path, "jpeg")
    with openslide.OpenSlide(str(path)) as slide:
        pixels = np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3]
    return _same(pixels, f"OpenSlide {openslide.__library_version__}")


def _by_nibabel(folder: Path) -> str:
    import nibabel
    import numpy as np

    from monai_ext.formats.volume import read_volume

    path = folder / "nibabel.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.swapaxes(_gradient(), 0, 1), np.diag([-1, -1, 1, 1])), path)
    return _same(read_volume(path)[0], f"nibabel {nibabel.__version__}")


def _by_itk(folder: Path) -> str:
    import itk

    from monai_ext.formats.volume import read_volume

    path = folder / "itk.nrrd"
    itk.imwrite(itk.image_from_array(_gradient(), ttype=itk.Image[itk.RGBPixel[itk.UC], 2]), str(path))
    return _same(read_volume(path)[0], f"ITK {itk.Version.GetITKVersion()}")


def _devices() -> Iterator[Finding]:
    """The CPU, which is needed, and whatever accelerators there are."""
    yield _tried("devices", "cpu", lambda: f"{os.cpu_count()} cores, {_convolved('cpu')} threads of torch")
    try:
        import torch
    except Exception:  # reported in the row of the CPU
        return
    from monai_ext.inferers.autocast import cpu_computes_bfloat16

    native = cpu_computes_bfloat16()
    note = "by --cpu_bfloat16 true" if native else "not by this processor; --cpu_bfloat16 computes in float32"
    yield Finding("devices", "bfloat16", native, False, note)
    if not torch.cuda.is_available():
        yield Finding("devices", "cuda", False, False, "no GPU that this torch can use")
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        yield _tried("devices", f"cuda:{index}", partial(_gpu, index), needed=False)
    if torch.backends.mps.is_available():
        yield _tried("devices", "mps", lambda: _convolved("mps") and "a convolution was computed", needed=False)


def _convolved(device: str) -> int:
    """Compute a convolution on a device; the number of threads of torch."""
    import torch

    result = torch.nn.functional.conv2d(torch.ones(1, 1, 4, 4, device=device), torch.ones(1, 1, 3, 3, device=device))
    if result.sum().item() != 36:
        raise ValueError("a convolution has the wrong result")
    return torch.get_num_threads()


def _gpu(index: int) -> str:
    import torch

    _convolved(f"cuda:{index}")
    facts = torch.cuda.get_device_properties(index)
    return f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"


def _onnxruntime() -> str:
    """Run a network of one operation."""
    import numpy as np
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    source, result = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "y"))
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "negative", [source], [result])
    opset = helper.make_opsetid("", 17)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    onnx.checker.check_model(model)
    providers = onnxruntime.get_available_providers()
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    if session.run(None, {"x": np.array([1, 2], np.float32)})[0].tolist() != [-1, -2]:
        raise ValueError("a network of one operation has the wrong result")
    return f"{onnxruntime.__version__}, {', '.join(name.removesuffix('ExecutionProvider') for name in providers)}"


def _tensorrt() -> str:
    """Make a builder, which needs a GPU and its driver."""
    import tensorrt

    tensorrt.Builder(tensorrt.Logger(tensorrt.Logger.ERROR))
    return tensorrt.__version__


def _wsidicom() -> str:
    """Which of the transfer syntaxes that OpenSlide lacks can be decoded here."""
    import wsidicom
    from pydicom.uid import JPEGLSLossless, RLELossless
    from wsidicom.codec import Decoder
    from wsidicom.uid import JPEGXLLossless

    syntaxes = {"JPEG-LS": JPEGLSLossless, "RLE": RLELossless, "JPEG XL": JPEGXLLossless}
    decoded = [name for name, uid in syntaxes.items() if Decoder.select_decoder(uid, 3, 8) is not None]
    return f"{wsidicom.__version__}, decodes {', '.join(decoded) or 'none of them'}"


def _zarr() -> str:
    """Write an OME-Zarr and read it back."""
    import zarr

    from monai_ext.formats.zarr_levels import ZarrLevels

    with tempfile.TemporaryDirectory() as folder:
        group = zarr.open_group(Path(folder) / "a.zarr", mode="w")
        group["0"] = _gradient()
        axes = [{"name": name} for name in "yxc"]
        group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [{"path": "0"}]}]}
        pixels, _ = ZarrLevels(Path(folder) / "a.zarr").read(0, 0, 0, _SIDE, _SIDE)
        return _same(pixels, f"zarr {zarr.__version__}")


def _view() -> str:
    """Make the viewer's application, which is not started."""
    import uvicorn

    from monai_ext.view.cases import Cases
    from monai_ext.view.opened import Settings, Shelf
    from monai_ext.view.server import application

    application(Shelf(Cases("", ()), Settings("")))
    return f"uvicorn {uvicorn.__version__}, starlette {metadata.version('starlette')}"


def _openvino() -> str:
    """Find a device that computes."""
    import openvino

    return f"{metadata.version('openvino')}, {', '.join(openvino.Core().available_devices)}"


def _imported(module: str, package: str) -> str:
    importlib.import_module(module)
    return metadata.version(package)


_EXTRAS: dict[str, Callable[[], str]] = {
    "ONNX Runtime": _onnxruntime,
    "OpenVINO": _openvino,
    "TensorRT": _tensorrt,
    "Torch-TensorRT": partial(_imported, "torch_tensorrt", "torch-tensorrt"),
    "cuCIM (slides by the GPU)": partial(_imported, "cucim", "cucim"),
    "pydicom (annotations)": partial(_imported, "pydicom", "pydicom"),
    "wsidicom (slides in DICOM)": _wsidicom,
    "zarr (OME-Zarr)": _zarr,
    "highdicom (results as DICOM)": partial(_imported, "highdicom", "highdicom"),
    "anndata (results for scanpy)": partial(_imported, "anndata", "anndata"),
    "aiohttp (slides on web servers)": partial(_imported, "aiohttp", "aiohttp"),
    "viewer (monai-ext view)": _view,
    "MONAI Label": partial(_imported, "monailabel", "monailabel"),
}
