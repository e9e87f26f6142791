"""``python -m tools.fuzz --minutes 10 [TARGET …]``: how often each reader was tried, and its failures."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings

import rrm_transfer
from rrm_transfer.core.errors import UserError
from tools.fuzz.target import Target, emptied
from tools.fuzz.targets import TARGETS

_ROUND = 500
_PACKAGE = Path(rrm_transfer.__file__).parent


def fuzz(target: Target, *, seconds: float, first_seed: int = 0) -> tuple[int, dict[str, str]]:
    """Tries a reader for a while.

    Args:
        target: The reader.
        seconds: At least; a round that has begun goes on to its end.
        first_seed: Of the first round; the others follow.

    Returns:
        How many inputs were read, and each distinct failure with the first input that showed it.
    """
    executed, failures = 0, dict[str, str]()
    end = time.monotonic() + seconds
    inputs = target.inputs()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def example(value: Any) -> None:
            nonlocal executed
            if time.monotonic() > end:
                return
            executed += 1
            try:
                target.read(value, emptied(folder))
            except UserError:
                pass
            except Exception as error:
                failures.setdefault(_place(error), f"{str(error)[:100]!r} on {repr(value)[:300]}")

        number = first_seed
        while time.monotonic() < end:
            quiet = settings(
                max_examples=_ROUND,
                database=None,
                deadline=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            seed(number)(quiet(given(inputs)(example)))()
            number += 1
    return executed, failures


def _place(error: Exception) -> str:
    """Returns the error with the line of this package that it came from: two with the same place are one."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(_PACKAGE)] or list(frames)
    return f"{type(error).__name__} at {Path(own[-1].filename).name}:{own[-1].lineno}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; default: all")
    parser.add_argument("--minutes", type=float, default=10.0, help="for each target")
    parser.add_argument("--seed", type=int, default=0)
    given_ = parser.parse_args()
    chosen = given_.targets or list(TARGETS)
    unknown = sorted(set(chosen) - set(TARGETS))
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}")
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print("| reader | minutes | inputs | distinct failures |\n|---|---|---|---|", flush=True)
    failed = False
    for name in chosen:
        executed, failures = fuzz(TARGETS[name], seconds=60 * given_.minutes, first_seed=given_.seed)
        print(f"| {name} | {given_.minutes:g} | {executed:,} | {len(failures)} |", flush=True)
        for place, value in failures.items():
            print(f"{name}: {place}\n    {value}", file=sys.stderr, flush=True)
        failed = failed or bool(failures)
    sys.exit(failed)


if __name__ == "__main__":
    main()
