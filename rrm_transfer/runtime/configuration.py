"""What accelerate's configuration asks for: taken up, refused by name, or told to be without effect."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from rrm_transfer.core.errors import UserError

_DISTRIBUTED = "docs/how-to/many-gpus.md says what is"

_UNSUPPORTED = {
    "ACCELERATE_USE_DEEPSPEED": (
        "DeepSpeed is not supported.",
        "FSDP2 shares out the same things (fsdp_version: 2)",
    ),
    "ACCELERATE_USE_MEGATRON_LM": (
        "Megatron-LM is not supported.",
        "FSDP2 shares out weights, gradients and optimizer state (fsdp_version: 2)",
    ),
    "ACCELERATE_USE_PARALLELISM_CONFIG": (
        "accelerate's parallelism_config is not supported.",
        "leave it out: the processes share images, and weights with fsdp_version: 2",
    ),
}

_WITHOUT_EFFECT = (
    "fsdp_auto_wrap_policy",
    "fsdp_transformer_cls_to_wrap",
    "fsdp_ignored_modules",
    "fsdp_state_dict_type",
    "fsdp_activation_checkpointing",
    "fsdp_activation_checkpointing_offload",
)
"""Of FSDP; those that its second version does not have are accelerate's to tell of."""

_INSTEAD = {
    "fsdp_activation_checkpointing": "train.gradient_checkpointing=true",
    "gradient_accumulation_steps": "train.accumulation",
}


@dataclass(frozen=True)
class Configuration:
    """What accelerate's configuration asks of a run.

    Attributes:
        precision: ``bf16``, or None where it asks for nothing.
        compile: Whether it asks for ``torch.compile``.
        sharding: Whether it asks for FSDP2.
        ignored: Keys that have no effect here, each with what has.
    """

    precision: Literal["bf16"] | None
    compile: bool
    sharding: bool
    ignored: tuple[str, ...]


def read_configuration() -> Configuration:
    """Reads what ``accelerate launch`` put into the environment.

    Raises:
        UserError: It asks for what is not supported.
    """
    for variable, (what, hint) in _UNSUPPORTED.items():
        if _is_set(variable):
            raise UserError(what, received=variable, hint=f"{hint}; {_DISTRIBUTED}")
    sharding = _sharding()
    return Configuration(_precision(), _compile(), sharding, _ignored(sharding))


@contextmanager
def unsharded_accelerate() -> Iterator[None]:
    """Hides FSDP from accelerate, which ignores it on CPUs and would have it its own way elsewhere."""
    hidden = os.environ.pop("ACCELERATE_USE_FSDP", None)
    try:
        yield
    finally:
        if hidden is not None:
            os.environ["ACCELERATE_USE_FSDP"] = hidden


def _value(variable: str) -> str:
    """Returns a variable in lower case, empty where it says nothing; the launcher writes None and no."""
    value = os.environ.get(variable, "").strip().lower()
    return "" if value in ("none", "no", "false", "0") else value


def _is_set(variable: str) -> bool:
    return _value(variable) in ("1", "true", "yes")


def _precision() -> Literal["bf16"] | None:
    precision = _value("ACCELERATE_MIXED_PRECISION")
    if precision not in ("", "bf16"):
        raise UserError(
            f"{precision} is not supported.",
            received=f"mixed_precision: {precision}",
            allowed="bf16 or no",
            hint="bf16 needs no scaling of losses, which attacks would have to undo",
        )
    return "bf16" if precision else None


def _compile() -> bool:
    backend = _value("ACCELERATE_DYNAMO_BACKEND")
    if not backend:
        return False
    asked = {"dynamo_backend": "" if backend == "inductor" else backend}
    mode = _value("ACCELERATE_DYNAMO_MODE")
    asked["dynamo_mode"] = "" if mode == "default" else mode
    for key in ("use_fullgraph", "use_dynamic", "use_regional_compilation"):
        asked[f"dynamo_{key}"] = _value(f"ACCELERATE_DYNAMO_{key.upper()}")
    other = [f"{key}: {value}" for key, value in asked.items() if value]
    if other:
        raise UserError(
            "Students are compiled in one way only.",
            received=", ".join(other),
            allowed="dynamo_backend: inductor, which is train.compile=true, without other dynamo keys",
        )
    return True


def _sharding() -> bool:
    if not _is_set("ACCELERATE_USE_FSDP"):
        return False
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise UserError(
            "The first version of FSDP is not supported.",
            received=f"fsdp_version: {version}",
            hint=f"fsdp_version: 2 in accelerate's configuration; {_DISTRIBUTED}",
        )
    if _is_set("FSDP_OFFLOAD_PARAMS"):
        raise UserError(
            "Weights are not moved to the CPU's memory.",
            received="fsdp_offload_params: true",
            hint=f"fsdp_offload_params: false; {_DISTRIBUTED}",
        )
    return True


def _ignored(sharding: bool) -> tuple[str, ...]:
    keys = [key for key in _WITHOUT_EFFECT if sharding and _value(key.upper())]
    if _value("ACCELERATE_GRADIENT_ACCUMULATION_STEPS") not in ("", "1", "auto"):
        keys.append("gradient_accumulation_steps")
    return tuple(f"{key} ({_INSTEAD[key]} does it)" if key in _INSTEAD else key for key in keys)
