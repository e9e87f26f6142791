"""``python -m tools.gpu_rehearsal [PART …]``: the parts in order, six minutes each at most."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tools.gpu_rehearsal import correctness, interruption, large_images, product, speed
from tools.gpu_rehearsal.findings import Findings
from tools.gpu_rehearsal.subjects import Subjects

PARTS = ("correctness", "speed", "large-images", "product", "interruption")


def rehearse(
    parts: list[str],
    *,
    out: Path,
    small: bool,
    minutes: float = 6.0,
    cifar10: Path | None = None,
    imagenet: Path | None = None,
    keep: Path,
) -> dict[str, Findings]:
    """Rehearses parts and returns what each found.

    Args:
        parts: Of ``PARTS``.
        out: Where rows are written, a file for each part.
        small: In miniature.
        minutes: Of each part, after which nothing more is begun.
        cifar10: Folder with ``train.parquet`` and ``test.parquet``; the product needs it.
        imagenet: Folder with ``validation.parquet``; else pictures are made.
        keep: Where networks, pictures and runs lie; a part finds what another made there.
    """
    subjects = Subjects(keep, small)
    rehearsals: dict[str, Callable[[Subjects, Findings], None]] = {
        "correctness": correctness.rehearse,
        "speed": speed.rehearse,
        "large-images": partial(large_images.rehearse, imagenet=imagenet),
        "product": partial(product.rehearse, cifar10=cifar10),
        "interruption": partial(interruption.rehearse, cifar10=cifar10),
    }
    found: dict[str, Findings] = {}
    for part in parts:
        found[part] = Findings(out / f"{part}.jsonl", seconds=60 * minutes)
        print(f"=== {part}", flush=True)
        rehearsals[part](subjects, found[part])
    return found


def main() -> int:
    """Rehearses what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tools.gpu_rehearsal", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; none: all")
    parser.add_argument("--out", type=Path, default=Path("rehearsal"), help="folder of what is found")
    parser.add_argument("--keep", type=Path, help="folder of networks, pictures and runs; none: removed")
    parser.add_argument("--small", action="store_true", help="in miniature, on a CPU")
    parser.add_argument("--minutes", type=float, default=6.0, help="of each part")
    for name, variable in (("cifar10", "RRM_TRANSFER_CIFAR10"), ("imagenet", "RRM_TRANSFER_IMAGENET_SAMPLE")):
        parser.add_argument(
            f"--{name}", type=_folder, default=os.environ.get(variable), help=f"or {variable}"
        )
    options = parser.parse_args()
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    with tempfile.TemporaryDirectory() as temporary:
        found = rehearse(
            options.parts or list(PARTS),
            out=options.out,
            small=options.small,
            minutes=options.minutes,
            cifar10=options.cifar10,
            imagenet=options.imagenet,
            keep=options.keep or Path(temporary),
        )
    return int(any(findings.failed for findings in found.values()))


def _folder(text: str) -> Path:
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"no such folder: {text}")
    return path.resolve()


if __name__ == "__main__":
    sys.exit(main())
