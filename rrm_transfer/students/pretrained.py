"""Weights to start from: those that timm names, or another network's of the same architecture."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import huggingface_hub
import torch
from timm.models import clean_state_dict, get_pretrained_cfg
from torch import Tensor, nn

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.hub import require_hub
from rrm_transfer.core.pixels import PixelStatistics
from rrm_transfer.core.weights.state_dict import read_state_dict, require_same_kinds
from rrm_transfer.students.folder import StudentFolder
from rrm_transfer.students.heads import Head

_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
_SECONDS = 5.0


def require_hub_weights(name: str) -> None:
    """Checks within seconds that timm's weights for ``name`` are in the cache or can be fetched.

    Raises:
        UserError: timm names no weights, or they are neither cached nor within reach.
    """
    config = get_pretrained_cfg(name)
    hint = "give a file or folder as --student-weights, or train without --pretrained"
    if not config.has_weights:
        raise UserError("timm has no weights for this architecture.", received=name, hint=hint)
    repository, url = config.hf_hub_id, config.url
    if repository:
        files = (config.hf_hub_filename,) if config.hf_hub_filename else _HUB_FILES
        if not any(isinstance(huggingface_hub.try_to_load_from_cache(repository, f), str) for f in files):
            require_hub(f"{name} from {repository}", hint=hint)
    elif not (Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]).exists():
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_SECONDS).close()
        except OSError as error:
            raise UserError(
                "The student's pretrained weights are not in the cache and cannot be fetched.",
                received=f"{name} from {url}: {error}",
                hint=hint,
            ) from None


@dataclass(frozen=True)
class StartingWeights:
    """The weights of a network of the student's architecture.

    Attributes:
        source: Names it in messages.
        read: Gives its tensors.
        exact: Whether every tensor but the classifier's must be the student's own by name and shape; else
            they may be in any form that timm knows for the architecture.
        statistics: Of the pixels that it takes; None: the architecture's own.
        args: For ``timm.create_model``, with which it was built; empty: not known.
    """

    source: str
    read: Callable[[], Mapping[str, Tensor]]
    exact: bool = False
    statistics: PixelStatistics | None = None
    args: Mapping[str, object] = field(default_factory=dict)

    def state_for(self, model: nn.Module, form: Head) -> dict[str, Tensor]:
        """Returns a complete state dict for a network.

        Classifier tensors that the source lacks, or has for another number of classes, are replaced by fresh
        ones.

        Args:
            model: The network, on any device; only its shapes are read.
            form: Its classifier.

        Raises:
            UserError: The source cannot be read safely, holds no weights, or other ones.
        """
        state = dict(self.read())
        require_same_kinds(model, state, source=self.source)
        idle = {id(parameter) for parameter in form.idle_parameters(model)}
        for key, parameter in model.named_parameters():
            if id(parameter) in idle and (key not in state or state[key].shape != parameter.shape):
                state[key] = torch.zeros(parameter.shape)
                if parameter.dim() > 1:
                    nn.init.trunc_normal_(state[key], std=0.02)
        if self.exact:
            self._require_fit(model, state)
        return state

    def _require_fit(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        given = {name: tuple(value.shape) for name, value in state.items()}
        other = [
            f"{name} {given.get(name, 'missing')}, the student's {own.get(name, 'missing')}"
            for name in {**own, **given}
            if own.get(name) != given.get(name)
        ]
        if other:
            shown = "; ".join(other[:_SHOWN])
            raise UserError(
                f"The weights of {self.source} do not fit the student tensor by tensor.",
                received=shown + (f"; and {len(other) - _SHOWN} more" if len(other) > _SHOWN else ""),
                allowed="a student with the same tensors, its classifier excepted",
                hint="the same architecture and arguments (--student, --student-arg), or another start",
            )


_SHOWN = 6


def starting_weights(path: Path, architecture: str) -> StartingWeights:
    """Returns the weights of a user's own network.

    Args:
        path: A weights file in any of the forms that docs/reference/teachers.md lists, or a folder as this
            package or timm save it; a run folder is its student's.
        architecture: The student's exact timm name, tags allowed.

    Raises:
        UserError: There is no such thing, or the folder is another architecture's.
    """
    if not path.is_dir():
        return StartingWeights(str(path), lambda: clean_state_dict(read_state_dict(path).tensors))
    folder = StudentFolder(path)
    with folder.reading():
        found, stem = folder.architecture, folder.stem
        args = {key: value for key, value in folder.args.items() if key not in ("num_classes", "in_chans")}
        statistics = folder.statistics
    if found != architecture.partition(".")[0]:
        raise UserError(
            "The weights to start from are another architecture's than the student.",
            received=f"{folder.path}: {found}",
            allowed=architecture,
            hint=f"--student {found}",
        )
    marks = {"stem": stem} if stem else {}
    return StartingWeights(
        str(folder.path),
        folder.tensors,
        exact=stem is not None,
        statistics=statistics,
        args={**args, **marks},
    )
