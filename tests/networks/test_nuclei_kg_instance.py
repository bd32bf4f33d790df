import pytest
import torch
from torchvision.ops import box_iou

from monai_ext.instances.targets import instances_to_target
from monai_ext.networks.nets import NucleiKGInstance
from monai_ext.networks.nets.nuclei_kg_instance import _group_boxes, _points
from tests.discs import disc_image, grid_ids

BOX_TOLERANCE = 1e-3  # px
SHAPE = (32, 36)  # cells, for images of 64 x 72 px


def network(**options):
    torch.manual_seed(0)
    return NucleiKGInstance("resnet18", channels=16, **options)


def target(ids, **options):
    return instances_to_target(torch.nn.functional.pad(ids, (0, 8)), **options)


def as_predicted(net, given, noise=0.0):
    """The heat and offsets that a network would give that has learnt a target."""
    near, _, offsets = net._wanted(given, SHAPE)
    heat = near.float()
    return heat, offsets + noise * torch.randn_like(offsets)


@pytest.mark.parametrize("ids", [disc_image(0, 4, 64)[1], disc_image(3, 6, 64, (3, 6))[1], grid_ids(4, 16, 12)])
def test_true_maps_give_the_boxes_back(ids):
    net, given = network(), target(ids)
    boxes, scores = net._boxes(*as_predicted(net, given), (64, 72))
    assert len(boxes) == len(given["boxes"])
    partner = box_iou(given["boxes"], boxes).argmax(1)
    assert len(partner.unique()) == len(boxes)
    torch.testing.assert_close(boxes[partner], given["boxes"], rtol=0, atol=BOX_TOLERANCE)
    assert scores.min() > net.score_threshold


def test_noisy_maps_give_about_the_boxes():
    net, given = network(), target(disc_image(1, 4, 64)[1])
    boxes, _ = net._boxes(*as_predicted(net, given, 0.1), (64, 72))
    assert len(boxes) == 4
    assert box_iou(given["boxes"], boxes).amax(1).min() > 0.8


@pytest.mark.parametrize("missing", [[0], [4], [0, 3], [1, 2], [0, 1], [2, 4]])
def test_boxes_without_some_keypoints(missing):
    """Three of five are enough."""
    net, given = network(), target(disc_image(2, 3, 64)[1])
    heat, offsets = as_predicted(net, given)
    heat[missing] = 0
    boxes, _ = net._boxes(heat, offsets, (64, 72))
    assert len(boxes) == 3
    assert box_iou(given["boxes"], boxes).amax(1).min() > 0.99


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ([0, 3], True),
        ([1, 2], True),
        ([0, 1], False),
        ([0, 4], False),
        ([4], False),
        ([0, 1, 4], True),
        ([1, 3, 4], True),
        ([0, 1, 2], True),
    ],
)
def test_which_groups_tell_a_box(found, told):
    box = torch.tensor([[3.0, 4, 13, 24]])
    seen = torch.zeros(1, 5, dtype=torch.bool)
    seen[0, found] = True
    boxes, whole = _group_boxes(_points(box), seen)
    assert whole.tolist() == [told]
    if told:
        assert torch.equal(boxes, box)


def test_cells_learn_from_the_nearest_keypoint():
    net, given = network(), target(disc_image(0, 4, 64)[1], weights=torch.tensor([1, 0.5, 0.25, 0.75]))
    near, weights, offsets = net._wanted(given, SHAPE)
    points = _points(given["boxes"])
    for kind in range(5):
        for row in range(SHAPE[0]):
            for col in range(SHAPE[1]):
                cell = torch.tensor([2.0 * col + 1, 2.0 * row + 1])
                distance = (points[:, kind] - cell).norm(dim=1)
                owner = distance.argmin()
                assert near[kind, row, col] == (distance[owner] <= net.radius)
                if near[kind, row, col]:
                    assert weights[kind, row, col] == given["weights"][owner]
                    torch.testing.assert_close(offsets[kind, :, :, row, col] * net.radius, points[owner] - cell)
                else:
                    assert weights[kind, row, col] == 1


def keypoint_distances(boxes):
    """From each cell to the nearest keypoint of each kind, px, ``(5, h, w)``."""
    rows, cols = torch.meshgrid(*(2 * torch.arange(side) + 1 for side in SHAPE), indexing="ij")
    cells = torch.stack([cols, rows], dim=-1).float()
    return torch.stack([(cells[:, :, None] - of_kind).norm(dim=-1).amin(-1) for of_kind in _points(boxes).unbind(1)])


def test_heat_around_a_known_keypoint_is_a_near_miss():
    """Where nothing else is known: cells of up to one and a half radii count as empty; not in a nucleus of weight 0."""
    ids = torch.zeros(1, 64, 64, dtype=torch.int64)
    ids[0, 20:40, 10:30], ids[0, 20:40, 30:50] = 1, 2
    for weight in (1.0, 0.0):
        given = target(ids, known=torch.zeros(64, 72), weights=torch.tensor([1.0, weight]))
        near, weights, _ = network(unlabelled="ignore")._wanted(given, SHAPE)
        ring = keypoint_distances(given["boxes"][:1])
        ring = (ring > 5) & (ring <= 7.5) & ~near
        void = given["masks"][1][::2, ::2].expand_as(ring) if weight == 0 else torch.zeros_like(ring)
        nearer = keypoint_distances(given["boxes"][1:]) < keypoint_distances(given["boxes"][:1])
        assert ring.any(2).any(1).all()  # of each kind
        assert weights[ring & ~void & ~nearer].eq(1).all()
        if weight == 0:
            assert not weights[void & ~near].any()


def test_unknown_cells_and_weights_of_zero_do_not_count():
    ids = disc_image(0, 3, 64)[1]
    known = torch.zeros(64, 72)
    known[:, :20] = 1
    given = target(ids, known=known, weights=torch.tensor([1.0, 0, 1]))
    near, weights, _ = network(unlabelled="ignore")._wanted(given, SHAPE)
    unknown = torch.ones(SHAPE, dtype=torch.bool)
    unknown[:, :10] = False
    labelled = given["masks"][[0, 2]].any(0)[::2, ::2]
    around = keypoint_distances(given["boxes"][[0, 2]]) <= 1.5 * 5
    assert not weights[(unknown & ~labelled & ~near.any(0)) & ~around].any()
    alone = given["masks"][1][::2, ::2]
    others, _, _ = network()._wanted(target(torch.where(ids == 2, 0, ids)), SHAPE)
    for unlabelled in ("background", "ignore"):
        weights = network(unlabelled=unlabelled)._wanted(given, SHAPE)[1]
        assert not weights[alone.expand_as(weights) & ~others].any()
    assert weights[:, :, :9].any()


def test_an_instance_of_weight_zero_has_no_gradient():
    net, given = network(jitter=0.0), target(disc_image(0, 3, 64)[1], weights=torch.tensor([1.0, 0, 1]))
    kept = {}
    maps = net.compute_maps

    def remembered(images):
        features, kept["heat"], kept["offsets"] = maps(images)
        for each in kept.values():
            each.retain_grad()
        return features, kept["heat"], kept["offsets"]

    net.compute_maps = remembered
    sum(net.losses(torch.randn(1, 3, 64, 72), [given]).values()).backward()
    near, weights, _ = net._wanted(given, SHAPE)
    assert torch.equal(kept["heat"].grad[0] != 0, weights > 0)
    assert torch.equal((kept["offsets"].grad[0] != 0).any(2).any(1), near & (weights > 0))
    assert (near & (weights == 0)).any()
