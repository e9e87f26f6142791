from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from rrm_transfer.attacks.attack import CLEAN, Attack, Stage, Victims
from rrm_transfer.attacks.catalogue import build_attack, noise_attack, pgd_attack
from rrm_transfer.attacks.pgd import pgd
from rrm_transfer.core.errors import Interrupted
from rrm_transfer.core.outputs import Outputs
from rrm_transfer.core.randomness import Randomness
from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.core.weights.identity import weights_hash
from rrm_transfer.data import framing
from rrm_transfer.data.encoded import decode
from rrm_transfer.data.fit import Fit
from rrm_transfer.data.images import LazyImages, MemoryImages
from rrm_transfer.data.loader import evaluation_batches
from rrm_transfer.evaluation.evaluator import Evaluator, Measurement, strict_float32, to_channels_last
from rrm_transfer.evaluation.state import EvaluationState
from rrm_transfer.runtime.context import Context
from rrm_transfer.runtime.progress import Narrator
from tests.attacks.toys import toy
from tests.data.fixtures import encode, file_images, noise
from tests.evaluation.fixtures import EPS, evaluator, images, measurement, plain_net, robust_net

THREAT = ThreatModel("Linf", EPS)


def everything(count: int) -> Victims:
    batch = next(iter(evaluation_batches(images(count), fit=Fit("pad", 32), batch_size=count, device="cpu")))
    return Victims(batch.index, batch.x, batch.y)


def robust_logits(x: Tensor) -> Tensor:
    output: Tensor = robust_net()(x).logits
    return output


@pytest.mark.parametrize("batch_size", [20, 60])
def test_smallest_perturbations_are_classified_again_and_measured(batch_size: int) -> None:
    tool, every = evaluator(plain_net(), batch_size=batch_size), everything(60)

    def nudge(_: Any, victims: Victims) -> Tensor:
        # Says to have moved every image, each by its own amount; few of them are misclassified for it.
        amount = 0.2 * (victims.index % 5) / 5
        return (victims.x + amount.view(-1, 1, 1, 1) * (victims.x < 0.5)).clamp(0, 1)

    stages = (Stage("nudge", 1.0, nudge),)
    attack = Attack("nudge", ThreatModel("Linf", 1.0), 1, None, stages, seeks_minimum=True)
    sizes = tool.sizes(attack)
    moved = nudge(None, every)
    with torch.no_grad():
        clean, after = (plain_net()(x).logits.argmax(1) == every.y for x in (every.x, moved))
    assert (~clean).any()
    assert (clean & after).any()
    assert (clean & ~after).any()
    for place, size in enumerate(sizes):
        if not clean[place]:
            assert size == 0.0
        elif after[place]:
            assert size is None
        else:
            assert size == pytest.approx(float((moved - every.x)[place].abs().amax()), rel=1e-5)


def test_figures_are_those_of_a_plain_loop() -> None:
    tool, all_at_once = evaluator(robust_net()), everything(60)
    attack = pgd_attack(THREAT, steps=5, restarts=2, seed=1)
    correct = robust_logits(all_at_once.x).argmax(1) == all_at_once.y
    x_adv = pgd(
        robust_logits, all_at_once.x, all_at_once.y, threat=THREAT, steps=5, restarts=2,
        randomness=Randomness(1, 0, all_at_once.index),
    )  # fmt: skip
    robust = robust_logits(x_adv).argmax(1) == all_at_once.y
    assert tool.survivors(CLEAN) == correct.nonzero().flatten().tolist()
    assert tool.survivors(attack) == robust.nonzero().flatten().tolist()
    row = tool.row(attack)
    assert (row.attack, row.norm, row.eps, row.steps, row.restarts) == ("pgd", "Linf", EPS, 5, 2)
    assert (row.correct, row.count) == (int(robust.sum()), 60)
    assert 0.3 < row.accuracy < tool.row(CLEAN).accuracy


def test_measure_returns_clean_accuracy_and_each_attack() -> None:
    how = measurement(16)
    attacks = [how.pgd(THREAT.with_eps(eps), steps=3) for eps in (0.02, 0.2)]
    rows = how.rows(robust_net(), images(50), attacks, model="teacher", split="train")
    assert [(row.model, row.split, row.attack, row.eps) for row in rows] == [
        ("teacher", "train", "none", None),
        ("teacher", "train", "pgd", 0.02),
        ("teacher", "train", "pgd", 0.2),
    ]
    assert rows[0].correct > rows[1].correct > rows[2].correct


def test_other_processes_decode_the_batches_to_come_and_figures_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [tmp_path / f"{number:02}.png" for number in range(20)]
    for number, file in enumerate(files):
        file.write_bytes(encode(noise(12, 14, seed=number)))
    pictures = LazyImages(
        encoded=file_images(tmp_path, files), labels=torch.arange(20) // 10, channels=1, size=(12, 14)
    )
    here = os.getpid()

    def elsewhere(*args: Any, **kwargs: Any) -> Any:
        assert os.getpid() != here
        return decode(*args, **kwargs)

    def survivors(workers: int) -> tuple[list[int], list[int]]:
        how = Measurement(6, 6, 0, Context.begin(), workers)
        tool = Evaluator(ToyOutputs(2), pictures, how, model="student", split="test")
        return tool.survivors(CLEAN), tool.survivors(how.pgd(THREAT, steps=2))

    expected = survivors(0)
    monkeypatch.setattr(framing, "decode", elsewhere)
    assert survivors(1) == expected


class ToyOutputs(nn.Module):
    """The attacks' toy network in the form that the engine takes."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.net = toy(classes).net

    def forward(self, x: Tensor) -> Outputs:
        logits = self.net(x)
        return Outputs(logits, logits)


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.17), pytest.param("L2", 0.7, marks=pytest.mark.slow)])
def test_autoattack_is_one_call_of_the_library_image_by_image(norm: Any, eps: float) -> None:
    library: Any = pytest.importorskip("pyautoattack")
    source = toy(10)
    pixels, y = (source.x[:20] * 255).round().to(torch.uint8), source.y[:20]
    x = pixels.float() / 255
    direct = library.AutoAttack(source.logits, norm=norm, eps=eps, seed=7, version="standard")
    x_adv, _ = direct.run_standard_evaluation(x, y, batch_size=13)
    expected = (source.logits(x_adv).argmax(1) == y).nonzero().flatten().tolist()

    tool = Evaluator(
        ToyOutputs(10), MemoryImages(pixels=pixels, labels=y), Measurement(6, 13, 0, Context.begin()),
        model="student", split="test",
    )  # fmt: skip
    attack = build_attack("autoattack", ThreatModel(norm, eps), seed=7, classes=10)
    assert tool.survivors(attack) == expected
    after = tool.survivors_by_stage[attack.title]
    assert list(after) == ["none", "apgd-ce", "apgd-t", "fab-t", "square"]
    assert list(after.values()) == sorted(after.values(), reverse=True)
    assert 0 < after["square"] == len(expected) < after["none"]


def test_each_stage_runs_on_the_survivors_of_the_one_before_in_whole_batches() -> None:
    seen: dict[str, list[list[int]]] = {"dark": [], "idle": []}

    def dark(_: object, victims: Victims) -> Tensor:
        seen["dark"].append(victims.index.tolist())
        return torch.where(victims.index[:, None, None, None] % 3 == 0, 0.0, victims.x)

    def idle(_: object, victims: Victims) -> Tensor:
        seen["idle"].append(victims.index.tolist())
        return victims.x

    stages = (Stage("dark", 1.0, dark), Stage("idle", 1.0, idle))
    tool = evaluator(plain_net(), 40, batch_size=8)
    clean = tool.survivors(CLEAN)
    left = tool.survivors(Attack("x", ThreatModel("Linf", 1.0), None, None, stages))
    assert seen["dark"] == [clean[start : start + 8] for start in range(0, len(clean), 8)]
    assert seen["idle"] == [left[start : start + 8] for start in range(0, len(left), 8)]
    assert {position for position in clean if position % 3} <= set(left) < set(clean)


@pytest.mark.parametrize("wrong", [0.2, -0.2, 3.0])
def test_an_attack_that_leaves_the_ball_or_the_image_is_not_believed(wrong: float) -> None:
    stage = Stage("cheat", 1.0, lambda _, victims: victims.x + wrong)
    with pytest.raises(RuntimeError, match=r"left Linf 0\.1"):
        evaluator(plain_net(), 10).survivors(Attack("cheat", THREAT, None, None, (stage,)))


def test_an_image_counts_as_lost_only_if_the_model_says_so() -> None:
    """What an attack claims has no weight: an attack that does nothing breaks nothing."""
    stage = Stage("idle", 1.0, lambda _, victims: victims.x)
    tool = evaluator(plain_net(), 30)
    assert tool.survivors(Attack("idle", THREAT, None, None, (stage,))) == tool.survivors(CLEAN)


def test_an_interrupted_evaluation_continues_with_the_same_result(tmp_path: Path) -> None:
    pytest.importorskip("pyautoattack")
    attacks = [
        CLEAN,
        pgd_attack(THREAT, steps=2, restarts=2, seed=0),
        build_attack("apgd-ce", THREAT, seed=0, classes=10, steps=4),
        build_attack("fab-t", THREAT, seed=0, classes=10, steps=3),
    ]

    def run(state: EvaluationState, stop_after: int | None) -> Evaluator:
        tool = evaluator(robust_net(), 30, batch_size=11, state=state)
        logits, calls = tool.logits, 0

        def counted(x: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            if calls == stop_after:
                raise Interrupted("now")
            return logits(x)

        tool.logits = counted  # type: ignore[method-assign]
        tool.run(attacks)
        tool.narrator.note(str(calls))
        return tool

    reference = run(EvaluationState(), None)
    expected = [reference.survivors(attack) for attack in attacks]
    for stop_after in (1, 8, 25, 60):
        path = tmp_path / f"{stop_after}.state.json"
        with pytest.raises(Interrupted):
            run(EvaluationState(path), stop_after)
        state = EvaluationState(path)
        state.load()
        before = dict(state.found)
        continued = run(state, None)
        assert [continued.survivors(attack) for attack in attacks] == expected
        assert continued.survivors_by_stage == reference.survivors_by_stage
        assert {key: continued.state.found[key] for key in before} == before
    assert len(before) > 5


def test_a_finished_evaluation_asks_the_model_nothing_more(tmp_path: Path) -> None:
    attack = pgd_attack(THREAT, steps=2, restarts=1, seed=0)
    state = EvaluationState(tmp_path / "state.json")
    expected = evaluator(robust_net(), state=state).survivors(attack)
    again = EvaluationState(state.path)
    again.load()
    tool = evaluator(robust_net(), state=again)
    tool.logits = None  # type: ignore[assignment, method-assign]
    assert tool.survivors(attack) == expected


def test_evaluators_of_one_state_do_not_mix_their_images() -> None:
    tool = evaluator(robust_net(), 40)
    few = tool.on(tool.images.select([3, 30, 39]), label="few")
    attack = noise_attack(THREAT, draws=2, seed=0)
    expected = [n for n, position in enumerate([3, 30, 39]) if position in tool.survivors(attack)]
    assert few.survivors(attack) == expected


def test_precision_flags_are_restored() -> None:
    name = "fp32_precision" if hasattr(torch.backends.cuda.matmul, "fp32_precision") else "allow_tf32"
    before = getattr(torch.backends.cuda.matmul, name)
    with torch.autocast("cpu", torch.bfloat16), strict_float32(torch.device("cpu")):
        assert getattr(torch.backends.cuda.matmul, name) in ("ieee", False)
        assert robust_logits(torch.rand(1, 1, 32, 32)).dtype == torch.float32
    assert getattr(torch.backends.cuda.matmul, name) == before


def test_weights_gather_no_gradient_and_want_it_again_afterwards() -> None:
    pytest.importorskip("pyautoattack")
    net = plain_net()
    for parameter in net.parameters():
        parameter.grad = None
    evaluator(net, 10).survivors(build_attack("fab-t", THREAT, seed=0, classes=10, steps=2))
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


@contextmanager
def heard() -> Iterator[tuple[Narrator, io.StringIO]]:
    stream = io.StringIO()
    yield Narrator(Console(file=stream, width=200)), stream


def test_the_first_batch_gives_an_estimate_and_stages_tell_their_survivors() -> None:
    with heard() as (narrator, stream):
        tool = evaluator(robust_net(), 50, batch_size=10, narrator=narrator)
        stages = [pgd_attack(THREAT, steps=2, restarts=1, seed=seed).stages[0] for seed in range(2)]
        few = Attack("twice", THREAT, 2, 1, tuple(stages))
        tool.run([CLEAN, few])
    said = stream.getvalue()
    assert "student: clean: about" in said
    assert "twice Linf 0.1: at most about" in said
    assert "first estimate, pgd on 10 images" in said
    assert f"{len(tool.survivors(few))} of 50 images left" in said


def test_progress_tells_the_time_left_for_all_attacks(monkeypatch: pytest.MonkeyPatch) -> None:
    updates: list[tuple[int, dict[str, str]]] = []

    class Task:
        def __enter__(self) -> Task:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def update(self, done: int, facts: dict[str, str]) -> None:
            updates.append((done, dict(facts)))

    narrator = Narrator()
    monkeypatch.setattr(narrator, "task", lambda *_, **__: Task())
    tool = evaluator(robust_net(), 40, narrator=narrator)
    tool.run([CLEAN, *(pgd_attack(THREAT, steps=s, restarts=1, seed=0) for s in (2, 4))])
    clean = len(tool.survivors(CLEAN))
    assert [done for done, _ in updates[:2]] == [20, 40]
    assert updates[-1][0] == clean
    assert any(20 < done < clean for done, _ in updates[2:])
    summaries = [facts for _, facts in updates if facts]
    assert "s left" in summaries[0]["all attacks"]
    assert summaries[0]["at most"].endswith("%")
    assert "all attacks" not in summaries[-1]
    assert tool.seconds.keys() == {"clean", "pgd Linf 0.1"}


def test_another_layout_is_the_same_network() -> None:
    net, laid_out = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
    laid_out.load_state_dict(net.state_dict())
    to_channels_last(laid_out)
    assert laid_out.weight.is_contiguous(memory_format=torch.channels_last)
    assert weights_hash(laid_out.named_parameters()) == weights_hash(net.named_parameters())
    x = torch.rand(2, 3, 8, 8)
    assert torch.allclose(laid_out(x), net(x), atol=1e-6)
