"""Averages of the weights along training: a moving one, or the mean over the last epochs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping

from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, update_bn

STATISTICS_BATCHES = 100
"""Training batches from which batch statistics of averaged weights are estimated anew."""


class WeightAverage(ABC):
    """A network whose weights are an average of those that the student has had.

    Args:
        averager: Holds the averaged network as ``module``; its state is what must be kept to go on.
    """

    def __init__(self, averager: nn.Module) -> None:
        self._averager = averager.requires_grad_(False).eval()

    @property
    def network(self) -> nn.Module:
        """The averaged network, in evaluation mode."""
        network: nn.Module = self._averager.module  # type: ignore[assignment]
        return network

    @property
    @abstractmethod
    def begun(self) -> bool:
        """Whether there is an average yet."""

    @abstractmethod
    def update(self, student: nn.Module, step: int) -> None:
        """Takes in the weights after optimiser step ``step``, counted from 1."""

    @abstractmethod
    def settle(self, batches: Iterable[Tensor]) -> None:
        """Gives the averaged network the batch statistics that it needs.

        Args:
            batches: Training images, pixels in [0, 1], ``(B, C, H, W)`` each.
        """

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self._averager.state_dict())

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._averager.load_state_dict(state)


class MovingAverage(WeightAverage):
    """Exponential moving average over optimiser steps, of weights and batch statistics alike.

    In adversarial training: Gowal et al., "Uncovering the Limits of Adversarial Training against
    Norm-Bounded Adversarial Examples" (arXiv 2010.03593). Batch statistics are a moving average anyway, and
    the weights that they belong to are never far away.

    Args:
        student: Copied.
        decay: Of the average, in [0, 1). After t steps it is at most ``1 − t^(−2/3)``, so that a short run
            does not remember where it started.
    """

    def __init__(self, student: nn.Module, *, decay: float) -> None:
        self._ema = ModelEmaV3(student, decay=decay, use_warmup=True)
        super().__init__(self._ema)

    @property
    def begun(self) -> bool:
        return True

    def update(self, student: nn.Module, step: int) -> None:
        self._ema.update(student, step)

    def settle(self, batches: Iterable[Tensor]) -> None:
        """Leaves the statistics, which are averaged along."""


class LastEpochs(WeightAverage):
    """The mean of the weights at the ends of the last epochs.

    Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization" (UAI 2018, arXiv
    1803.05407), algorithm 1. Weights so far apart need batch statistics of their own, which are estimated
    on clean training images, as there.

    Args:
        student: Copied.
        first_step: Averaging begins after this step.
        every: Optimiser steps of an epoch.
    """

    def __init__(self, student: nn.Module, *, first_step: int, every: int) -> None:
        self._mean = AveragedModel(student)
        super().__init__(self._mean)
        self._first_step = first_step
        self._every = every

    @property
    def begun(self) -> bool:
        return bool(self._mean.n_averaged > 0)

    def update(self, student: nn.Module, step: int) -> None:
        if step > self._first_step and step % self._every == 0:
            self._mean.update_parameters(student)

    def settle(self, batches: Iterable[Tensor]) -> None:
        update_bn(batches, self.network)
        self.network.eval()


def build_average(
    student: nn.Module,
    *,
    ema: float | None,
    last_epochs: int | None,
    epochs: int,
    steps_per_epoch: int,
) -> WeightAverage | None:
    """Builds the average that is asked for, if any.

    Args:
        student: On its device.
        ema: Decay of a moving average.
        last_epochs: How many epochs a mean is over.
        epochs: Of training.
        steps_per_epoch: Optimiser steps.
    """
    if ema is not None:
        return MovingAverage(student, decay=ema)
    if last_epochs is not None:
        first = (epochs - last_epochs) * steps_per_epoch
        return LastEpochs(student, first_step=first, every=steps_per_epoch)
    return None


def describe_average(*, ema: float | None, epochs: int) -> str:
    """Says in words what average weights are.

    Args:
        ema: Decay of a moving average, or None.
        epochs: How many are in the mean over epochs.
    """
    if ema is not None:
        return f"exponential moving average, decay {ema:g}"
    return f"mean over {epochs} epochs" if epochs > 1 else "none"
