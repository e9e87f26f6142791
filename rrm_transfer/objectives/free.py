"""Free adversarial training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rrm_transfer.objectives.arguments import Amount, Count, Share
from rrm_transfer.objectives.base import Objective, Step, Term
from rrm_transfer.objectives.labels import labels_of


@dataclass(kw_only=True)
class FreeAT(Objective):
    """``CE(S(x + δ), y)``, with each batch used m times and ``δ`` moved by the same backward pass.

    After each of the m uses ``δ ← Π(δ + α · sign(∇_x CE))``. As in the paper ``δ`` belongs to the position in
    the batch and carries over to the next batch. Shafahi et al., "Adversarial Training for Free!", NeurIPS
    2019, arXiv 1904.12843. With m replays, train for 1/m of the epochs.

    Args:
        replays: m, the uses of each batch.
        step_size: α in units of eps.
        label_smoothing: Share of each label that is spread evenly over all classes.
    """

    attacks = True
    replays: Count = 8
    step_size: Amount = 1.0
    label_smoothing: Share = 0.0

    def __post_init__(self) -> None:
        self._delta: Tensor | None = None

    def __call__(self, step: Step) -> list[Term]:
        rows = slice(step.first, step.first + len(step.x))
        carried = self._delta = self._up_to(rows.stop, step.x)
        x_adv = (step.x + step.threat.into_ball(carried[rows])).clamp(0.0, 1.0).requires_grad_()

        def move(gradient: Tensor) -> None:
            # A position that turned into NaN would stay so for the rest of training.
            ascent = step.threat.ascent(gradient.nan_to_num())
            moved = carried[rows] + self.step_size * step.threat.eps * ascent
            carried[rows] = step.threat.into_ball(moved)

        x_adv.register_hook(move)  # type: ignore[no-untyped-call]  # torch does not annotate it
        loss = labels_of(step).cross_entropy(step.student(x_adv).logits, self.label_smoothing)
        return [Term("adversarial_ce", 1.0, loss.mean())]

    def _up_to(self, end: int, like: Tensor) -> Tensor:
        """Returns δ for at least ``end`` positions; unseen ones start at 0."""
        known = like.new_zeros(0, *like.shape[1:]) if self._delta is None else self._delta.to(like)
        if len(known) >= end:
            return known
        return torch.cat([known, like.new_zeros(end - len(known), *like.shape[1:])])

    def state_dict(self) -> dict[str, Tensor]:
        return {} if self._delta is None else {"delta": self._delta}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._delta = state["delta"].clone() if "delta" in state else None
