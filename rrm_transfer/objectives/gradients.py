"""The penalty on the gradient of the input: an attack to first order, without its step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from rrm_transfer.objectives.arguments import Amount
from rrm_transfer.objectives.base import Step, Term
from rrm_transfer.objectives.labels import labels_of
from rrm_transfer.objectives.natural import Natural


@contextmanager
def differentiable(x: Tensor) -> Iterator[Tensor]:
    """Gives ``x`` as a variable, whose gradient of what a network makes of it in the block has a gradient."""
    # Fused attention has no second derivative.
    with sdpa_kernel(SDPBackend.MATH):
        yield x.detach().requires_grad_()


def gradient_term(step: Step, x: Tensor, loss: Tensor, weight: float) -> Term:
    """Returns ``eps · ‖∇_x L‖`` in the norm dual to the threat's: L1 for Linf, L2 for L2.

    It is what a perturbation of size eps adds to the loss, to first order.

    Args:
        step: The batch.
        x: From ``differentiable``.
        loss: L of what the student makes of ``x``, ``(B,)``.
        weight: Of the term.
    """
    (gradient,) = torch.autograd.grad(loss.sum(), x, create_graph=True)
    # A norm is its steepest direction times the point, and has that direction as its gradient.
    norm = (step.threat.ascent(gradient.detach()) * gradient).flatten(1).sum(1)
    return Term("input_gradient", weight, step.threat.eps * norm.mean())


@dataclass(kw_only=True)
class GradNorm(Natural):
    """A small gradient of the input: ``λ_ce · CE(S(x), y) + λ · eps · ‖∇_x CE(S(x), y)‖₁``.

    In L2 the norm is L2. It costs one backward pass to the input and one through it, and no attack.
    Rodríguez-Muñoz, Wang, Torralba, "Characterizing Model Robustness via Natural Input Gradients", ECCV 2024,
    arXiv 2409.20139, with the weights of its official code. That code starts from clean weights with batch
    norms in evaluation mode (here they are in training mode), clips gradients to 1 and lets the penalty grow
    over five epochs: ``train.clip_grad: 1``, ``train.eps_warmup_epochs: 5``. By the paper, networks with
    piecewise linear activations such as ReLU cannot be trained so.

    Args:
        ce_weight: λ_ce, the weight of the cross-entropy.
        gradient_weight: λ, the weight of the gradient's norm.
    """

    differentiates_twice = True

    ce_weight: Amount = 0.8
    gradient_weight: Amount = 1.2

    def __call__(self, step: Step) -> list[Term]:
        with differentiable(step.x) as x:
            logits = step.student(x).logits
        loss = labels_of(step).cross_entropy(logits, self.label_smoothing)
        return [
            Term("ce", self.ce_weight, loss.mean()),
            gradient_term(step, x, loss, self.gradient_weight),
        ]
