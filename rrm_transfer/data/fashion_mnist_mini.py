"""The embedded data set: the first images of every class of Fashion-MNIST.

Xiao, Rasul, Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
Algorithms", arXiv 1708.07747. ``python -m rrm_transfer.data.fashion_mnist_mini SOURCE TARGET`` makes its
files again from the full set.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.files import replacing_file
from rrm_transfer.data.idx import encode_idx, find_idx_parts, read_idx_part

NAME = "fashion-mnist-mini"
FOLDER = Path(__file__).parent / "embedded"
PER_CLASS = {"train": 1000, "test": 200}
FILE_PREFIX = {"train": "train", "test": "t10k"}


def build(source: Path, target: Path) -> None:
    """Cuts the subset: per class its first 1,000 training and 200 test images, in the original order.

    Args:
        source: A folder with the full set's four idx files, plain or gzip-compressed.
        target: The folder that receives the four files of the subset.

    Raises:
        UserError: The source is not such a folder or has too few images of a class.
    """
    parts = find_idx_parts(source)
    for part, count in PER_CLASS.items():
        if part not in parts:
            raise UserError(f"The idx folder has no {part} part.", received=source)
        images, labels = read_idx_part(parts[part])
        chosen = np.sort(np.concatenate([np.flatnonzero(labels == c)[:count] for c in np.unique(labels)]))
        if len(chosen) < 10 * count:
            raise UserError(f"The {part} part has fewer than {count} images of some class.", received=source)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            with replacing_file(target / f"{FILE_PREFIX[part]}-{kind}-ubyte.gz") as file:
                file.write_bytes(encode_idx(array[chosen]))


def main(arguments: Sequence[str]) -> int:
    """Runs ``build`` on the two folders given."""
    if len(arguments) != 2:
        print("usage: python -m rrm_transfer.data.fashion_mnist_mini SOURCE TARGET", file=sys.stderr)
        return 2
    try:
        build(Path(arguments[0]), Path(arguments[1]))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
