"""What a pickle names, read without running it."""

from __future__ import annotations

from pathlib import Path

import pytest

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.weights.pickles import leading_value
from rrm_transfer.core.weights.reading import read_file


@pytest.mark.parametrize("length", [1 << 60, (1 << 64) - 1])
def test_a_made_up_length_is_damage(length: int, tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    file.write_bytes(b"\x80\x04\x8e" + length.to_bytes(8, "little") + b".")
    assert leading_value(file) is None
    with pytest.raises(UserError):
        read_file(file)
