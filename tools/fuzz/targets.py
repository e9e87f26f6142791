"""What is fuzzed: each reader of something that a stranger may have written."""

from __future__ import annotations

from collections.abc import Mapping

from tools.fuzz import pictures, results, weights, wishes
from tools.fuzz.target import Target

TARGETS: Mapping[str, Target] = {**weights.TARGETS, **wishes.TARGETS, **pictures.TARGETS, **results.TARGETS}
