"""What a network's input is made of, kept with its weights, so that weights meet no other pixels than they know."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import InitVar, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.utils import convert_to_dst_type, convert_to_tensor, ensure_tuple
from torch import Tensor

from monai_ext.base.distributed import is_first
from monai_ext.base.errors import InputError
from monai_ext.base.files import atomic_path

__all__ = ["CAFFE", "IMAGENET", "InputConvention", "copy_weights", "read_convention", "save_weights"]

_FILE = "model.json"
_COLOURS = ("channels", "value_range", "mean", "std")  # what the pixels become; the others are what they show
_SAME_MPP = 0.1  # a smaller difference of scale leaves an image as it is, here as in what reads images


@dataclass(frozen=True)
class InputConvention:
    """How RGB pixels become a network's input: the one place that normalises, for arrays and tensors alike.

    It is written to ``model.json`` beside the weights that were trained with it. Weights that are named here are looked
    at when the object is made, so that whatever needs it, be it a field's transforms, a slide's predictor or an
    export's, begins with weights that fit.

    Args:
        mean: what is subtracted of each channel, in the order of ``channels`` and in units of ``value_range``.
        std: what each channel is divided by.
        channels: the order in which the network takes the colours, ``"RGB"`` or ``"BGR"``; pixels are RGB.
        value_range: what the network's black and white were, before ``mean`` and ``std``; pixels are 0 to 255.
        mpp: um/px of the images; ``None`` for any.
        classes: names of what the network tells apart, in its order; none where it is not told.
        overlay: the file that brings this convention into a bundle's configuration, to be named to whoever needs it.
        weights: the file of weights that are used as they are; ``None`` for none.
        initial_weights: the file of weights that a training begins from, or several, of any scale and for any classes;
            or their name at torchvision, whose ImageNet weights take :data:`IMAGENET`. Other names are not looked at.

    Raises:
        InputError: values that cannot be; weights that were trained with another convention.
    """

    mean: Sequence[float] = (0.0, 0.0, 0.0)
    std: Sequence[float] = (255.0, 255.0, 255.0)
    channels: str = "RGB"
    value_range: Sequence[float] = (0.0, 255.0)
    mpp: float | None = None
    classes: Sequence[str] = ()
    overlay: str | None = None
    weights: InitVar[str | Path | None] = None
    initial_weights: InitVar[str | Path | Sequence[str | Path | None] | None] = None

    def __post_init__(
        self, weights: str | Path | None, initial_weights: str | Path | Sequence[str | Path | None] | None
    ) -> None:
        for name, count in (("mean", 3), ("std", 3), ("value_range", 2)):
            object.__setattr__(self, name, _numbers(getattr(self, name), count, f"convention#{name}"))
        if min(self.std) <= 0:
            raise InputError("convention#std", "numbers above 0", repr(list(self.std)))
        if self.value_range[0] >= self.value_range[1]:
            raise InputError("convention#value_range", "black below white", repr(list(self.value_range)))
        if self.channels not in ("RGB", "BGR"):
            raise InputError("convention#channels", "'RGB' or 'BGR'", repr(self.channels))
        if self.mpp is not None:
            object.__setattr__(self, "mpp", _numbers([self.mpp], 1, "convention#mpp")[0])
        object.__setattr__(self, "classes", tuple(map(str, self.classes)))
        if weights is not None:
            self.check(weights)
        for path in ensure_tuple(initial_weights):
            if path is not None:
                self.check(path, initial=True)

    def of(self, weights: str | Path, **changes: Any) -> InputConvention:
        """The same convention for another network.

        Args:
            weights: the file of its weights.
            **changes: what differs, such as ``classes``.

        Raises:
            InputError: weights that were trained with another convention.
        """
        return replace(self, weights=weights, **changes)

    def __call__(self, image: np.ndarray | Tensor) -> np.ndarray | Tensor:
        """The input of a network.

        Args:
            image: RGB ``(..., 3, H, W)``, 0 to 255, of any numeric type.

        Returns:
            float32 of the same shape, kind and device.
        """
        x = convert_to_tensor(image, dtype=torch.float32, track_meta=False)
        if self.channels == "BGR":
            x = x.flip(-3)
        low, high = self.value_range
        if (low, high) != (0, 255):
            x = x * ((high - low) / 255) + low
        x = (x - self._column(self.mean, x)) / self._column(self.std, x)
        return convert_to_dst_type(x, image, dtype=torch.float32)[0]

    def undo(self, x: Tensor) -> Tensor:
        """The RGB pixels, 0 to 255, of a network's input ``(..., 3, H, W)``."""
        x = x * self._column(self.std, x) + self._column(self.mean, x)
        low, high = self.value_range
        if (low, high) != (0, 255):
            x = (x - low) * (255 / (high - low))
        return x.flip(-3) if self.channels == "BGR" else x

    @staticmethod
    def _column(values: Sequence[float], like: Tensor) -> Tensor:
        return torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, 1, 1)

    def content(self) -> dict[str, Any]:
        """All of it, as it is written to ``model.json``."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def check(self, weights: str | Path, initial: bool = False) -> None:
        """Refuse weights that were trained with another convention.

        Weights without a ``model.json``, older ones or other people's, are taken as they are, and a line on stderr says
        so. Whether the file is there at all is up to what loads it.

        Args:
            weights: the file.
            initial: a training begins from them; um/px and classes may differ then.

        Raises:
            InputError: naming what differs and the overlay to add.
        """
        path = Path(weights)
        theirs = read_convention(path)
        if theirs is None:
            if path.is_file() and is_first():
                print(
                    f"{path}: no {_FILE} beside it, so that it is taken to expect {self._told(_COLOURS)}",
                    file=sys.stderr,
                )
            return
        different = [name for name in _COLOURS if getattr(self, name) != getattr(theirs, name)]
        if not initial:
            different += [name for name in ("mpp", "classes") if self._contradicts(theirs, name)]
        if different:
            expected, found = self._told(different), theirs._told(different)
            raise InputError(path, f"weights trained with {expected}", f"{found}: {self._remedy(theirs, different)}")

    def _contradicts(self, theirs: InputConvention, name: str) -> bool:
        here, there = getattr(self, name), getattr(theirs, name)
        if not here or not there:  # not told
            return False
        return here != there if name == "classes" else abs(math.log(here / there)) > math.log1p(_SAME_MPP)

    def _told(self, names: Sequence[str]) -> str:
        content = self.content()
        return ", ".join(f"{name} {content[name]}" for name in names)

    def _remedy(self, theirs: InputConvention, different: Sequence[str]) -> str:
        steps = []
        if set(different) & set(_COLOURS):
            if theirs.overlay and theirs.overlay != self.overlay:
                steps.append(f"add {theirs.overlay} to --config_file")
            elif self.overlay and not theirs.overlay:
                steps.append(f"leave {self.overlay} out of --config_file")
            else:
                content = theirs.content()
                options = (f'--convention#{name} "{content[name]}"' for name in different if name in _COLOURS)
                steps.append(f"add {' '.join(options)}")
        if "mpp" in different:
            steps.append(f"add --target_mpp {theirs.mpp:g}")
        if "classes" in different:
            steps.append("take weights for these classes")
        return " and ".join(steps)


def _numbers(values: Any, count: int, name: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise InputError(name, f"{count} number(s)", repr(values))
    return numbers


#: What the networks of Caffe's model zoo take, such as VGG-16 and FCN-32s.
CAFFE = InputConvention(
    mean=(104.007, 116.669, 122.679), std=(1, 1, 1), channels="BGR", overlay="configs/overlays/input/caffe_input.json"
)


#: What torchvision's networks with ImageNet's weights take.
IMAGENET = InputConvention(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
_TORCHVISION = "IMAGENET1K_V"  # and a number


def read_convention(weights: str | Path) -> InputConvention | None:
    """What weights were trained with.

    Args:
        weights: a file of weights; the convention is in ``model.json`` beside it, whatever its own name, for a folder
            holds one network: as ``model.pt``, as ``model.onnx``, as its ``backbone.pt``. That of a ``.caffemodel`` is
            :data:`CAFFE`, that of torchvision's ``IMAGENET1K_V1`` is :data:`IMAGENET`.

    Returns:
        the convention; ``None`` if it is not told.

    Raises:
        InputError: a ``model.json`` that holds no convention.
    """
    path = Path(weights)
    if path.suffix == ".caffemodel":
        return CAFFE
    if str(weights).startswith(_TORCHVISION):
        return IMAGENET
    file = path.with_name(_FILE)
    if not path.is_file() or not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        least = {name: content[name] for name in ("mean", "std", "channels")}
        # entries of other names are for others
        return InputConvention(
            **least | {f.name: content[f.name] for f in fields(InputConvention) if f.name in content}
        )
    except InputError as error:
        raise InputError(file, f"{error.expected} as {error.where.removeprefix('convention#')}", error.found) from error
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(file, "a network's input convention", repr(error)) from error


def save_weights(state: Mapping[str, Tensor], path: str | Path, convention: InputConvention | None) -> None:
    """Write a plain state dict and its convention, each file whole or not at all.

    Args:
        state: names and tensors.
        path: the file to write, ``model.pt``.
        convention: goes to ``model.json`` beside it; with ``None`` one that is there, of other weights, is removed.
    """
    with _convention_beside(Path(path), None if convention is None else convention.content()) as temporary:
        torch.save(state, temporary)


def copy_weights(source: str | Path, destination: str | Path) -> None:
    """Copy weights together with their convention, each file whole or not at all.

    Args:
        source: a file of weights.
        destination: the file to write.
    """
    file = Path(source).with_name(_FILE)
    content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    with _convention_beside(Path(destination), content) as temporary:
        shutil.copyfile(source, temporary)


@contextmanager
def _convention_beside(weights: Path, content: Mapping[str, Any] | None) -> Iterator[Path]:
    """Where to write weights; their convention is there when they are, and another one never beside them."""
    file = weights.with_name(_FILE)
    text = None if content is None else json.dumps(content, indent=1) + "\n"
    same = text is not None and file.is_file() and file.read_text(encoding="utf-8") == text
    if not same:
        file.unlink(missing_ok=True)
    with atomic_path(weights) as temporary:
        yield temporary
    if text is not None and not same:
        with atomic_path(file) as temporary:
            temporary.write_text(text, encoding="utf-8")
