"""Whether a run that is to be resumed is the one that was started."""

from __future__ import annotations

from rrm_transfer.core.documents import Difference, differences, parse_yaml
from rrm_transfer.core.errors import UserError

CONTINUABLE = frozenset(
    {
        "processes",
        "training_images",
        "test_images",
        "extra_images",
        "name",
        "description",
        "student.license",
        "teacher.check",
        "data.max_broken",
        "data.workers",
        "evaluate",
        *(
            f"train.{name}"
            for name in (
                "accumulation", "channels_last", "checkpoint_minutes", "clip_grad", "compile",
                "decay_rate", "deterministic", "eps_warmup_epochs", "gradient_checkpointing",
                "log_every", "lr", "milestones", "min_lr", "precision", "schedule", "skip_bad_steps",
                "warmup_epochs", "weight_decay",
            )
        ),
    }
)  # fmt: skip
"""What may change while a run goes on: the rest says which student learns what from which data in how many
steps, and the steps done so far would be another run's."""


class Change(Difference):
    """One difference between a run as it was started and as it is asked for now.

    Its path is dotted, as in a recipe; or it is a fact of ``environment.json``.
    """

    @property
    def continuable(self) -> bool:
        """Whether the run can go on with it."""
        return self.path in CONTINUABLE or self.path.partition(".")[0] in CONTINUABLE


def find_changes(before: str, now: str) -> list[Change]:
    """Compares two resolved recipes; where a run is written is not part of what it is.

    Args:
        before: YAML of the recipe that the run was started with.
        now: YAML of the recipe that is asked for.

    Raises:
        UserError: The first is not YAML.
    """
    try:
        known = parse_yaml(before)
    except ValueError as error:
        raise UserError(f"The recipe in the run folder is damaged: {error}") from None
    found = differences(known, parse_yaml(now))
    return [Change(change.path, change.before, change.now) for change in found if change.path != "output"]


def require_same(changes: list[Change], *, anyway: bool, where: object) -> None:
    """Checks that a run may go on in spite of ``changes``.

    Args:
        changes: From ``find_changes``.
        anyway: Whether the user wants to go on with those that a run can go on with.
        where: The run folder, for the message.

    Raises:
        UserError: It may not; the changes are shown.
    """
    final = [change for change in changes if not change.continuable]
    if not changes or (anyway and not final):
        return
    listing = "\n".join(f"  {change}" for change in (final if anyway else changes))
    hint = "the same command as before with --resume, or another --output"
    raise UserError(
        f"The run in the output folder is another one, so it cannot be resumed:\n{listing}",
        received=where,
        hint=hint if final else f"--resume-anyway to go on with these changes, {hint}",
    )
