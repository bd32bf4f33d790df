"""The two stages: what each trains, that they resume, and that the loop finds what nothing else shows."""

from copy import deepcopy
from functools import partial

import pytest
import pytorch_optimizer
import torch
from ignite.engine import Events
from ignite.handlers import EMAHandler
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.handlers import IgniteMetricHandler, LrScheduleHandler, StatsHandler, ValidationHandler
from monai.metrics import MSEMetric
from monai.optimizers import WarmupCosineSchedule
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW  # Ranger centres gradients in place
from torch.optim.lr_scheduler import SequentialLR

from monai_ext.base.errors import InputError
from monai_ext.engines import LoopbackTrainer
from monai_ext.handlers import EpochProgress, EpochSeed, TrainingState
from monai_ext.inferers import AutocastInferer
from monai_ext.losses import GHMCLoss, GridLocatingLoss, LoopbackLoss
from monai_ext.metrics import GridLocating
from monai_ext.networks.nets import LoopNet
from tests.killed import KillableRun, Killed, assert_equal
from tests.ranks import joined

Ranger = partial(pytorch_optimizer.Ranger, degenerated_to_sgd=True)  # as in train.json
REL = 1e-5
PATCH, GRID = 8, 4
STAGE1, EPOCHS, STEPS = 3, 6, 3
LR = 0.02
LOCATED = 0.9
PARTS = ("backbone", "head", "locator")


class Small(nn.Module):
    """LoopNet's parts in a few hundred weights: a patch is a place of the features."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 8, PATCH, PATCH), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU()
        )
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 1))
        self.locator = nn.Sequential(
            nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.1), nn.Conv2d(8, 3, 1)
        )

    def forward(self, images, locate=True):
        features = self.backbone(images)
        out = {"logit": self.head(features)}
        return out | {"p_loc": self.locator(features)} if locate else out


def vessels(count, seed=0):
    """Cells are patches of noise: greenish if healthy, reddish if cancerous; a third of the places is blank."""
    generator = torch.Generator().manual_seed(seed)
    items = []
    for number in range(count):
        invaded = number % 2
        cells = torch.rand(1, GRID, GRID, generator=generator) > 1 / 3
        cells[0, 0, 0] = True
        classes = cells.long() + (invaded * cells * (torch.rand(1, GRID, GRID, generator=generator) < 0.4)).long()
        classes[0, 0, 0] = 1 + invaded
        colours = torch.tensor([[0, 0, 0], [0.2, 1, 0.3], [1, 0.2, 0.3]])[classes[0]].permute(2, 0, 1)
        image = colours.repeat_interleave(PATCH, 1).repeat_interleave(PATCH, 2)
        noise = 0.5 + torch.rand(image.shape, generator=generator)
        items.append(
            {"image": image * noise, "label": torch.tensor([float(invaded)]), "cells": cells, "classes": classes}
        )
    return items


class Run(KillableRun):
    """A training as a bundle would configure it."""

    def __init__(
        self,
        folder,
        resume=False,
        epochs=EPOCHS,
        stage1=STAGE1,
        stop=None,
        items=None,
        batch_size=4,
        loss=None,
        handlers=(),
        optimizer=Ranger,
        **options,
    ):
        torch.manual_seed(0)
        self.network = Small()
        self.items = items or vessels(batch_size * STEPS)
        self.optimizer = optimizer(self.network.parameters(), lr=LR, weight_decay=5e-4)
        stages = [length for length in (stage1, epochs - stage1) if length]
        schedules = [
            WarmupCosineSchedule(self.optimizer, warmup_steps=1, t_total=length, warmup_multiplier=0.1)
            for length in stages
        ]
        self.scheduler = SequentialLR(self.optimizer, schedules, milestones=[stage1][: len(stages) - 1])
        average = EMAHandler(self.network, momentum=0.2, handle_buffers="update")
        self.loss = loss or GHMCLoss()
        self.evaluator = SupervisedEvaluator(
            "cpu",
            DataLoader(Dataset(self.items), batch_size=4),
            average.ema_model,
            key_val_metric={
                "error": IgniteMetricHandler(
                    MSEMetric(),
                    output_transform=lambda out: ([o["pred"]["logit"] for o in out], [o["label"] for o in out]),
                )
            },
            metric_cmp_fn=lambda new, best: new < best,
        )
        objects = {
            "network": self.network,
            "average": average.ema_model,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "loss": self.loss,
        }
        self.state = TrainingState(folder, objects, self.evaluator, resume, weights="average")
        self.trainer = LoopbackTrainer(
            "cpu",
            epochs,
            DataLoader(Dataset(self.items), batch_size=batch_size, shuffle=True),
            self.network,
            self.optimizer,
            self.loss,
            stage1_epochs=stage1,
            evaluator=self.evaluator,
            train_handlers=[
                EpochSeed(3),
                average,
                LrScheduleHandler(self.scheduler, print_lr=False),
                ValidationHandler(1, self.evaluator),
                StatsHandler(tag_name="loss", output_transform=lambda out: out[0]["loss"]),
                *handlers,
                self.state,
                EpochProgress(self.state.history),
            ],
            **options,
        )
        if stop is not None:
            self.kill_after(stop)


def part(name):
    return name.split(".")[0]


def left(folder):
    return [torch.load(folder / name, weights_only=True) for name in ("training_state.pt", "model.pt")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return Run(folder)(), folder


@pytest.mark.parametrize(
    "stop",
    [
        pytest.param(5, id="in stage 1"),
        pytest.param(STAGE1 * STEPS, id="at its last step"),
        pytest.param(STAGE1 * STEPS + 1, id="in the first epoch of stage 2"),
        pytest.param(STAGE1 * STEPS + 5, id="in stage 2"),
    ],
)
def test_killed_and_resumed_equals_undisturbed(stop, whole, tmp_path):
    with pytest.raises(Killed):
        Run(tmp_path, stop=stop)()
    torch.manual_seed(stop)
    assert Run(tmp_path, resume=True)().trainer.state.epoch == EPOCHS
    assert_equal(left(tmp_path), left(whole[1]))


def test_history_and_learning_rate(whole):
    """A warm-up and a cosine in each stage; the best model is one of the second."""
    run, folder = whole
    assert [entry["epoch"] for entry in run.state.history] == list(range(1, EPOCHS + 1))
    rates = [entry["lr"] / LR for entry in run.state.history]  # after the epoch's step: that of the next one
    assert rates == pytest.approx([1, 0.5, 0.1, 1, 0.5, 0])
    assert left(folder)[0]["best_metric_epoch"] > STAGE1


def test_what_each_stage_trains(tmp_path):
    seen = {}

    class Watch:
        def attach(self, engine):
            engine.add_event_handler(Events.EPOCH_COMPLETED, self)

        def __call__(self, engine):
            seen[engine.state.epoch] = engine.stage, deepcopy(engine.network.state_dict())

    torch.manual_seed(0)
    before = Small().state_dict()
    Run(tmp_path, handlers=[Watch()])()
    for epoch, (stage, weights) in seen.items():
        assert stage == (1 if epoch <= STAGE1 else 2)
        changed = {part(name) for name, value in weights.items() if not torch.equal(value, before[name])}
        assert changed == ({"backbone", "head"} if stage == 1 else set(PARTS))


def test_the_optimizer_starts_afresh_in_stage_2(tmp_path):
    steps = []

    class Watch:
        def attach(self, engine):
            engine.add_event_handler(Events.ITERATION_COMPLETED, self)

        def __call__(self, engine):
            (group,) = engine.optimizer.param_groups
            steps.append((group["step"], group["lr"]))

    Run(tmp_path, handlers=[Watch()])()
    count = STAGE1 * STEPS
    assert [step for step, _ in steps] == [*range(1, count + 1)] * 2
    assert steps[count][1] == pytest.approx(0.1 * LR)  # the scheduler's


def one_step(stage1=0, **options):
    """The trainer of a single step and the gradients that it leaves."""
    torch.manual_seed(0)
    network, items = Small(), vessels(4)
    network.locator[3].p = 0.0
    start = deepcopy(network)
    loss = options.pop("loss_function", nn.BCEWithLogitsLoss())
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    trainer = LoopbackTrainer(
        "cpu", 1, DataLoader(Dataset(items), batch_size=4), network, optimizer, loss, stage1, **options
    )
    trainer.run()
    batch = next(iter(DataLoader(Dataset(items), batch_size=4)))
    return trainer, start, batch, {name: parameter.grad for name, parameter in network.named_parameters()}


@pytest.mark.parametrize(
    ("weights", "zero"),
    [
        ((1.0, 0.5, 1.0), set()),
        ((0.0, 0.5, 1.0), set()),
        ((1.0, 0.0, 1.0), {"head"}),
        ((1.0, 0.5, 0.0), set()),
        ((0.0, 0.0, 1.0), {"head"}),
        ((1.0, 0.0, 0.0), {"head"}),
    ],
    ids=["whole", "without L_loop", "without L_cls", "without L_loc", "L_loc alone", "L_loop alone"],
)
def test_equation_4(weights, zero):
    """Each term with a network of its own; the judge is a third one, with the statistics after the pass before it."""
    alpha, beta, gamma = weights
    trainer, start, batch, found = one_step(alpha=alpha, beta=beta, gamma=gamma)
    network, judge = deepcopy(start).train(), deepcopy(start)
    pred = network(batch["image"])
    judge(batch["image"])
    judge.eval()
    invaded = batch["label"][:, 0] == 1
    probability = pred["p_loc"][invaded].softmax(1).repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)
    logits = [
        judge(batch["image"][invaded] * area)["logit"] for area in (probability[:, :2].sum(1, True), probability[:, 2:])
    ]
    entropy = nn.BCEWithLogitsLoss()
    terms = {
        "loss_loc": GridLocatingLoss()(pred["p_loc"], batch["cells"], batch["label"]),
        "loss_loop": entropy(logits[0], torch.zeros(2, 1)) + entropy(logits[1], torch.ones(2, 1)),
        "loss_cls": entropy(pred["logit"], batch["label"]),
    }
    total = gamma * terms["loss_loc"] + alpha * terms["loss_loop"] + beta * terms["loss_cls"]
    total.backward()
    output = trainer.state.output[0]
    assert float(output["loss"]) == pytest.approx(total.item(), rel=REL)
    for name, value in terms.items():
        assert float(output[name]) == pytest.approx(value.item() if alpha or name != "loss_loop" else 0, rel=REL)
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-6)
        assert not (found[name].any() and part(name) in zero)


def test_stage_1_is_the_classifier_alone():
    trainer, start, batch, found = one_step(stage1=1)
    loss = nn.BCEWithLogitsLoss()(start(batch["image"])["logit"], batch["label"])
    loss.backward()
    assert float(trainer.state.output[0]["loss"]) == pytest.approx(loss.item(), rel=REL)
    assert trainer.state.output[0]["pred"].keys() == {"logit"}
    for name, parameter in start.named_parameters():
        if part(name) == "locator":
            assert found[name] is None
        else:
            torch.testing.assert_close(found[name], parameter.grad)


def test_two_passes_of_the_backbone(monkeypatch):
    """One over the batch for both branches; one over its two invaded vessels, masked both ways, to judge."""
    calls, forward = [], Small.forward

    def counted(network, images, locate=True):
        calls.append((len(images), locate, network.training))
        return forward(network, images, locate)

    monkeypatch.setattr(Small, "forward", counted)
    one_step()
    assert calls == [(4, True, True), (4, False, False)]


def test_loopnet_itself_with_metatensors(tmp_path):
    torch.manual_seed(0)
    network = LoopNet("resnet18", grid=2).to(memory_format=torch.channels_last)
    items = [
        {"image": MetaTensor(torch.randn(3, 64, 64)), "label": number, "cells": torch.ones(1, 2, 2)}
        for number in (0, 1)
    ]
    optimizer = Ranger(network.parameters(), lr=1e-3)
    state = TrainingState(tmp_path, {"network": network, "optimizer": optimizer})
    loader = DataLoader(Dataset(items), batch_size=2)
    LoopbackTrainer("cpu", 2, loader, network, optimizer, GHMCLoss(), 1, train_handlers=[state]).run()
    assert len(state.history) == 2
    assert all(value.isfinite().all() for value in network.state_dict().values())


@pytest.mark.parametrize("items", [vessels(4)[::2], vessels(4)[1::2]], ids=["healthy alone", "invaded alone"])
def test_batches_of_one_kind(items, tmp_path):
    run = Run(tmp_path, items=items * 4, epochs=2, stage1=1)()
    assert all(value.isfinite().all() for value in run.network.state_dict().values())


@pytest.mark.usefixtures("bfloat16")
def test_bfloat16_on_a_cpu(tmp_path):
    dtypes = set()
    run = Run(tmp_path, inferer=AutocastInferer())
    run.network.backbone[0].register_forward_hook(lambda _module, _inputs, out: dtypes.add(out.dtype))
    run()
    assert dtypes == {torch.bfloat16}
    assert all(value.dtype == torch.float32 for value in run.network.parameters())
    plain = Run(tmp_path / "plain")()
    assert run.state.history[-1]["loss"] == pytest.approx(plain.state.history[-1]["loss"], rel=0.1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_mixed_precision_on_a_gpu():
    torch.manual_seed(0)
    network = Small().cuda()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    loader = DataLoader(Dataset(vessels(8)), batch_size=4)
    trainer = LoopbackTrainer("cuda", 4, loader, network, optimizer, GHMCLoss(), stage1_epochs=2, amp=True)
    trainer.run()
    assert trainer.scaler.get_scale() > 0
    assert all(value.isfinite().all() for value in network.state_dict().values())


@pytest.mark.parametrize("stage1", [0, 1])
def test_long_gradients_are_cut(tmp_path, stage1):
    lengths = []
    for folder, clip in (("free", None), ("cut", 0.01)):
        run = Run(tmp_path / folder, epochs=1, stage1=stage1, items=vessels(4), optimizer=AdamW, clip=clip)()
        gradients = [p.grad for p in run.network.parameters() if p.grad is not None]
        lengths.append(float(nn.utils.get_total_norm(gradients)))
    assert lengths[0] > 0.1
    assert lengths[1] == pytest.approx(0.01, rel=1e-3)


def test_a_batch_without_cells():
    items = [{key: item[key] for key in ("image", "label")} for item in vessels(4)]
    network = Small()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    trainer = LoopbackTrainer(
        "cpu", 2, DataLoader(Dataset(items), batch_size=4), network, optimizer, GHMCLoss(), stage1_epochs=1
    )
    with pytest.raises(InputError, match="batch: expected a grid of cells under 'cells', found image, label"):
        trainer.run()
    assert trainer.state.epoch == 2


@pytest.mark.parametrize("option", ["stage1_epochs", "alpha", "beta", "gamma"])
def test_bad_numbers(option):
    with pytest.raises(InputError, match=f"{option}: expected a number of at least 0"):
        one_step(**({"stage1": -1} if option == "stage1_epochs" else {option: -1}))


def located(run):
    """Dice over vessels that the training did not see."""
    items, metric = vessels(20, seed=1)[1::2], GridLocating()
    with torch.no_grad():
        out = run.network.eval()(torch.stack([item["image"] for item in items]))
    metric(out["p_loc"].argmax(1, keepdim=True), [item["classes"] for item in items])
    right = (out["logit"] > 0).float().mean().item()
    return metric.aggregate()["dice"].item(), right


@pytest.mark.slow
def test_the_loop_locates_what_no_label_shows(tmp_path):
    """Table 4: without the loop no patch is ever called cancerous."""
    options = {"items": vessels(32), "epochs": 40, "stage1": 20, "batch_size": 8, "optimizer": torch.optim.Adam}
    dice, right = located(Run(tmp_path / "loop", **options)())
    assert dice > LOCATED
    assert right > LOCATED
    assert located(Run(tmp_path / "none", alpha=0.0, **options)())[0] == 0


def _rank(rank, folder):
    with joined(rank, folder):
        torch.manual_seed(0)
        network = DistributedDataParallel(Small(), find_unused_parameters=True)
        optimizer = Ranger(network.parameters(), lr=LR)
        loader = DataLoader(Dataset(vessels(16)[::2] if rank else vessels(16, seed=1)), batch_size=4)
        loader = list(loader)[:2]  # the second rank sees healthy vessels alone
        loop = LoopbackLoss(GHMCLoss())
        LoopbackTrainer("cpu", 4, loader, network, optimizer, GHMCLoss(), 2, loopback_loss=loop).run()
    torch.save(network.module.state_dict(), f"{folder}/{rank}.pt")


@pytest.mark.slow
def test_two_processes(tmp_path):
    """Neither waits for the other, and both end with the same weights."""
    torch.multiprocessing.spawn(_rank, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    torch.manual_seed(0)
    start = dict(Small().named_parameters())
    assert all(torch.equal(first[name], second[name]) for name in start)
    assert {part(name) for name in start if not torch.equal(first[name], start[name])} == set(PARTS)
