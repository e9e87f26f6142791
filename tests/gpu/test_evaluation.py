"""Figures of a GPU are those of a CPU, up to an image at the boundary."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from rrm_transfer.attacks.attack import CLEAN
from rrm_transfer.attacks.catalogue import build_attack, pgd_attack
from rrm_transfer.attacks.pgd import pgd
from rrm_transfer.core.errors import UserError
from rrm_transfer.core.randomness import Randomness
from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.evaluation.evaluator import Evaluator, Measurement
from rrm_transfer.runtime.context import Context
from rrm_transfer.students.student import build_student
from tests.data.fixtures import memory_images
from tests.evaluation.fixtures import EPS, evaluator, robust_net
from tests.evaluation.test_evaluator import everything, robust_logits

pytestmark = pytest.mark.gpu

THREAT = ThreatModel("Linf", EPS)


def test_pgd_finds_what_it_finds_on_a_cpu() -> None:
    its, network = everything(60), deepcopy(robust_net())  # which is trained when it is first asked for
    expected = pgd(
        robust_logits,
        its.x,
        its.y,
        threat=THREAT,
        steps=5,
        restarts=2,
        randomness=Randomness(1, 0, its.index),
    )
    there = (robust_logits(expected).argmax(1) == its.y).nonzero().flatten().tolist()
    here = evaluator(network).survivors(pgd_attack(THREAT, steps=5, restarts=2, seed=1))
    assert len(set(here) ^ set(there)) <= 1


def test_autoattack_finds_at_least_what_pgd_finds() -> None:
    pytest.importorskip("pyautoattack")
    tool = evaluator(deepcopy(robust_net()), 40)
    survivors = tool.survivors(build_attack("autoattack", THREAT, seed=0, classes=10))
    found = tool.survivors(pgd_attack(THREAT, steps=5, restarts=1, seed=1))
    assert len(survivors) <= len(found) <= len(tool.survivors(CLEAN))


def test_memory_that_runs_out_names_the_batch_that_fits(gpu: torch.device) -> None:
    network = build_student("resnet18", num_classes=10, channels=3, image_size=224)
    images = memory_images(256, size=224)
    tool = Evaluator(
        network, images, Measurement(224, 256, 0, Context.begin()), model="student", split="test"
    )
    limit = 2 << 30
    torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.get_device_properties(gpu).total_memory)
    with pytest.raises(UserError, match=r"Memory ran out .* \d+ fit") as caught:
        tool.survivors(pgd_attack(THREAT, steps=1, restarts=1, seed=0))
    assert "evaluate.batch_size=" in str(caught.value.hint)
