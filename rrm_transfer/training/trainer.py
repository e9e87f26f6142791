"""The one training loop: plain training, matching, distillation and adversarial training alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from rrm_transfer.core.errors import Interrupted, UserError
from rrm_transfer.core.outputs import Outputs
from rrm_transfer.core.randomness import derive_seed
from rrm_transfer.data.loader import Batch, TrainingLoader
from rrm_transfer.objectives.base import Objective
from rrm_transfer.runtime.context import Context
from rrm_transfer.runtime.interruption import StopRequest
from rrm_transfer.runtime.parallel import batch_statistics, whole
from rrm_transfer.training.averaging import STATISTICS_BATCHES, build_average
from rrm_transfer.training.checkpoints import Checkpoint, Checkpoints, pack, part_of, unpack
from rrm_transfer.training.features.cache import FeatureCache
from rrm_transfer.training.finite import REMEDY, LossWindow
from rrm_transfer.training.selection import Selection
from rrm_transfer.training.timing import Timer, Waiting
from rrm_transfer.training.updating import TrainingPlan, Updater

Log = Callable[[str, dict[str, Any]], None]

_NOTABLE_DATA_SHARE = 0.2
"""Part of the loop's time that is spent on images, above which it is told."""


@dataclass(frozen=True)
class TrainingResult:
    """What a phase cost.

    Attributes:
        seconds: Wall-clock time over all sessions of a resumed run, without selection.
        steps: Optimizer steps, with those that were undone.
        skipped: Steps that were undone because their loss or gradient was not finite.
        images: Images that the student was trained on, replays not counted.
    """

    seconds: float
    steps: int
    skipped: int
    images: int

    @property
    def images_per_second(self) -> float:
        return self.images / max(self.seconds, 1e-9)

    def timing(self, epochs: int, data_seconds: float) -> dict[str, Any]:
        """Returns what metrics.json tells of it.

        Args:
            epochs: Of the phase.
            data_seconds: That making the images took, which counts as training.
        """
        return {
            "train_seconds": data_seconds + self.seconds,
            "data_seconds": data_seconds,
            "steps": self.steps,
            "skipped_steps": self.skipped,
            "epochs": epochs,
            "images_per_s": self.images_per_second,
        }


class Trainer:
    """Trains one student with one objective.

    Args:
        plan: What to do.
        context: Processes and voice.
        student: Maps pixels to ``Outputs``; moved to the device, trained in place. When training is done it
            has the averaged weights, where they are averaged.
        teacher: Frozen, or None.
        objective: The loss.
        loader: Training batches of this process.
        checkpoints: Where state is kept.
        log: Writes one event of the run's log.
        selection: Looks for the best weights on the way, or None.
        features: The teacher's outputs on clean images, where they are cached.
        anchor: Frozen, where the objective has one.
    """

    def __init__(
        self,
        plan: TrainingPlan,
        *,
        context: Context,
        student: nn.Module,
        teacher: nn.Module | None,
        objective: Objective,
        loader: TrainingLoader,
        checkpoints: Checkpoints,
        log: Log,
        selection: Selection | None = None,
        features: FeatureCache | None = None,
        anchor: nn.Module | None = None,
    ) -> None:
        self.plan = plan
        self.runtime = runtime = context.runtime
        self.objective = objective
        self.loader = loader
        self._checkpoints = checkpoints
        self._narrator = context.narrator
        self._log = log
        self._features = features
        asked = objective.teacher_sees if features is None else objective.teacher_sees - {"clean"}
        self._updater = Updater(
            plan,
            runtime=runtime,
            student=student,
            teacher=teacher if asked else None,
            objective=objective,
            steps_per_epoch=loader.steps_per_epoch * objective.replays,
            anchor=anchor,
        )
        self._student = self._updater.student
        self._average = build_average(
            self._student,
            ema=plan.ema,
            last_epochs=plan.average_epochs,
            epochs=plan.epochs,
            steps_per_epoch=self._updater.steps_per_epoch,
        )
        self._selection = selection
        self._window = LossWindow(runtime, self._place)
        self._seconds = 0.0
        self._waiting = Waiting()
        self._checkpoint = Timer(60 * plan.checkpoint_minutes)
        self._saving = 0  # the step whose checkpoint is being written

    @property
    def _step(self) -> int:
        return self._updater.step

    @property
    def total_steps(self) -> int:
        return self._updater.total_steps

    def run(self, stop: StopRequest, *, resume: bool = False) -> TrainingResult:
        """Trains to the end, from the newest checkpoint where ``resume`` is asked for and there is one.

        Raises:
            Interrupted: ``stop`` was received; the state is saved.
            UserError: A loss or a weight was not finite.
        """
        finished = resume and self._restore()
        if not finished:
            try:
                with stop.deferred(), self._updater.prepared() as prepared:
                    self._loop(prepared, stop)
                    begun = time.monotonic()
                    self._result()
                    self._seconds += time.monotonic() - begun
                    self._save(final=True)
                    self._finish_saving()
            finally:
                self._checkpoints.finish()  # the folder is left at rest
        if self._average is not None:
            self._student.load_state_dict(self._average.network.state_dict())
        self._updater.hand_over()
        images = self._step // self.objective.replays * self.loader.global_batch_size
        return TrainingResult(self._seconds, self._step, len(self._updater.bad_steps.found), images)

    def _loop(self, prepared: nn.Module, stop: StopRequest) -> None:
        plan, runtime = self.plan, self.runtime
        # Asking every process whether to stop costs a synchronisation, which is cheap on CPUs only.
        ask_always = runtime.world == 1 or runtime.device.type == "cpu"
        images_per_step = self.loader.global_batch_size / self.objective.replays
        self._select(saved=True)  # where an evaluation was interrupted
        begun, before, first = time.monotonic(), self._seconds, self._step
        title = f"{plan.model}: {type(self.objective).__name__}"
        self._waiting.seconds = 0.0
        self._checkpoint.restart()
        with self._narrator.task(title, self.total_steps, done=self._step) as task:
            for epoch, batch, clean in self._batches():
                # The step itself: the objective's loss, its gradient, the weights, then their average.
                losses = self._updater.update(prepared, epoch, batch, clean)
                if self._average is not None:
                    self._average.update(self._student, self._step)
                if losses:
                    self._window.add(self._step, losses)
                else:
                    self._tell_of_bad_step()
                seconds = time.monotonic() - begun
                self._seconds = before + seconds

                # Losses are read now and then, since reading waits for the device; a loss that is not finite
                # ends the run here, before it can be saved.
                look = self._step % plan.log_every == 0 or self._step == self.total_steps
                if look:
                    means = self._window.read()
                    rate = (self._step - first) * images_per_step / max(seconds, 1e-9)
                    facts = {name: f"{value:.4f}" for name, value in means.items()}
                    task.update(self._step, {**facts, "images/s": f"{rate:.0f}"})
                    self._record(epoch, means, rate, self._waiting.seconds / max(seconds, 1e-9))

                # Selection saves first, so that an evaluation that is cut short is made again; its time is
                # none of training's.
                pause = self._select()
                begun += pause
                if self._step == self.total_steps:
                    self._tell_of_data(self._waiting.seconds / max(seconds, 1e-9))
                    break

                # A stop is obeyed between two steps, where the state is whole; what one wants, all do.
                self._tell_of_checkpoint()
                due = self._checkpoint.is_due and not pause
                if (look or ask_always) and runtime.any(stop.received or due):
                    self._save()
                    if runtime.any(stop.received):
                        self._finish_saving()
                        raise Interrupted(f"{plan.model} stopped at step {self._step} of {self.total_steps}")

    def _batches(self) -> Iterator[tuple[int, Batch, Outputs | None]]:
        replays = self.objective.replays
        while self._step < self.total_steps:
            epoch, position = divmod(self._step, self._updater.steps_per_epoch)
            first_batch, skipped = divmod(position, replays)
            for batch, clean in self._waiting(self._epoch(epoch, first_batch)):
                for _ in range(replays - skipped):
                    yield epoch, batch, clean
                skipped = 0

    def _epoch(self, epoch: int, first_batch: int = 0) -> Iterator[tuple[Batch, Outputs | None]]:
        """Yields an epoch's batches, with what the teacher said of them where that is cached."""
        view, parts = self.loader.view(epoch), self.loader.parts(epoch, first_batch)
        for positions, batch in zip(parts, self.loader.batches(parts, view=view), strict=True):
            yield batch, None if self._features is None else self._features.read(view, positions)

    def _place(self, step: int) -> str:
        epoch, position = divmod(step - 1, self._updater.steps_per_epoch)
        return f"epoch {epoch + 1}, batch {position // self.objective.replays + 1}"

    def _result(self) -> nn.Module:
        """Returns the network that training would end with if this were its last step."""
        average = self._average
        if average is None or not average.begun:
            return self._student
        if average.statistics_lag:
            epoch = self._step // self._updater.steps_per_epoch - 1
            # Dropout runs, too.
            self.runtime.seed(derive_seed(self.plan.seed, "statistics", self._step, self.runtime.rank))
            with average.catching_up() as network:
                for batch, clean in islice(self._epoch(epoch), STATISTICS_BATCHES):
                    self._updater.show(network, epoch, batch, clean)
            self.runtime.average(batch_statistics(average.network))
        return average.network

    def _select(self, *, saved: bool = False) -> float:
        """Has the weights evaluated for selection where that is due; returns the seconds that it took."""
        selection, began = self._selection, time.monotonic()
        if selection is None or not selection.is_due(
            self._step, steps_per_epoch=self._updater.steps_per_epoch, total_steps=self.total_steps
        ):
            return 0.0
        if not saved:
            self._save()
            self._finish_saving()  # an evaluation takes longer, and may be killed
        found = selection.evaluate(self._result(), self._step)
        self._log("selection", {"model": self.plan.model, "step": self._step, **found})
        self._narrator.note(
            f"{self.plan.model}: step {self._step}: clean {found['clean']:.1%}, robust {found['robust']:.1%} "
            f"of {found['count']:,} held-out images{', the best so far' * found['best']}"
        )
        return time.monotonic() - began

    def _record(self, epoch: int, losses: dict[str, float], rate: float, waited: float) -> None:
        lr = self._updater.optimizer.param_groups[0]["lr"]
        facts = {"model": self.plan.model, "step": self._step, "epoch": epoch, "losses": losses}
        self._log("step", {**facts, "lr": lr, "images_per_s": round(rate, 1), "data_share": round(waited, 3)})

    def _tell_of_bad_step(self) -> None:
        found = self._updater.bad_steps.found
        step, cause = found[-1]
        self._log("skipped", {"model": self.plan.model, "step": step, "cause": cause})
        count = f"{len(found)} of {self.plan.skip_bad_steps} allowed"
        self._narrator.warn(
            f"{self.plan.model}: step {step}, {self._place(step)}, skipped: {cause} not finite ({count})"
        )

    def _tell_of_data(self, share: float) -> None:
        if share > _NOTABLE_DATA_SHARE:
            better = "more data.workers" if self.loader.overlaps else "data.augmentation does most of it"
            self._narrator.note(
                f"{self.plan.model}: {share:.0%} of the time went into waiting for images ({better})"
            )

    def _save(self, *, final: bool = False) -> None:
        """Has the state of this step written, beside what comes next."""
        self._tell_of_checkpoint(wait_for_it=True)  # one at a time
        self._window.check()
        self._check_weights()
        parts = {"objective": self._objective_state()}
        facts: dict[str, Any] = {"seconds": self._seconds, "skipped": [*self._updater.bad_steps.found]}
        if self._average is not None:
            parts["average"] = self._average.state_dict()
        if self._selection is not None:
            parts["best"] = self._selection.weights
            facts["selection"] = self._selection.facts()
        tensors, optimizer = pack(self._student, self._updater.optimizer, parts)
        if self.runtime.is_main:
            self._checkpoints.begin(Checkpoint(self._step, tensors, {**optimizer, **facts}), final=final)
            self._saving = self._step
        self._checkpoint.restart()

    def _tell_of_checkpoint(self, *, wait_for_it: bool = False) -> None:
        path = self._checkpoints.written(wait_for_it=wait_for_it)
        if path is not None:
            self._log("checkpoint", {"model": self.plan.model, "step": self._saving, "path": path.name})

    def _finish_saving(self) -> None:
        self._tell_of_checkpoint(wait_for_it=True)
        self.runtime.barrier()

    def _check_weights(self) -> None:
        # The last step's losses are those of the weights before it.
        state = self._student.state_dict()
        for name, value in state.items():
            if value.is_floating_point() and not bool(whole(value).isfinite().all()):
                raise UserError(
                    f"The student's weights are not finite after step {self._step}, "
                    f"{self._place(self._step)}.",
                    received=name,
                    hint=REMEDY,
                )

    def _objective_state(self) -> dict[str, Tensor]:
        own = {name: value.cpu() for name, value in self.objective.state_dict().items()}
        parts = self.runtime.gather([own])
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _restore(self) -> bool:
        """Goes back to the newest checkpoint, if there is one; tells whether training was done by then."""
        found = self._checkpoints.newest() if self.runtime.is_main else (None, False)
        # From the main process, whose files the others need not see.
        checkpoint, finished = self.runtime.from_main(found)
        if checkpoint is None:
            return False
        try:
            self._take_up(checkpoint)
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as problem:
            raise UserError(
                "The checkpoint is whole, but not of this run.",
                received=f"{self.plan.model}, step {checkpoint.step}: {type(problem).__name__}: {problem}",
                hint="another --output, or --overwrite to start again",
            ) from problem
        self._log("resume", {"model": self.plan.model, "step": self._step})
        self._narrator.note(f"{self.plan.model}: resumed at step {self._step} of {self.total_steps}")
        return bool(finished)

    def _take_up(self, checkpoint: Checkpoint) -> None:
        tensors, facts = checkpoint.tensors, checkpoint.facts
        unpack(self._student, self._updater.optimizer, tensors, facts)
        world, rank = self.runtime.world, self.runtime.rank
        self.objective.load_state_dict(
            {name: value.tensor_split(world)[rank] for name, value in part_of(tensors, "objective").items()}
        )
        if self._average is not None:
            self._average.load_state_dict(part_of(tensors, "average"))
        if self._selection is not None:
            self._selection.restore(facts["selection"], part_of(tensors, "best"))
        self._updater.step = checkpoint.step
        self._updater.bad_steps.found = [(step, cause) for step, cause in facts["skipped"]]
        self._seconds = facts["seconds"]
