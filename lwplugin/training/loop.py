"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lwplugin.data.batch import Batch, call, device_of
from lwplugin.data.dataset import Data
from lwplugin.data.evaluation import evaluate, kept_modes
from lwplugin.data.finite import need_finite
from lwplugin.data.split import Split
from lwplugin.data.task import Task
from lwplugin.errors import DataError, MethodError
from lwplugin.model.placement import chosen_device
from lwplugin.progress import Progress, silent
from lwplugin.training import checkpoint as checkpoints
from lwplugin.training import processes
from lwplugin.training.checkpoint import Position
from lwplugin.training.config import TrainConfig
from lwplugin.training.optimizer import make_optimizer, set_lr
from lwplugin.training.precision import choose_dtype
from lwplugin.training.randomness import epoch_seed, own_randomness
from lwplugin.training.result import TrainResult
from lwplugin.training.schedule import factor

Loss: TypeAlias = Callable[[nn.Module, Batch], torch.Tensor]
"""The mean loss of a batch that lies on the module's device."""

_GPU_LOSSES = 32
"""On a GPU losses are fetched so many steps at a time: each fetch waits for the device."""


def train(
    module: nn.Module,
    data: Data,
    *,
    config: TrainConfig,
    loss: Loss | None = None,
    checkpoint: Path | None = None,
    progress: Progress = silent,
    label: str = "train",
) -> TrainResult:
    """Trains ``module`` in place on ``data.train`` and gives it back on its device and in its modes.

    The same seed gives the same weights on the same machine; the caller's random state is left as it
    was. With ``checkpoint`` the state is written there now and then and at the end; where the file is
    there already, training goes on from it, inside an epoch too, to the very same weights as without the
    interruption (modules that draw from other random sources than torch's excepted). Score for early
    stop and ``keep_best`` comes from calibration, never from test.

    Raises MethodError for a loss that is not finite, for nothing to train, and for a checkpoint of
    another training; DataError where a split or its targets are missing or hold NaN.
    """
    return _Run(module, data, config, loss, checkpoint, progress, label).go()


class _Run:
    def __init__(
        self,
        module: nn.Module,
        data: Data,
        config: TrainConfig,
        loss: Loss | None,
        checkpoint: Path | None,
        progress: Progress,
        label: str,
    ) -> None:
        self.module, self.data, self.config = module, data, config
        self.split = data.need("train")
        self.loss = loss or _task_loss(data.task, config, self.split)
        self.validation = _validation(data, config)
        self.checkpoint, self.progress, self.label = checkpoint, progress, label
        batches = _batches_per_epoch(self.split, config)
        self.batches = batches
        self.steps_per_epoch = -(-batches // config.grad_accumulation)
        planned = self.steps_per_epoch * config.epochs
        self.total = planned if config.max_steps is None else min(planned, config.max_steps)
        self.device = chosen_device(config.device)
        self.dtype = choose_dtype(config, self.device)
        self.position = Position()
        self.best: dict[str, torch.Tensor] | None = None
        self.pending: list[torch.Tensor] = []

    def go(self) -> TrainResult:
        home = device_of(self.module)
        with own_randomness(self.config.seed, self.device), kept_modes(self.module):
            try:
                self.module.to(self.device)
                self._run()
            finally:
                self.module.to(home)
        at = self.position
        return TrainResult(
            steps=at.step,
            epochs=len(at.history),
            losses=at.losses,
            best_score=at.best_score,
            seconds=at.seconds,
            history=at.history,
            stopped_early=at.stopped_early,
        )

    def _run(self) -> None:
        if self.total == 0:
            return
        self.optimizer = make_optimizer(self.module, self.config)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.scaler = torch.amp.GradScaler("cuda", enabled=self.dtype is torch.float16)
        self.identity = checkpoints.identity(self.module, self.data, self.config)
        self._resume()
        processes.begin_alike(self.module, self.identity)
        self.began = time.perf_counter() - self.position.seconds
        self.saved = time.perf_counter()
        at = self.position
        if at.finished:
            return
        while at.epoch < self.config.epochs and at.step < self.total and not at.stopped_early:
            self._epoch()
            processes.average_buffers(self.module)
            self._judge()
            at.epoch, at.batch = at.epoch + 1, 0
        if self.config.keep_best and self.best is not None:
            self.module.load_state_dict(self.best)
        at.finished = True
        self._save()

    def _epoch(self) -> None:
        at, config = self.position, self.config
        self.module.train()
        if config.freeze_norm:
            _freeze_norms(self.module)
        seed = epoch_seed(config.seed, at.epoch)
        stream = islice(
            self.split.batches(config.batch_size, seed=seed, skip=at.batch), self.batches - at.batch
        )
        while at.step < self.total:
            group = list(islice(stream, config.grad_accumulation))
            if not group:
                break
            self._step(group)
            at.batch += len(group)
            at.step += 1
            self.progress(self.label, at.step, self.total)
            if self._due():
                self._save()
        self._fetch_losses()

    def _step(self, group: list[Batch]) -> None:
        at, config = self.position, self.config
        lr = config.lr * factor(config.schedule, at.step, self.total, config.warmup_fraction)
        set_lr(self.optimizer, lr)
        self.optimizer.zero_grad(set_to_none=True)
        examples = sum(len(batch) for batch in group)
        parts: list[torch.Tensor] = []
        for whole in group:
            batch = processes.part_of(whole)
            if not len(batch):
                continue
            if self.device.type != "cpu":
                batch = batch.to(self.device)
            with self._autocast():
                value = self.loss(self.module, batch)
            if value.ndim:
                raise MethodError(
                    "A loss must be one number", got=f"shape {list(value.shape)}", do="average it"
                )
            if len(batch) != examples:
                # Weighted by size, so that parts add up to exactly the large batch they are of.
                value = value * (len(batch) / examples)
            self.scaler.scale(value).backward()  # type: ignore[no-untyped-call]
            parts.append(value.detach())
        loss = torch.stack(parts).sum() if parts else torch.zeros((), device=self.device)
        self.pending.append(processes.sum_gradients(self.parameters, loss))
        if self.device.type == "cpu" or len(self.pending) >= _GPU_LOSSES:
            # Before the step on a CPU: weights are still sound when the error is raised.
            self._fetch_losses()
        if config.grad_clip is not None:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.parameters, config.grad_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _fetch_losses(self) -> None:
        if not self.pending:
            return
        values = torch.stack([value.float() for value in self.pending]).tolist()
        self.pending.clear()
        for value in values:
            if not math.isfinite(value):
                need_finite(self.split)
                step = len(self.position.losses)
                lr = self.config.lr * factor(
                    self.config.schedule, step, self.total, self.config.warmup_fraction
                )
                raise MethodError(
                    f"Training collapsed at step {step + 1} of {self.total} with learning rate {lr:.3g}",
                    got=f"loss {value}",
                    do="lower lr, set grad_clip (1.0) or warmup_fraction (0.1), or turn mixed_precision off",
                )
            self.position.losses.append(value)

    def _judge(self) -> None:
        at, config = self.position, self.config
        done = at.losses[self.steps_per_epoch * at.epoch :]
        entry: dict[str, float | int | None] = {
            "epoch": at.epoch,
            "step": at.step,
            "loss": sum(done) / max(len(done), 1),
            "lr": float(self.optimizer.param_groups[0]["lr"]),
        }
        if self.validation is not None:
            score = processes.leaders(self._score(self.validation))
            entry["score"] = score
            if at.best_score is None or score > at.best_score:
                at.best_score, at.best_epoch = score, at.epoch
                if config.keep_best:
                    self.best = {
                        name: tensor.detach().to("cpu", copy=True)
                        for name, tensor in self.module.state_dict().items()
                    }
            elif config.early_stop_patience and at.epoch - at.best_epoch >= config.early_stop_patience:
                at.stopped_early = True
        at.history.append(entry)

    def _score(self, split: Split) -> float:
        """The task's metric where calibration has targets, else minus the mean loss."""
        if _has_targets(split):
            return evaluate(self.module, split, self.data.task).score
        total, seen = 0.0, 0
        with kept_modes(self.module), torch.no_grad():
            self.module.eval()
            for batch in split.batches(max(self.config.batch_size, 64)):
                total += float(self.loss(self.module, batch.to(self.device))) * len(batch)
                seen += len(batch)
        return -total / max(seen, 1)

    def _due(self) -> bool:
        if self.checkpoint is None:
            return False
        if self.config.checkpoint_every_steps is not None:
            return self.position.step % self.config.checkpoint_every_steps == 0
        return bool(processes.leaders(time.perf_counter() - self.saved >= self.config.checkpoint_every_s))

    def _save(self) -> None:
        self._fetch_losses()
        processes.average_buffers(self.module)
        self.position.seconds = time.perf_counter() - self.began
        if self.checkpoint is not None and processes.leads():
            checkpoints.save(
                self.checkpoint,
                identity=self.identity,
                module=self.module,
                best=self.best,
                optimizer=self.optimizer,
                scaler=self.scaler.state_dict(),
                position=self.position,
                device=self.device,
            )
        self.saved = time.perf_counter()

    def _resume(self) -> None:
        if self.checkpoint is None or not self.checkpoint.exists():
            return
        state = checkpoints.read(self.checkpoint, identity=self.identity)
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.best = state["best"]
        self.position = Position(**state["position"])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"], self.device)

    def _autocast(self) -> AbstractContextManager[object]:
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)


def _task_loss(task: Task, config: TrainConfig, split: Split) -> Loss:
    smoothing = config.label_smoothing

    def loss(module: nn.Module, batch: Batch) -> torch.Tensor:
        if batch.targets is None:
            raise DataError(
                f"The {split.name} split has no targets to train the task '{task.name}' on",
                do="give labels, or a loss that needs none (distillation from the parent)",
            )
        outputs = task.outputs(call(module, batch.inputs)).float()
        if smoothing:
            return task.smoothed_loss(outputs, batch.targets, smoothing)
        return task.loss(outputs, batch.targets)

    return loss


def _validation(data: Data, config: TrainConfig) -> Split | None:
    if config.early_stop_patience is None and not config.keep_best:
        return None
    return data.need("calibration")


def _has_targets(split: Split) -> bool:
    return split.labels() is not None or next(split.batches(1)).targets is not None


def _batches_per_epoch(split: Split, config: TrainConfig) -> int:
    """A last batch of a single example is left out: batch norm cannot train on it."""
    examples = len(split) if config.examples_per_epoch is None else min(config.examples_per_epoch, len(split))
    batches = -(-examples // config.batch_size)
    last = min(config.batch_size, len(split) - (batches - 1) * config.batch_size)
    return batches - 1 if last == 1 and batches > 1 and config.batch_size > 1 else batches


def _freeze_norms(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, _BatchNorm):
            part.eval()
