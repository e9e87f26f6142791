"""What the user may write after ``--teacher``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import timm

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.names import HUB, LOCAL_FOLDER, did_you_mean, split_scheme
from rrm_transfer.teachers.networks.building import is_factory, is_known, is_timm, known_architectures
from rrm_transfer.teachers.origins import Origin, folder_origin, hub_origin
from rrm_transfer.teachers.zoo import zoo, zoo_entry, zoo_origin

_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".tar", ".bin")


def find_origin(source: str, *, arch: str | None = None, weights: Path | None = None) -> Origin:
    """Resolves a teacher's name to weights and facts.

    Args:
        source: A zoo name, a timm name, ``hf-hub:user/name``, ``local-dir:PATH``, a folder, a weights file,
            or ``package.module:factory``.
        arch: The architecture, where the source does not say it.
        weights: A file that replaces the source's.

    Raises:
        UserError: It is none of these, or the weights cannot be had.
    """
    origin = _origin(source, weights)
    if weights is not None and origin.file != weights:
        origin = replace(origin, file=weights, sha256=None)
    return origin if arch is None else replace(origin, architecture=arch, own_code=is_factory(arch))


def _origin(source: str, weights: Path | None) -> Origin:
    entry = zoo_entry(source)
    if entry is not None:
        return zoo_origin(entry, weights)
    scheme, rest = split_scheme(source)
    if scheme == LOCAL_FOLDER:
        return folder_origin(Path(rest), name=source)
    if scheme == HUB:
        return hub_origin(rest, name=source)
    if Path(source).is_dir():
        return folder_origin(Path(source), name=source)
    if source.endswith(_SUFFIXES):
        if not Path(source).is_file():
            raise UserError("There is no such weights file.", received=source)
        return Origin(name=Path(source).name, file=Path(source))
    if is_factory(source) or (weights is not None and is_known(source)):
        if weights is None:
            raise UserError(
                "A factory makes a network without weights.", received=source, hint="--teacher-weights FILE"
            )
        return Origin(name=source, file=weights, architecture=source, own_code=is_factory(source))
    if is_timm(source):
        return _timm_origin(source)
    if "/" in source:
        hint: str | None = "no file or folder of that name is here; a hub's model is hf-hub:USER/NAME"
    else:
        hint = did_you_mean(source, [*(entry.name for entry in zoo()), *known_architectures()])
    raise UserError(
        "Unknown model.",
        received=source,
        allowed="a zoo name, a timm name, hf-hub:USER/NAME, local-dir:FOLDER, a run folder or a weights file",
        hint=hint,
    )


def _timm_origin(name: str) -> Origin:
    pretrained = timm.get_pretrained_cfg(name)
    repo = getattr(pretrained, "hf_hub_id", None)
    if not repo:
        raise UserError(
            "timm has no weights for this network, and a random network teaches nothing.",
            received=name,
            hint=f"{name} --teacher-weights FILE",
        )
    return hub_origin(repo, name=name)
