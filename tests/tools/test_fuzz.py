"""A short slice of the fuzzing, the same every time; ``python -m tools.fuzz`` goes on for longer."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from rrm_transfer.core.errors import UserError
from tools.fuzz.target import emptied
from tools.fuzz.targets import TARGETS

EXAMPLES = 25


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.filterwarnings("ignore")
def test_only_user_errors_come_out(name: str, tmp_path: Path) -> None:
    target = TARGETS[name]
    read = 0

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(target.inputs())
    def example(value: Any) -> None:
        nonlocal read
        read += 1
        with contextlib.suppress(UserError):
            target.read(value, emptied(tmp_path))

    example()
    assert read >= EXAMPLES // 2
