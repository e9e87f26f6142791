"""What is known about a model."""

from __future__ import annotations

import pytest

from rrm_transfer.core.errors import UserError
from rrm_transfer.runs.models import ModelFacts


def test_a_radius_belongs_to_its_norm() -> None:
    assert ModelFacts(norm="L2", eps=3.0).eps_in("L2") == 3.0
    assert ModelFacts(norm="L2", eps=3.0).eps_in("Linf") == 8 / 255
    assert ModelFacts().eps_in("Linf") == 8 / 255
    with pytest.raises(UserError, match="no customary eps for L2"):
        ModelFacts(norm="Linf", eps=8 / 255).eps_in("L2")
    with pytest.raises(UserError, match=r"Unknown norm(.|\n)*did you mean Linf"):
        ModelFacts().eps_in("linf")  # type: ignore[arg-type]
