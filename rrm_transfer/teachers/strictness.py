"""Loading tensors into a model with nothing missing, nothing misshapen, and everything counted."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.weights.state_dict import require_same_kinds


@dataclass(frozen=True)
class LoadReport:
    """Which of a model's tensors a file holds.

    Attributes:
        matched: How many tensors agree in name and shape.
        missing: Names in the model that the file lacks.
        unexpected: Names in the file that the model lacks.
        wrong_shape: ``name: file's shape, model's shape``.
        foreign: Those of ``unexpected`` that lie in a part that the model does have, such as a block that
            is one too many: the file is another network's.
    """

    matched: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    wrong_shape: tuple[str, ...]
    foreign: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether the file's weights are this model's."""
        return self.matched > 0 and not (self.missing or self.wrong_shape or self.foreign)

    def counts(self) -> dict[str, int]:
        """Returns the four counts by name."""
        return {
            "matched": self.matched,
            "missing": len(self.missing),
            "unexpected": len(self.unexpected),
            "wrong_shape": len(self.wrong_shape),
        }

    def __str__(self) -> str:
        return ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in self.counts().items())


def compare(
    model: nn.Module, tensors: Mapping[str, Tensor], *, dispensable: Collection[str] = ()
) -> LoadReport:
    """Compares names and shapes.

    Args:
        model: May be on the meta device.
        tensors: The file's.
        dispensable: Names that may be missing (a classifier that nobody will read).
    """
    own = model.state_dict()
    # Old checkpoints lack these counters, and nothing reads them in eval mode.
    optional = {name for name in own if name.endswith("num_batches_tracked")} | set(dispensable)
    parts = {name.partition(".")[0] for name in own}
    both = [name for name in own if name in tensors]
    unexpected = tuple(name for name in tensors if name not in own)
    return LoadReport(
        matched=sum(own[name].shape == tensors[name].shape for name in both),
        missing=tuple(name for name in own if name not in tensors and name not in optional),
        unexpected=unexpected,
        wrong_shape=tuple(
            f"{name}: {_shape(tensors[name])} in the file, {_shape(own[name])} in the network"
            for name in both
            if own[name].shape != tensors[name].shape
        ),
        foreign=tuple(name for name in unexpected if name.partition(".")[0] in parts),
    )


def require_fit(
    model: nn.Module, tensors: Mapping[str, Tensor], *, source: str, dispensable: Collection[str] = ()
) -> LoadReport:
    """Compares names and shapes, and refuses a file that is another network's.

    Args:
        model: May be on the meta device.
        tensors: By the model's own names.
        source: Names the file in messages.
        dispensable: Names that may be missing.

    Raises:
        UserError: A tensor is missing or misshapen, or the file is another network's.
    """
    report = compare(model, tensors, dispensable=dispensable)
    if not report.fits:
        raise UserError(
            f"The weights do not fit the network: {report}."
            + _examples("missing", report.missing)
            + _examples("wrong shape", report.wrong_shape)
            + _examples("unexpected", report.foreign),
            received=source,
            hint="name the architecture that the weights were trained with: --teacher-arch NAME",
        )
    require_same_kinds(model, tensors, source=source)
    return report


def load_strictly(
    model: nn.Module, tensors: Mapping[str, Tensor], *, source: str, dispensable: Collection[str] = ()
) -> LoadReport:
    """Copies ``tensors`` into ``model``.

    Args:
        model: Receives the weights.
        tensors: By the model's own names.
        source: Names the file in messages.
        dispensable: Names that may be missing.

    Raises:
        UserError: A tensor is missing, misshapen or not finite, or the file is another network's.
    """
    report = require_fit(model, tensors, source=source, dispensable=dispensable)
    broken = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise UserError(
            f"The weights hold NaN or infinite values in {len(broken)} tensors." + _examples("in", broken),
            received=source,
            hint="the training of this checkpoint diverged, or the file is damaged; take another",
        )
    model.load_state_dict(
        {name: tensors[name] for name in model.state_dict() if name in tensors}, strict=False
    )
    return report


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _examples(kind: str, names: Sequence[str], count: int = 3) -> str:
    if not names:
        return ""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return f"\n  {kind}: {', '.join(names[:count])}{more}"
