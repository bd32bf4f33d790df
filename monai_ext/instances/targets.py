"""Targets of instance networks: masks, boxes, the weight of each, and where the truth is known."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, TypedDict

import torch
from monai.utils import convert_to_tensor
from torch import Tensor

from monai_ext.base.errors import InputError
from monai_ext.instances.sparse import SparseInstances
from monai_ext.metrics.instance import instance_map

__all__ = ["Target", "check_targets", "collate_targets", "instances_to_target", "make_target", "read_instances"]


class Target(TypedDict):
    """The N instances of one image that are known, few or all.

    Keys:
        masks: bool ``(N, H, W)``, none of them empty; they may overlap, and the earlier one is then on top.
        boxes: float32 ``(N, 4)`` ``x0, y0, x1, y1`` around the masks. Pixel (row, col) covers [col, col + 1) x
            [row, row + 1), so ends are exclusive and a mask of one pixel has a box of side 1.
        weights: float32 ``(N,)`` of at least 0, how much each counts. 0 leaves it out of the loss: its area is then
            neither nucleus nor background.
        known: bool ``(H, W)``, ``False`` where nuclei were not annotated; ``None`` where all is known.
            The masks are known in either case.
    """

    masks: Tensor
    boxes: Tensor
    weights: Tensor
    known: Tensor | None


def instances_to_target(instances: Any, weights: float | Tensor = 1.0, known: Any = None) -> Target:
    """From an instance map to a target.

    Args:
        instances: ``(1, H, W)`` integers of any width (or floats that hold integers), 0 is background; array, tensor
            or MetaTensor. Ids may have gaps; parts of one id that lie apart are one instance; instances that touch
            stay apart by their ids.
        weights: of each instance in the order of their ids, ``(N,)``, or of all.
        known: ``(H, W)`` or ``(1, H, W)``, not 0 where it is known what there is; ``None`` for everywhere.

    Raises:
        InputError: a map of another shape, a mask or probabilities, negative ids; as many weights as instances are
            expected.
    """
    return make_target(read_instances(instances), weights, known)


def read_instances(instances: Any) -> SparseInstances:
    """The instances of a map, in the order of their ids.

    Args:
        instances: as for :func:`instances_to_target`.

    Raises:
        InputError: as there.
    """
    ids = instance_map(instances, 1, "instances")
    if ids.ndim != 3:
        raise InputError("instances", "a map of shape (1, H, W)", f"shape {tuple(ids.shape)}")
    return SparseInstances.from_map(ids.as_subclass(Tensor)[0])


def make_target(instances: SparseInstances, weights: float | Tensor = 1.0, known: Any = None) -> Target:
    """A target of instances that may overlap, such as those that a network has found.

    Args:
        instances: in the order of their rank.
        weights: as for :func:`instances_to_target`.
        known: as for :func:`instances_to_target`.

    Raises:
        InputError: as many weights as instances are expected.
    """
    count, device = len(instances), instances.owner.device
    weights = torch.as_tensor(weights, dtype=torch.float32, device=device)
    if weights.ndim and weights.shape != (count,):
        raise InputError("weights", f"one for each of {count} instances", f"shape {tuple(weights.shape)}")
    if known is not None:
        known = convert_to_tensor(known, track_meta=False, device=device).reshape(instances.shape) != 0
    return Target(masks=instances.masks(), boxes=instances.boxes, weights=weights.expand(count).clone(), known=known)


def collate_targets(batch: Sequence[Mapping[Hashable, Any] | Sequence[Mapping[Hashable, Any]]]) -> dict[Hashable, Any]:
    """Make a batch: images of one size are stacked, of everything else there is a list.

    Args:
        batch: what a data set gave; items that are themselves lists, as random patches are, follow one another.

    Returns:
        ``image``, ``(B, C, H, W)``, and a list of B under each other key of the first item.
    """
    items = [item for part in batch for item in ([part] if isinstance(part, Mapping) else part)]
    lists: dict[Hashable, Any] = {key: [item[key] for item in items] for key in items[0]}
    return lists | {"image": torch.stack([convert_to_tensor(image, track_meta=False) for image in lists["image"]])}


def check_targets(images: Tensor, targets: Sequence[Target]) -> list[Target]:
    """The targets of a batch on its device, if they fit it.

    Args:
        images: ``(B, C, H, W)``.
        targets: one for each image.

    Raises:
        InputError: the first problem, with the place of the image in the batch.
    """
    if len(targets) != len(images):
        raise InputError("targets", f"one for each of {len(images)} images", str(len(targets)))
    return [_checked(f"target {number}", target, images) for number, target in enumerate(targets)]


def _checked(name: str, target: Target, images: Tensor) -> Target:
    size, count = tuple(images.shape[-2:]), len(target["masks"])
    shapes = {"masks": (count, *size), "boxes": (count, 4), "weights": (count,), "known": size}
    moved = {key: None if target.get(key) is None else target[key].to(images.device) for key in shapes}
    for key, shape in shapes.items():
        actual = None if moved[key] is None else tuple(moved[key].shape)
        if actual != shape and (key, actual) != ("known", None):
            raise InputError(f"{name}, {key}", f"shape {shape}", "none" if actual is None else f"shape {actual}")
    boxes, weights = moved["boxes"], moved["weights"]
    if moved["masks"].dtype != torch.bool or not moved["masks"].flatten(1).any(1).all():
        raise InputError(f"{name}, masks", "bool masks with at least one pixel each", "others")
    if not (boxes[:, :2] < boxes[:, 2:]).all():
        raise InputError(f"{name}, boxes", "x0 < x1 and y0 < y1", "an empty box")
    if not (weights.isfinite() & (weights >= 0)).all():
        raise InputError(f"{name}, weights", "numbers of at least 0", str(weights.min().item()))
    return Target(masks=moved["masks"], boxes=boxes.float(), weights=weights.float(), known=moved["known"])
