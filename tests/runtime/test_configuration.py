"""accelerate's configuration is taken up, refused by name, or told to be without effect."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console

from rrm_transfer.core.errors import UserError
from rrm_transfer.recipe.loading import build_recipe
from rrm_transfer.recipe.resolved import ResolvedTrain
from rrm_transfer.runs.resolve import resolve
from rrm_transfer.runtime.configuration import Configuration, read_configuration
from rrm_transfer.runtime.context import Context
from rrm_transfer.runtime.processes import Runtime
from rrm_transfer.runtime.progress import Narrator
from tests.support import tiny

FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
INDUCTOR = {"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}
LAUNCHER = {  # what `accelerate launch` sets in any case
    "ACCELERATE_MIXED_PRECISION": "no",
    "ACCELERATE_DYNAMO_BACKEND": "NO",
    "ACCELERATE_DYNAMO_MODE": "default",
    "ACCELERATE_DYNAMO_USE_FULLGRAPH": "False",
    "ACCELERATE_DYNAMO_USE_DYNAMIC": "False",
    "ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION": "False",
}


def _set(settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in {**LAUNCHER, **settings}.items():
        monkeypatch.setenv(variable, value)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, Configuration(None, False, False, ())),
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, Configuration("bf16", False, False, ())),
        (INDUCTOR, Configuration(None, True, False, ())),
        (FSDP2, Configuration(None, False, True, ())),
        (
            {
                **FSDP2,
                "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
                "FSDP_ACTIVATION_CHECKPOINTING": "true",
                "FSDP_STATE_DICT_TYPE": "None",
                "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
            },
            Configuration(
                None,
                False,
                True,
                (
                    "fsdp_auto_wrap_policy",
                    "fsdp_activation_checkpointing (train.gradient_checkpointing=true does it)",
                    "gradient_accumulation_steps (train.accumulation does it)",
                ),
            ),
        ),
    ],
)
def test_what_is_asked_for_is_read(
    settings: dict[str, str], expected: Configuration, monkeypatch: pytest.MonkeyPatch
) -> None:
    _set(settings, monkeypatch)
    assert read_configuration() == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DeepSpeed is not supported"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "Megatron-LM is not supported"),
        ({**FSDP2, "ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, "parallelism_config is not supported"),
        ({"ACCELERATE_USE_FSDP": "true"}, "first version of FSDP"),
        ({**FSDP2, "FSDP_OFFLOAD_PARAMS": "true"}, "not moved to the CPU"),
        ({"ACCELERATE_MIXED_PRECISION": "fp16"}, "mixed_precision: fp16"),
        ({"ACCELERATE_MIXED_PRECISION": "fp8"}, "mixed_precision: fp8"),
        ({"ACCELERATE_DYNAMO_BACKEND": "AOT_EAGER"}, "dynamo_backend: aot_eager"),
        ({**INDUCTOR, "ACCELERATE_DYNAMO_MODE": "max-autotune"}, "dynamo_mode: max-autotune"),
        ({**INDUCTOR, "ACCELERATE_DYNAMO_USE_FULLGRAPH": "True"}, "dynamo_use_fullgraph: true"),
        ({**INDUCTOR, "ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION": "True"}, "dynamo_use_regional"),
    ],
)
def test_what_is_not_supported_is_refused(
    settings: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _set(settings, monkeypatch)
    with pytest.raises(UserError, match=message):
        Runtime()


def test_compilation_is_the_runs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accelerate would compile what is prepared and leave attacks as they are."""
    _set(INDUCTOR, monkeypatch)
    network = torch.nn.Linear(2, 2)
    with Runtime().prepared(network) as prepared:
        assert prepared is network


def _train(teacher: Path, data: Path, said: list[str]) -> tuple[ResolvedTrain, str]:
    """Resolves a recipe that leaves precision and compilation open but for what is said."""
    content = {"teacher": {"name": str(teacher)}, "student": {"name": "test_vit"}}
    recipe = build_recipe(content, [f"data.name={data}", *tiny.settings(), "train.precision=auto", *said])
    heard = io.StringIO()
    context = Context.begin(Narrator(Console(file=heard, width=500)))
    return resolve(recipe, context).recipe.train, heard.getvalue()


@pytest.mark.parametrize(
    ("said", "expected", "told"),
    [
        ([], ("bf16", True), ""),
        (["train.precision=bf16", "train.compile=true"], ("bf16", True), ""),
        (["train.compile=false"], ("bf16", False), "the recipe's train.compile=false counts"),
        (
            ["train.precision=float32"],
            ("float32", True),
            "the recipe's train.precision=float32 counts, not mixed_precision: bf16 of accelerate's",
        ),
    ],
)
def test_accelerate_counts_where_the_recipe_is_silent(
    said: list[str],
    expected: tuple[str, bool],
    told: str,
    tiny_teacher: Path,
    tiny_data: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _set({**INDUCTOR, "ACCELERATE_MIXED_PRECISION": "bf16"}, monkeypatch)
    train, heard = _train(tiny_teacher, tiny_data, said)
    assert (train.precision, train.compile) == expected
    assert f"{expected[0]}, contiguous{', compiled' * expected[1]}; threat" in heard
    assert told in heard
    assert ("of accelerate's configuration" in heard) == bool(told)


def test_accelerate_that_asks_for_nothing_changes_nothing(
    tiny_teacher: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _set({}, monkeypatch)
    train, heard = _train(tiny_teacher, tiny_data, [])
    assert (train.precision, train.compile) == ("float32", False)
    assert "accelerate" not in heard


def test_a_machine_with_more_accelerators_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Runtime()
    assert runtime.notices == []
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 8)
    assert runtime.notices == [], "on a CPU none is used"
    runtime.device = torch.device("cuda", 0)
    (notice,) = runtime.notices
    assert "8 accelerators are visible and one is used" in notice
    assert "accelerate launch --num_processes 8" in notice


def test_what_has_no_effect_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    _set({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, monkeypatch)
    (notice,) = Runtime().notices
    assert notice.endswith("without effect here: gradient_accumulation_steps (train.accumulation does it)")
