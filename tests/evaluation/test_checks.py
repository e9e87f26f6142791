from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.outputs import Outputs
from rrm_transfer.core.quantities import Proportion
from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.evaluation.checks import KINDS, Check, Level, parse_level, run_checks
from rrm_transfer.evaluation.metrics import Row, row
from tests.evaluation.fixtures import EPS, evaluator, plain_net, robust_net

THREAT = ThreatModel("Linf", EPS)
QUICK = {
    "gradients-not-zero",
    "deterministic",
    "logits-not-probabilities",
    "logit-scale",
    "iterative-beats-one-step",
    "noise-weaker",
}


class Defended(nn.Module):
    """A network behind something that hides its gradients without making it robust."""

    def __init__(
        self,
        before: Callable[[Tensor], Tensor] = lambda x: x,
        after: Callable[[Tensor], Tensor] = lambda logits: logits,
        net: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.net = robust_net() if net is None else net
        self.before, self.after = before, after

    def forward(self, x: Tensor) -> Outputs:
        outputs = self.net(self.before(x))
        return Outputs(self.after(outputs.logits), outputs.features)


def quantised(x: Tensor) -> Tensor:
    return (x * 8).round() / 8


def noisy(x: Tensor) -> Tensor:
    return x + 0.1 * torch.randn(x.shape)


def checks(model: nn.Module, level: Level = "quick", *, images: int = 100) -> dict[str, Check]:
    found = run_checks(
        level,
        evaluator(model, images, batch_size=images),
        THREAT,
        classes=10,
        steps=20,
        surrogate=lambda x: plain_net()(x).logits,
        queries=200,
    )
    assert [check.name for check in found] == list(KINDS)
    return {check.name: check for check in found}


def suspicious(found: dict[str, Check]) -> set[str]:
    return {name for name, check in found.items() if check.status == "suspicious"}


@cache
def robust_checks() -> dict[str, Check]:
    return checks(robust_net(), "full", images=150)


def test_a_clean_adversarially_trained_network_passes_every_check() -> None:
    pytest.importorskip("pyautoattack")
    found = robust_checks()
    assert suspicious(found) == set()
    assert {name for name, check in found.items() if check.status == "not-run"} == {"control-falls"}
    for check in found.values():
        assert check.status == "not-run" or (check.figure is not None and check.figure <= check.limit)


@pytest.mark.parametrize(
    ("model", "signs"),
    [
        (lambda: Defended(after=lambda logits: 1000 * logits), {"gradients-not-zero", "logit-scale"}),
        (lambda: Defended(after=lambda z: 1000 * z, net=plain_net()), {"gradients-not-zero", "logit-scale"}),
        (lambda: Defended(before=quantised), {"gradients-not-zero"}),
        (lambda: Defended(before=quantised, net=plain_net()), {"gradients-not-zero"}),
        (lambda: Defended(before=noisy), {"deterministic"}),
        (lambda: Defended(after=lambda logits: logits.softmax(1)), {"logits-not-probabilities"}),
    ],
    ids=["temperature", "plain-temperature", "quantised", "plain-quantised", "random", "softmax"],
)
def test_planted_masking_is_flagged_by_the_quick_checks(
    model: Callable[[], nn.Module], signs: set[str]
) -> None:
    found = checks(model())
    assert signs <= suspicious(found)
    assert {name for name, check in found.items() if check.status != "not-run"} == QUICK


def test_the_full_checks_see_what_masking_hides() -> None:
    pytest.importorskip("pyautoattack")
    found = suspicious(checks(Defended(before=quantised, net=plain_net()), "full"))
    assert {"square-weaker", "transfer-weaker", "reaches-chance"} <= found


def test_the_tempered_network_is_less_robust_to_dlr_than_it_looks() -> None:
    pytest.importorskip("pyautoattack")
    found = checks(Defended(after=lambda logits: 300 * logits, net=plain_net()), "full", images=60)
    assert {"ce-against-dlr", "reaches-chance"} <= suspicious(found)
    assert found["ce-against-dlr"].figure == pytest.approx(0.3, abs=0.3)


def test_without_a_level_everything_is_reported_as_not_run() -> None:
    found = checks(plain_net(), "none", images=10)
    assert {check.status for check in found.values()} == {"not-run"}
    assert {check.figure for check in found.values()} == {None}


def point(eps: float, correct: int) -> Row:
    return row("control", "test", Proportion(correct, 100), attack="pgd", norm="Linf", eps=eps)


@pytest.mark.parametrize(
    ("curve", "statuses"),
    [
        ([90, 60, 30, 5], ("pass", "pass")),
        ([90, 60, 65, 5], ("suspicious", "pass")),
        ([90, 60, 30, 11], ("pass", "suspicious")),
    ],
)
def test_a_measured_curve_is_judged(curve: list[int], statuses: tuple[str, str]) -> None:
    points = [point(0.1 * n, correct) for n, correct in enumerate(curve)]
    found = run_checks("none", evaluator(plain_net(), 5), THREAT, classes=10, steps=2, curve=points[::-1])
    by_name = {check.name: check.status for check in found}
    assert (by_name["falls-with-eps"], by_name["reaches-chance"]) == statuses


def test_the_control_is_judged_at_a_large_eps() -> None:
    def status(*rows: Row) -> Check:
        tool = evaluator(plain_net(), 5)
        found = run_checks("none", tool, THREAT, classes=10, steps=2, control=rows)
        return next(check for check in found if check.name == "control-falls")

    assert status().status == "not-run"
    assert status(point(0.05, 1), point(0.03, 40)) == Check("control-falls", "pass", 0.01, 0.05)
    assert status(point(4 * EPS, 8)).status == "suspicious"
    # At a smaller radius even an undefended network may stand, so nothing follows.
    assert status(point(2 * EPS, 8)).status == "not-run"


def test_a_figure_that_is_not_a_number_does_not_pass() -> None:
    assert Check.of("logit-scale", math.nan, 10).status == "suspicious"
    assert Check.of("reaches-chance", 0.25, 4) == Check("reaches-chance", "pass", 0.25, 0.25)


def test_unknown_levels_are_refused() -> None:
    assert parse_level("full") == "full"
    with pytest.raises(UserError, match="none, quick, full"):
        parse_level("slow")
