"""Divides Fashion-MNIST into a few labelled images, a balanced sample, and the others without labels.

python -m tools.benchmarks.few_labels FOLDER OUTPUT --labels 1000

Writes ``OUTPUT/labelled``, with the test images, and ``OUTPUT/unlabelled``, both idx: the data and
``data.extra`` of the rows with few labels in docs/results.md. Commands: the head of
recipes/fashion-mnist/frontier.yaml.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rrm_transfer.data.idx import encode_idx, find_idx_parts, read_idx_part


def choose(labels: npt.NDArray[np.uint8], count: int) -> npt.NDArray[np.intp]:
    """Returns the places, ascending, of as many images of each class, drawn with seed 0.

    Raises:
        SystemExit: The count cannot be divided among the classes.
    """
    classes = np.unique(labels)
    each, left = divmod(count, len(classes))
    if left or not 0 < each <= np.bincount(labels).min():
        raise SystemExit(f"--labels {count}: the same number for each of {len(classes)} classes is needed")
    order = np.random.default_rng(0).permutation(len(labels))
    return np.sort(np.concatenate([order[labels[order] == name][:each] for name in classes]))


def divide(folder: Path, output: Path, count: int) -> None:
    """Writes both parts; no image is in both."""
    parts = find_idx_parts(folder)
    (images, labels), test = read_idx_part(parts["train"]), read_idx_part(parts["test"])
    chosen = choose(labels, count)
    for name, array in (
        ("labelled/train-images-idx3-ubyte.gz", images[chosen]),
        ("labelled/train-labels-idx1-ubyte.gz", labels[chosen]),
        ("labelled/t10k-images-idx3-ubyte.gz", test[0]),
        ("labelled/t10k-labels-idx1-ubyte.gz", test[1]),
        ("unlabelled/train-images-idx3-ubyte.gz", np.delete(images, chosen, axis=0)),
    ):
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).write_bytes(encode_idx(array))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--labels", type=int, default=1000)
    given = parser.parse_args()
    divide(given.folder, given.output, given.labels)


if __name__ == "__main__":
    main()
