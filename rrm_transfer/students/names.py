"""Short names for timm's architectures."""

from __future__ import annotations

import re

import timm
from timm.models import get_arch_pretrained_cfgs, is_model

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.names import nearest

_GEOMETRY = re.compile(r"(_patch\d+|_p\d+)?(_window\d+)?_224")


def resolve_student_name(text: str) -> str:
    """Returns the exact timm name that ``text`` stands for.

    An exact name, with or without a timm tag (``resnet50.a1_in1k``), stands for itself. A short name stands
    for the architecture that adds nothing to it but a patch size, a window and the resolution 224; where
    patch sizes differ, for the one with patches of 16. A beginning that only one architecture has stands
    for that one.

    Args:
        text: What the user wrote; hyphens and capitals are forgiven.

    Raises:
        UserError: The name is unknown or ambiguous; the message lists the nearest.
    """
    stem, _, tag = text.strip().partition(".")
    name = stem.lower().replace("-", "_")
    if is_model(name):
        return f"{name}.{_known_tag(name, tag)}" if tag else name
    candidates = [] if tag else [option for option in timm.list_models() if option.startswith(f"{name}_")]
    plain = [option for option in candidates if _GEOMETRY.fullmatch(option.removeprefix(name))]
    for choice in (plain, [option for option in plain if re.search(r"_(patch|p)16_", option)], candidates):
        if len(choice) == 1:
            return str(choice[0])
    if candidates:
        raise UserError(
            "The student's name is ambiguous.",
            received=text,
            allowed=_listing(candidates),
            hint="write the name in full",
        )
    models = timm.list_models()
    close = nearest(name, [*_short_names(models), *models]) or timm.list_models(f"*{name}*")
    raise UserError(
        "Unknown student: timm has no such architecture.",
        received=text,
        allowed="any of timm.list_models()",
        hint=f"the nearest are {_listing(close)}" if close else None,
    )


def near_classifier(encoder: str) -> str | None:
    """Returns the classifier that an encoder's name is made from, or one with a similar name."""
    others = [name for name in timm.list_models() if name != encoder]
    origin = max((name for name in others if encoder.startswith(f"{name}_")), key=len, default=None)
    return origin or next(iter(nearest(encoder, others)), None)


def _short_names(models: list[str]) -> list[str]:
    """Returns the names without patch size, window and resolution; each stands for a model."""
    shortened = (re.sub(rf"{_GEOMETRY.pattern}$", "", model) for model in models)
    return list(dict.fromkeys(name for name in shortened if name not in models))


def _known_tag(name: str, tag: str) -> str:
    tags = [known for known in get_arch_pretrained_cfgs(name) if known]
    full = {known.partition(".")[2] for known in tags} - {""}
    if tag not in full:
        raise UserError(
            f"timm knows no weights {tag!r} for {name}.", received=f"{name}.{tag}", allowed=sorted(full)
        )
    return tag


def _listing(names: list[str], most: int = 12) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown}, and {len(names) - most} more"
