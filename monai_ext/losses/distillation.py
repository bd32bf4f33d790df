"""The loss of a student (Hinton et al. 2015; Háberová and Vykopal 2023, section 4.3.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_ext.base.errors import InputError

__all__ = ["DistillationLoss"]


class DistillationLoss(nn.Module):
    """Cross-entropy with the teacher's classes, soft labels as an option.

    ``(1 - soft) * CE(student, argmax teacher) + soft * T^2 * KL(softmax(teacher / T) || softmax(student / T))``, means
    over the batch. Háberová and Vykopal take hard labels, ``soft = 0``. The second term is that of Hinton et al.,
    section 2; ``T^2`` keeps its gradients of one size whatever the temperature.

    Args:
        soft: weight of the soft labels, 0 to 1.
        temperature: T, at least above 0; of the soft labels alone.
        weight: ``(C,)``, of the classes in the cross-entropy, as ``torch.nn.CrossEntropyLoss`` takes them; ``None``
            weighs all nuclei alike, as the paper does.

    Raises:
        InputError: numbers outside their range.
    """

    weight: Tensor | None

    def __init__(self, soft: float = 0.0, temperature: float = 4.0, weight: Tensor | None = None) -> None:
        super().__init__()
        if not 0 <= soft <= 1:
            raise InputError("soft", "a share from 0 to 1", repr(soft))
        if not temperature > 0:
            raise InputError("temperature", "a number above 0", repr(temperature))
        self.soft, self.temperature = soft, temperature
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, logits: Tensor, teacher: Tensor) -> Tensor:
        """The loss of a batch.

        Args:
            logits: the student's, ``(B, C)``.
            teacher: the teacher's logits, ``(B, C)``, of any floating-point type.

        Returns:
            a scalar.

        Raises:
            InputError: shapes that differ.
        """
        if logits.shape != teacher.shape:
            raise InputError("teacher", f"logits {tuple(logits.shape)} as the student's", str(tuple(teacher.shape)))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        teacher = teacher.to(logits.dtype)
        loss = logits.new_zeros(())
        if self.soft < 1:
            weight = None if self.weight is None else self.weight.to(logits)
            loss = loss + (1 - self.soft) * F.cross_entropy(logits, teacher.argmax(1), weight)
        if self.soft > 0:
            student, target = ((x / self.temperature).log_softmax(1) for x in (logits, teacher))
            divergence = F.kl_div(student, target, reduction="batchmean", log_target=True)
            loss = loss + self.soft * self.temperature**2 * divergence
        return loss
