"""Clean and robust accuracy: float32, evaluation mode, every image counted once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rrm_transfer.attacks.ascent import frozen
from rrm_transfer.attacks.attack import CLEAN, GRADIENT_COST, Attack, Stage, Victims
from rrm_transfer.attacks.autoattack import library_warnings
from rrm_transfer.attacks.catalogue import pgd_attack
from rrm_transfer.core.quantities import Proportion
from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.data.fit import choose_fit
from rrm_transfer.data.images import ImageSet
from rrm_transfer.data.loader import EvaluationLoader
from rrm_transfer.evaluation.metrics import Model, Row, row
from rrm_transfer.evaluation.state import EvaluationState, Found
from rrm_transfer.runtime.context import Context
from rrm_transfer.runtime.memory import advising_batch_size
from rrm_transfer.runtime.numerics import without_tf32


@contextmanager
def strict_float32(device: torch.device) -> Iterator[None]:
    """Neither autocast nor TF32, and the same kernels every time."""
    cudnn = torch.backends.cudnn
    before = (cudnn.deterministic, cudnn.benchmark)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        with without_tf32(), torch.autocast(device.type, enabled=False):
            yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


@dataclass(frozen=True)
class Measurement:
    """How networks are measured: the same for all that are compared.

    Attributes:
        image_size: Side of the networks' input in pixels; images of any set are fitted to it.
        batch_size: Images per forward pass and process.
        seed: Of random starts, noise and corruptions.
        context: Processes and voice.
        workers: Processes that decode images which do not fit in memory.
    """

    image_size: int
    batch_size: int
    seed: int
    context: Context
    workers: int = 0

    def pgd(self, threat: ThreatModel, *, steps: int, restarts: int = 1) -> Attack:
        """Makes a PGD attack with this seed."""
        return pgd_attack(threat, steps=steps, restarts=restarts, seed=self.seed)

    def rows(
        self, network: nn.Module, images: ImageSet, attacks: Sequence[Attack], *, model: Model, split: str
    ) -> list[Row]:
        """Measures clean accuracy, then that under each attack; the processes share the images.

        Args:
            network: Maps pixels in [0, 1] to ``Outputs``.
            images: What to measure on.
            attacks: Beside none.
            model: What the rows call the network.
            split: What they call the images.
        """
        evaluator = Evaluator(network, images, self, model=model, split=split)
        evaluator.run([CLEAN, *attacks])
        return [evaluator.row(attack) for attack in (CLEAN, *attacks)]


class Evaluator:
    """Attacks one network on one set of images and remembers which of them survived what.

    Each stage of an attack runs on the survivors of the one before, the first on the images that are
    classified correctly (on all where nobody attacks), in batches of ``batch_size`` survivors. The batches
    depend on nothing but that number; processes take turns with them. So any number of processes finds the
    same, and so does an evaluation that was interrupted between two batches.

    Args:
        network: Maps pixels in [0, 1] to ``Outputs``.
        images: What to measure on.
        measurement: How.
        model: What rows and messages call the network.
        split: Name of the split, for the rows.
        state: Remembers results.
        label: Tells the results of one set of images from another's in the same state, and in messages; that
            of the model if empty.

    Attributes:
        survivors_by_stage: How many images were left after each stage, by the title of an attack of several.
        seconds: Of computation by the attack's title, over all processes and sittings.
    """

    def __init__(
        self,
        network: nn.Module,
        images: ImageSet,
        measurement: Measurement,
        *,
        model: Model,
        split: str,
        state: EvaluationState | None = None,
        label: str = "",
    ) -> None:
        self.runtime = measurement.context.runtime
        self.narrator = measurement.context.narrator
        self.network = network.to(self.runtime.device).eval()
        self.images = images
        self.measurement = measurement
        self.model = model
        self.split = split
        self.state = state or EvaluationState()
        self.label = label or model
        self._loader = EvaluationLoader(
            images,
            fit=choose_fit(images.size, measurement.image_size),
            device=self.runtime.device,
            workers=measurement.workers if len(images) > measurement.batch_size else 0,  # else none is ahead
            substitute=split != "test",
        )
        self._survivors: dict[str, list[int]] = {}
        self._sizes: dict[str, dict[int, float | None]] = {}
        self._pace = _Pace(self.runtime.world)
        self._cost_of_other_attacks = 0.0
        self.survivors_by_stage: dict[str, dict[str, int]] = {}
        self.seconds: dict[str, float] = {}

    def on(self, images: ImageSet, *, label: str, network: nn.Module | None = None) -> Evaluator:
        """Returns an evaluator of the same network, or of another, on other images of the split."""
        return Evaluator(
            network or self.network,
            images,
            self.measurement,
            model=self.model,
            split=self.split,
            state=self.state,
            label=label,
        )

    def logits(self, x: Tensor) -> Tensor:
        """Returns the network's logits, ``(B, classes)``."""
        result: Tensor = self.network(x).logits
        return result

    def batch(self) -> Victims:
        """Returns the first images."""
        count = min(self.measurement.batch_size, len(self.images))
        return next(self._victims([list(range(count))]))

    def run(self, attacks: Sequence[Attack]) -> None:
        """Runs attacks, with the time left for all of them."""
        for number, attack in enumerate(attacks):
            self._cost_of_other_attacks = sum(_cost(other.stages) for other in attacks[number + 1 :])
            self.survivors(attack)

    def survivors(self, attack: Attack) -> list[int]:
        """Returns the positions of the images that are classified correctly under the attack, ascending."""
        if attack.key not in self._survivors:
            alive = list(range(len(self.images))) if attack.threat is None else self.survivors(CLEAN)
            after = {CLEAN.name: len(alive)}
            with (
                strict_float32(self.runtime.device),
                frozen(self.network),
                library_warnings(self.narrator.warn),
            ):
                for number in range(len(attack.stages)):
                    alive = self._run(attack, number, alive)
                    after[attack.stages[number].name] = len(alive)
            self._survivors[attack.key] = alive
            if len(attack.stages) > 1:
                self.survivors_by_stage[attack.title] = after
        return self._survivors[attack.key]

    def sizes(self, attack: Attack) -> list[float | None]:
        """Returns the smallest perturbation that was found for each image, in pixel units.

        Args:
            attack: One that seeks it.

        Returns:
            0 where an image is misclassified as it is, None where nothing was found.
        """
        self.survivors(attack)
        found = self._sizes[attack.key]
        return [found.get(position, 0.0) for position in range(len(self.images))]

    def row(self, attack: Attack) -> Row:
        """Returns the accuracy under the attack."""
        threat, survivors = attack.threat, self.survivors(attack)
        return row(
            self.model,
            self.split,
            Proportion(len(survivors), len(self.images)),
            kept=survivors,
            attack=attack.name,
            norm=None if threat is None else threat.norm,
            eps=None if threat is None else threat.eps,
            steps=attack.steps,
            restarts=attack.restarts,
        )

    def accuracy(self, attack: Attack) -> float:
        """Returns the accuracy under the attack."""
        return len(self.survivors(attack)) / len(self.images)

    def _run(self, attack: Attack, number: int, alive: list[int]) -> list[int]:
        """Runs one stage on the images at the positions ``alive`` and returns those that survive it."""
        # Whole batches of what is left, found anew or remembered: an evaluation that goes on cuts them alike.
        size, runtime, stage = self.measurement.batch_size, self.runtime, attack.stages[number]
        batches = [alive[start : start + size] for start in range(0, len(alive), size)]
        name = f"{self.label}/{attack.key}/{number}-{stage.name}"
        keys = [f"{name}/{batch}" for batch in range(len(batches))]
        pending = [batch for batch, key in enumerate(keys) if key not in self.state.found]
        tried = len(alive) - sum(len(batches[batch]) for batch in pending)
        lost = sum(self.state.found[key].lost for key in keys if key in self.state.found)
        # What is still to come is told in time, at the pace of what is done.
        later = _cost(attack.stages[number + 1 :]) + self._cost_of_other_attacks
        title = f"{self.label}: {attack.title}" + f", {stage.name}" * (len(attack.stages) > 1)
        facts: dict[str, str] = {}
        own = self._victims([batches[batch] for batch in pending[runtime.rank :: runtime.world]])
        with self.narrator.task(title, len(alive), done=tried) as task:
            for start in range(0, len(pending), runtime.world):
                # Each process takes one batch of the turn; the state of all is written before the next.
                turn = pending[start : start + runtime.world]
                mine = turn[runtime.rank : runtime.rank + 1]

                def advance(images: float, tried: int = tried, facts: dict[str, str] = facts) -> None:
                    task.update(tried + int(images), facts)

                found: list[tuple[int, Found]] = runtime.gather(
                    [(batch, self._attack(attack, stage, own, advance)) for batch in mine]
                )
                self.state.add({keys[batch]: result for batch, result in found})
                for _, result in found:
                    tried += len(result.kept)
                    lost += result.lost
                    self._pace.add(stage.cost * len(result.kept), result.seconds)
                kept = len(alive) - lost
                facts = {} if attack.seeks_minimum else {"at most": f"{kept / len(self.images):.1%}"}
                if later:
                    seconds = self._pace.seconds(stage.cost * (len(alive) - tried) + later * kept)
                    facts["all attacks"] = f"{seconds:.0f} s left"
                task.update(tried, facts)
                if start == 0 and tried < len(alive) and number == 0 and _deserves_estimate(attack):
                    self._first_estimate(attack, stage, Proportion(tried - lost, tried), len(alive))
        kept_by_batch = [self.state.found[key] for key in keys]
        survivors = [
            position
            for batch, result in zip(batches, kept_by_batch, strict=True)
            for position, flag in zip(batch, result.kept, strict=True)
            if flag == "1"
        ]
        if attack.seeks_minimum:
            self._sizes[attack.key] = {
                position: size
                for batch, result in zip(batches, kept_by_batch, strict=True)
                for position, size in zip(batch, result.sizes or [], strict=True)
            }
        self.seconds[attack.title] = self.seconds.get(attack.title, 0.0) + sum(
            result.seconds for result in kept_by_batch
        )
        if len(attack.stages) > 1:
            self.narrator.note(f"{title}: {len(survivors):,} of {len(self.images):,} images left")
        return survivors

    def _attack(
        self, attack: Attack, stage: Stage, own: Iterator[Victims], advance: Callable[[float], None]
    ) -> Found:
        """Attacks the next of this process's batches."""
        started, spent = time.perf_counter(), 0.0
        victims = next(own)
        count = len(victims.y)

        def logits(x: Tensor) -> Tensor:
            nonlocal spent
            spent += len(x) * (GRADIENT_COST if x.requires_grad else 1.0)
            advance(min(spent / stage.cost, count))
            return self.logits(x)

        def fewer(images: int) -> None:
            x = victims.x[:images].detach().requires_grad_()  # as the attacks to come want it
            with torch.enable_grad():
                torch.autograd.grad(self.logits(x).sum(), x)

        with advising_batch_size(count, fewer, self.runtime.device):
            x_adv = stage.perturb(logits, victims)
            if attack.threat is not None:
                _check_inside(attack.threat, victims.x, x_adv)
            with torch.no_grad():
                output = self.logits(x_adv)
                kept = (output.argmax(1) == victims.y) & output.isfinite().all(1)
        flags, sizes = kept.tolist(), None
        if attack.threat is not None and attack.seeks_minimum:
            measured = attack.threat.size(x_adv - victims.x).tolist()
            sizes = [None if flag else _rounded(size) for flag, size in zip(flags, measured, strict=True)]
        return Found("".join("01"[flag] for flag in flags), time.perf_counter() - started, sizes)

    def _victims(self, parts: Sequence[list[int]]) -> Iterator[Victims]:
        for batch in self._loader.batches([torch.tensor(part) for part in parts]):
            yield Victims(batch.index, batch.x, batch.y)

    def _first_estimate(self, attack: Attack, stage: Stage, found: Proportion, correct: int) -> None:
        share = correct / len(self.images)
        low, high = found.interval()
        bound = "" if attack is CLEAN else "at most "
        self.narrator.note(
            f"{self.label}: {attack.title}: {bound}about {share * found.value:.1%}, "
            f"{share * low:.1%} to {share * high:.1%} "
            f"(first estimate, {stage.name} on {found.count:,} images)"
        )


class _Pace:
    """How fast the processes work, in units of ``Stage.cost``."""

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self._work = self._time = 0.0

    def add(self, work: float, seconds: float) -> None:
        self._work += work
        self._time += seconds

    def seconds(self, work: float) -> float:
        """Returns how long ``work`` will take at the pace so far."""
        return work * self._time / self._work / self._processes


def _deserves_estimate(attack: Attack) -> bool:
    """Corruptions are many and quick; a search for minima ends with no accuracy."""
    return attack is CLEAN or (attack.threat is not None and not attack.seeks_minimum)


def _rounded(size: float) -> float:
    """Keeps of a size what is known of it."""
    return float(f"{size:.6g}")


def _cost(stages: Sequence[Stage]) -> float:
    return sum(stage.cost for stage in stages)


def _check_inside(threat: ThreatModel, x: Tensor, x_adv: Tensor) -> None:
    """Believes no attack, not even a library's, that it stayed in the ball."""
    farthest = float(threat.size(x_adv - x).amax())
    if farthest > threat.eps * (1 + 1e-4) + 1e-6 or not 0 <= x_adv.amin() <= x_adv.amax() <= 1:
        raise RuntimeError(f"an attack left {threat} or the image range: {farthest:g}")


def to_channels_last(network: nn.Module) -> None:
    """Puts the weights of convolutions into the memory format in which a CPU is fastest in float32.

    Values stay as they are. Not for networks in training, where the format is part of what is resumed.
    """
    if all(value.device.type == "cpu" for value in network.parameters()):
        network.to(memory_format=torch.channels_last)
