"""A loss of the pixels that are known."""

import pytest
import torch
from monai.losses import DiceCELoss

from monai_ext.losses import KnownPixels

LOSS = {"sigmoid": True, "batch": True, "smooth_nr": 1.0, "smooth_dr": 1.0}


def batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 1, 6, 5, generator=generator, requires_grad=True)
    return logits, (torch.rand(2, 1, 6, 5, generator=generator) > 0.5).float()


def test_where_all_is_known_it_is_the_loss_itself():
    logits, label = batch()
    assert KnownPixels(DiceCELoss(**LOSS))(logits, label).item() == pytest.approx(
        DiceCELoss(**LOSS)(logits, label).item()
    )


def test_what_is_unknown_has_no_part_and_no_gradient():
    logits, label = batch()
    label[:, :, 2:] = 255
    loss = KnownPixels(DiceCELoss(**LOSS))(logits, label)
    assert loss.item() == pytest.approx(DiceCELoss(**LOSS)(logits[:, :, :2], label[:, :, :2]).item())
    loss.backward()
    assert not logits.grad[:, :, 2:].any()
    assert logits.grad[:, :, :2].all()
    with torch.no_grad():
        logits[:, :, 2:] += 100
    assert KnownPixels(DiceCELoss(**LOSS))(logits, label).item() == loss.item()


def test_nothing_known_is_no_loss():
    logits, label = batch()
    loss = KnownPixels(DiceCELoss(**LOSS))(logits, torch.full_like(label, 255))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()
