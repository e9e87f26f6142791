"""Weights to start from: those that timm names, or a local file."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import huggingface_hub
import torch
from timm.models import clean_state_dict, get_pretrained_cfg
from torch import Tensor, nn

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.hub import require_hub
from rrm_transfer.core.weights.state_dict import read_state_dict, require_same_kinds
from rrm_transfer.students.heads import Head

_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
_SECONDS = 5.0


def require_hub_weights(name: str) -> None:
    """Checks within seconds that timm's weights for ``name`` are in the cache or can be fetched.

    Raises:
        UserError: timm names no weights, or they are neither cached nor within reach.
    """
    config = get_pretrained_cfg(name)
    hint = "give a local file as the student's weights, or train without --pretrained"
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


def read_local_weights(path: Path, model: nn.Module, form: Head) -> dict[str, Tensor]:
    """Reads a state dict that timm may load strictly into ``model``, its classifier excepted.

    Classifier tensors that the file lacks, or has for another number of classes, are replaced by fresh ones.

    Args:
        path: In any of the forms that docs/reference/teachers.md lists.
        model: The network, on any device; only its shapes are read.
        form: Its classifier.

    Raises:
        UserError: The file cannot be read safely, or holds no weights.
    """
    state = clean_state_dict(read_state_dict(path).tensors)
    require_same_kinds(model, state, source=path)
    idle = {id(parameter) for parameter in form.idle_parameters(model)}
    for key, parameter in model.named_parameters():
        if id(parameter) in idle and (key not in state or state[key].shape != parameter.shape):
            state[key] = torch.zeros(parameter.shape)
            if parameter.dim() > 1:
                nn.init.trunc_normal_(state[key], std=0.02)
    return dict(state)
