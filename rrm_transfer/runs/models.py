"""What is known about a model before it is loaded: the data and the threat model that it was made for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.names import did_you_mean
from rrm_transfer.core.threat import NORMS, Norm
from rrm_transfer.runs.folder import RunFolder
from rrm_transfer.recipe.loading import read_recipe
from rrm_transfer.teachers.zoo import EMBEDDED, zoo_entry


@dataclass(frozen=True)
class ModelFacts:
    """What a run folder's recipe or the zoo says about a model; None where nothing does.

    Attributes:
        dataset: That it was trained on, as ``--dataset`` takes it.
        norm: Of its threat model.
        eps: Of its threat model, in pixel units.
        label_map: That was applied to the data.
        image_size: Side of its input in pixels.
        held_out: Part of the training data that was kept for selection.
        seed: With which that part was cut.
        max_broken: How many of the data's images may be unreadable.
        run: The run folder that it is, or lies in.
        part: Its folder's name in the run folder, ``student`` where the run folder itself was named.
        metrics: The figures that it comes with.
        published: Published figures in words.
    """

    dataset: str | None = None
    norm: Norm | None = None
    eps: float | None = None
    label_map: str | None = None
    image_size: int | None = None
    held_out: float = 0.0
    seed: int = 0
    max_broken: int = 0
    run: RunFolder | None = None
    part: str = "student"
    metrics: Path | None = None
    published: str | None = None

    def eps_in(self, norm: Norm) -> float:
        """Returns the radius to take where none was named: the model's, or 8/255 in Linf.

        Raises:
            UserError: The model's radius is one of another norm, and no other is customary.
        """
        if self.eps is not None and norm == self.norm:
            return self.eps
        if norm == "Linf":
            return 8 / 255
        if norm not in NORMS:
            raise UserError("Unknown norm.", received=norm, allowed=NORMS, hint=did_you_mean(norm, NORMS))
        raise UserError(
            f"There is no customary eps for {norm}.", hint="name it: threat.eps in the recipe, or --eps"
        )


def facts_about(name: str) -> ModelFacts:
    """Looks up a model by the name that a user gives it.

    Raises:
        UserError: It is of a run folder whose recipe cannot be read, or in which a link leads out of it.
    """
    path = Path(name.removeprefix("local-dir:"))
    within = not RunFolder(path).is_started
    folder, part = (RunFolder(path.parent), path.name) if within else (RunFolder(path), "student")
    if folder.is_started and path.is_dir():
        folder.refuse_links()
        recipe = read_recipe(str(folder.recipe))
        return ModelFacts(
            dataset=recipe.data.name,
            norm=recipe.threat.norm,
            eps=recipe.threat.eps,
            label_map=recipe.data.label_map,
            image_size=recipe.data.image_size,
            held_out=recipe.data.held_out,
            seed=recipe.seed,
            max_broken=recipe.data.max_broken,
            run=folder,
            part=part,
            metrics=folder.metrics if folder.is_finished and part == "student" else None,
        )
    entry = zoo_entry(name)
    if entry is None:
        return ModelFacts()
    metrics = EMBEDDED / str(entry.file) / "metrics.json" if entry.source == "embedded" else None
    return ModelFacts(entry.dataset, entry.norm, entry.eps, metrics=metrics, published=entry.published)
