"""The robust data set: images made anew from what a robust representation keeps of them."""

from __future__ import annotations

from dataclasses import dataclass

from rrm_transfer.objectives.arguments import Count, Folder, Positive
from rrm_transfer.objectives.base import Inversion
from rrm_transfer.objectives.natural import Natural


@dataclass(kw_only=True)
class RDT(Natural):
    """Plain training on a robust data set: ``CE(S(x_r), y)`` with ``x_r = argmin_z ‖g_T(z) − g_T(x)‖₂``.

    ``z`` starts at a random image of the training set and takes gradient steps of equal length, clipped to
    the image range; ``x_r`` keeps the label of ``x``. Ilyas et al., "Adversarial Examples Are Not Bugs, They
    Are Features", NeurIPS 2019, arXiv 1905.02175, section 3.1; steps as in the RRM paper. The images are
    written once, before training, to parquet files of 8-bit PNG; their cost is part of the training time.

    Args:
        steps: Steps of the descent.
        step_size: L2 length of one step in pixel units.
        folder: Where the robust set is: written where it is missing, continued where it is unfinished, read
            where it is whole; null: in the run folder.
    """

    needs = frozenset({"features"})
    teacher_sees = frozenset()

    steps: Count = 1000
    step_size: Positive = 0.1
    folder: Folder | None = None

    def __post_init__(self) -> None:
        self.inversion = Inversion(self.steps, self.step_size, self.folder)
