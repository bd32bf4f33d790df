"""Training of LoopNet in two stages (Zhang et al., CVPR 2023, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer, default_prepare_batch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from monai_ext.base.errors import InputError
from monai_ext.engines.clip_gradients import clip_gradients
from monai_ext.losses import GridLocatingLoss, LoopbackLoss

__all__ = ["LoopbackTrainer"]


class LoopbackTrainer(SupervisedTrainer):
    """First the classification branch alone, then both branches: ``gamma L_loc + alpha L_loop + beta L_cls``.

    Equation 4, where ``gamma`` is 1; each weight set to 0 is an ablation of Table 4. The backbone is run once over the
    batch, for both branches, and once over its invaded vessels, for both inputs of the loop.

    The second stage is a training of its own: the optimizer forgets its averages when it begins, else the locating
    head's would start under the step count of the classifier's, and the ``evaluator`` its best metric, for a model of
    the first stage locates nothing. Schedulers are handlers; for a warm-up and a cosine in each stage chain two
    ``WarmupCosineSchedule`` with ``torch.optim.lr_scheduler.SequentialLR``. The stage follows from the epoch, so
    :class:`~monai_ext.handlers.TrainingState` resumes in both; a loss with averages, as :class:`GHMCLoss`, belongs to
    its ``objects``.

    Batches are dictionaries of ``image``, ``label`` (1 for an invaded vessel) and, in the second stage, a grid of
    cells. ``amp=True`` is for CUDA; on a CPU an :class:`~monai_ext.inferers.AutocastInferer` gives bfloat16. Beside
    ``loss`` and ``loss_cls``, the output of a step in the second stage has ``loss_loc`` and ``loss_loop``. In a
    distributed run the network needs ``DistributedDataParallel(find_unused_parameters=True)``, as the first stage
    leaves the locating head alone.

    Args:
        device: where to train.
        max_epochs: of both stages together; 100 in the paper.
        train_data_loader: of batches as above.
        network: called as ``network(images, locate=bool)``, gives ``logit`` ``(B, 1)`` and, to locate, ``p_loc``
            ``(B, 3, h, w)``, logits too; :class:`~monai_ext.networks.nets.LoopNet`.
        optimizer: the paper's is ``pytorch_optimizer.Ranger``, with ``degenerated_to_sgd=True``: else its first
            steps in each stage go up.
        loss_function: ``L_cls`` of logits and labels ``(B, 1)``; the paper's is :class:`GHMCLoss`.
        stage1_epochs: epochs of the first stage; as many as ``max_epochs`` for the classifier alone.
        alpha: weight of ``L_loop``; with 0 it is not computed.
        beta: weight of ``L_cls`` in the second stage.
        gamma: weight of ``L_loc``.
        locating_loss: ``L_loc`` of ``p_loc``, cells and labels; ``None`` for :class:`GridLocatingLoss`.
        loopback_loss: ``L_loop``; ``None`` for :class:`LoopbackLoss`.
        evaluator: the validating engine.
        cells_key: the batch's cells, ``(B, 1, h, w)``.
        clip: largest norm of the gradient of all parameters; ``None`` for any.
        prepare_batch: as in ``SupervisedTrainer``.
        kwargs: further arguments of ``SupervisedTrainer``.

    Raises:
        InputError: a number below 0.
    """

    def __init__(
        self,
        device: str | torch.device,
        max_epochs: int,
        train_data_loader: Iterable,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss_function: Callable[[Tensor, Tensor], Tensor],
        stage1_epochs: int = 50,
        alpha: float = 1.0,
        beta: float = 0.5,
        gamma: float = 1.0,
        locating_loss: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
        loopback_loss: LoopbackLoss | None = None,
        evaluator: Engine | None = None,
        cells_key: str = "cells",
        clip: float | None = None,
        prepare_batch: Callable = default_prepare_batch,
        **kwargs: Any,
    ) -> None:
        for name, number in {"stage1_epochs": stage1_epochs, "alpha": alpha, "beta": beta, "gamma": gamma}.items():
            if number < 0:
                raise InputError(name, "a number of at least 0", repr(number))
        super().__init__(
            device,
            max_epochs,
            train_data_loader,
            network,
            optimizer,
            loss_function=self._objective,
            prepare_batch=self._prepare,
            **kwargs,
        )
        self.stage1_epochs, self.alpha, self.beta, self.gamma = stage1_epochs, alpha, beta, gamma
        self.classification_loss = loss_function
        self.locating_loss = locating_loss or GridLocatingLoss()
        self.loopback_loss = loopback_loss or LoopbackLoss()
        self.evaluator, self.cells_key, self._prepare_batch = evaluator, cells_key, prepare_batch
        self._fresh = deepcopy(optimizer.state_dict())
        clip_gradients(self, clip)
        if stage1_epochs:
            self.add_event_handler(Events.EPOCH_STARTED(once=stage1_epochs + 1), self._begin_stage2)

    @property
    def stage(self) -> int:
        """1 or 2, that of the current epoch."""
        return 1 if self.state.epoch <= self.stage1_epochs else 2

    def _begin_stage2(self) -> None:
        self.logger.info(f"Stage 2 begins in epoch {self.state.epoch}: both branches")
        fresh = deepcopy(self._fresh)
        for group, current in zip(fresh["param_groups"], self.optimizer.param_groups, strict=True):
            group["lr"] = current["lr"]  # set by the scheduler
        self.optimizer.load_state_dict(fresh)
        if self.evaluator is not None:
            self.evaluator.state.best_metric = self.evaluator.state.best_metric_epoch = -1

    def _prepare(self, batch: Mapping[str, Any], *args: Any, **kwargs: Any) -> tuple[Any, Any, tuple, dict[str, Any]]:
        """``SupervisedTrainer``'s inputs, targets and the network's arguments."""
        images, label, *more = self._prepare_batch(batch, *args, **kwargs)
        positional, named = more or ((), {})
        return images, label, positional, {**named, "locate": self.stage == 2}

    def _objective(self, pred: Mapping[str, Tensor], label: Tensor) -> Tensor:
        """The loss of the stage; ``SupervisedTrainer`` calls it in the step's precision."""
        logit = pred["logit"]
        label = label.reshape(-1, 1).to(logit)
        cls = self.classification_loss(logit, label)
        self.state.output["loss_cls"] = cls.detach()
        if self.stage == 1:
            return cls
        p_loc, images, network = pred["p_loc"], self.state.output["image"], self.network
        loc = self.locating_loss(p_loc, self._cells().to(p_loc.device, non_blocking=self.non_blocking), label)
        loop = p_loc.new_zeros(())
        if self.alpha:
            # the loop's gradient ends in p_loc, so it needs none of the parameters' hooks
            judge = network.module if isinstance(network, DistributedDataParallel) else network
            loop = self.loopback_loss(images, p_loc, label, judge, self.inferer)
        self.state.output |= {"loss_loc": loc.detach(), "loss_loop": loop.detach()}
        return self.gamma * loc + self.alpha * loop + self.beta * cls

    def _cells(self) -> Tensor:
        if self.cells_key not in self.state.batch:
            raise InputError(
                "batch", f"a grid of cells under {self.cells_key!r}", ", ".join(map(str, self.state.batch))
            )
        return self.state.batch[self.cells_key]
