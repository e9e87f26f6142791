"""Attacks by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from rrm_transfer.attacks.attack import CLEAN, GRADIENT_COST, Attack, Logits, Stage, Victims
from rrm_transfer.attacks.autoattack import MINIMUM, PARTS, SUITES, minimum_norm, part, suite
from rrm_transfer.attacks.noise import random_noise
from rrm_transfer.attacks.pgd import pgd
from rrm_transfer.attacks.transfer import transfer
from rrm_transfer.core.errors import UserError
from rrm_transfer.core.names import did_you_mean
from rrm_transfer.core.randomness import Randomness
from rrm_transfer.core.threat import ThreatModel

STEPS = 20
"""Steps of PGD and the transfer attack, and draws of random noise, where nothing else is asked for."""

OWN = ("none", "pgd", "noise", "transfer")
ATTACKS = (*OWN, *PARTS, *SUITES, MINIMUM)
"""Every name that `build_attack` knows."""


def check_attack_names(names: tuple[str, ...]) -> None:
    """Checks names before anything is loaded.

    Raises:
        UserError: One is unknown.
    """
    for name in names:
        if name not in ATTACKS:
            raise UserError(
                "Unknown attack.", received=name, allowed=ATTACKS, hint=did_you_mean(name, ATTACKS)
            )


def build_attack(
    name: str,
    threat: ThreatModel,
    *,
    seed: int,
    classes: int,
    steps: int | None = None,
    restarts: int = 1,
    surrogate: Logits | None = None,
) -> Attack:
    """Makes an attack.

    Args:
        name: One of ``ATTACKS``.
        threat: The ball to search; unused by ``none``. ``minimum-norm`` looks no farther.
        seed: Seeds everything random in the attack.
        classes: How many classes the logits have.
        steps: None: what is customary for the attack. AutoAttack's suites have their own, and so has what
            they call restarts.
        restarts: 1 or more, where the attack has restarts.
        surrogate: The model whose gradients ``transfer`` uses.

    Raises:
        UserError: The name is unknown, or the attack cannot be made.
    """
    check_attack_names((name,))
    if name == "none":
        return CLEAN
    if name in SUITES:
        return suite(name, threat, seed=seed, classes=classes)
    if name in PARTS:
        return part(name, threat, seed=seed, classes=classes, steps=steps, restarts=restarts)
    if name == MINIMUM:
        return minimum_norm(threat, classes=classes, steps=steps)
    steps = steps or STEPS
    if name == "noise":
        return noise_attack(threat, draws=steps, seed=seed)
    if name == "pgd":
        return pgd_attack(threat, steps=steps, restarts=restarts, seed=seed)
    if surrogate is None:
        raise UserError(
            "The transfer attack needs a model to take gradients from.",
            received="transfer",
            hint="--surrogate NAME: a zoo name, a timm or hf-hub: name, or a run folder",
        )
    return transfer_attack(surrogate, threat, steps=steps, restarts=restarts, seed=seed)


def pgd_attack(threat: ThreatModel, *, steps: int, restarts: int, seed: int) -> Attack:
    """Makes `pgd` an attack."""
    run = partial(pgd, threat=threat, steps=steps, restarts=restarts)
    return _own("pgd", run, threat, steps, restarts, cost=GRADIENT_COST * steps * restarts, seed=seed)


def noise_attack(threat: ThreatModel, *, draws: int, seed: int) -> Attack:
    """Makes `random_noise` an attack; its steps are the draws."""
    run = partial(random_noise, threat=threat, draws=draws)
    return _own("noise", run, threat, draws, 1, cost=float(draws), seed=seed)


def transfer_attack(
    surrogate: Logits, threat: ThreatModel, *, steps: int, restarts: int, seed: int
) -> Attack:
    """Makes `transfer` an attack."""
    run = partial(transfer, surrogate=surrogate, threat=threat, steps=steps, restarts=restarts)
    return _own("transfer", run, threat, steps, restarts, cost=GRADIENT_COST * steps * restarts, seed=seed)


def _own(
    name: str,
    run: Callable[..., Tensor],
    threat: ThreatModel,
    steps: int,
    restarts: int,
    *,
    cost: float,
    seed: int,
) -> Attack:
    def perturb(logits: Logits, victims: Victims) -> Tensor:
        return run(logits, victims.x, victims.y, randomness=Randomness(seed, 0, victims.index))

    return Attack(name, threat, steps, restarts, (Stage(name, cost, perturb),))
