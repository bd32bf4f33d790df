"""The student's loss against the formulae, term by term."""

import math

import pytest
import torch

from monai_ext.base.errors import InputError
from monai_ext.losses import DistillationLoss

REL = 1e-9
FLAT = 0.02  # T^2 keeps the gradient's size up to this share at large T


def batch(seed=0, count=5, classes=4):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(count, classes, generator=generator, dtype=torch.float64) * 3 for _ in range(2))


def softmax(row, temperature=1.0):
    powers = [math.exp(float(value) / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def slow(student, teacher, soft, temperature):
    total = 0.0
    for own, other in zip(student, teacher, strict=True):
        hard = -math.log(softmax(own)[max(range(len(other)), key=lambda k: float(other[k]))])
        p, q = softmax(other, temperature), softmax(own, temperature)
        total += (1 - soft) * hard + soft * temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return total / len(student)


@pytest.mark.parametrize("soft", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_formula_and_gradient(soft, temperature):
    student, teacher = batch()
    loss = DistillationLoss(soft, temperature)
    assert loss(student, teacher).item() == pytest.approx(slow(student, teacher, soft, temperature), rel=REL)
    assert torch.autograd.gradcheck(lambda x: loss(x, teacher), student.requires_grad_())


def test_default_is_cross_entropy_with_the_teachers_classes():
    student, teacher = batch(1)
    expected = torch.nn.functional.cross_entropy(student, teacher.argmax(1))
    assert DistillationLoss()(student, teacher).item() == pytest.approx(expected.item(), rel=REL)


def test_a_student_like_its_teacher_has_nothing_to_learn():
    _, teacher = batch(2)
    student = (teacher + 5).requires_grad_()  # the same probabilities
    loss = DistillationLoss(1.0, 3.0)(student, teacher)
    loss.backward()
    assert abs(loss.item()) < REL
    assert student.grad.abs().max() < REL


def test_gradients_keep_their_size_whatever_the_temperature():
    """Hinton et al. 2015, eq. 4: at high T the gradient tends to the difference of the centred logits over C."""
    student, teacher = batch(3)
    student.requires_grad_()
    DistillationLoss(1.0, 1000.0)(student, teacher).backward()
    difference = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    torch.testing.assert_close(student.grad, difference.detach() / student.numel(), rtol=FLAT, atol=1e-3)


def test_half_precision_is_computed_in_full():
    student, teacher = (x.float() for x in batch(4))
    loss = DistillationLoss(0.5)(student.half(), teacher.half())
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(DistillationLoss(0.5)(student, teacher).item(), rel=1e-2)


@pytest.mark.parametrize("options", [{"soft": -0.1}, {"soft": 1.1}, {"temperature": 0}, {"temperature": -1}], ids=str)
def test_bad_numbers(options):
    with pytest.raises(InputError, match="expected"):
        DistillationLoss(**options)


def test_bad_shapes():
    with pytest.raises(InputError, match="teacher: expected logits"):
        DistillationLoss()(torch.zeros(2, 3), torch.zeros(2, 4))


def test_rare_classes_weigh_more_in_the_hard_labels_alone():
    student, teacher = batch(4)
    weight = torch.tensor([1.0, 2.0, 0.5, 4.0])
    hard = torch.nn.functional.cross_entropy(student, teacher.argmax(1), weight.double())
    soft = DistillationLoss(1.0)(student, teacher)
    assert DistillationLoss(weight=weight)(student, teacher).item() == pytest.approx(hard.item(), rel=REL)
    assert DistillationLoss(0.25, weight=weight)(student, teacher).item() == pytest.approx(
        (0.75 * hard + 0.25 * soft).item(), rel=REL
    )
