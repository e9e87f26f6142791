"""The one place where timm networks are made."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import cast

import timm
from torch import Tensor, nn

from rrm_transfer.core.construction import PARAMETERS, bounded
from rrm_transfer.core.errors import UserError
from rrm_transfer.core.hub import is_connection_problem
from rrm_transfer.core.stems import replace_stem, require_shape_only


def create_timm(
    name: str,
    *,
    num_classes: int,
    channels: int,
    args: Mapping[str, object],
    stem: str | None = None,
    pretrained: bool = False,
    state: Mapping[str, Tensor] | None = None,
    exact: bool = False,
    images: Mapping[str, object] | None = None,
    parameters: int = PARAMETERS,
) -> nn.Module:
    """Builds a timm network, on the default device.

    Args:
        name: Exact timm name, tags allowed.
        num_classes: Of its own classifier.
        channels: Of the images.
        args: Further arguments for ``timm.create_model``.
        stem: ``"cifar"`` to replace the stem, see `rrm_transfer.core.stems`.
        pretrained: Load weights, strictly but for the classifier: ``state``, else those that timm names.
        state: A complete state dict in any form that timm knows for the architecture.
        exact: ``state`` has the names and shapes of the finished network, its stem included.
        images: What its configuration says of images, where that is not timm's: ``input_size`` and the like.
        parameters: That it may have.

    Raises:
        UserError: An argument is unknown to the architecture, the weights do not fit, the stem cannot
            be replaced, or the network would be too large.
    """
    require_shape_only(args)
    overlay = dict(images or {})
    timms = state if not exact else None
    if timms is not None:
        # timm loads strictly only where it believes that the class counts agree
        overlay |= {"state_dict": timms, "num_classes": num_classes, "label_offset": 0}
    try:
        with bounded({**args, "num_classes": num_classes, "channels": channels}, parameters=parameters):
            model = cast(
                nn.Module,
                timm.create_model(
                    name,
                    pretrained and not exact,
                    num_classes=num_classes,
                    in_chans=channels,
                    pretrained_cfg_overlay=overlay or None,
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
    except Exception as error:
        fetching = isinstance(error, OSError) or is_connection_problem(error)
        if not pretrained or not (fetching or isinstance(error, RuntimeError)):
            raise
        problem = "cannot be fetched" if fetching else "do not fit this network"
        raise UserError(
            f"The weights for {name} {problem}.",
            received=" ".join(str(error).split())[:600],
            hint="check the name, the arguments and the image size, or train without pretrained weights",
        ) from None
    cast(dict[str, object], model.pretrained_cfg).pop("state_dict", None)
    if stem is not None:
        replace_stem(model, stem, name)
    if exact and state is not None:
        model.load_state_dict(state)
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
