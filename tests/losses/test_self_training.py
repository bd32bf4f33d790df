import pytest
import torch

from monai_ext.base.errors import InputError
from monai_ext.losses import SelfTrainingLoss


def parts(*values):
    return {
        name: torch.tensor(value, dtype=torch.float64, requires_grad=True)
        for name, value in zip("abc", values, strict=False)
    }


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.66, 1.0])
def test_equation_2(alpha):
    old, new = parts(1.0, 2.0, 4.0), parts(3.0, 0.5, 1.0)
    expected = alpha * (1.0 + 2.0 + 4.0) + (1 - alpha) * (3.0 + 0.5 + 1.0)
    assert SelfTrainingLoss(alpha)(old, new).item() == pytest.approx(expected)


def test_gradients_are_shared_out_by_alpha():
    old, new = parts(1.0, 2.0), parts(3.0, 0.5)
    SelfTrainingLoss(0.66)(old, new).backward()
    assert [value.grad.item() for value in old.values()] == pytest.approx([0.66] * 2)
    assert [value.grad.item() for value in new.values()] == pytest.approx([0.34] * 2)


def test_the_teacher_has_its_seeds_alone():
    assert SelfTrainingLoss()(parts(1.0, 2.0)).item() == 3.0


def test_order_of_the_parts_does_not_count():
    old, new = parts(1.0, 2.0), dict(reversed(parts(3.0, 0.5).items()))
    assert SelfTrainingLoss(0.5)(old, new).item() == pytest.approx(3.25)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_weights_outside_their_range_are_refused(alpha):
    with pytest.raises(InputError, match="alpha: expected a weight from 0 to 1"):
        SelfTrainingLoss(alpha)


def test_losses_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="at least one part"):
        SelfTrainingLoss()({})
    with pytest.raises(InputError, match="losses of the new masks: expected a, b, found a"):
        SelfTrainingLoss()(parts(1.0, 2.0), parts(1.0))
