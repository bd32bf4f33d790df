"""SegMitos: the fully convolutional VGG-16 of Li et al. (2019), section 3.1, and the weights it can start from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_ext.base.errors import InputError
from monai_ext.networks.utils import read_caffemodel, read_state_dict

__all__ = ["SegMitosFCN"]

_VGG16_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_FC_CHANNELS = 4096
_PARTS = ("weight", "bias")


def _bilinear_kernel(channels: int, factor: int) -> Tensor:
    """Weights ``(channels, 1, 2f, 2f)`` of a grouped transposed convolution that upsamples bilinearly by ``factor``."""
    size = 2 * factor
    ramp = 1 - (torch.arange(size) - (factor - 0.5)).abs() / factor
    return (ramp[:, None] * ramp).expand(channels, 1, size, size).clone()


class _Upsample(nn.Module):
    """Frozen bilinear deconvolution: kernel ``2 * factor``, stride ``factor``, no bias."""

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__()
        self.factor, self.channels = factor, channels
        # not persistent: it is constant, so checkpoints of every origin fit
        self.register_buffer("kernel", _bilinear_kernel(channels, factor), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, self.kernel, stride=self.factor, groups=self.channels)


class _Skip(nn.Module):
    """Adds the scores of a finer stage to the coarse scores, upsampled by 2 and cropped to the same grid.

    Args:
        in_channels: channels of the finer stage.
        num_classes: channels of the scores.
        offset: where the upsampled scores begin on the finer grid, in its cells; -1 if they begin one cell before it.
    """

    def __init__(self, in_channels: int, num_classes: int, offset: int) -> None:
        super().__init__()
        self.score = nn.Conv2d(in_channels, num_classes, 1)
        self.upsample = _Upsample(num_classes, 2)
        self.crop_fine, self.crop_coarse = max(offset, 0), max(-offset, 0)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        up = self.upsample(coarse)[:, :, self.crop_coarse :, self.crop_coarse :]
        fine = fine[:, :, self.crop_fine :, self.crop_fine :]
        height, width = min(up.shape[2], fine.shape[2]), min(up.shape[3], fine.shape[3])
        return up[:, :, :height, :width] + self.score(fine[:, :, :height, :width])


class SegMitosFCN(nn.Module):
    """FCN-32s, 16s or 8s over VGG-16 (Li et al. 2019, sections 3.1.1-3.1.2; Long et al. 2015).

    Pooling rounds up, fc6 and fc7 are a 7x7 and a 1x1 convolution, the scores start at zero, and the deconvolutions
    are frozen bilinear kernels. With the defaults it has 134,268,738 trainable parameters at stride 32, as the
    published network for two classes has (the deconvolutions, being constants, are not counted).

    Args:
        stride: 32, 16 (adds the scores of pool4) or 8 (adds those of pool4 and pool3), in pixels.
        num_classes: channels of the output.
        in_channels: channels of the input.
        width: multiplies every number of channels; 1 is the paper's network.
        fc_channels: channels of fc6 and fc7; ``None`` for ``4096 * width``.
        norm: ``None`` as in the paper, which starts from trained weights, or ``"batch"`` for batch normalisation
            after each convolution, with which a narrow network trains from random weights.
        padding: ``"input"`` pads the image by 100 px as the paper's Caffe network does; ``"features"`` keeps the
            image as it is and pads fc6 by 3 cells, which gives as many cells, 3 px further on, for about half the work
            at 500 px.
        dropout: probability after fc6 and after fc7.
        weights: ``None``; a torchvision name such as ``"IMAGENET1K_V1"`` (downloaded by torchvision); or a path to a
            ``.caffemodel`` (FCN or VGG-16) or to a torch state dict, of torchvision's VGG-16 or of this class. A
            state dict of this class may have another stride: layers that it lacks keep their fresh start, which is
            how 16s starts from 32s and 8s from 16s.

    Raises:
        InputError: unknown ``stride``, ``norm`` or ``padding``; weights that are missing or do not fit.
    """

    def __init__(
        self,
        stride: int = 32,
        num_classes: int = 2,
        in_channels: int = 3,
        width: float = 1.0,
        fc_channels: int | None = None,
        norm: str | None = None,
        padding: str = "input",
        dropout: float = 0.5,
        weights: str | Path | None = None,
    ) -> None:
        super().__init__()
        if stride not in (32, 16, 8):
            raise InputError("stride", "32, 16 or 8", repr(stride))
        if norm not in (None, "batch"):
            raise InputError("norm", "None or 'batch'", repr(norm))
        if padding not in ("input", "features"):
            raise InputError("padding", "'input' or 'features'", repr(padding))
        self.stride = stride
        self.num_classes = num_classes
        pads_input = padding == "input"

        stages = [tuple(max(1, round(c * width)) for c in stage) for stage in _VGG16_STAGES]
        fc = fc_channels or max(1, round(_FC_CHANNELS * width))
        layers, channels = [], in_channels
        for index, stage in enumerate(stages):
            blocks = []
            for out_channels in stage:
                first_pad = 100 if pads_input and index == 0 and not blocks else 1
                blocks += self._conv(channels, out_channels, 3, first_pad, norm)
                channels = out_channels
            layers.append(nn.Sequential(*blocks, nn.MaxPool2d(2, 2, ceil_mode=True)))
        self.stages = nn.ModuleList(layers)
        self.head = nn.Sequential(
            *self._conv(channels, fc, 7, 0 if pads_input else 3, norm),
            nn.Dropout(dropout),
            *self._conv(fc, fc, 1, 0, norm),
            nn.Dropout(dropout),
        )
        self.score = nn.Conv2d(fc, num_classes, 1)
        # Where the centre of a cell falls decides the crops: with the input padded, fc6 cell i looks at pool5 cell
        # i + 3 and conv1_1 has moved the image by 99 px; otherwise both grids begin with the image.
        skips = (
            (stages[3][-1], 5 if pads_input else -1),
            (stages[2][-1], 9 if pads_input else -1),
        )[: {32: 0, 16: 1, 8: 2}[stride]]
        self.skips = nn.ModuleList(_Skip(c, num_classes, offset) for c, offset in skips)
        self.upsample = _Upsample(num_classes, stride)
        self.crop = {32: 19, 16: 27, 8: 31}[stride] if pads_input else stride // 2

        self._initialise()
        if weights is not None:
            self._load(weights)

    @staticmethod
    def _conv(in_channels: int, out_channels: int, kernel: int, padding: int, norm: str | None) -> list[nn.Module]:
        conv = nn.Conv2d(in_channels, out_channels, kernel, padding=padding, bias=norm is None)
        return [conv, *([] if norm is None else [nn.BatchNorm2d(out_channels)]), nn.ReLU(inplace=True)]

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for score in [self.score, *(skip.score for skip in self.skips)]:
            nn.init.zeros_(score.weight)

    @property
    def halo(self) -> int:
        """Pixels around a tile that its map depends on, rounded up to a multiple of 32.

        fc6 sees 404 px, so 201.5 to each side of a cell's centre, and the deconvolutions carry a score another 31.5,
        39.5 or 43.5 px: 233, 241 and 245 px at strides 32, 16 and 8.
        """
        return 256

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, num_classes, H, W)`` of an image ``(B, in_channels, H, W)`` of any size."""
        height, width = x.shape[2], x.shape[3]
        pools: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)
            pools.append(x)
        x = self.score(self.head(x))
        for index, skip in enumerate(self.skips):
            x = skip(x, pools[3 - index])
        x = self.upsample(x)
        return x[:, :, self.crop : self.crop + height, self.crop : self.crop + width].contiguous()

    # -- weights ---------------------------------------------------------------------------------------------------

    def _load(self, weights: str | Path) -> None:
        path = Path(weights)
        if path.suffix == ".caffemodel":
            state = self._from_caffe(read_caffemodel(path), path)
        elif path.suffix or path.parent != Path() or path.exists():
            state = read_state_dict(path)
        else:
            from torchvision.models import vgg16

            try:
                state = vgg16(weights=str(weights)).state_dict()
            except (KeyError, ValueError) as error:
                raise InputError(
                    "weights", "a file or a name of torchvision's VGG-16 weights", repr(weights)
                ) from error
        self._load_matching(self._from_torchvision(state, weights) if "features.0.weight" in state else state, weights)

    def _load_matching(self, state: Mapping[str, Tensor], source: str | Path) -> None:
        expected = self.state_dict()
        unknown = sorted(
            set(state) - set(expected) - {f"skips.{i}.score.{p}" for i in (0, 1) for p in ("weight", "bias")}
        )
        misfits = [k for k, v in state.items() if k in expected and expected[k].shape != v.shape]
        # torchvision's IMAGENET1K_FEATURES has classifiers of NaN
        broken = [k for k, v in state.items() if not v.isfinite().all()]
        if unknown or misfits or broken or not state:
            problems = [f"unknown {k}" for k in unknown]
            problems += [f"{k} {tuple(state[k].shape)} instead of {tuple(expected[k].shape)}" for k in misfits]
            problems += [f"{k} not finite" for k in broken]
            raise InputError(source, "weights of this network", "; ".join(problems[:3]) or "no weights")
        self.load_state_dict({k: v for k, v in state.items() if k in expected}, strict=False)

    def _layers(self) -> dict[str, str]:
        """Caffe's name of each layer -> the name of its module here."""
        names = {}
        for s, stage in enumerate(self.stages):
            convs = [i for i, m in enumerate(stage) if isinstance(m, nn.Conv2d)]
            names |= {f"conv{s + 1}_{n + 1}": f"stages.{s}.{i}" for n, i in enumerate(convs)}
        fc6, fc7 = (i for i, m in enumerate(self.head) if isinstance(m, nn.Conv2d))
        return names | {"fc6": f"head.{fc6}", "fc7": f"head.{fc7}"}

    def _from_torchvision(self, state: Mapping[str, Tensor], source: str | Path) -> dict[str, Tensor]:
        features = sorted({int(k.split(".")[1]) for k in state if k.startswith("features.")})
        theirs = [*(f"features.{i}" for i in features), "classifier.0", "classifier.3"]
        ours = self._layers()
        if len(ours) != len(theirs) or any(f"{name}.{part}" not in state for name in theirs for part in _PARTS):
            raise InputError(source, "VGG-16 without batch normalisation", f"{len(features)} layers of features")
        return {
            f"{here}.{part}": self._as_convolution(state[f"{there}.{part}"], name)
            for (name, here), there in zip(ours.items(), theirs, strict=True)
            for part in _PARTS
        }

    def _from_caffe(self, blobs: Mapping[str, list[Tensor]], source: Path) -> dict[str, Tensor]:
        names = self._layers()
        for name, here in {"score_fr": "score", "score_pool4": "skips.0.score", "score_pool3": "skips.1.score"}.items():
            # PASCAL's 21 classes do not carry over; a SegMitos model's two do
            if name in blobs and blobs[name][0].shape[0] == self.num_classes:
                names[name] = here
        filled = {}
        for name, here in names.items():
            if name in blobs:
                if len(blobs[name]) != len(_PARTS):
                    raise InputError(source, f"weights and biases of {name}", f"{len(blobs[name])} arrays")
                filled |= {
                    f"{here}.weight": self._as_convolution(blobs[name][0], name),
                    f"{here}.bias": blobs[name][1].reshape(-1),
                }
        return filled

    @staticmethod
    def _as_convolution(value: Tensor, name: str) -> Tensor:
        """A linear layer's ``(out, in)`` matrix as the convolution that it is: 7x7 for fc6, 1x1 for fc7."""
        kernel = {"fc6": 7, "fc7": 1}.get(name)
        if kernel is None or value.ndim == 1 or value.shape[-2:] == (kernel, kernel):
            return value
        out_channels, inputs = value.shape[-2:]  # old Caffe puts two ones before them
        return value.reshape(out_channels, -1, kernel, kernel) if inputs % kernel**2 == 0 else value
