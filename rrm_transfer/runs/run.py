"""A whole run: teacher check, control, student, evaluation, export."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

from torch import nn

from rrm_transfer.attacks.attack import Attack
from rrm_transfer.core.documents import require_text
from rrm_transfer.core.errors import Interrupted, UserError
from rrm_transfer.core.names import public_names
from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.data.workers import explaining_workers
from rrm_transfer.evaluation.checks import run_checks
from rrm_transfer.evaluation.evaluator import Evaluator, to_channels_last
from rrm_transfer.evaluation.gallery import make_gallery
from rrm_transfer.evaluation.metrics import BEST, Metrics, Model, Row
from rrm_transfer.objectives import PLAIN, build_objective
from rrm_transfer.objectives.base import START, Objective
from rrm_transfer.recipe.loading import dump_recipe, read_recipe
from rrm_transfer.recipe.schema import Recipe
from rrm_transfer.runs.features import find_features, provide_features, with_features
from rrm_transfer.runs.finished import FinishedRun, read_finished, read_run
from rrm_transfer.runs.folder import RunFolder, output_folder
from rrm_transfer.runs.products import (
    Product,
    control_product,
    describe_weights,
    export,
)
from rrm_transfer.runs.resolve import resolve
from rrm_transfer.runs.robust_set import MadeImages, robust_set_of
from rrm_transfer.runs.setup import Setup
from rrm_transfer.runs.start import EVENT, begin, with_start
from rrm_transfer.runs.teacher import check_teacher, teacher_figures
from rrm_transfer.runs.tracking import Tracking, check_tracker
from rrm_transfer.runs.trainables import Trainable
from rrm_transfer.runtime.context import Context
from rrm_transfer.runtime.interruption import StopRequest
from rrm_transfer.runtime.machine import circumstances
from rrm_transfer.runtime.numerics import prepare_determinism
from rrm_transfer.runtime.progress import Narrator
from rrm_transfer.training.checkpoints import Checkpoints
from rrm_transfer.training.optimization import build_optimizer
from rrm_transfer.training.selection import Selection, held_out_judge
from rrm_transfer.training.trainer import Trainer


def run(
    recipe: Recipe,
    *,
    publish: Callable[[FinishedRun], None],
    is_teacher: bool = False,
    allow_code: frozenset[str] = frozenset(),
    narrator: Narrator | None = None,
    overwrite: bool = False,
    resume: bool = False,
    resume_anyway: bool = False,
    tracker: str | None = None,
) -> FinishedRun:
    """Trains, evaluates and exports what the recipe describes.

    Args:
        recipe: Values left open are chosen.
        publish: Writes what people read into the run folder; called last, before the run counts as finished.
        is_teacher: Whether a robust teacher is made, from scratch.
        allow_code: Each ``package.module:factory`` that may be imported and called, as it is named.
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
    if recipe.train.deterministic:
        prepare_determinism()
    context = Context.begin(narrator)
    runtime, narrator = context.runtime, context.narrator
    for notice in runtime.notices:
        narrator.warn(notice)
    folder = RunFolder(output_folder(recipe, runtime))
    with StopRequest() as stop:
        # What stands in the folder decides whether this is a new run, one that goes on, or one that is done.
        folder.check(overwrite=overwrite, resume=resume)
        finished = runtime.from_main(resume and folder.is_finished)
        resume = runtime.from_main(resume and folder.is_started and not folder.is_finished)
        known = resume or finished
        recorded = runtime.on_main(lambda: read_recipe(str(folder.recipe))) if known else None

        # All that can be wrong shows before the folder is touched: what is loaded, built and compared here
        # costs seconds, and a mistake must leave nothing half-written.
        setup = resolve(recipe, context, is_teacher=is_teacher, recorded=recorded, allow_code=allow_code)
        text = dump_recipe(setup.recipe)
        facts = {"processes": runtime.world, **setup.identity}
        work = _Work(setup, folder, tracker)
        student = None if finished else setup.build_student()
        if student is not None:
            work.check(student, overwrite=overwrite)
        changes = []
        if known:
            anyway = resume_anyway and not finished
            changes = runtime.on_main(lambda: folder.check_same(text, facts, anyway=anyway))
        if student is None:
            narrator.note(f"finished already: {folder.path}")
            return runtime.on_main(lambda: read_finished(folder.path))
        teacher_rows = check_teacher(setup)

        # From here on the folder is this run's alone.
        with folder.locked() if runtime.is_main else nullcontext():
            if runtime.is_main:
                folder.check(overwrite=overwrite, resume=resume)
                left = folder.open(text, facts, resume=resume, changes=changes)
                if left:
                    names = ", ".join(path.name for path in left)
                    narrator.warn(f"left in the run folder, since no run wrote it: {names}")
            runtime.barrier()
            for change in changes:
                narrator.warn(f"resumed anyway, the student is not that of one recipe: {change}")
            narrator.note(f"run folder: {folder.path}")
            try:
                with explaining_workers(), work.tracking:
                    return work.do(student, teacher_rows, stop, publish, resume=resume)
            except Interrupted as stopped:
                again = f"the same command with --output {folder.path} --resume"
                raise Interrupted(f"{stopped}\n  next:     {again}") from None


class _Work:
    """What one run does in its folder.

    Args:
        setup: Of the run.
        folder: Where everything is written.
        tracker: See ``runs.tracking``.
    """

    def __init__(self, setup: Setup, folder: RunFolder, tracker: str | None) -> None:
        self.setup = setup
        self.recipe = setup.recipe
        self.runtime = setup.context.runtime
        self.narrator = setup.context.narrator
        self.folder = folder
        self.robust_set = robust_set_of(setup, folder.robust_set)
        self.tracking = Tracking(tracker, self.runtime, folder.path, setup.recipe)
        test, evaluate = setup.loaded.images.test, setup.recipe.evaluate
        self.images = test.balanced(evaluate.images, skip=evaluate.skip)
        self.indices = test.positions_of(self.images)
        self.attacks = [self._pgd(ThreatModel.asked(setup.threat.norm, eps)) for eps in evaluate.eps]

    def log(self, event: str, facts: dict[str, Any]) -> None:
        if self.runtime.is_main:
            self.folder.log(event, facts)
            self.tracking.log(event, facts)

    def check(self, student: Trainable, *, overwrite: bool) -> None:
        """Builds what training needs, so that nothing is written where that cannot be done.

        Raises:
            UserError: Optimizer, augmentation, batch size or an existing robust set cannot be used, a name
                cannot be written, or the disk is too small.
        """
        self._require_names()
        build_optimizer(student, self.setup.plan("student", 1).optimization)
        train = self.recipe.train
        if train.sync_batchnorm:
            self.runtime.check_sync_batchnorm()
        if train.ema is not None or train.average_epochs is not None or train.select_every is not None:
            self.runtime.check_whole()
        self.setup.loader()
        find_features(self.setup)
        replaced = (
            overwrite and self.robust_set is not None and self.robust_set.folder == self.folder.robust_set
        )
        if self.robust_set is not None and not replaced:
            self.robust_set.check()

    def _require_names(self) -> None:
        """Checks that card and report, which are written last, can hold every name that they will tell."""
        data, teacher = self.setup.loaded.images, self.setup.teacher
        names = {
            "recipe": self.recipe.model_dump(mode="json"),
            "data": {"name": data.name, "license": data.license},
            "classes": data.class_names,
            "teacher": None if teacher is None else dict(teacher.provenance),
        }
        require_text(public_names(names), what="A name that the model card tells")

    def do(
        self,
        student: Trainable,
        teacher_check: list[Row],
        stop: StopRequest,
        publish: Callable[[FinishedRun], None],
        *,
        resume: bool,
    ) -> FinishedRun:
        setup, recipe, rows = self.setup, self.recipe, list(teacher_check)
        timing: dict[str, Any] = {}

        # The teacher first: what it is and what it reaches on the test images is the measure of the student.
        if setup.teacher is not None:
            teacher = setup.teacher
            self.log("teacher", teacher.provenance)
            found, timing["teacher"] = teacher_figures(
                setup, self.images, self.attacks, lambda attacks: self._rows(teacher, "teacher", attacks)
            )
            rows += found
        robust = None
        if self.robust_set is not None:
            robust = self.robust_set.make(self.setup.context)
            self.log("robust_set", {"images": len(robust.images), "seconds": round(robust.seconds, 3)})

        # The control before the student: it shows what the same network is worth undefended, and a mistake in
        # the data shows in the cheaper of the two.
        if recipe.control.enabled:
            control = setup.build_control()
            timing["control"] = self._train(
                "control", control, build_objective(PLAIN), recipe.control.epochs, stop, resume=resume
            )
            rows += self._rows(control, "control", self.attacks)
            if self.runtime.is_main:
                product = control_product(control, self.folder, timing["control"]["steps"])
                export(product, setup, self.images)
        selection, begun = self._selection(), self._begin(student, resume=resume)
        trained = self._train(
            "student",
            student,
            setup.objective,
            recipe.train.epochs,
            stop,
            resume=resume,
            selection=selection,
            robust=robust,
        )
        timing["student"] = with_start(trained, begun)

        # The test split is looked at once, at the end: the last weights, the best by the held-out part, and
        # signs that the figures mislead.
        products = self._products(student, timing["student"], selection)
        for product in products:
            rows += self._rows(product.network, product.model, self.attacks)
        checks = self._checks(student, control=[row for row in rows if row.model == "control"])
        self._tell_of_broken_images()
        self.log("evaluated", {"rows": len(rows)})
        metrics = Metrics(rows, self.indices, self.images.fingerprint, timing, checks)
        finished: FinishedRun | None = None

        # metrics.json is written last, as it makes the run a finished one.
        if self.runtime.is_main:
            self.tracking.accuracies(rows)
            attack = self._pgd(setup.threat)
            names = setup.loaded.images.class_names
            gallery = make_gallery(student, self.images, attack, setup.measurement, class_names=names)
            gallery.write(self.folder.gallery)
            for product in products:
                export(product, setup, self.images)
            finished = read_run(self.folder, metrics)
            publish(finished)
            metrics.write(self.folder.metrics)
        told: FinishedRun = self.runtime.from_main(finished)
        return told

    def _begin(self, student: Trainable, *, resume: bool) -> dict[str, Any]:
        """Solves what the student starts with, once: a checkpoint has it already."""
        known: list[dict[str, Any]] = []
        if resume and self.runtime.is_main:
            found, _ = Checkpoints(self.folder.checkpoints, "student", lambda _: None).newest()
            known = [] if found is None else self.folder.events(EVENT)
        known = self.runtime.from_main(known)
        if known:
            if self.setup.objective.anchor == START:  # which is as it was at first
                begin(student, self.setup)
            return {name: fact for name, fact in known[-1].items() if name not in ("event", "time")}
        begun = begin(student, self.setup)
        if begun:
            self.log(EVENT, begun)
        return begun

    def _train(
        self,
        model: Model,
        student: Trainable,
        objective: Objective,
        epochs: int,
        stop: StopRequest,
        *,
        resume: bool,
        selection: Selection | None = None,
        robust: MadeImages | None = None,
    ) -> dict[str, Any]:
        setup = self.setup
        features, cost = provide_features(setup, self.folder) if objective.needs else (None, {})
        trainer = Trainer(
            setup.plan(model, epochs),
            context=setup.context,
            student=student,
            teacher=setup.teacher if objective.needs else None,
            objective=objective,
            loader=setup.loader(None if robust is None else robust.images, extra=model == "student"),
            checkpoints=Checkpoints(self.folder.checkpoints, model, self.narrator.warn),
            log=self.log,
            selection=selection,
            features=features,
            anchor=setup.anchor_beside(student, objective),
        )
        result = trainer.run(stop, resume=resume)
        machine = circumstances(self.runtime.world)
        passes = setup.passes(student, objective, epochs)
        self.log("trained", {"model": model, "step": result.steps, "seconds": round(result.seconds, 3)})
        data_seconds = 0.0 if robust is None else robust.seconds
        timing = with_features(result.timing(epochs, data_seconds), cost)
        return {**timing, "passes": passes.to_json(), **machine}

    def _selection(self) -> Selection | None:
        every, held_out = self.recipe.train.select_every, self.setup.loaded.images.held_out
        if every is None or held_out is None:
            return None
        return Selection(held_out_judge(held_out, self.setup.threat, self.setup.measurement), every=every)

    def _products(
        self, student: Trainable, timing: dict[str, Any], selection: Selection | None
    ) -> list[Product]:
        """Returns the network that training ended with, then the best one by the held-out part."""
        train, steps = self.recipe.train, timing["steps"]
        products = [Product("student", student, self.folder.student, describe_weights(train, steps))]
        if selection is not None:
            timing["selection_seconds"] = selection.seconds
            best = copy.deepcopy(student)
            best.load_state_dict(selection.weights)
            weights = describe_weights(train, steps, selection.score)
            products.append(Product(BEST, best, self.folder.best, weights))
        return products

    def _tell_of_broken_images(self) -> None:
        found = sorted(set(self.runtime.gather([*self.setup.loaded.broken.found.items()])))
        if found:
            self.log("broken_images", {"count": len(found), "images": dict(found)})
            self.narrator.warn(f"{len(found):,} images could not be read; log.jsonl names them")

    def _pgd(self, threat: ThreatModel) -> Attack:
        evaluate = self.recipe.evaluate
        return self.setup.measurement.pgd(threat, steps=evaluate.steps, restarts=evaluate.restarts)

    def _rows(self, network: nn.Module, model: Model, attacks: Sequence[Attack]) -> list[Row]:
        to_channels_last(network)
        return self.setup.measurement.rows(network, self.images, attacks, model=model, split="test")

    def _checks(self, student: Trainable, *, control: list[Row]) -> list[dict[str, Any]]:
        """Looks for signs of gradient masking, the cheap ones."""
        setup = self.setup
        checks = run_checks(
            "quick",
            Evaluator(student, self.images, setup.measurement, model="student", split="test"),
            setup.threat,
            classes=setup.loaded.images.num_classes,
            steps=self.recipe.evaluate.steps,
            control=control,
        )
        return [check.to_json() for check in checks]
