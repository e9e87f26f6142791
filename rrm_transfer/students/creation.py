"""The one place where timm networks are made."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import cast

import timm
from torch import Tensor, nn

from rrm_transfer.core.errors import UserError

STEMS = ("cifar",)


def create_timm(
    name: str,
    *,
    num_classes: int,
    channels: int,
    args: Mapping[str, object],
    stem: str | None = None,
    pretrained: bool = False,
    state: Mapping[str, Tensor] | None = None,
) -> nn.Module:
    """Builds a timm network, on the default device.

    Args:
        name: Exact timm name, tags allowed.
        num_classes: Of its own classifier.
        channels: Of the images.
        args: Further arguments for ``timm.create_model``.
        stem: ``"cifar"`` to replace the stem, see :func:`replace_stem`.
        pretrained: Load weights, strictly but for the classifier: ``state``, else those that timm names.
        state: A complete state dict in any form that timm knows for the architecture.

    Raises:
        UserError: An argument is unknown to the architecture, the weights do not fit, or the stem cannot
            be replaced.
    """
    # timm loads strictly only where it believes that the class counts agree
    overlay = None if state is None else {"state_dict": state, "num_classes": num_classes, "label_offset": 0}
    try:
        model = cast(
            nn.Module,
            timm.create_model(
                name,
                pretrained,
                num_classes=num_classes,
                in_chans=channels,
                pretrained_cfg_overlay=overlay,
                **args,
            ),
        )
    except TypeError as error:
        unknown = [key for key in args if f"unexpected keyword argument '{key}'" in str(error)]
        if not unknown:
            raise
        raise UserError(
            f"{name} has no argument {unknown[0]!r}.",
            received=f"{unknown[0]}={args[unknown[0]]}",
            allowed=accepted_args(create_timm(name, num_classes=num_classes, channels=channels, args={})),
        ) from None
    except (RuntimeError, OSError) as error:
        if not pretrained:
            raise
        problem = "cannot be fetched" if isinstance(error, OSError) else "do not fit this network"
        raise UserError(
            f"The weights for {name} {problem}.",
            received=" ".join(str(error).split())[:600],
            hint="check the name, the arguments and the image size, or train without pretrained weights",
        ) from None
    cast(dict[str, object], model.pretrained_cfg).pop("state_dict", None)
    if stem is not None:
        replace_stem(model, stem, name)
    return model


def accepted_args(model: nn.Module) -> list[str]:
    """Names of the arguments that the constructor of ``model``'s class takes, base classes included."""
    names: dict[str, None] = {}
    for cls in type(model).__mro__:
        if cls in (nn.Module, object):
            break
        parameters = inspect.signature(cls).parameters.values()
        names.update(
            {p.name: None for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        )
    return list(names)


def replace_stem(model: nn.Module, stem: str, name: str) -> None:
    """Gives a ResNet the stem that is usual for CIFAR: a 3×3 convolution of stride 1 and no max-pool.

    He et al., "Deep residual learning for image recognition", CVPR 2016, section 4.2. Tensor shapes deeper
    in the network stay as they are, so stock timm could load the weights and answer wrongly; see
    :mod:`rrm_transfer.students.saving` for how that is prevented.

    Args:
        model: A network with ``conv1``, ``bn1`` and ``maxpool``, as timm's ResNets have; changed in place.
        stem: ``"cifar"``.
        name: The architecture, for messages.

    Raises:
        UserError: The stem is unknown or the network has another form.
    """
    if stem not in STEMS:
        raise UserError("Unknown stem.", received=stem, allowed=STEMS)
    first, norm = getattr(model, "conv1", None), getattr(model, "bn1", None)
    if not isinstance(first, nn.Module) or norm is None or not hasattr(model, "maxpool"):
        raise UserError(
            "The CIFAR stem fits ResNet-like networks only (those with conv1, bn1 and maxpool).",
            received=name,
            hint="leave the stem argument out: image sizes are adapted to automatically",
        )
    outermost = next(module for module in first.modules() if isinstance(module, nn.Conv2d))
    convolution = nn.Conv2d(outermost.in_channels, norm.num_features, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    model.conv1 = convolution
    model.maxpool = nn.Identity()
