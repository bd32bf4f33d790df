import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import SwinTransformer
from torchvision.models.swin_transformer import ShiftedWindowAttention

from monai_ext.base.errors import InputError
from monai_ext.explain import relevance
from monai_ext.networks.nets import CyclicClassifier
from monai_ext.visualize import attention_rollout, class_activation, lrp_relevance

CONSERVED = 2e-3  # of the score; the bar is .01
SAME = 1e-4  # of the largest relevance: zennit adds 1e-6 to what it divides by
ROLLED = 1e-5


def classifier(name="resnet18", seed=0):
    """Statistics of normalisation as training leaves them, scales and biases of all signs."""
    torch.manual_seed(seed)
    network = CyclicClassifier(name)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            module.momentum = None  # the plain mean
    network(torch.randn(8, 3, 64, 64))
    return network.eval()


@pytest.fixture(scope="module")
def resnet18():
    return classifier()


@pytest.fixture
def images():
    return torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def plus(x, weight, share, stride=1, padding=0):
    """The rule alpha 1, beta 0 to the letter, biases left out."""
    weight = weight.clamp(min=0)
    z = F.conv2d(x, weight, stride=stride, padding=padding)
    quotient = torch.where(z > 0, share / z, 0)
    return x * torch.nn.grad.conv2d_input(x.shape, weight, quotient, stride, padding)


def merged(conv, norm):
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return conv.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale


def slow_lrp(network, images, target):
    """Layer after layer there and back, without hooks: for networks of basic blocks."""
    net = network.backbone
    w, b = merged(net.conv1, net.bn1)
    start = F.conv2d(images, w, b, 2, 3).relu()
    x = F.max_pool2d(start, 3, 2, 1)
    steps = []
    for block in itertools.chain(net.layer1, net.layer2, net.layer3, net.layer4):
        (w1, b1), (w2, b2) = merged(block.conv1, block.bn1), merged(block.conv2, block.bn2)
        stride = block.conv1.stride[0]
        middle = F.conv2d(x, w1, b1, stride, 1).relu()
        out = F.conv2d(middle, w2, b2, 1, 1)
        wd, short = None, x
        if block.downsample is not None:
            wd, bd = merged(*block.downsample)
            short = F.conv2d(x, wd, bd, stride)
        steps.append((x, middle, out, short, w1, w2, wd, stride))
        x = (out + short).relu()
    share = network.head.weight[target][:, :, None, None] * x / x[0, 0].numel()
    for x, middle, out, short, w1, w2, wd, stride in reversed(steps):
        quotient = torch.where(out + short != 0, share / (out + short), 0)
        deep = plus(x, w1, plus(middle, w2, out * quotient, 1, 1), stride, 1)
        share = deep + (short * quotient if wd is None else plus(x, wd, short * quotient, stride))
    _, winner = F.max_pool2d(start, 3, 2, 1, return_indices=True)
    share = torch.zeros_like(start).flatten(2).scatter_add(2, winner.flatten(2), share.flatten(2)).view_as(start)
    ones = torch.ones_like(net.conv1.weight)
    count = F.conv2d(torch.ones_like(images), ones, stride=2, padding=3)
    return torch.nn.grad.conv2d_input(images.shape, ones, share / count, 2, 3).sum(1)


def test_lrp_is_the_rules_to_the_letter(resnet18, images):
    target = torch.tensor([1, 0, 1])
    found = lrp_relevance(resnet18, images, target)
    with torch.no_grad():
        slow = slow_lrp(copy.deepcopy(resnet18).double(), images.double(), target)
    assert (found - slow).abs().max() < SAME * slow.abs().max()


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet50", "timm:resnet18", "timm:resnet50", "timm:tf_efficientnet_lite0"]
)
@pytest.mark.parametrize("target", [None, 0, 1])
def test_relevance_sums_to_the_score(name, target, images):
    """Less the head's bias, which keeps its own; the biases of convolutions take none."""
    network = classifier(name, seed=2)
    with torch.no_grad():
        logits = network(images)
        scores = logits.amax(1) if target is None else logits[:, target]
        bias = network.head.bias[logits.argmax(1) if target is None else target]
    total = lrp_relevance(network, images, target).sum((1, 2))
    torch.testing.assert_close(total, scores - bias, rtol=CONSERVED, atol=0)


def test_the_network_is_left_as_it_was(resnet18, images):
    network = copy.deepcopy(resnet18)
    network.train()
    network.backbone.bn1.eval()  # frozen, as some do
    network.backbone.conv1.requires_grad_(False)
    before = copy.deepcopy(network)
    lrp_relevance(network, images)
    with pytest.raises(RuntimeError):
        lrp_relevance(network, images[:, :2])
    assert str(network) == str(before)
    for (name, module), old in zip(network.named_modules(), before.modules(), strict=True):
        assert module.training == old.training, name
        assert module.__dict__.keys() == old.__dict__.keys(), name
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    for (name, weight), old in zip(network.named_parameters(), before.parameters(), strict=True):
        assert weight.requires_grad == old.requires_grad, name
        assert weight.grad is None, name
    state = before.state_dict()
    assert network.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    with torch.no_grad():
        assert torch.equal(network.eval()(images), before.eval()(images))


def test_images_do_not_mix_and_the_predicted_class_is_explained(resnet18, images):
    together = lrp_relevance(resnet18, images)
    with torch.no_grad():
        predicted = resnet18(images).argmax(1)
    for image, own, label in zip(images, together, predicted.tolist(), strict=True):
        alone = lrp_relevance(resnet18, image[None], label)[0]
        assert (alone - own).abs().max() < SAME * own.abs().max()


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_relevance_needs_no_gradients_of_the_caller(resnet18, images, context):
    wanted = lrp_relevance(resnet18, images)
    with context():
        found = lrp_relevance(resnet18, images)
    torch.testing.assert_close(found, wanted)
    assert not found.requires_grad
    assert not images.requires_grad


def tiny_swin(window=3, seed=0):
    torch.manual_seed(seed)
    network = SwinTransformer([4, 4], 8, [2, 3], [2, 2], [window, window], num_classes=2, stochastic_depth_prob=0.2)
    for module in network.modules():
        if isinstance(module, ShiftedWindowAttention):  # weights that matter
            nn.init.normal_(module.qkv.weight, std=1.0)
            nn.init.normal_(module.qkv.bias, std=1.0)
            nn.init.normal_(module.relative_position_bias_table, std=1.0)
    return network.features.eval()


def attention_matrix(block, x):
    """What each token of ``x`` (H, W, C) takes from each, head by head and key by key; padding takes part."""
    rows, columns, channels = x.shape
    window, shift = block.window_size[0], list(block.shift_size)
    high, wide = -(-rows // window) * window, -(-columns // window) * window
    shift = [0 if side <= window else step for side, step in zip((high, wide), shift, strict=True)]
    padded = torch.zeros(high, wide, channels, dtype=x.dtype)
    padded[:rows, :columns] = x
    query, key, _ = block.qkv(padded).view(high, wide, 3, block.num_heads, -1).unbind(2)
    bias = block.relative_position_bias_table
    matrix = torch.zeros(rows, columns, rows, columns, dtype=x.dtype)

    def seen_from(row, column):
        """Its place in its window, the window, and whether the shift has carried it round the edge."""
        at = ((row - shift[0]) % high, (column - shift[1]) % wide)
        return at, (at[0] // window, at[1] // window, row < shift[0], column < shift[1])

    everywhere = list(itertools.product(range(high), range(wide)))
    for row, column in itertools.product(range(rows), range(columns)):
        at, own = seen_from(row, column)
        near = [(place, seen_from(*place)[0]) for place in everywhere if seen_from(*place)[1] == own]
        for head in range(block.num_heads):
            scores = []
            for place, other in near:
                step = [a - b + window - 1 for a, b in zip(at, other, strict=True)]
                product = (query[row, column, head] * key[(*place, head)]).sum() / query.shape[-1] ** 0.5
                scores.append(product + bias[step[0] * (2 * window - 1) + step[1], head])
            weights = torch.stack(scores).softmax(0) / block.num_heads
            for (place, _), weight in zip(near, weights, strict=True):
                if place[0] < rows and place[1] < columns:
                    matrix[(row, column, *place)] += weight
    return matrix.view(rows * columns, -1)


def slow_rollout(features, image):
    """The matrices of all blocks and mergings, multiplied."""
    blocks, inputs = [m for m in features.modules() if isinstance(m, ShiftedWindowAttention)], []
    hooks = [block.register_forward_pre_hook(lambda _, given: inputs.append(given[0][0])) for block in blocks]
    features(image[None])
    for hook in hooks:
        hook.remove()
    product, before = None, None
    for block, x in zip(blocks, inputs, strict=True):
        matrix = (attention_matrix(block, x) + torch.eye(x[..., 0].numel())) / 2
        if product is None:
            product = matrix
        elif x.shape == before:
            product = matrix @ product
        else:
            merge = torch.zeros(x[..., 0].numel(), product.shape[0])
            for row, column in itertools.product(range(before[0]), range(before[1])):
                merge[row // 2 * x.shape[1] + column // 2, row * before[1] + column] = 1 / 4
            product = matrix @ merge @ product
        before = x.shape
    share = product.mean(0).view(inputs[0].shape[:2])
    return share / share.mean()


@pytest.mark.parametrize("size", [(24, 24), (28, 44), (12, 40)])
def test_rollout_is_the_product_of_all_attention(size):
    features = tiny_swin()
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        slow = torch.stack([slow_rollout(features, image) for image in images])
    found = attention_rollout(features, images)
    wanted = F.interpolate(slow[:, None], scale_factor=4, mode="bilinear")[:, 0]
    assert wanted.std() > 0.1  # there is something to find
    torch.testing.assert_close(found, wanted, rtol=ROLLED, atol=ROLLED)


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (70, 51)])
def test_rollout_of_swin(size):
    network = CyclicClassifier("swin_t")
    network.backbone.features[1].eval()
    modes = [module.training for module in network.modules()]
    images = torch.randn(2, 3, *size)
    found = relevance(network, images)
    assert found.shape == (2, *size)
    assert found.dtype == torch.float32
    assert torch.isfinite(found).all()
    assert found.min() >= -1
    torch.testing.assert_close(relevance(network, images[1:]), found[1:], rtol=ROLLED, atol=ROLLED)
    assert [module.training for module in network.modules()] == modes


def test_a_margin_is_mirrored_and_cut_off(resnet18, images):
    wide = F.pad(images, (16,) * 4, mode="reflect")
    torch.testing.assert_close(relevance(resnet18, images, 1, 16), lrp_relevance(resnet18, wide, 1)[:, 16:-16, 16:-16])
    flat = torch.full((1, 3, 96, 96), 0.5)

    def crowding(margin):
        found = relevance(resnet18, flat, 1, margin)[0].abs()
        return found[:8, :8].mean() / found[40:56, 40:56].mean()

    assert crowding(64) < crowding(0) / 2
    with pytest.raises(InputError, match="relevance margin: expected px from 0 to below 64, found 64"):
        relevance(resnet18, images, margin=64)


def test_the_backbone_decides(resnet18, images):
    torch.testing.assert_close(relevance(resnet18, images, 1), lrp_relevance(resnet18, images, 1))
    with pytest.raises(InputError, match="attention_rollout: expected a Swin transformer, found a resnet18"):
        attention_rollout(resnet18.backbone, images)
    with pytest.raises(InputError, match="lrp_relevance: expected a convolutional network, found a Swin"):
        lrp_relevance(tiny_swin(), images)


def test_timms_resnet_is_explained_as_torchvisions(resnet18, images):
    other = CyclicClassifier("timm:resnet18").eval()
    other.backbone.network.load_state_dict(resnet18.backbone.state_dict())
    other.head.load_state_dict(resnet18.head.state_dict())
    torch.testing.assert_close(relevance(other, images, 1), relevance(resnet18, images, 1))


@pytest.mark.parametrize("name", ["timm:vit_tiny_patch16_224", "timm:convnext_atto", "timm:efficientnet_b0", "resnet18"])
def test_a_class_activation_map_sums_to_the_score(name, images):
    network = classifier(name, seed=4)
    logits = network(images)
    for target in (0, 1):
        total = class_activation(network, images, target).sum((1, 2))
        torch.testing.assert_close(total, (logits[:, target] - network.head.bias[target]).detach(), rtol=1e-4, atol=1e-5)
    predicted = class_activation(network, images)
    for image, label, found in zip(images, logits.argmax(1), predicted, strict=True):
        torch.testing.assert_close(class_activation(network, image[None], int(label))[0], found, rtol=1e-3, atol=1e-6)


def test_a_class_activation_map_is_where_the_head_sees_it(images):
    """The tokens weighed by the head, one by one."""
    network = classifier("timm:vit_tiny_patch16_224", seed=4)
    with torch.no_grad():
        tokens = network.backbone.tokens(images)
        grid = torch.stack([torch.stack([network.head.weight[1] @ t for t in image.flatten(1).T]) for image in tokens])
    found = class_activation(network, images, 1)
    wide = F.interpolate(grid.view(3, 1, 4, 4), scale_factor=16, mode="bilinear", align_corners=False)
    torch.testing.assert_close(found, wide[:, 0] / (16 * 256))
    assert found.shape == (3, 64, 64)


@pytest.mark.parametrize("name", ["timm:vit_tiny_patch16_224", "timm:efficientnet_b0", "timm:swin_tiny_patch4_window7_224"])
def test_what_no_rule_is_made_for_gets_a_class_activation_map(name, images):
    network = CyclicClassifier(name).eval()
    found = relevance(network, images, 1, margin=16)
    wide = F.pad(images, (16,) * 4, mode="reflect")
    torch.testing.assert_close(found, class_activation(network, wide, 1)[:, 16:-16, 16:-16])


def test_layer_normalisation_has_no_rule(images):
    with pytest.raises(InputError, match="lrp_relevance: expected a convolutional network, found layer normal"):
        lrp_relevance(CyclicClassifier("timm:vit_tiny_patch16_224"), images)
