"""From the keys of a checkpoint to the keys of the network inside: wrappers are recognised and removed.

A prefix is removed only where every tensor carries it (normalizer statistics and known duplicates aside),
and only at the front: a name's middle is never touched.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.pixels import PixelStatistics
from rrm_transfer.core.stems import MARKED_PREFIX

_PREFIXES = (
    "module.",  # DataParallel and DistributedDataParallel
    "_orig_mod.",  # torch.compile
    "model.",  # robustness, Lightning and many others
    "net.",
    "base_model.",
    "ema_model.",
    "1.",  # Sequential(normalization, network)
    "0.",
    MARKED_PREFIX,
)
# The statistics of a normalizing layer, as (mean, standard deviation), at the level of the prefix.
_NORMALIZERS = tuple(
    (f"{layer}{mean}", f"{layer}{std}")
    for layer in ("", "0.", "normalizer.", "normalize.", "normalizer_layer.", "norm_layer.", "preprocess.")
    for mean, std in (("mean", "std"), ("mu", "sigma"), ("new_mean", "new_std"))
)
_DUPLICATE = "attacker."  # robustness: the attacker holds the model and its normalizer once more
_EMA_COUNTER = "n_averaged"  # torch.optim.swa_utils.AveragedModel


@dataclass(frozen=True)
class Unwrapped:
    """Tensors under the network's own names.

    Attributes:
        tensors: By name.
        statistics: The normalization that stood among them, or None.
        form: What was removed, in order.
    """

    tensors: dict[str, Tensor]
    statistics: PixelStatistics | None
    form: tuple[str, ...]


def unwrap(tensors: Mapping[str, Tensor]) -> Unwrapped:
    """Removes wrappers until none is left.

    Raises:
        UserError: Two normalizing layers say different things, or nothing else is there.
    """
    left = dict(tensors)
    found: list[PixelStatistics] = []
    form: list[str] = []
    while True:
        for pair in _NORMALIZERS:
            if pair[0] in left and pair[1] in left:
                found.append(_statistics(left.pop(pair[0]), left.pop(pair[1])))
                form.append(f"normalizer {pair[0]}, {pair[1]}")
        if left.pop(_EMA_COUNTER, None) is not None:
            form.append(f"counter {_EMA_COUNTER}")
        if any(name.startswith(_DUPLICATE) for name in left) and any(n.startswith("model.") for n in left):
            copies = [name for name in left if name.startswith(_DUPLICATE)]
            for name in copies:
                del left[name]
            form.append(f"{len(copies)} tensors of the duplicate {_DUPLICATE}*")
        prefix = next((p for p in _PREFIXES if left and all(name.startswith(p) for name in left)), None)
        if prefix is None:
            break
        left = {name.removeprefix(prefix): tensor for name, tensor in left.items()}
        form.append(f"prefix {prefix}")
    if not left:
        raise UserError("The weights hold a normalizing layer and no network.", received=", ".join(form))
    if any(statistics != found[0] for statistics in found):
        raise UserError(
            "The weights hold two normalizing layers that differ; applying one would be wrong.",
            received="; ".join(map(str, found)),
            hint="save the network without its wrapper and name the normalization: --teacher-normalization",
        )
    left, renamed = _in_timms_names(left)
    return Unwrapped(left, found[0] if found else None, (*form, *renamed))


def _in_timms_names(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Renames the CIFAR ResNets of kuangliu's pytorch-cifar (and robustness) and the paper's AlexNet."""
    # A batch norm behind the stem tells them from pre-activation ResNets, which are built under these names.
    if {"conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "linear.weight"} <= tensors.keys():
        renamed = {
            re.sub(
                r"^linear\.", "fc.", re.sub(r"^(layer\d+\.\d+)\.shortcut\.", r"\1.downsample.", name)
            ): tensor
            for name, tensor in tensors.items()
        }
        return renamed, ("kuangliu's names: shortcut, linear",)
    if {"last_layer.weight", "classifier.4.weight"} <= tensors.keys():
        renamed = {
            re.sub(r"^last_layer\.", "classifier.6.", name): tensor for name, tensor in tensors.items()
        }
        return renamed, ("the RRM paper's AlexNet: last_layer",)
    return tensors, ()


def _statistics(mean: Tensor, std: Tensor) -> PixelStatistics:
    try:
        return PixelStatistics(
            tuple(round(value, 7) for value in mean.flatten().tolist()),
            tuple(round(value, 7) for value in std.flatten().tolist()),
        )
    except ValueError as problem:
        raise UserError(f"The normalizing layer in the weights is broken: {problem}") from None
