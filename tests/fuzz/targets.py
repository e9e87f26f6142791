"""What is fuzzed: each reader of something that a stranger may have written."""

from __future__ import annotations

from collections.abc import Mapping

from tests.fuzz import pictures, results, weights, wishes
from tests.fuzz.target import Target

TARGETS: Mapping[str, Target] = {**weights.TARGETS, **wishes.TARGETS, **pictures.TARGETS, **results.TARGETS}
