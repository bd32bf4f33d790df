"""A large batch in parts gives what it gives at once."""

import pytest
import torch

from monai_ext.errors import InputError
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


def test_no_image_at_once_is_refused():
    with pytest.raises(InputError, match="at least 1"):
        ChunkInferer(0)
