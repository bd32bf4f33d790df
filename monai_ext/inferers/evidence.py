"""Evidence of images of any size, from windows of the size that the classifier was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.inferers import Inferer, sliding_window_inference
from torch import Tensor, nn

from monai_ext.base.errors import InputError
from monai_ext.base.flags import as_flag
from monai_ext.explain.evidence import EvidenceMap, check_settings, fusion_options

__all__ = ["EvidenceInferer"]

_MAPS = ("celm", "cam", "cam2", "cam3", "csm")


class EvidenceInferer(Inferer):
    """Scores windows, maps their evidence (:class:`~monai_ext.explain.EvidenceMap`) and puts the maps together.

    A map says where in its window the evidence lies, whether there is tumour or not. So that a window without tumour
    shows no evidence, and windows can be compared, each map is scaled to have the window's probability as its maximum.
    Where windows overlap they are averaged, the middle of a window counting most (a Gaussian weight, as in MONAI's
    sliding windows). An image of one window gives that window's map, by the same rule.

    Args:
        evidence: ``alpha``, ``beta``, ``sigma`` and ``saliency`` of ``EvidenceMap``, as ``read_evidence`` gives them
            among others; its defaults where they are left out.
        fine: layer of ``EvidenceMap``.
        coarse: likewise.
        class_idx: the class that counts; only a network with one logit needs none.
        roi_size: side of a window, px.
        overlap: of neighbouring windows, in [0, 1).
        sw_batch_size: windows computed together.
        map: which map: ``"celm"``, ``"cam"``, ``"cam2"``, ``"cam3"`` or ``"csm"``.
        weigh: whether to scale maps by the probability; else they are as ``EvidenceMap`` gives them.
        padding_mode: how an image smaller than a window is enlarged, as of ``torch.nn.functional.pad``.
        cval: what a constant padding holds, in the values of the normalised image; by default about white, which is
            empty glass, after the ImageNet normalisation.

    Raises:
        InputError: an unknown ``map``, or a number of ``evidence`` outside its range.
    """

    def __init__(
        self,
        evidence: Mapping[str, Any] | None = None,
        fine: str | None = "stage2",
        coarse: str = "stage3",
        class_idx: int | None = None,
        roi_size: int = 96,
        overlap: float = 0.5,
        sw_batch_size: int = 16,
        map: str = "celm",  # noqa: A002
        weigh: bool = True,
        padding_mode: str = "constant",
        cval: float = 2.4,
    ) -> None:
        super().__init__()
        if map not in _MAPS:
            raise InputError("EvidenceInferer", f"map among {', '.join(_MAPS)}", repr(map))
        check_settings(evidence or {}, "evidence ")  # now, not at the first image
        self.options = {**fusion_options(evidence or {}), "fine": fine, "coarse": coarse, "class_idx": class_idx}
        self.map, self.weigh = map, as_flag(weigh, "weigh")
        self.windows = {
            "roi_size": roi_size,
            "overlap": overlap,
            "sw_batch_size": sw_batch_size,
            "mode": "gaussian",
            "padding_mode": padding_mode,
            "cval": cval,
        }

    def __call__(self, inputs: Tensor, network: nn.Module, *_: Any, **__: Any) -> dict[str, Tensor]:
        """Scores and maps of a batch.

        Args:
            inputs: ``(B, C, H, W)``, normalised.
            network: gives logits ``(b, classes)`` for ``(b, C, roi_size, roi_size)``.

        Returns:
            ``score`` ``(B, 1)``, the highest probability of a window; ``evidence`` ``(B, 1, H, W)``; ``heat``
            ``(B, 1, H, W)``, the windows' probability. All float32 in [0, 1].

        Raises:
            InputError: several classes and no ``class_idx``.
        """
        evidence = EvidenceMap(network, **self.options)
        scores: list[Tensor] = []

        def predict(windows: Tensor) -> dict[str, Tensor]:
            maps = evidence(windows)
            logits = maps["logits"].float()
            if logits.shape[1] == 1:
                probability = logits.sigmoid()
            elif evidence.class_idx is None:
                raise InputError("EvidenceInferer", f"class_idx for {logits.shape[1]} classes", "none")
            else:
                probability = logits.softmax(1)[:, [evidence.class_idx]]
            scores.append(probability)
            evidence_map, heat = maps[self.map], probability[:, :, None, None]
            if self.weigh:
                peak = evidence_map.amax((2, 3), keepdim=True)
                evidence_map = evidence_map * heat / torch.where(peak > 0, peak, 1)
            return {"evidence": evidence_map, "heat": heat * torch.ones_like(evidence_map)}

        merged = sliding_window_inference(inputs.float(), predictor=predict, **self.windows)
        # windows come image by image
        return {"score": torch.cat(scores).view(len(inputs), -1).amax(1, keepdim=True), **merged}
