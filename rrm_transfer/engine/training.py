"""The one training loop: plain training, matching, distillation and adversarial training alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rrm_transfer.core.errors import Interrupted, UserError
from rrm_transfer.core.randomness import Randomness, derive_seed
from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.data.loader import Batch, TrainingLoader
from rrm_transfer.engine.checkpoints import Checkpoint, Checkpoints, pack_optimizer, unpack_optimizer
from rrm_transfer.engine.interruption import StopRequest
from rrm_transfer.engine.optimisation import Optimisation, Schedule, build_optimizer
from rrm_transfer.engine.progress import Narrator
from rrm_transfer.engine.runtime import Precision, Runtime
from rrm_transfer.engine.step import TrainingStep
from rrm_transfer.objectives.base import Objective

Log = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True)
class TrainingPlan:
    """What one phase of training does.

    Attributes:
        phase: ``student`` or ``control``; names checkpoints and log lines.
        epochs: Passes over the training images.
        accumulation: Parts into which each process splits its share of a batch.
        optimisation: The optimiser and its schedule.
        threat: Of the training attack.
        eps_warmup_epochs: Linear warm-up of eps from zero.
        clip_grad: Largest gradient norm, or None.
        precision: Of forward and backward passes.
        channels_last: Memory format of images and weights.
        checkpoint_every: Optimiser steps between checkpoints.
        log_every: Optimiser steps between log lines.
        seed: Of everything random.
    """

    phase: str
    epochs: int
    accumulation: int
    optimisation: Optimisation
    threat: ThreatModel
    eps_warmup_epochs: float
    clip_grad: float | None
    precision: Precision
    channels_last: bool
    checkpoint_every: int
    log_every: int
    seed: int


@dataclass(frozen=True)
class TrainingResult:
    """What a phase cost.

    Attributes:
        seconds: Wall-clock time in the loop, over all sessions of a resumed run.
        steps: Optimiser steps.
        images: Images that the student was trained on, replays not counted.
    """

    seconds: float
    steps: int
    images: int

    @property
    def images_per_second(self) -> float:
        return self.images / max(self.seconds, 1e-9)


@dataclass
class _LossWindow:
    """Losses since the last look at them: kept on the device, so that a step does not wait for it."""

    names: list[str] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    first_step: int = 0

    def add(self, step: int, terms: dict[str, Tensor]) -> None:
        if not self.values:
            self.first_step = step
        self.names = list(terms)
        self.values.append(torch.stack(list(terms.values())))

    def read(self) -> dict[str, float]:
        """Returns the mean of each term since the last call.

        Raises:
            UserError: A loss was not finite.
        """
        if not self.values:
            return {}
        table = torch.stack(self.values)
        finite = table.isfinite()
        if not bool(finite.all()):
            row, column = (int(v) for v in (~finite).nonzero()[0])
            step = self.first_step + row
            raise UserError(
                f"The loss term {self.names[column]!r} is not finite at optimiser step {step}.",
                received=float(table[row, column]),
                hint="lower train.lr, or set train.clip_grad; the last checkpoint is kept",
            )
        means = table.mean(0).tolist()
        self.values = []
        return dict(zip(self.names, means, strict=True))


class Trainer:
    """Trains one student with one objective.

    Args:
        plan: What to do.
        runtime: Processes and devices.
        student: Maps pixels to ``Outputs``; moved to the device, trained in place.
        teacher: Frozen, or None.
        objective: The loss.
        loader: Training batches of this process.
        checkpoints: Where state is kept.
        narrator: Shows progress.
        log: Writes one event of the run's log.
    """

    def __init__(
        self,
        plan: TrainingPlan,
        *,
        runtime: Runtime,
        student: nn.Module,
        teacher: nn.Module | None,
        objective: Objective,
        loader: TrainingLoader,
        checkpoints: Checkpoints,
        narrator: Narrator,
        log: Log,
    ) -> None:
        self.plan = plan
        self.runtime = runtime
        self.objective = objective
        self.loader = loader
        self._checkpoints = checkpoints
        self._narrator = narrator
        self._log = log
        self._format = torch.channels_last if plan.channels_last else torch.contiguous_format
        self._student = student.to(runtime.device, memory_format=self._format)  # type: ignore[call-overload]
        self._teacher = None if teacher is None else teacher.to(runtime.device, memory_format=self._format)  # type: ignore[call-overload]
        self._optimizer = build_optimizer(self._student, plan.optimisation)
        self._steps_per_epoch = loader.steps_per_epoch * objective.replays
        self._schedule = Schedule(
            self._optimizer, plan.optimisation, epochs=plan.epochs, steps_per_epoch=self._steps_per_epoch
        )
        self._window = _LossWindow()
        self._step = 0
        self._seconds = 0.0

    @property
    def total_steps(self) -> int:
        return self.plan.epochs * self._steps_per_epoch

    def run(self, stop: StopRequest, *, resume: bool = False) -> TrainingResult:
        """Trains to the end, from the newest checkpoint where ``resume`` is asked for and there is one.

        Raises:
            Interrupted: ``stop`` was received; the state is saved.
            UserError: A loss was not finite.
        """
        finished = self._checkpoints.final() if resume else None
        started = finished or (self._checkpoints.latest() if resume else None)
        if started is not None:
            self._restore(started)
            self._log("resume", {"phase": self.plan.phase, "step": self._step})
            self._narrator.note(f"{self.plan.phase}: resumed at step {self._step} of {self.total_steps}")
        if finished is None:
            prepared = self.runtime.accelerator.prepare_model(self._student)
            self._loop(prepared, stop)
            self._save(final=True)
        images = self._step // self.objective.replays * self.loader.global_batch_size
        return TrainingResult(self._seconds, self._step, images)

    def _loop(self, prepared: nn.Module, stop: StopRequest) -> None:
        title = f"{self.plan.phase}: {type(self.objective).__name__}"
        begun, before = time.monotonic(), self._seconds
        first = self._step
        with self._narrator.task(title, self.total_steps, done=self._step) as task:
            for epoch, batch in self._batches():
                self._update(prepared, epoch, batch)
                self._step += 1
                self._seconds = before + time.monotonic() - begun
                look = self._step % self.plan.log_every == 0 or self._step == self.total_steps
                if look:
                    losses = self._window.read()
                    rate = (self._step - first) * self.loader.global_batch_size / (time.monotonic() - begun)
                    facts = {name: f"{value:.4f}" for name, value in losses.items()}
                    task.update(self._step, {**facts, "images/s": f"{rate:.0f}"})
                    self._record(epoch, losses, rate)
                if (look or self.runtime.world == 1) and self.runtime.any(stop.received):
                    self._save()
                    raise Interrupted(f"{self.plan.phase} stopped at step {self._step} of {self.total_steps}")
                if self._step % self.plan.checkpoint_every == 0 and self._step < self.total_steps:
                    self._save()

    def _batches(self) -> Iterator[tuple[int, Batch]]:
        replays = self.objective.replays
        while self._step < self.total_steps:
            epoch, position = divmod(self._step, self._steps_per_epoch)
            first_batch, skipped = divmod(position, replays)
            for batch in self.loader.epoch(epoch, first_step=first_batch):
                for _ in range(replays - skipped):
                    yield epoch, batch
                skipped = 0

    def _update(self, prepared: nn.Module, epoch: int, batch: Batch) -> None:
        plan, accelerator = self.plan, self.runtime.accelerator
        self._student.train()
        self._schedule.set(self._step)
        # Dropout and drop path draw from the global generator: a resumed run must find it in the same state.
        torch.manual_seed(derive_seed(plan.seed, plan.phase, self._step, self.runtime.rank))
        parts = list(zip(*(t.tensor_split(plan.accumulation) for t in batch), strict=True))
        totals: dict[str, Tensor] = {}
        first = 0
        for number, (index, x, y) in enumerate(parts):
            step = TrainingStep(
                runtime=self.runtime,
                precision=plan.precision,
                prepared=prepared,
                bare=self._student,
                frozen=self._teacher,
                x=x.contiguous(memory_format=self._format),
                y=y,
                threat=self._threat(),
                randomness=Randomness(plan.seed, epoch, index),
                progress=self._step / self.total_steps,
                first=first,
            )
            first += len(index)
            share = len(index) / len(batch.index)
            last = number + 1 == len(parts)
            with nullcontext() if last else accelerator.no_sync(prepared):
                terms = self.objective(step)
                loss = torch.stack([term.weight * term.value for term in terms]).sum()
                accelerator.backward(loss * share)
            for term in terms:
                totals[term.name] = totals.get(term.name, 0) + term.value.detach() * share
        if plan.clip_grad is not None:
            accelerator.clip_grad_norm_(self._student.parameters(), plan.clip_grad)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.runtime.average_statistics(self._student)
        self._window.add(self._step, totals)

    def _threat(self) -> ThreatModel:
        warmup = self.plan.eps_warmup_epochs * self._steps_per_epoch
        if self._step >= warmup:
            return self.plan.threat
        return self.plan.threat.with_eps(self.plan.threat.eps * (self._step + 1) / (warmup + 1))

    def _record(self, epoch: int, losses: dict[str, float], rate: float) -> None:
        lr = self._optimizer.param_groups[0]["lr"]
        facts = {"phase": self.plan.phase, "step": self._step, "epoch": epoch, "losses": losses}
        self._log("step", {**facts, "lr": lr, "images_per_s": round(rate, 1)})

    def _save(self, *, final: bool = False) -> None:
        self._window.read()
        objective = self._objective_state()
        if self.runtime.is_main:
            tensors, facts = pack_optimizer(self._optimizer)
            tensors |= {f"student/{name}": value for name, value in self._student.state_dict().items()}
            tensors |= {f"objective/{name}": value for name, value in objective.items()}
            path = self._checkpoints.save(
                self._step,
                Checkpoint(tensors, {"optimizer": facts, "seconds": self._seconds}),
                final=final,
            )
            self._log("checkpoint", {"phase": self.plan.phase, "step": self._step, "path": path.name})
        self.runtime.barrier()

    def _objective_state(self) -> dict[str, Tensor]:
        parts = self.runtime.gather([self.objective.state_dict()])
        return {name: torch.cat([part[name].cpu() for part in parts]) for name in parts[0]}

    def _restore(self, checkpoint: Checkpoint) -> None:
        def under(prefix: str) -> dict[str, Tensor]:
            return {
                name.removeprefix(prefix): value
                for name, value in checkpoint.tensors.items()
                if name.startswith(prefix)
            }

        self._student.load_state_dict(under("student/"))
        state = under("objective/")
        share = {
            name: value.tensor_split(self.runtime.world)[self.runtime.rank] for name, value in state.items()
        }
        self.objective.load_state_dict(share)
        unpack_optimizer(self._optimizer, checkpoint.tensors, checkpoint.facts["optimizer"])
        self._step = checkpoint.facts["step"]
        self._seconds = checkpoint.facts["seconds"]
