"""A large batch in parts gives what it gives at once."""

import pytest
import torch

from monai_ext.base.errors import InputError
from monai_ext.inferers import ChunkInferer


@pytest.mark.parametrize("count", [1, 2, 5])
def test_parts_are_put_together(count):
    sizes = []

    def network(images, factor):
        sizes.append(len(images))
        return {"sum": images.sum((1, 2, 3)), "image": factor * images}

    images = torch.rand(count, 3, 4, 4)
    found = ChunkInferer(2)(images, network, factor=3)
    assert max(sizes) <= 2
    torch.testing.assert_close(found, {"sum": images.sum((1, 2, 3)), "image": 3 * images})
    torch.testing.assert_close(ChunkInferer(2)(images, torch.square), images.square())


def test_mosaics_of_vessels_keep_their_vessel():
    images = torch.rand(2, 3, 1, 4, 4)
    found = ChunkInferer(4)(images, lambda batch: {"map": batch + 1, "logit": batch.sum((1, 2, 3))[:, None]})
    torch.testing.assert_close(found, {"map": images + 1, "logit": images.sum((2, 3, 4))[..., None]})


def test_no_image_at_once_is_refused():
    with pytest.raises(InputError, match="at least 1"):
        ChunkInferer(0)
