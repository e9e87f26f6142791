"""Everything that a run folder holds for its report, fit to be published."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rrm_transfer.core.documents import parse_json, parse_yaml
from rrm_transfer.core.errors import UserError
from rrm_transfer.core.names import public_names
from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.evaluation.gallery import Gallery, read_gallery
from rrm_transfer.evaluation.metrics import Metrics, read_metrics
from rrm_transfer.runs.evaluations import read_evaluations
from rrm_transfer.runs.folder import RunFolder

_PROVENANCE = frozenset(
    {"versions", "role", "recipe", "objective", "threat", "dataset", "fit", "teacher", "weights"}
)
"""What a report tells of the network that a run made; see ``runs.products.provenance``."""


@dataclass(frozen=True)
class Record:
    """A run, as its folder tells it.

    Attributes:
        metrics: Of the run.
        evaluations: Made of it afterwards, by file name.
        unreadable: File names in ``evaluations/`` that hold something else.
        recipe: Resolved, without the output folder and without local folders.
        environment: Versions and devices.
        student: ``config.json`` of the exported network.
        best: Which weights the best network by the held-out part has; None where there was no selection.
        events: Of log.jsonl, in order.
        gallery: None where none was kept.
    """

    metrics: Metrics
    evaluations: dict[str, Metrics]
    unreadable: list[str]
    recipe: dict[str, Any]
    environment: dict[str, Any]
    student: dict[str, Any]
    best: dict[str, Any] | None
    events: list[dict[str, Any]]
    gallery: Gallery | None

    @property
    def provenance(self) -> dict[str, Any]:
        section: dict[str, Any] = self.student["rrm"]
        return section

    @property
    def threat(self) -> ThreatModel:
        return ThreatModel(**self.provenance["threat"])

    @property
    def architecture(self) -> str:
        """The network's name; a network that timm would misread has it in the provenance."""
        return str(self.provenance.get("architecture", self.student["architecture"]))

    @property
    def classes(self) -> int:
        """How many there are; timm writes them beside the arguments, which need not hold them."""
        arguments = self.student.get("model_args") or {}
        return int(self.student["num_classes"] if "num_classes" in self.student else arguments["num_classes"])

    def measurements(self) -> Iterator[tuple[str | None, Metrics]]:
        """Yields the run's metrics, named None, and every evaluation with its name."""
        yield None, self.metrics
        yield from self.evaluations.items()

    def of_made(self) -> Iterator[Metrics]:
        """Yields the measurements of what was made."""
        role = self.provenance["role"]
        return (metrics for _, metrics in self.measurements() if metrics.of(role))

    def statuses(self) -> Counter[str]:
        """Counts the checks of what was made; one made several times counts as it came out worst."""
        worst: dict[str, str] = {}
        for metrics in self.of_made():
            for check in metrics.checks:
                statuses = (worst.get(check["name"], check["status"]), check["status"])
                worst[check["name"]] = min(statuses, key=severity)
        return Counter(worst.values())


def severity(status: str) -> int:
    """Orders what a check can come to, the worst first."""
    return {"suspicious": 0, "pass": 1}.get(status, 2)


def read_finished(path: Path) -> Record:
    """Reads the folder of a finished run.

    Raises:
        UserError: It is no such folder.
    """
    folder = RunFolder(path)
    if not (folder.is_finished and folder.is_started and (folder.student / "config.json").is_file()):
        raise UserError(
            "No finished run here.",
            received=path,
            allowed="a folder that `rrm-transfer run` or `teach` has completed",
            hint="--resume completes a run that was interrupted" if folder.is_started else None,
        )
    folder.refuse_links()
    return read_record(folder, read_metrics(folder.metrics))


def read_record(folder: RunFolder, metrics: Metrics) -> Record:
    """Reads a run folder.

    Args:
        folder: Complete but for metrics.json, which is written last.
        metrics: What it holds or will hold.

    Raises:
        UserError: Another version wrote it and did not keep what is told.
    """
    student = _config(folder.student)
    missing = _PROVENANCE - student.get("rrm", {}).keys()
    if missing:
        raise UserError(
            "Another version of rrm-transfer made this run, and did not record all that its report tells.",
            received=f"{folder.student / 'config.json'} without {', '.join(sorted(missing))}",
            hint=f"make it again: --recipe {folder.recipe}; its figures stay in {folder.metrics}",
        )
    made = student["rrm"]["role"]
    evaluations, unreadable = read_evaluations(folder, made)
    return Record(
        metrics=metrics,
        evaluations=evaluations,
        unreadable=unreadable,
        recipe=public_names(_without_output(parse_yaml(folder.recipe.read_text(encoding="utf-8")))),
        environment=parse_json(folder.environment.read_text(encoding="utf-8")),
        student=student,
        best=_config(folder.best)["rrm"]["weights"] if folder.best.is_dir() else None,
        events=_events(folder),
        gallery=read_gallery(folder.gallery) if folder.gallery.is_file() else None,
    )


def _config(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = public_names(parse_json((folder / "config.json").read_text(encoding="utf-8")))
    return content


def _without_output(recipe: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in recipe.items() if key != "output"}


def _events(folder: RunFolder) -> list[dict[str, Any]]:
    events = []
    if folder.log_file.is_file():
        for line in folder.log_file.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError):  # the line that a killed process was writing
                events.append(parse_json(line))
    return events
