from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from rrm_transfer.attacks.attack import CLEAN
from rrm_transfer.attacks.catalogue import ATTACKS, build_attack
from rrm_transfer.attacks.pgd import pgd
from rrm_transfer.core.errors import UserError
from rrm_transfer.core.randomness import Randomness
from rrm_transfer.core.threat import ThreatModel
from tests.attacks.toys import toy

THREATS = [ThreatModel("Linf", 0.18), ThreatModel("L2", 0.9)]
build = partial(build_attack, seed=0, classes=5, surrogate=toy().logits)


def test_every_name_builds_an_attack_that_carries_it() -> None:
    pytest.importorskip("pyautoattack")
    for name in ATTACKS:
        attack = build(name, THREATS[0])
        assert attack.name == name
        assert attack.stages
        assert all(stage.cost > 0 for stage in attack.stages)
    assert build("none", THREATS[0]) is CLEAN


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(UserError, match="did you mean autoattack"):
        build("autoatack", THREATS[0])


def test_transfer_without_a_surrogate_asks_for_one() -> None:
    with pytest.raises(UserError, match="--surrogate"):
        build_attack("transfer", THREATS[0], seed=0, classes=5)


def test_keys_tell_measurements_apart() -> None:
    attacks = [
        CLEAN,
        *(build("pgd", threat, steps=s, restarts=r) for threat in THREATS for s in (1, 2) for r in (1, 2)),
        *(build("noise", threat) for threat in THREATS),
        build("pgd", THREATS[0].with_eps(0.080000001)),
    ]
    assert len({attack.key for attack in attacks}) == len(attacks)


@pytest.mark.parametrize("threat", THREATS, ids=str)
@pytest.mark.parametrize("name", ["pgd", "noise", "transfer"])
def test_own_attacks_stay_in_the_ball_and_depend_on_the_image_alone(name: str, threat: ThreatModel) -> None:
    model = toy()
    (stage,) = build(name, threat, steps=6, restarts=2).stages
    everyone, few = model.victims(), model.victims(7)
    x_adv = stage.perturb(model.logits, everyone)
    assert 0 <= x_adv.min() <= x_adv.max() <= 1
    assert 0 < threat.size(x_adv - everyone.x).max() <= threat.eps * (1 + 1e-5)
    torch.testing.assert_close(stage.perturb(model.logits, few), x_adv[:7], rtol=0, atol=1e-5)
    assert torch.equal(stage.perturb(model.logits, everyone), x_adv)
    other = build_attack(name, threat, seed=1, classes=5, steps=6, restarts=2, surrogate=model.logits).stages[
        0
    ]
    assert not torch.equal(other.perturb(model.logits, everyone), x_adv)


def lost(name: str, threat: ThreatModel, **options: Any) -> int:
    model = toy()
    (stage,) = build(name, threat, **options).stages
    return int((~model.correct(stage.perturb(model.logits, model.victims()))).sum())


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_noise_is_weak_and_the_own_gradients_are_strong(threat: ThreatModel) -> None:
    noise, strong = lost("noise", threat, steps=10), lost("pgd", threat, steps=10)
    assert noise < strong
    assert lost("noise", threat.with_eps(threat.eps * 4), steps=10) >= noise
    # Its own gradients without a stop at the first success do nearly as well as PGD.
    assert strong >= lost("transfer", threat, steps=10) >= 0.8 * strong


def test_transfer_takes_gradients_from_the_surrogate_only() -> None:
    model, threat = toy(), THREATS[0]
    seen: list[bool] = []

    def watched(x: torch.Tensor) -> torch.Tensor:
        seen.append(torch.is_grad_enabled() and x.requires_grad)
        return model.logits(x)

    attack = build("transfer", threat, steps=5, restarts=2)
    attack.stages[0].perturb(watched, model.victims())
    assert seen == [False, False]


def test_pgd_by_name_is_pgd() -> None:
    model, threat, victims = toy(), THREATS[0], toy().victims()
    expected = pgd(
        model.logits,
        victims.x,
        victims.y,
        threat=threat,
        steps=20,
        randomness=Randomness(0, 0, victims.index),
    )
    attack = build("pgd", threat)
    assert torch.equal(attack.stages[0].perturb(model.logits, victims), expected)
    assert (attack.steps, attack.restarts) == (20, 1)
    assert replace(attack, stages=()).title == "pgd Linf 0.18"
