from __future__ import annotations

import re
from pathlib import Path

import torch
import torch.nn.functional as F

import rrm_transfer.objectives
from rrm_transfer.objectives.divergences import cosine_distance, kl_divergence, relative_l2


def test_kl_mean_is_torch_batchmean() -> None:
    target, logits = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = 9 * F.kl_div(F.log_softmax(logits / 3, 1), F.softmax(target / 3, 1), reduction="batchmean")
    torch.testing.assert_close(kl_divergence(target, logits, 3.0).mean(), expected)


def test_no_objective_has_a_divergence_of_its_own() -> None:
    sources = Path(rrm_transfer.objectives.__file__).parent.glob("*.py")
    assert {s.name for s in sources if re.search("kl_div\\b|KLDiv", s.read_text(encoding="utf-8"))} == {
        "divergences.py"
    }


def test_temperature_keeps_the_size_of_gradients() -> None:
    target, logits = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sizes = []
    for temperature in (50.0, 100.0):
        moved = logits.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(kl_divergence(target, moved, temperature).sum(), moved)
        sizes.append(gradient.norm().item())
    assert abs(sizes[0] / sizes[1] - 1) < 0.05


def test_half_precision_is_measured_in_float32() -> None:
    features, target = torch.randn(2, 4, 512, generator=torch.Generator().manual_seed(0)).bfloat16()
    for distance in (cosine_distance, relative_l2, kl_divergence):
        assert distance(features, target).dtype == torch.float32
        torch.testing.assert_close(distance(features, target), distance(features.float(), target.float()))


def test_cosine_of_short_vectors_is_that_of_the_rrm_code() -> None:
    short = torch.tensor([[3e-7, 4e-7]], dtype=torch.float64)
    target = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    torch.testing.assert_close(cosine_distance(short, target), torch.tensor([0.5], dtype=torch.float64))


def test_equal_and_empty_representations_have_finite_gradients() -> None:
    features = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    for target in (features.clone(), torch.zeros(2, 3)):
        for distance in (cosine_distance, relative_l2):
            moved = features.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(distance(moved, target).sum(), moved)
            assert gradient.isfinite().all()
    torch.testing.assert_close(cosine_distance(features, 3 * features), torch.zeros(2), atol=1e-6, rtol=0)
