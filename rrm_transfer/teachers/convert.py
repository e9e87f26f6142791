"""A pickled checkpoint to safetensors, in a process of its own that runs nothing of what the file names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import rrm_transfer
from rrm_transfer.core.errors import UserError
from rrm_transfer.core.files import require_writable
from rrm_transfer.core.weights.reading import sniff

_SECONDS = 120.0
"""For starting the process and for what does not depend on the file's size."""
_BYTES_PER_SECOND = 5e6


def convert(source: Path, target: Path) -> None:
    """Writes the tensors of a torch checkpoint to a safetensors file.

    Args:
        source: A file that torch.save wrote, with or without dill, in the zip or the older form.
        target: Is written whole or not at all.

    Raises:
        UserError: The source is no torch checkpoint or holds no tensors, or the target does not end in
            .safetensors or stands there already.
    """
    if target.suffix != ".safetensors":
        raise UserError("The converted file must end in .safetensors.", received=target)
    require_writable(target, hint="another name, or remove it")
    if sniff(source) == "safetensors":
        raise UserError("The file is safetensors already.", received=source)
    package = Path(rrm_transfer.__file__).parent.parent
    path = os.pathsep.join([str(package), *filter(None, [os.environ.get("PYTHONPATH")])])
    # -P: modules that lie beside the checkpoint must not stand for those that are imported.
    try:
        finished = subprocess.run(
            [sys.executable, "-P", "-m", "rrm_transfer.teachers.salvage", str(source), str(target)],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS + source.stat().st_size / _BYTES_PER_SECOND,
        )
    except subprocess.TimeoutExpired as expired:
        raise UserError(
            f"No tensors could be taken out within {expired.timeout:.0f} seconds.", received=source
        ) from None
    if finished.returncode != 0:
        last_line = (finished.stderr.strip() or "no message").splitlines()[-1]
        raise UserError(f"No tensors could be taken out: {last_line}", received=source)
