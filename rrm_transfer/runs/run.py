"""A whole run: teacher check, control, student, evaluation, export."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch

from rrm_transfer.core.errors import Interrupted, UserError
from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.data.workers import explaining_workers
from rrm_transfer.runs.setup import Assembly, assemble
from rrm_transfer.runs.calibration import adopt, calibrate
from rrm_transfer.training.checkpoints import Checkpoints
from rrm_transfer.evaluation.checks import run_checks
from rrm_transfer.evaluation.evaluator import Evaluator, PGDSpec, balanced_sample, lay_out, measure
from rrm_transfer.runs.products import (
    Product,
    control_product,
    describe_weights,
    export,
    load_line,
    provenance,
)
from rrm_transfer.runs.features import find_features, provide_features, with_features
from rrm_transfer.evaluation.gallery import make_gallery
from rrm_transfer.runtime.interruption import StopRequest
from rrm_transfer.runs.learners import Learner
from rrm_transfer.evaluation.metrics import Metrics, Role, Row, best_of
from rrm_transfer.training.optimization import build_optimizer
from rrm_transfer.runtime.progress import Narrator
from rrm_transfer.runs.recipe_names import require_no_teacher
from rrm_transfer.runs.result import RunResult, recorded_result
from rrm_transfer.runs.robust_set import MadeImages, robust_set_of
from rrm_transfer.runs.folder import RunFolder, output_folder
from rrm_transfer.runtime.processes import Runtime
from rrm_transfer.training.selection import Selection, held_out_judge
from rrm_transfer.runs.teacher import check_assembled
from rrm_transfer.runs.teacher_figures import teacher_figures
from rrm_transfer.runs.tracking import Tracking, check_tracker
from rrm_transfer.training.trainer import Trainer
from rrm_transfer.objectives import PLAIN, build_objective
from rrm_transfer.objectives.base import Objective
from rrm_transfer.recipe.loading import dump_recipe, read_recipe
from rrm_transfer.recipe.schema import Recipe


def run(
    recipe: Recipe,
    *,
    publish: Callable[[RunResult], None],
    role: Role = "student",
    allow_code: bool = False,
    narrator: Narrator | None = None,
    overwrite: bool = False,
    resume: bool = False,
    resume_anyway: bool = False,
    tracker: str | None = None,
) -> RunResult:
    """Trains, evaluates and exports what the recipe describes.

    Args:
        recipe: Values left automatic are filled in.
        publish: Writes what people read into the run folder; called last, before the run counts as finished.
        role: ``student``, or ``teacher`` where a robust teacher is made from scratch.
        allow_code: Whether a teacher's ``package.module:factory`` may be imported and called.
        narrator: Says what happens; None: nobody.
        overwrite: Replaces a run that stands in the output folder.
        resume: Continues the run that stands there; starts where there is none, and gives the result of one
            that is finished.
        resume_anyway: As ``resume``, also where the number of processes differs, or a setting without which
            the steps done so far are still this run's; see ``runs.continuation``.
        tracker: See ``runs.tracking``.

    Raises:
        UserError: The recipe cannot be run as it is.
        Interrupted: The run was asked to stop; ``resume`` continues it.
    """
    resume = resume or resume_anyway
    if overwrite and resume:
        raise UserError(
            "A run is continued or replaced, not both.",
            received="--overwrite and --resume",
            hint="--resume continues it; --overwrite deletes it and starts anew",
        )
    check_tracker(tracker)
    if role == "teacher":
        require_no_teacher(recipe)
    runtime = Runtime()
    narrator = narrator if narrator is not None and runtime.is_main else Narrator()
    if (warning := runtime.launch_warning()) is not None:
        narrator.warn(warning)
    folder = RunFolder(output_folder(recipe, runtime))
    with StopRequest() as stop:
        folder.check(overwrite=overwrite, resume=resume)
        finished = runtime.from_main(resume and folder.is_finished)
        resume = runtime.from_main(resume and folder.is_started and not folder.is_finished)
        assembly = assemble(recipe, runtime, narrator, allow_code=allow_code)
        assembly.recipe.output = None  # where a run was written is not part of what it was
        job = _Job(assembly, runtime, narrator, folder, role, tracker)
        student = assembly.student()
        job.rehearse(student, overwrite=overwrite)
        if resume or finished:
            adopt(assembly.recipe, runtime.on_main(lambda: read_recipe(str(folder.recipe))))
        calibrate(assembly, student, runtime, narrator)
        text = dump_recipe(assembly.recipe)
        facts = {"processes": runtime.world, **assembly.identity}
        changes = []
        if resume or finished:
            anyway = resume_anyway and not finished
            changes = runtime.on_main(lambda: folder.check_same(text, facts, anyway=anyway))
        if finished:
            narrator.note(f"finished already: {folder.path}")
            return runtime.on_main(lambda: recorded_result(folder, assembly.recipe, student))
        teacher_rows = check_assembled(assembly, runtime, narrator)
        with folder.locked() if runtime.is_main else nullcontext():
            if runtime.is_main:
                folder.check(overwrite=overwrite, resume=resume)
                folder.open(text, facts, resume=resume, changes=changes)
            runtime.barrier()
            for change in changes:
                narrator.warn(f"resumed anyway, the student is not that of one recipe: {change}")
            narrator.note(f"run folder: {folder.path}")
            try:
                with explaining_workers(), job.tracking:
                    return job.execute(student, teacher_rows, stop, publish, resume=resume)
            except Interrupted as stopped:
                again = f"the same command with --output {folder.path} --resume"
                raise Interrupted(f"{stopped}\n  next:     {again}") from None


class _Job:
    def __init__(
        self, assembly: Assembly, runtime: Runtime, narrator: Narrator, folder: RunFolder, role: Role,
        tracker: str | None,
    ) -> None:  # fmt: skip
        self.assembly = assembly
        self.recipe = assembly.recipe
        self.runtime = runtime
        self.narrator = narrator
        self.folder = folder
        self.role = role
        self.robust_set = robust_set_of(assembly, folder.robust_set)
        self.tracking = Tracking(tracker, runtime, folder.path, assembly.recipe)
        data, evaluate = assembly.data, assembly.recipe.evaluate
        self.indices = balanced_sample(data.test.labels, evaluate.images)
        self.images = data.test if self.indices is None else data.test.select(self.indices)
        self.specs = [
            PGDSpec(ThreatModel.asked(assembly.threat.norm, eps), evaluate.steps, evaluate.restarts)
            for eps in evaluate.eps or []
        ]

    def log(self, event: str, facts: dict[str, Any]) -> None:
        if self.runtime.is_main:
            self.folder.log(event, facts)
            self.tracking.log(event, facts)

    def rehearse(self, student: Learner, *, overwrite: bool) -> None:
        """Builds what training needs, so that nothing is written where that cannot be done.

        Raises:
            UserError: Optimiser, augmentation, batch size or an existing robust set cannot be used, or the
                disk is too small.
        """
        build_optimizer(student, self.assembly.plan("student", 1).optimisation)
        train = self.recipe.train
        if train.sync_batchnorm:
            self.runtime.check_sync_batchnorm()
        if train.ema is not None or train.average_epochs is not None or train.select_every is not None:
            self.runtime.check_whole()
        self.assembly.loader(self.runtime)
        find_features(self.assembly, self.runtime)
        replaced = (
            overwrite and self.robust_set is not None and self.robust_set.folder == self.folder.robust_set
        )
        if self.robust_set is not None and not replaced:
            self.robust_set.check()

    def execute(
        self,
        student: Learner,
        teacher_check: list[Row],
        stop: StopRequest,
        publish: Callable[[RunResult], None],
        *,
        resume: bool,
    ) -> RunResult:
        recipe, rows = self.recipe, list(teacher_check)
        if self.assembly.teacher is not None:
            self.log("teacher", self.assembly.teacher.provenance)
        timing: dict[str, Any] = {}
        if self.assembly.teacher is not None:
            teacher_rows, timing["teacher"] = teacher_figures(
                self.assembly, self.images, self.specs, self._measure_teacher, self.runtime, self.narrator
            )
            rows += teacher_rows
        robust = None
        if self.robust_set is not None:
            robust = self.robust_set.make(self.runtime, self.narrator)
            self.log("robust_set", {"images": len(robust.images), "seconds": round(robust.seconds, 3)})
        if recipe.control.enabled:
            control = self.assembly.control()
            plain = build_objective(PLAIN)
            timing["control"] = self._train(
                "control", control, plain, recipe.control.epochs, stop, resume=resume
            )
            rows += self._measure(control, "control")
            if self.runtime.is_main:
                product = control_product(control, self.folder, timing["control"]["steps"])
                export(product, assembly=self.assembly, role="control", images=self.images)
        objective, selection = self.assembly.objective(), self._selection()
        timing[self.role] = self._train(
            "student",
            student,
            objective,
            recipe.train.epochs,
            stop,
            resume=resume,
            selection=selection,
            robust=robust,
        )
        products = self._products(student, timing[self.role], selection)
        for product in products:
            rows += self._measure(product.network, product.model)
        checks = self._checks(student, control=[row for row in rows if row.model == "control"])
        self._tell_of_broken_images()
        self.log("evaluated", {"rows": len(rows)})
        metrics = Metrics(rows, self.indices, self.images.fingerprint, timing, checks)
        made = provenance(self.assembly, self.role, products[0])
        best = products[1].weights if len(products) > 1 else None
        result = RunResult(self.folder.path, metrics, recipe, made, load_line(student, self.folder), best)
        if self.runtime.is_main:
            self.tracking.accuracies(rows)
            self._exhibit(student)
            for product in products:
                export(product, assembly=self.assembly, role=self.role, images=self.images)
            publish(result)
            metrics.write(self.folder.metrics)
        self.runtime.barrier()
        return result

    def _train(
        self,
        phase: str,
        student: Learner,
        objective: Objective,
        epochs: int | None,
        stop: StopRequest,
        *,
        resume: bool,
        selection: Selection | None = None,
        robust: MadeImages | None = None,
    ) -> dict[str, Any]:
        assert epochs is not None
        features, cost = provide_features(self.assembly, objective, self.runtime, self.narrator, self.folder)
        trainer = Trainer(
            self.assembly.plan(phase, epochs),
            runtime=self.runtime,
            student=student,
            teacher=self.assembly.teacher if objective.needs else None,
            objective=objective,
            loader=self.assembly.loader(
                self.runtime, None if robust is None else robust.images, extra=phase == "student"
            ),
            checkpoints=Checkpoints(self.folder.checkpoints, phase, self.narrator.warn),
            narrator=self.narrator,
            log=self.log,
            selection=selection,
            features=features,
        )
        result = trainer.run(stop, resume=resume)
        self.log("trained", {"phase": phase, "step": result.steps, "seconds": round(result.seconds, 3)})
        data_seconds = 0.0 if robust is None else robust.seconds
        return with_features(result.timing(epochs, data_seconds), cost)

    def _selection(self) -> Selection | None:
        every, held_out = self.recipe.train.select_every, self.assembly.data.held_out
        if every is None or held_out is None:
            return None
        judge = held_out_judge(
            held_out,
            self.assembly.threat,
            fit=self.assembly.fit,
            batch_size=self.recipe.evaluate.batch_size,
            seed=self.recipe.seed,
            runtime=self.runtime,
        )
        return Selection(judge, every=every)

    def _products(
        self, student: Learner, timing: dict[str, Any], selection: Selection | None
    ) -> list[Product]:
        """Returns the network that training ended with, then the best one by the held-out part."""
        train, steps = self.recipe.train, timing["steps"]
        products = [Product(self.role, student, self.folder.student, describe_weights(train, steps))]
        if selection is not None:
            timing["selection_seconds"] = selection.seconds
            best = copy.deepcopy(student)
            best.load_state_dict(selection.weights)
            weights = describe_weights(train, steps, selection.score)
            products.append(Product(best_of(self.role), best, self.folder.best, weights))
        return products

    def _tell_of_broken_images(self) -> None:
        found = sorted(set(self.runtime.gather([*self.assembly.broken.found.items()])))
        if found:
            self.log("broken_images", {"count": len(found), "images": dict(found)})
            self.narrator.warn(f"{len(found):,} images could not be read; log.jsonl names them")

    def _measure(
        self, model: torch.nn.Module, role: str, specs: Sequence[PGDSpec] | None = None
    ) -> list[Row]:
        lay_out(model)
        return measure(
            model,
            self.images,
            self.specs if specs is None else specs,
            role=role,
            split="test",
            fit=self.assembly.fit,
            batch_size=self.recipe.evaluate.batch_size,
            seed=self.recipe.seed,
            runtime=self.runtime,
            narrator=self.narrator,
        )

    def _measure_teacher(self, specs: Sequence[PGDSpec]) -> list[Row]:
        assert self.assembly.teacher is not None
        return self._measure(self.assembly.teacher, "teacher", specs)

    def _checks(self, student: Learner, *, control: list[Row]) -> list[dict[str, Any]]:
        """Looks for signs of gradient masking, the cheap ones where an attack is run at all."""
        evaluator = Evaluator(
            student,
            self.images,
            role=self.role,
            split="test",
            fit=self.assembly.fit,
            batch_size=self.recipe.evaluate.batch_size,
            runtime=self.runtime,
            narrator=self.narrator,
        )
        checks = run_checks(
            "quick" if self.specs else "none",
            evaluator,
            self.assembly.threat,
            classes=self.assembly.data.num_classes,
            steps=self.recipe.evaluate.steps,
            seed=self.recipe.seed,
            control=control,
        )
        return [check.to_json() for check in checks]

    def _exhibit(self, student: Learner) -> None:
        gallery = make_gallery(
            student,
            self.images,
            threat=self.assembly.threat,
            steps=self.recipe.evaluate.steps,
            restarts=self.recipe.evaluate.restarts,
            seed=self.recipe.seed,
            fit=self.assembly.fit,
            class_names=self.assembly.data.class_names,
            device=self.runtime.device,
        )
        gallery.write(self.folder.gallery)
