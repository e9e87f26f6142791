"""The penalty on the gradient of the input."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.objectives.gradients import differentiable, gradient_term
from tests.objectives.fakes import make_step


@pytest.mark.parametrize(("norm", "order"), [("Linf", 1), ("L2", 2)])
def test_the_term_is_what_a_small_perturbation_adds_to_the_loss(norm: str, order: int) -> None:
    step = make_step(threat=ThreatModel(norm, 1e-4))  # type: ignore[arg-type]
    step.net.eval()
    with differentiable(step.x) as x:
        loss = F.cross_entropy(step.student(x).logits, step.y, reduction="none")
    term = gradient_term(step, x, loss, 0.5)
    (gradient,) = torch.autograd.grad(loss.sum(), x, retain_graph=True)
    torch.testing.assert_close(
        term.value, 1e-4 * torch.linalg.vector_norm(gradient.flatten(1), ord=order, dim=1).mean()
    )
    moved = x.detach() + 1e-4 * step.threat.ascent(gradient)
    worse = F.cross_entropy(step.net(moved).logits, step.y, reduction="none")
    torch.testing.assert_close(term.value, (worse - loss).mean(), rtol=1e-2, atol=0)
    assert (term.name, term.weight) == ("input_gradient", 0.5)


def test_attention_has_a_second_derivative() -> None:
    q = torch.rand(1, 1, 4, 8)
    with differentiable(q) as x:
        out = F.scaled_dot_product_attention(x, x, x)
    (gradient,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
    gradient.square().sum().backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
