"""Averages of the weights along training: a moving one, or the mean over the last epochs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim.swa_utils import AveragedModel

STATISTICS_BATCHES = 50
"""Training batches that averaged weights are shown."""


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
        """Takes in the weights after optimizer step ``step``, counted from 1."""

    @property
    def statistics_lag(self) -> bool:
        """Whether the averaged network has batch statistics that are not its own yet."""
        return False

    @contextmanager
    def catching_up(self) -> Iterator[nn.Module]:
        """Gives the averaged network in training mode, to be shown training batches."""
        self.network.train()
        try:
            yield self.network
        finally:
            self.network.eval()

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self._averager.state_dict())

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._averager.load_state_dict(state)


class MovingAverage(WeightAverage):
    """Exponential moving average over optimizer steps, of weights and batch statistics alike.

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


class LastEpochs(WeightAverage):
    """The mean of the weights at the ends of the last epochs.

    Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization" (UAI 2018, arXiv
    1803.05407), algorithm 1. Averaged weights need batch statistics of their own. There these are estimated
    on training images, here on what the objective makes of them, as in training: a network trained on
    attacked images loses much of its robustness with the statistics of clean ones. Each batch counts alike.

    Args:
        student: Copied.
        first_step: Averaging begins after this step.
        every: Optimizer steps of an epoch.
    """

    def __init__(self, student: nn.Module, *, first_step: int, every: int) -> None:
        self._mean = AveragedModel(student)
        super().__init__(self._mean)
        self._first_step = first_step
        self._every = every
        self._norms = [module for module in self.network.modules() if isinstance(module, _NormBase)]
        self._lag = bool(self._norms)

    @property
    def begun(self) -> bool:
        return bool(self._mean.n_averaged > 0)

    def update(self, student: nn.Module, step: int) -> None:
        if step > self._first_step and step % self._every == 0:
            self._mean.update_parameters(student)  # which copies the statistics
            self._lag = bool(self._norms)

    @property
    def statistics_lag(self) -> bool:
        return self._lag

    @contextmanager
    def catching_up(self) -> Iterator[nn.Module]:
        momenta = [norm.momentum for norm in self._norms]
        for norm in self._norms:
            # A plain mean, whose first batch replaces the copied statistics, which its attack needs.
            norm.momentum = None
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.zero_()
        try:
            with super().catching_up() as network:
                yield network
        finally:
            for norm, momentum in zip(self._norms, momenta, strict=True):
                norm.momentum = momentum
        self._lag = False


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
        steps_per_epoch: Optimizer steps.
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
