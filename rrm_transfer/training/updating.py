"""One optimizer step: batch parts forward and backward, then the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from operator import itemgetter

import torch
from torch import Tensor, nn

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.outputs import Outputs
from rrm_transfer.core.randomness import Randomness, derive_seed
from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.data.loader import Batch
from rrm_transfer.objectives.base import Objective
from rrm_transfer.runtime.memory import is_out_of_memory, largest_fitting
from rrm_transfer.runtime.numerics import deterministic
from rrm_transfer.runtime.parallel import batch_statistics, whole
from rrm_transfer.runtime.processes import Precision, Runtime
from rrm_transfer.training.execution import (
    can_replay,
    compiler_error,
    executing,
    kept_statistics,
    out_of_memory,
    uncompiled,
)
from rrm_transfer.training.finite import BadSteps
from rrm_transfer.training.optimization import Optimization, Schedule, build_optimizer
from rrm_transfer.training.step import AttackMode, TrainingStep
from rrm_transfer.training.timing import Clock, untimed


@dataclass(frozen=True)
class TrainingPlan:
    """What one phase of training does.

    Attributes:
        model: ``student`` or ``control``; names checkpoints and log lines.
        epochs: Passes over the training images.
        accumulation: Parts into which each process splits its share of a batch.
        optimization: The optimizer and its schedule.
        threat: Of the training attack.
        eps_warmup_epochs: Linear warm-up of eps from zero.
        clip_grad: Largest gradient norm, or None.
        precision: Of forward and backward passes.
        channels_last: Memory format of images and weights.
        sync_batchnorm: Whether batch norms normalize by the images of all processes.
        compile: Whether the student is compiled.
        deterministic: Whether GPUs add up in the same order every time.
        gradient_checkpointing: Whether activations are computed again in the backward pass.
        checkpoint_minutes: Between checkpoints; 0: one after each step.
        attack_mode: Mode of the student where it is attacked.
        log_every: Optimizer steps between log lines.
        skip_bad_steps: How many steps may be undone because their loss or gradient is not finite.
        seed: Of attacks, noise and dropout during training.
        ema: Decay of a moving average of the weights, or None.
        average_epochs: Epochs at the end over which weights are averaged, or None.
    """

    model: str
    epochs: int
    accumulation: int
    optimization: Optimization
    threat: ThreatModel
    eps_warmup_epochs: float
    clip_grad: float | None
    precision: Precision
    channels_last: bool
    sync_batchnorm: bool
    checkpoint_minutes: float
    log_every: int
    skip_bad_steps: int
    seed: int
    ema: float | None = None
    average_epochs: int | None = None
    compile: bool = False
    deterministic: bool = False
    gradient_checkpointing: bool = False
    attack_mode: AttackMode = "evaluation"


class Updater:
    """Moves one student's weights, batch by batch.

    Args:
        plan: What to do.
        runtime: Processes and devices.
        student: Maps pixels to ``Outputs``; moved to the device, trained in place.
        teacher: Frozen, or None.
        anchor: Frozen, where the objective has one.
        objective: The loss.
        steps_per_epoch: Optimizer steps.

    Attributes:
        step: Optimizer steps done.
        bad_steps: Those of them that were undone.
        clock: Wraps the parts of a step whose time is of interest.
    """

    def __init__(
        self,
        plan: TrainingPlan,
        *,
        runtime: Runtime,
        student: nn.Module,
        teacher: nn.Module | None,
        objective: Objective,
        steps_per_epoch: int,
        anchor: nn.Module | None = None,
    ) -> None:
        self.plan = plan
        self.runtime = runtime
        self.objective = objective
        self.steps_per_epoch = steps_per_epoch
        self.step = 0
        self.clock: Clock = untimed
        self._format = torch.channels_last if plan.channels_last else torch.contiguous_format
        self._given = student.to(memory_format=self._format)
        self.student = runtime.training_form(student, sync_batchnorm=plan.sync_batchnorm)
        self.teacher, self._anchor = (
            None if network is None else network.to(runtime.device, memory_format=self._format)  # type: ignore[call-overload]
            for network in (teacher, anchor)
        )
        self.optimizer = build_optimizer(self.student, plan.optimization)
        self._schedule = Schedule(
            self.optimizer, plan.optimization, epochs=plan.epochs, steps_per_epoch=steps_per_epoch
        )
        self._replayed = plan.compile and can_replay(
            objective,
            device=runtime.device,
            processes=runtime.world,
            accumulation=plan.accumulation,
        )
        self.bad_steps = BadSteps(plan.skip_bad_steps, runtime, self.student, objective)

    @property
    def total_steps(self) -> int:
        return self.plan.epochs * self.steps_per_epoch

    @contextmanager
    def prepared(self) -> Iterator[nn.Module]:
        """Gives the student as ``update`` wants it."""
        form = executing(
            self.student,
            compiled=self.plan.compile,
            checkpointing=self.plan.gradient_checkpointing,
            teacher=self.teacher,
            replayed=self._replayed,
        )
        order = deterministic() if self.plan.deterministic else nullcontext()
        with order, form, self.runtime.prepared(self.student) as prepared:
            yield prepared

    def update(
        self, prepared: nn.Module, epoch: int, batch: Batch, clean: Outputs | None = None
    ) -> dict[str, Tensor]:
        """Does the next optimizer step.

        Args:
            prepared: The student as accelerate prepared it.
            epoch: Keys the randomness of attacks and noise.
            batch: This process's part of the global batch.
            clean: The teacher's outputs on it, where they are known.

        Returns:
            The loss terms by name, each the mean over the batch; none where the step was undone.

        Raises:
            UserError: Memory ran out, or the student cannot be compiled.
        """
        plan = self.plan
        self._schedule.set(self.step)
        self.bad_steps.remember()
        if self._replayed:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]  # what the last step wrote may be written over
        try:
            totals = self._backward(prepared, epoch, batch, clean, plan.accumulation)
        except RuntimeError as error:
            problem = compiler_error(error) if plan.compile else None
            if problem is not None:
                raise problem from error
            if not is_out_of_memory(error):
                raise
            totals = None
        if totals is None:
            # After the handler, as the traceback holds what the step had allocated.
            raise self._out_of_memory(epoch, batch, clean)
        self.step += 1
        if self.bad_steps.undoes(self.step, totals):
            return {}
        with self.clock("optimizer"):
            if plan.clip_grad is not None:
                self.runtime.accelerator.clip_grad_norm_(self.student.parameters(), plan.clip_grad)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            if self.runtime.world > 1:  # found anew, as DDP may have put others in their place
                self.runtime.average(batch_statistics(self.student))
        return totals

    def _backward(
        self, prepared: nn.Module, epoch: int, batch: Batch, clean: Outputs | None, accumulation: int
    ) -> dict[str, Tensor]:
        """Adds up the gradients of one batch and returns its loss terms."""
        plan, accelerator = self.plan, self.runtime.accelerator
        if not self.student.training:  # it would walk over all modules
            self.student.train()
        # Dropout and drop path draw from the global generator: a resumed run must find it in the same state.
        self.runtime.seed(derive_seed(plan.seed, plan.model, self.step, self.runtime.rank))
        totals: dict[str, Tensor] = {}
        parts = self._parts(prepared, self.student, epoch, batch, clean, accumulation)
        for number, step in enumerate(parts):
            share = len(step.x) / len(batch.x)
            last = number + 1 == len(parts)
            with nullcontext() if last else accelerator.no_sync(prepared):
                terms = self.objective(step)
                loss = torch.stack([term.weight * term.value for term in terms]).sum()
                again = kept_statistics(self.student) if plan.gradient_checkpointing else nullcontext()
                with self.clock("backward"), again:
                    accelerator.backward(loss * share)
            for term in terms:
                totals[term.name] = totals.get(term.name, 0) + term.value.detach() * share
        return totals

    def show(self, network: nn.Module, epoch: int, batch: Batch, clean: Outputs | None = None) -> None:
        """Shows another network what a training step would: in training mode its batch statistics follow.

        Args:
            network: Like the student; its weights stay.
            epoch: See ``update``.
            batch: See ``update``.
            clean: See ``update``.
        """
        for step in self._parts(network, network, epoch, batch, clean, self.plan.accumulation):
            self.objective(step)

    def _parts(
        self,
        prepared: nn.Module,
        bare: nn.Module,
        epoch: int,
        batch: Batch,
        clean: Outputs | None,
        accumulation: int,
    ) -> list[TrainingStep]:
        parts, first = [], 0
        known = () if clean is None else (clean.logits, clean.features, *clean.intermediates)
        splits = (t.tensor_split(accumulation) for t in (*batch, *known))
        for index, x, y, label_weight, *said in zip(*splits, strict=True):
            step = TrainingStep(
                autocast=partial(self.runtime.autocast, self.plan.precision),
                prepared=prepared,
                bare=bare,
                frozen=self.teacher,
                x=x.contiguous(memory_format=self._format),
                y=y,
                label_weight=label_weight,
                threat=self._threat(),
                randomness=Randomness(self.plan.seed, epoch, index),
                progress=self.step / self.total_steps,
                first=first,
                anchored=self._anchor,
                clean=Outputs(said[0], said[1], tuple(said[2:])) if said else None,
                clock=self.clock,
                attack_mode=self.plan.attack_mode,
            )
            parts.append(step)
            first += len(index)
        return parts

    def hand_over(self) -> None:
        """Gives the student that came in the weights of the form in which it was trained."""
        if self._given is not self.student:
            self._given.load_state_dict(
                {name: whole(value) for name, value in self.student.state_dict().items()}
            )
            self._given.to(self.runtime.device)

    def _out_of_memory(self, epoch: int, batch: Batch, clean: Outputs | None) -> UserError:
        """Returns the advice: what there would be memory for."""
        size = -(-len(batch.index) // self.plan.accumulation)

        def attempt(images: int) -> None:
            self.optimizer.zero_grad(set_to_none=True)
            few = None if clean is None else clean.map(itemgetter(slice(images)))
            self._backward(self.student, epoch, Batch(*(t[:images] for t in batch)), few, 1)

        with uncompiled(self.student, self.teacher):
            fits = largest_fitting(size, attempt, self.runtime.device)
        return out_of_memory(size, fits, len(batch.index))

    def _threat(self) -> ThreatModel:
        warmup = self.plan.eps_warmup_epochs * self.steps_per_epoch
        if self.step >= warmup:
            return self.plan.threat
        return self.plan.threat.with_eps(self.plan.threat.eps * (self.step + 1) / (warmup + 1))
