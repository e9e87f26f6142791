"""Parquet files with a column of encoded images and, for images with classes, one of class indices."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from rrm_transfer.core.errors import UserError
from rrm_transfer.data.broken import BrokenImages
from rrm_transfer.data.disk import require_space
from rrm_transfer.data.parts import PART_NAMES, SourceParts
from rrm_transfer.data.tables import find_columns, table_image_sets

if TYPE_CHECKING:
    import pyarrow as pa

ENCODED_LIMIT = 4 << 30
"""Bytes of files up to which a table is read into memory; larger ones are copied once and memory-mapped,
since parquet itself gives no access to a single row."""

FOOTER_BYTES = 1 << 16


def find_parquet_files(folder: Path) -> list[Path]:
    """Returns the parquet files of a folder, or of its ``data`` folder as in hub repositories."""
    return sorted(folder.glob("*.parquet")) or sorted((folder / "data").glob("*.parquet"))


def load_parquet(path: Path, broken: BrokenImages, *, labelled: bool = True) -> SourceParts:
    """Reads a parquet file, or a folder of files whose names begin with train, validation or test.

    Args:
        path: The file or folder.
        broken: Counts the images that cannot be read.
        labelled: Whether classes are read; without, all images are of class 0.

    Raises:
        UserError: A file is damaged or of no known part, columns are missing, or too many images are
            broken.
    """
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = _by_part([path] if path.is_file() else find_parquet_files(path))
    try:
        schema = pq.read_schema(next(iter(files.values()))[0])
        features = datasets.Features.from_arrow_schema(schema)
        columns = find_columns(features, where=str(path), labelled=labelled)
        wanted = [name for name in (columns.image, columns.label) if name is not None]
        tables = {part: (_read(group, *wanted), _identity(group)) for part, group in files.items()}
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"The parquet files cannot be read: {error}.", received=path) from error
    root = path if path.is_dir() else path.parent
    images, notes = table_image_sets(tables, columns, broken, where=str(path), roots=[root])
    named = path.resolve()
    name = named.parent.name if path.is_file() and _part_of(path) else named.name.removesuffix(".parquet")
    return SourceParts(name, str(path), images, class_names=columns.class_names, notes=notes)


def _part_of(file: Path) -> str | None:
    return PART_NAMES.get(re.split(r"[^a-z]", file.name.lower(), maxsplit=1)[0])


def _by_part(files: list[Path]) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = {}
    unnamed = []
    for file in files:
        part = _part_of(file)
        if part is None:
            unnamed.append(file)
        else:
            groups.setdefault(part, []).append(file)
    if unnamed and groups:
        raise UserError(
            "The part that a parquet file belongs to is unclear.",
            received=", ".join(file.name for file in unnamed[:10]),
            allowed="names that begin with train, validation or test, or none of them",
        )
    return groups or {"train": unnamed}


def _read(files: list[Path], *columns: str) -> pa.Table:
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    size = sum(file.stat().st_size for file in files)
    if size <= ENCODED_LIMIT:
        return pa.concat_tables([pq.read_table(file, columns=list(columns)) for file in files])
    require_space(
        size, Path(datasets.config.HF_DATASETS_CACHE), what=f"A memory-mapped copy of {files[0].parent}"
    )
    return datasets.Dataset.from_parquet([str(file) for file in files], columns=list(columns)).data.table


def _identity(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        with open(file, "rb") as stream:
            # A parquet file ends in the place, size and statistics of everything before.
            stream.seek(max(0, size - FOOTER_BYTES))
            digest.update(f"{file.name} {size}".encode(errors="surrogateescape") + stream.read())
    return digest.hexdigest()
