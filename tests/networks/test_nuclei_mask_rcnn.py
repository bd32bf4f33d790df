import pytest
import torch
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from monai_ext.instances.targets import instances_to_target
from monai_ext.networks.nets import NucleiMaskRCNN
from monai_ext.networks.nets.nuclei_mask_rcnn import _touches
from monai_ext.transforms import InstancesToTargetd
from tests.discs import disc_image, grid_ids

TOLERANCE = 1e-5


def network(seed=0, **options):
    torch.manual_seed(seed)
    return NucleiMaskRCNN("resnet18", channels=16, box_channels=32, **options)


def batch(count=2, side=64):
    images, ids = zip(*(disc_image(seed, 3, side) for seed in range(count)), strict=True)
    return torch.stack(images), [instances_to_target(each) for each in ids]


def losses(net, images, targets, seed=1):
    torch.manual_seed(seed)  # of the samples
    return net.losses(images, targets)


def test_losses_are_torchvisions():
    net = network().train()
    images, targets = batch()
    found = losses(net, images, targets)
    torch.manual_seed(1)
    features = net.fpn(net.features(images))
    labelled = [{**target, "labels": torch.ones(3, dtype=torch.long)} for target in targets]
    listed = ImageList(images, [(64, 64)] * 2)
    proposals, expected = net.rpn(listed, features, labelled)
    expected |= net.roi_heads(features, proposals, listed.image_sizes, labelled)[1]
    assert len(expected) == 4
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=TOLERANCE, atol=TOLERANCE)


def test_losses_are_linear_in_the_weights():
    net = network().eval()
    images, (first, second) = batch()

    def total(weights):
        given = [{**first, "weights": torch.tensor(weights)}, second]
        return torch.stack(list(losses(net, images, given).values()))

    low, high, middle = total([0.25, 1, 1]), total([0.75, 1, 1]), total([0.5, 1, 1])
    assert (high > low).any()
    torch.testing.assert_close(middle, (low + high) / 2, rtol=TOLERANCE, atol=TOLERANCE)


def learnt(net, images, targets):
    """The targets, and which anchors ``(A,)`` of the first image have a gradient."""
    rows = []
    score = net._score_anchors

    def remembered(features):
        objectness, deltas, anchors = score(features)
        objectness.retain_grad()
        deltas.retain_grad()
        rows.extend([objectness, deltas, torch.cat(anchors)])
        return objectness, deltas, anchors

    net._score_anchors = remembered
    sum(losses(net, images, targets).values()).backward()
    objectness, deltas, anchors = rows
    return anchors, (objectness.grad[0] != 0) | (deltas.grad[0] != 0).any(1)


@pytest.mark.parametrize("unlabelled", ["background", "ignore"])
def test_an_instance_of_weight_zero_has_no_gradient(unlabelled):
    net = network(unlabelled=unlabelled, rpn_samples=10_000)  # all that may be
    images, targets = batch(1)
    targets[0]["weights"][1] = 0
    anchors, seen = learnt(net, images, targets)
    assert seen.any()
    x0, y0, x1, y1 = targets[0]["boxes"][1].tolist()
    others = targets[0]["masks"][[0, 2]].any(0)
    meets = (anchors[:, 0] < x1) & (anchors[:, 2] > x0) & (anchors[:, 1] < y1) & (anchors[:, 3] > y0)
    within = meets & ~_touches(anchors, others)
    assert within.any()
    centred = within & ((anchors[:, :2] + anchors[:, 2:]) / 2 - torch.tensor([x0 + x1, y0 + y1]) / 2).norm(dim=1).lt(3)
    assert centred.any()
    assert not seen[centred].any()


def test_unknown_area_has_no_gradient():
    images, targets = batch(1)
    targets[0]["known"] = torch.arange(64).expand(64, 64) < 40
    known = targets[0]["known"] | targets[0]["masks"].any(0)
    for unlabelled, expected in (("ignore", False), ("background", True)):
        anchors, seen = learnt(network(unlabelled=unlabelled, rpn_samples=10_000), images, targets)
        nowhere_near = _touches(anchors, ~known) & ~_touches(anchors, targets[0]["masks"].any(0))
        assert nowhere_near.any()
        assert seen[nowhere_near].any() == expected
        assert seen[~nowhere_near].any()


def seeds_in_the_unknown(seed=0, side=128):
    """A target as seeds give it: few discs, each in a ring of which nothing is known, and known background."""
    _, ids = disc_image(seed, 6, side)
    inside = (ids[0] > 0).float()[None, None]
    ring = torch.nn.functional.max_pool2d(inside, 15, stride=1, padding=7)[0, 0] > 0
    return instances_to_target(ids, known=~ring)


def moved_boxes(boxes, count=4000, seed=0):
    """Boxes around those given, whose places and sizes are off, and their best IoU."""
    generator = torch.Generator().manual_seed(seed)
    chosen = boxes[torch.randint(len(boxes), (count,), generator=generator)]
    size = (chosen[:, 2:] - chosen[:, :2]).repeat(1, 2)
    moved = chosen + size * (torch.rand(count, 4, generator=generator) - 0.5)
    moved = moved[(moved[:, 2:] - moved[:, :2] > 2).all(1)]
    return moved, box_iou(boxes, moved).amax(0)


def negatives(net, boxes, target):
    """Which boxes the box head can learn as background."""
    sample = net._sample(boxes, target, net.roi_heads)
    chosen = torch.zeros(len(boxes), dtype=torch.bool)
    chosen[sample.index[~sample.nucleus]] = True
    return chosen


def test_near_misses_are_negatives():
    """Boxes of an IoU of .1 to .5 with a seed: all but none could be negatives when a negative had to be known."""
    net = network(unlabelled="ignore", roi_samples=100_000)
    before, after, of = 0, 0, 0
    for seed in range(4):
        target = seeds_in_the_unknown(seed)
        boxes, overlap = moved_boxes(target["boxes"])
        near = (overlap >= 0.1) & (overlap < 0.5)
        of += near.sum().item()
        before += (near & ~_touches(boxes, ~net.settled(target))).sum().item()
        found = negatives(net, boxes, target)
        after += (near & found).sum().item()
        assert not found[overlap >= 0.5].any()
        assert not found[(overlap < 0.1) & _touches(boxes, ~net.settled(target))].any()
    assert of > 1000
    assert before / of < 0.05
    assert after / of == 1


def test_what_is_nearer_to_a_missed_seed_is_void():
    net = network(unlabelled="ignore", roi_samples=100_000)
    for seed in range(4):
        target = seeds_in_the_unknown(seed)
        target["weights"][::2] = 0  # missed by the teacher
        target["known"][:] = True
        boxes, _ = moved_boxes(target["boxes"], seed=seed)
        overlap = box_iou(target["boxes"], boxes)
        missed, counted = overlap[::2].amax(0), overlap[1::2].amax(0)
        found = negatives(net, boxes, target)
        touch = _touches(boxes, target["masks"][::2].any(0))
        assert touch[missed >= 0.1].any()
        assert not found[touch & (missed > counted)].any()
        assert found[(counted >= 0.1) & (counted < 0.5) & (missed < counted)].all()


def test_a_missed_seed_is_not_learnt_as_background():
    """Eq. 2 through the transform: in L(M') no anchor on a seed that the teacher missed has a gradient."""
    images, ids = disc_image(0, 3, 64)
    found = torch.where(ids == 2, 0, ids)
    item = {"label": ids, "found": found, "known": torch.ones(1, 64, 64)}
    (x0, y0, x1, y1) = instances_to_target(ids)["boxes"][1].tolist()
    for missed, expected in (("background", True), ("ignore", False)):
        target = InstancesToTargetd(["label", "found"], missed=missed)(item)["found"]
        anchors, seen = learnt(network(unlabelled="ignore", rpn_samples=10_000), images[None], [target])
        on_it = ((anchors[:, :2] + anchors[:, 2:]) / 2 - torch.tensor([x0 + x1, y0 + y1]) / 2).norm(dim=1) < 3
        on_it &= ~_touches(anchors, found[0] > 0)
        assert on_it.any()
        assert seen[on_it].any() == expected


def test_anchors_lie_on_the_maps_grid_whatever_the_size():
    """Torchvision takes 250 px and 63 cells for a stride of 3."""
    net = network()
    for side in (250, 96):
        with torch.no_grad():
            anchors = net._score_anchors(net.fpn(net.features(torch.rand(1, 3, side, side))))[2]
        for level, stride in zip(anchors, (4, 8, 16, 32, 64), strict=True):
            cells = -(-side // stride)
            centre = ((level[-1, :2] + level[-1, 2:]) / 2).tolist()
            assert centre == [(cells - 1) * stride] * 2
            assert len(level) == 3 * cells**2
    sides = [(level[1, 2] - level[1, 0]).item() for level in anchors]
    assert sides == [8, 16, 32, 64, 128]


def test_the_first_image_does_not_settle_the_strides():
    images, targets = batch(1)
    first, second = network(), network()
    first.predict(torch.rand(1, 3, 33, 33))
    expected, found = losses(second, images, targets), losses(first, images, targets)
    assert {name: value.item() for name, value in found.items()} == {k: v.item() for k, v in expected.items()}


def test_proposals_are_suppressed_as_the_paper_says():
    net = network()
    assert net.train().rpn.nms_thresh == 0.9
    assert net.eval().rpn.nms_thresh == 0.7


def test_at_most_so_many_instances_are_learnt_at_once():
    target = instances_to_target(grid_ids(21))
    net = network()
    counts = [net._drawn(target)["weights"] > 0 for _ in range(2)]
    assert [each.sum() for each in counts] == [400, 400]
    assert not torch.equal(*counts)
    target["weights"][:50] = 0
    assert net._drawn(target) is target


def test_boxes_that_touch_an_area():
    area = torch.zeros(10, 12, dtype=torch.bool)
    area[4, 5] = True
    boxes = torch.tensor(
        [[5.0, 4, 6, 5], [5.9, 4.9, 7, 7], [6, 4, 9, 5], [0, 0, 5, 10], [-9, -9, 30, 30], [20, 20, 30, 30]]
    )
    assert _touches(boxes, area).tolist() == [True, True, False, False, True, False]
