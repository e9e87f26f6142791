"""How timm's classifiers read the representation, and how a linear map is written into each form.

A timm network ends in one affine map of its representation, though not always in one layer: two heads that
are averaged, one head per branch, a normalization in front. Every form is taken apart into its last affine
layers (the *leaves*), what stands before them, and what must be silent for the leaves to decide alone.
Handlers are chosen by the type of the head, never by the name of an architecture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from rrm_transfer.core.errors import UserError
from rrm_transfer.students.names import near_classifier


@dataclass(frozen=True)
class Leaf:
    """One last affine layer of a classifier.

    Attributes:
        path: Its name in the model.
        before: Names of the layers between timm's ``pre_logits`` and the leaf, in order.
        columns: First and end column of the representation that it reads.
        gain: By what the weight is multiplied when it is written: the inverse of the share that the leaf's
            output has in the logits, where the leaves read different parts.
    """

    path: str
    before: tuple[str, ...] = ()
    columns: tuple[int | None, int | None] = (None, None)
    gain: float = 1.0


@dataclass(frozen=True)
class Head:
    """A timm classifier taken apart.

    The representation is what the leaves read: timm's ``pre_logits``, sent through what the first leaf has
    before it.

    Attributes:
        form: What it is, for people.
        leaves: Together they give the logits; their shares of the output sum to one.
        silenced: Names of modules or parameters that add to the logits or mix the leaves. Written as zeros,
            which makes an added output vanish and a softmax of weights uniform.
    """

    form: str
    leaves: tuple[Leaf, ...]
    silenced: tuple[str, ...] = ()

    def represent(self, model: nn.Module, x: Tensor) -> Tensor:
        """Returns the representation ``(B, width)`` of normalized images ``(B, C, H, W)``."""
        return self.pool(model, cast(Any, model).forward_features(x))

    def pool(self, model: nn.Module, features: object) -> Tensor:
        """Returns the representation ``(B, width)`` of what timm's ``forward_features`` gave."""
        z: Tensor = cast(Any, model).forward_head(features, pre_logits=True)
        for path in self.leaves[0].before:
            z = model.get_submodule(path)(z)
        return z

    def read(self, model: nn.Module) -> tuple[Tensor, Tensor] | None:
        """Returns the weight ``(classes, width)`` and bias of a classifier of one leaf; None for others."""
        if len(self.leaves) > 1:
            return None
        weight, bias = _tensors(model, self.leaves[0])
        return weight.detach().flatten(1), bias.detach()

    @torch.no_grad()
    def write(self, model: nn.Module, weight: Tensor, bias: Tensor) -> None:
        """Makes the model's own classifier compute ``weight @ z + bias``.

        Args:
            model: The timm model; changed in place.
            weight: ``(classes, width)``.
            bias: ``(classes,)``.
        """
        first = self.leaves[0]
        for leaf in self.leaves:
            own_weight, own_bias = _tensors(model, leaf)
            own_weight.copy_((leaf.gain * weight[:, slice(*leaf.columns)]).view_as(own_weight))
            own_bias.copy_(bias)
            for path, source in zip(leaf.before, first.before, strict=True):
                model.get_submodule(path).load_state_dict(model.get_submodule(source).state_dict())
        for parameter in _parameters(model, self.silenced):
            parameter.zero_()

    def idle_parameters(self, model: nn.Module) -> list[nn.Parameter]:
        """Parameters of timm's classifier that the student's forward does not use."""
        twins = [path for leaf in self.leaves[1:] for path in leaf.before]
        return _parameters(model, [*(leaf.path for leaf in self.leaves), *twins, *self.silenced])


def _tensors(model: nn.Module, leaf: Leaf) -> tuple[nn.Parameter, nn.Parameter]:
    return model.get_parameter(f"{leaf.path}.weight"), model.get_parameter(f"{leaf.path}.bias")


def find_head(model: nn.Module, name: str) -> Head:
    """Takes a timm model's classifier apart.

    Args:
        model: A timm model that was built with one class or more.
        name: Its architecture, for messages.

    Raises:
        UserError: The model has no classifier, or one of an unknown form.
    """
    get_classifier = getattr(model, "get_classifier", None)
    if get_classifier is None:
        raise UserError(
            "Not a classifier: the architecture is an encoder without logits.",
            received=name,
            hint=f"a near alternative is {near_classifier(name)}",
        )
    classifier = get_classifier()
    parts = classifier if isinstance(classifier, tuple) else (classifier,)
    paths = {id(module): path for path, module in model.named_modules()}
    opened = [_open(model, _whole(model, paths[id(part)])) for part in parts]
    if any(head is None for head in opened):
        kinds = ", ".join(type(part).__name__ for part in parts)
        raise UserError(
            "The architecture's classifier has a form that this package cannot fold into.",
            received=f"{name} ({kinds})",
            hint="python -m tools.survey lists the forms; docs/reference/architectures.md the architectures",
        )
    heads = cast(list[Head], opened)
    form = heads[0].form if len(heads) == 1 else f"average of {len(heads)}: {heads[0].form}"
    extra = tuple(path for path in _EXTRAS if getattr(model, path, None) is not None)
    return Head(form, tuple(leaf for head in heads for leaf in head.leaves), extra)


_EXTRAS = ("aux_head", "weights", "weights_dist")
"""What models keep beside their classifier that changes its output: a second head whose logits are added
(VOLO), and the logits of a softmax that mixes the branches of a ModuleList (EfficientViM)."""


def _linear(module: nn.Module, path: str) -> Head | None:
    return (
        Head("linear", (Leaf(path),)) if isinstance(module, nn.Linear) and module.bias is not None else None
    )


def _convolution(module: nn.Module, path: str) -> Head | None:
    if not isinstance(module, nn.Conv2d) or module.kernel_size != (1, 1) or module.groups != 1:
        return None
    return Head("1x1 convolution", (Leaf(path),))


def _norm_linear(module: nn.Module, path: str) -> Head | None:
    """BatchNorm, dropout, linear, called in the order of registration."""
    names = [name for name, _ in module.named_children()]
    layers = list(module.children())
    if len(layers) < 2 or not isinstance(layers[0], nn.BatchNorm1d) or not isinstance(layers[-1], nn.Linear):
        return None
    *before, last = [f"{path}.{name}" for name in names]
    return Head("norm, linear", (Leaf(last, tuple(before)),))


def _mlp(module: nn.Module, path: str) -> Head | None:
    """A nonlinear head that timm calls after ``pre_logits``; its last layer is the classifier."""
    names = ("fc1", "act", "norm", "head_drop")
    if not all(hasattr(module, name) for name in (*names, "fc2")):
        return None
    return Head("MLP", (Leaf(f"{path}.fc2", tuple(f"{path}.{name}" for name in names)),))


_PAIR = ("head", "head_dist")


def _pair(module: nn.Module, path: str) -> Head | None:
    """A head and a distillation head that read the same representation; the logits are their average."""
    heads = [
        _norm_linear(child, f"{path}.{name}") for name, child in module.named_children() if name in _PAIR
    ]
    if len(heads) != 2 or heads[0] is None or heads[1] is None:
        return None
    return Head(f"average of 2: {heads[0].form}", heads[0].leaves + heads[1].leaves)


def _single(module: nn.Module, path: str) -> Head | None:
    """A container with one affine layer at its end, whose other layers ``pre_logits`` has applied."""
    for name in ("fc", "linear", "head"):
        child = getattr(module, name, None)
        if isinstance(child, nn.Module) and (opened := _first(child, f"{path}.{name}")):
            return opened
    return None


def _branches(module: nn.Module, path: str) -> Head | None:
    """One linear layer per branch, averaged; ``pre_logits`` concatenates what they read."""
    if not isinstance(module, nn.ModuleList) or not all(isinstance(child, nn.Linear) for child in module):
        return None
    leaves, start = [], 0
    for index, child in enumerate(cast(list[nn.Linear], list(module))):
        columns = (start, start + child.in_features)
        leaves.append(Leaf(f"{path}.{index}", columns=columns, gain=float(len(module))))
        start += child.in_features
    return Head(f"{len(leaves)} branches: linear", tuple(leaves))


HANDLERS: tuple[Callable[[nn.Module, str], Head | None], ...] = (
    _linear,
    _convolution,
    _norm_linear,
    _mlp,
    _branches,
    _pair,
    _single,
)
"""Asked in order; the first that knows the type takes it apart."""


def _first(module: nn.Module, path: str) -> Head | None:
    return next((head for handler in HANDLERS if (head := handler(module, path))), None)


def _open(model: nn.Module, path: str) -> Head | None:
    return _first(model.get_submodule(path), path)


def _whole(model: nn.Module, path: str) -> str:
    """Widens a linear layer to the normalized head that it ends: timm names either as the classifier."""
    parent = path.rpartition(".")[0]
    return parent if parent and _norm_linear(model.get_submodule(parent), parent) else path


def _parameters(model: nn.Module, paths: tuple[str, ...] | list[str]) -> list[nn.Parameter]:
    found: list[nn.Parameter] = []
    for path in paths:
        parent, _, name = path.rpartition(".")
        member = getattr(model.get_submodule(parent), name)
        found.extend([member] if isinstance(member, nn.Parameter) else member.parameters())
    return found
