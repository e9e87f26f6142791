"""Parquet files with a column of encoded images and, for images with classes, one of class indices."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rrm_transfer.core.documents import dotted, parse_json
from rrm_transfer.core.errors import UserError
from rrm_transfer.core.printing import brief
from rrm_transfer.data.broken import BrokenImages
from rrm_transfer.data.disk import require_space
from rrm_transfer.data.parts import PART_NAMES, SourceParts
from rrm_transfer.data.tables import find_columns, table_image_sets

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

ENCODED_LIMIT = 4 << 30
"""Bytes of files up to which a table is read into memory; larger ones are copied once and memory-mapped,
since parquet itself gives no access to a single row."""

FOOTER_BYTES = 1 << 16

_EXPANSION = 64
"""How often a file's size its rows may take in memory: images hardly compress, but a file may repeat some."""
_HARMLESS = 1 << 26
"""Bytes that they may take in any case."""
_BATCH_ROWS = 64
"""That are unpacked before their size is looked at."""
_MOST_CLASSES = 10**5


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
    import pyarrow as pa

    files = _by_part([path] if path.is_file() else find_parquet_files(path))
    try:
        features = _features(next(iter(files.values()))[0])
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

    size = sum(file.stat().st_size for file in files)
    if size <= ENCODED_LIMIT:
        return pa.concat_tables([_unpacked(file, columns) for file in files])
    require_space(
        size, Path(datasets.config.HF_DATASETS_CACHE), what=f"A memory-mapped copy of {files[0].parent}"
    )
    return datasets.Dataset.from_parquet([str(file) for file in files], columns=list(columns)).data.table


def _unpacked(file: Path, columns: Sequence[str]) -> pa.Table:
    """Reads a file whose rows take no more memory than its size allows.

    Raises:
        UserError: They would.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    size = file.stat().st_size
    with pq.ParquetFile(file) as stored:
        facts = stored.metadata
        said = sum(facts.row_group(number).total_byte_size for number in range(facts.num_row_groups))
        if facts.num_rows > max(size, _HARMLESS >> 10) or said > _HARMLESS + _EXPANSION * size:
            raise _bomb(file, size, f"{facts.num_rows:,} rows of {said:,} bytes")
        batches, taken = [], 0
        for batch in stored.iter_batches(_BATCH_ROWS, columns=list(columns)):
            taken += batch.nbytes
            if taken > _HARMLESS + _EXPANSION * size:
                raise _bomb(file, size, f"more than {taken:,} bytes")
            batches.append(batch)
        return pa.Table.from_batches(batches, stored.schema_arrow.empty_table().select(columns).schema)


def _bomb(file: Path, size: int, unpacked: str) -> UserError:
    return UserError(
        "The parquet file unpacks to far more than its size.",
        received=f"{file}: {size:,} bytes, unpacked {unpacked}",
        hint="write it anew, without rows that repeat or hold nothing",
    )


def _features(file: Path) -> datasets.Features:
    """Reads the types of the columns, as the datasets library notes them or else as parquet has them.

    Raises:
        UserError: The note is none.
    """
    import datasets
    import pyarrow.parquet as pq

    schema = pq.read_schema(file)
    try:
        _require_modest(parse_json((schema.metadata or {}).get(b"huggingface", b"{}")))
        return datasets.Features.from_arrow_schema(schema)
    except Exception as error:  # whatever the library makes of a note that is none
        raise UserError(
            f"The parquet file's metadata do not describe its columns: {type(error).__name__}: {error}",
            received=f"{file}: metadata of key 'huggingface'",
            hint="write the file anew, with the datasets library or without these metadata",
        ) from error


def _require_modest(note: Any) -> None:
    """Refuses a note that has more classes than can be; each would get a name."""
    for key, value in dotted(note).items():
        if key.endswith(".num_classes") and not (isinstance(value, int) and value <= _MOST_CLASSES):
            raise ValueError(f"{brief(value)} classes")


def _identity(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        with open(file, "rb") as stream:
            # A parquet file ends in the place, size and statistics of everything before.
            stream.seek(max(0, size - FOOTER_BYTES))
            digest.update(f"{file.name} {size}".encode(errors="surrogateescape") + stream.read())
    return digest.hexdigest()
