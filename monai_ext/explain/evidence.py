"""CELM: where a classifier sees its evidence, from activations and gradients (Huang and Chung 2019, section 2.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from numbers import Real
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from monai.utils import convert_to_tensor
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from monai_ext.base.errors import InputError
from monai_ext.base.smoothing import gaussian_smooth

__all__ = [
    "EvidenceMap",
    "check_settings",
    "fuse_evidence",
    "fusion_options",
    "grey_saliency",
    "in_evaluation",
    "min_max",
]

Saliency = Literal["minmax", "abs"]

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_FLAT = 1e-6  # a range this small beside the values is rounding
_SHARES, _LENGTHS = ("alpha", "beta", "threshold"), ("sigma", "smooth")
_RELU = {F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_}


def fusion_options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of ``settings`` that say how maps are fused: ``alpha``, ``beta``, ``sigma``, ``saliency``."""
    return {name: settings[name] for name in ("alpha", "beta", "sigma", "saliency") if name in settings}


def check_settings(settings: Mapping[str, Any], where: str = "") -> None:
    """Check that settings of the fusion and of the masks are in their range; missing ones are no error.

    Args:
        settings: ``alpha``, ``beta``, ``threshold`` in [0, 1]; ``sigma``, ``smooth`` px; ``saliency``.
        where: what an error names before the setting.

    Raises:
        InputError: one out of range.
    """
    for name in (*_SHARES, *_LENGTHS):
        value = settings.get(name, 0)
        number = isinstance(value, Real) and not isinstance(value, bool)
        if not number or not 0 <= value <= (1 if name in _SHARES else torch.inf):
            raise InputError(where + name, "a number from 0 to 1" if name in _SHARES else "px >= 0", repr(value))
    if settings.get("saliency", "abs") not in get_args(Saliency):
        raise InputError(f"{where}saliency", "'minmax' or 'abs'", repr(settings["saliency"]))


def min_max(x: Tensor) -> Tensor:
    """Stretch each image of a batch to [0, 1]; one without any contrast becomes 0, not NaN.

    Args:
        x: ``(B, ...)``; each ``x[i]`` is stretched as a whole.
    """
    flat = x.flatten(1)
    low, high = flat.amin(1), flat.amax(1)
    span = high - low
    span = torch.where(span > _FLAT * torch.maximum(low.abs(), high.abs()), span, torch.inf)
    shape = (-1, *[1] * (x.ndim - 1))
    return (x - low.view(shape)) / span.view(shape)


def grey_saliency(gradient: Tensor, saliency: Saliency = "minmax") -> Tensor:
    """The gradient at each pixel as one number: normalised to [0, 1], then made grey (section 2.2).

    Args:
        gradient: ``(B, C, H, W)``, signed. Grey is the luma of ITU-R BT.601 for three channels, else their mean.
        saliency: ``"minmax"`` stretches the signed gradient from its minimum to its maximum, which is the paper to the
            letter; pixels without influence then lie in the middle of the scale. ``"abs"`` divides its magnitude by
            the largest one, and they are 0.

    Returns:
        ``(B, 1, H, W)`` in [0, 1].
    """
    if saliency == "abs":
        scaled = gradient.abs()
        scaled = scaled / scaled.flatten(1).amax(1).clamp(min=torch.finfo(scaled.dtype).tiny).view(-1, 1, 1, 1)
    else:
        scaled = min_max(gradient)
    if scaled.shape[1] != len(_LUMA):
        return scaled.mean(1, keepdim=True)
    return (scaled * scaled.new_tensor(_LUMA).view(1, -1, 1, 1)).sum(1, keepdim=True)


def fuse_evidence(
    cam3: Tensor, cam2: Tensor | None, saliency: Tensor, alpha: float = 0.5, beta: float = 0.5, sigma: float = 2.0
) -> dict[str, Tensor]:
    """Put the three maps together: ``CAM = alpha CAM3 + (1 - alpha) CAM2``, ``CELM = beta CAM CSM + (1 - beta) CAM``.

    Args:
        cam3: ``(B, 1, H, W)`` in [0, 1].
        cam2: likewise, or ``None`` where there is one activation map alone; CAM then is ``cam3``.
        saliency: likewise, as :func:`grey_saliency` gives it.
        alpha: share of the coarse map, in [0, 1].
        beta: share of the product, in [0, 1].
        sigma: of the smoothing of ``saliency``, px; it is stretched to [0, 1] again afterwards.

    Returns:
        ``csm``, ``cam`` and ``celm``, each ``(B, 1, H, W)`` in [0, 1].
    """
    csm = min_max(gaussian_smooth(saliency, sigma))
    cam = cam3 if cam2 is None else alpha * cam3 + (1 - alpha) * cam2
    return {"csm": csm, "cam": cam, "celm": beta * cam * csm + (1 - beta) * cam}


class _GuidedReLU(TorchFunctionMode):
    """While :attr:`active`, gradients lose their negative part at the output of every ReLU that was called inside.

    With the ReLU's own derivative this is guided backpropagation (Springenberg et al. 2015). A mode sees modules and
    plain functions alike, also one module that is called several times and those that work in place.
    """

    active = False

    def _clamp(self, gradient: Tensor) -> Tensor | None:
        return gradient.clamp(min=0) if self.active else None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in _RELU and out.requires_grad:
            out.register_hook(self._clamp)
        return out


@contextmanager
def in_evaluation(network: nn.Module) -> Iterator[None]:
    """The network in evaluation mode, each of its modules then as it was."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


class EvidenceMap:
    """Cancerous evidence localization maps (CELM) of a batch, and the maps that they are made of.

    For the score ``y`` of a class, before sigmoid or softmax:

    - ``cam3``, ``cam2``: ``ReLU(sum_k a_k F_k)`` of the coarse and of the fine layer's maps ``F``, ``a_k`` the mean of
      ``dy / dF_k`` over the map (Grad-CAM), interpolated bilinearly to the input's size;
    - ``csm``: ``dy / dI`` by guided backpropagation, normalised, turned to grey, smoothed (:func:`grey_saliency`);
    - ``cam``, ``celm``: their fusion (:func:`fuse_evidence`).

    Our reading where the paper is silent: each map is stretched to [0, 1] image by image before the fusion, the
    saliency once more after its smoothing. A map without contrast, such as the activation map of a class that nothing
    speaks for, is all zeros.

    What is computed: one forward pass, kept for both gradients. First the plain gradient from the score to the fine
    layer, which gives both activation maps; it runs through the head and the layers between the two alone. Then one
    guided gradient from the score to the input. So of the backward pass only that upper part is done twice, as a
    gradient is either plain or guided there. No weight's gradient is computed.

    The network's state is restored: mode, ``requires_grad``, gradients, hooks. Works inside ``torch.no_grad`` and
    ``torch.inference_mode``, with frozen weights, and in float32 also under autocast, as the gradients of single
    pixels would underflow in half precision. Guided backpropagation is defined for ReLU alone: other activations pass
    their plain gradient.

    .. code-block:: python

        maps = EvidenceMap(network)(images)["celm"]
        EvidenceMap(resnet18, fine=None, coarse="layer4")

    Args:
        network: gives logits ``(B, classes)`` for images ``(B, C, H, W)``.
        fine: the fine layer by its dotted name, as in MONAI's ``GradCAM``; ``None`` for one activation map alone.
        coarse: the coarse layer, likewise.
        alpha: see :func:`fuse_evidence`.
        beta: see :func:`fuse_evidence`.
        sigma: see :func:`fuse_evidence`; px.
        saliency: see :func:`grey_saliency`.
        class_idx: whose evidence; ``None`` for the class of the highest logit. With one logit there is no choice.

    Raises:
        InputError: no such layer, or a number outside its range.
    """

    def __init__(
        self,
        network: nn.Module,
        fine: str | None = "stage2",
        coarse: str = "stage3",
        alpha: float = 0.5,
        beta: float = 0.5,
        sigma: float = 2.0,
        saliency: Saliency = "minmax",
        class_idx: int | None = None,
    ) -> None:
        check_settings({"alpha": alpha, "beta": beta, "sigma": sigma, "saliency": saliency})
        modules = dict(network.named_modules())
        for name in (coarse, fine):
            if name is not None and name not in modules:
                raise InputError("EvidenceMap", f"a layer of {type(network).__name__}", repr(name))
        self.network = network
        self.layers = {"cam3": modules[coarse], **({} if fine is None else {"cam2": modules[fine]})}
        self.alpha, self.beta, self.sigma = float(alpha), float(beta), float(sigma)
        self.saliency, self.class_idx = saliency, class_idx

    def __call__(self, x: Tensor, class_idx: int | Tensor | None = None) -> dict[str, Tensor]:
        """All maps of a batch.

        Args:
            x: ``(B, C, H, W)``, as the network takes it.
            class_idx: in place of the constructor's; a number, or one for each image, ``(B,)``.

        Returns:
            ``logits`` ``(B, classes)``; ``cam2`` (with a fine layer), ``cam3``, ``cam``, ``csm``, ``celm``, each
            float32 ``(B, 1, H, W)`` in [0, 1].
        """
        parts = self.ingredients(x, class_idx)
        saliency = grey_saliency(parts.pop("gradient"), self.saliency)
        fused = fuse_evidence(parts["cam3"], parts.get("cam2"), saliency, self.alpha, self.beta, self.sigma)
        return {**parts, **fused}

    def ingredients(self, x: Tensor, class_idx: int | Tensor | None = None) -> dict[str, Tensor]:
        """What the maps are fused from, for those who try many ways to do so; arguments as of a call.

        Returns:
            ``logits``; ``cam2`` and ``cam3`` as of a call; ``gradient``, the guided gradient ``(B, C, H, W)``.
        """
        relu = _GuidedReLU()
        with self._graph(x, class_idx, relu) as (image, logits, score, features):
            plain = torch.autograd.grad(score, list(features.values()), retain_graph=True)
            relu.active = True
            (guided,) = torch.autograd.grad(score, image)
        cams = {
            name: self._activation_map(maps.detach(), gradient, x.shape[2:])
            for (name, maps), gradient in zip(features.items(), plain, strict=True)
        }
        return {"logits": logits.detach(), **cams, "gradient": guided.float()}

    def backprop(self, x: Tensor, class_idx: int | Tensor | None = None) -> Tensor:
        """The largest magnitude of the plain gradient over the channels (Simonyan et al. 2014), stretched to [0, 1].

        Arguments as of a call; a forward and a backward pass of its own.

        Returns:
            float32 ``(B, 1, H, W)``.
        """
        with self._graph(x, class_idx) as (image, _, score, _):
            (gradient,) = torch.autograd.grad(score, image)
        return min_max(gradient.float().abs().amax(1, keepdim=True))

    @contextmanager
    def _graph(
        self, x: Tensor, class_idx: int | Tensor | None, relu: TorchFunctionMode | None = None
    ) -> Iterator[tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]]:
        """One forward pass with its graph: the image, logits, the summed scores, the layers' maps."""
        features: dict[str, Tensor] = {}
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(torch.autocast(x.device.type, enabled=False))
            stack.enter_context(in_evaluation(self.network))
            for name, layer in self.layers.items():
                handle = layer.register_forward_hook(lambda _, __, out, name=name: features.__setitem__(name, out))
                stack.callback(handle.remove)
            image = convert_to_tensor(x, track_meta=False).detach().clone().requires_grad_()
            with relu or nullcontext():
                logits = self.network(image)
            if unseen := [name for name in self.layers if name not in features]:
                raise InputError("EvidenceMap", "layers that the network calls", f"no output of the one of {unseen[0]}")
            if logits.ndim != 2:
                raise InputError("EvidenceMap", "logits of shape (B, classes)", f"shape {tuple(logits.shape)}")
            if class_idx is None:
                class_idx = self.class_idx
            chosen = logits.argmax(1) if class_idx is None else torch.as_tensor(class_idx, device=logits.device)
            # images do not mix in evaluation mode, so the gradient of the sum holds that of each
            score = logits.gather(1, chosen.long().expand(len(logits))[:, None]).sum()
            yield image, logits, score, features

    @staticmethod
    def _activation_map(maps: Tensor, gradient: Tensor, size: torch.Size) -> Tensor:
        weights = gradient.mean((2, 3), keepdim=True)
        cam = (weights * maps).sum(1, keepdim=True).relu().float()
        return min_max(F.interpolate(cam, size=tuple(size), mode="bilinear", align_corners=False))
