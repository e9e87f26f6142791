"""A large image set once into small shards, which training, evaluation and caches read as any other set."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from torch.utils.data import Dataset

from rrm_transfer import __version__
from rrm_transfer.core.documents import differences, parse_json, read_text
from rrm_transfer.core.errors import Interrupted, UserError
from rrm_transfer.core.files import is_partial, remove_partial, require_shallow, write_text
from rrm_transfer.core.locks import hold
from rrm_transfer.data.broken import BrokenImages
from rrm_transfer.data.encoded import BrokenImageError, ColumnImages, read_header
from rrm_transfer.data.images import DataSet, ImageSet
from rrm_transfer.data.parts import SourceParts, assemble
from rrm_transfer.data.shards import JPEG_QUALITY, encoded_small, locate, shard_name, write_shard
from rrm_transfer.data.sources import find_parts
from rrm_transfer.data.workers import decoder, explaining_workers
from rrm_transfer.runtime.cores import Cores, decoding_workers
from rrm_transfer.runtime.interruption import StopRequest
from rrm_transfer.runtime.progress import Narrator

SHARD = 1024
"""Images of one file: what an interruption can lose, and what is in memory at a time."""

_FACTS = "prepared.json"
_LOCK = ".lock"
_OURS = re.compile(rf"{re.escape(_FACTS)}|\.lock|(train|test)-\d{{5,}}-of-\d{{5,}}\.parquet")
_BROKEN = b"rrm_transfer.broken"
_DAMAGE = (pa.ArrowException, OSError, ValueError, KeyError, TypeError, AttributeError, BrokenImageError)
"""What reading a file raises that is missing, or not what was written."""
_AHEAD = 16
"""Images that each process has ready."""


@dataclass(frozen=True)
class Prepared:
    """A folder of shards.

    Attributes:
        folder: To be given as ``--dataset``.
        images: How many each part holds.
        classes: How many there are.
        side: Most pixels of the shorter side.
        shards: How many files there are.
        kept: Those of them that an earlier session had written.
        gigabytes: Of all files.
        broken: What is wrong with images that were left out, by where they are.
    """

    folder: str
    images: dict[str, int]
    classes: int
    side: int
    shards: int
    kept: int
    gigabytes: float
    broken: dict[str, str]


def prepare(
    source: str,
    output: Path,
    *,
    side: int,
    max_broken: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    narrator: Narrator | None = None,
) -> Prepared:
    """Writes the parts of a data set that are trained and tested on as parquet files of small images.

    They are written beside the folder, which is there once all are written and checked.

    Args:
        source: What ``--dataset`` takes.
        output: The folder.
        side: Of the shorter side of an image, in pixels; smaller images are not enlarged.
        max_broken: How many images may be unreadable; they are left out.
        resume: Keep the files that an interrupted session wrote.
        overwrite: Replace what an earlier one wrote.
        narrator: Prints notes and progress.

    Raises:
        UserError: The source cannot be read, or the folder is taken.
        Interrupted: It was asked to stop; ``resume`` continues it.
    """
    if overwrite and resume:
        raise UserError(
            "What was begun is continued or replaced, not both.",
            received="--overwrite and --resume",
            hint="--resume keeps what is written; --overwrite deletes it and starts anew",
        )
    require_shallow(output)
    output = Path(os.path.realpath(output.expanduser()))
    unfinished = output.with_name(f"{output.name}.unfinished")
    narrator = narrator or Narrator()
    with StopRequest():
        _require_apart(source, output, unfinished)
        finished, begun = (_is_prepared(folder) for folder in (output, unfinished))
        if (finished or begun) and not (resume or overwrite):
            raise UserError(
                f"The output folder {'is prepared already' if finished else 'was begun'}.",
                received=output if finished else unfinished,
                hint=f"--resume to {'check' if finished else 'continue'} it, or --overwrite to replace it",
            )
        broken = BrokenImages(max_broken, narrator.warn, option="--max-broken")
        parts = find_parts(source, broken)
        data = assemble(parts, held_out=0, seed=0, train_limit=None)
        for note in parts.notes:
            narrator.note(f"data: {note}")
        work = _Preparation(parts, data, side, broken, narrator)
        if finished and resume:
            work.require_same(output)
            return work.finish(output, kept=work.check(output))
        with hold(unfinished / _LOCK, taken="Another process is preparing this folder."):
            if overwrite:
                _clear(unfinished)
                _clear(output)
            try:
                kept = work.write(unfinished)
            except Interrupted as stopped:
                raise Interrupted(f"{stopped}\n  next:     --resume continues it") from None
        output.mkdir(parents=True, exist_ok=True)
        output.rmdir()
        unfinished.replace(output)
        return work.finish(output, kept=kept)


class _Shard(NamedTuple):
    """Some images of a part, at the positions from ``first`` to before ``end``."""

    part: str
    name: str
    first: int
    end: int


class _Preparation:
    """The shards of one source.

    Args:
        parts: The source.
        data: The same, checked.
        side: Of the shorter side of an image, in pixels.
        broken: Counts the images that cannot be read.
        narrator: Prints progress.
    """

    def __init__(
        self, parts: SourceParts, data: DataSet, side: int, broken: BrokenImages, narrator: Narrator
    ) -> None:
        self._images = parts.images
        self._data = data
        self._side = side
        self._broken = broken
        self._narrator = narrator
        self._shards: list[_Shard] = []
        for part, images in parts.images.items():
            starts = range(0, len(images), SHARD)
            self._shards += [
                _Shard(part, shard_name(part, n, len(starts)), first, min(first + SHARD, len(images)))
                for n, first in enumerate(starts)
            ]

    @property
    def facts(self) -> dict[str, Any]:
        """What the shards depend on."""
        names = self._data.class_names
        return {
            "rrm-transfer": __version__,
            "side": self._side,
            "jpeg_quality": JPEG_QUALITY,
            "shard": SHARD,
            "classes": self._data.num_classes,
            "class_names": None if names is None else list(names),
            "images": {part: len(images) for part, images in self._images.items()},
            "fingerprints": {part: images.fingerprint for part, images in self._images.items()},
        }

    def require_same(self, folder: Path) -> None:
        """Checks that what stands in a folder is or becomes what this would write.

        Raises:
            UserError: It is something else.
        """
        try:
            found = parse_json(read_text(folder / _FACTS))
        except ValueError:
            found = None
        facts = self.facts
        found = {key: found.get(key) for key in facts} if isinstance(found, dict) else None
        if changes := differences(found, facts):
            raise UserError(
                "The shards in the folder were made otherwise:\n"
                + "\n".join(f"  {change}" for change in changes),
                received=folder,
                hint="another --output, or --overwrite to replace them",
            )

    def write(self, folder: Path) -> int:
        """Writes the shards that a folder lacks, and checks all.

        Returns:
            How many were there.

        Raises:
            UserError: The folder holds others, or too many images are broken.
        """
        remove_partial(folder)
        if (folder / _FACTS).exists():
            self.require_same(folder)
        else:
            facts = {"source": self._data.source, "license": self._data.license, **self.facts}
            write_text(folder / _FACTS, json.dumps(facts, indent=1) + "\n")
        kept = {shard.name for shard in self._shards if self._is_whole(folder, shard)}
        missing = [shard for shard in self._shards if shard.name not in kept]
        for part in self._images:
            self._write_part(folder, [shard for shard in missing if shard.part == part])
        self._require_whole(folder, missing)
        return len(kept)

    def check(self, folder: Path) -> int:
        """Checks all shards and returns how many there are.

        Raises:
            UserError: One is missing or damaged.
        """
        self._require_whole(folder, self._shards)
        return len(self._shards)

    def finish(self, folder: Path, *, kept: int) -> Prepared:
        """Tells what a folder holds."""
        rows = dict.fromkeys(self._images, 0)
        for shard in self._shards:
            rows[shard.part] += pq.read_metadata(folder / shard.name).num_rows
        size = sum((folder / shard.name).stat().st_size for shard in self._shards)
        return Prepared(
            folder=str(folder),
            images=rows,
            classes=self._data.num_classes,
            side=self._side,
            shards=len(self._shards),
            kept=kept,
            gigabytes=size / 1e9,
            broken=self._broken.found,
        )

    def _write_part(self, folder: Path, shards: list[_Shard]) -> None:
        if not shards:
            return
        images = self._images[shards[0].part]
        positions = [position for shard in shards for position in range(shard.first, shard.end)]
        title, done = f"preparing {shards[0].part}", 0
        encoded = _encoded(images, positions, self._side)
        with self._narrator.task(title, len(positions)) as task:
            for shard in shards:
                rows: list[tuple[int, bytes]] = []
                problems: dict[int, UserError] = {}
                expected = range(shard.first, shard.end)
                for position, image in zip(expected, islice(encoded, len(expected)), strict=True):
                    if isinstance(image, BrokenImageError):
                        problems[position] = image
                        self._broken.add({locate(images, position): image})
                    elif isinstance(image, UserError):
                        raise image
                    else:
                        rows.append((position, image))
                    done += 1
                    task.update(done)
                write_shard(
                    folder / shard.name,
                    [image for _, image in rows],
                    images.labels[[position for position, _ in rows]].tolist(),
                    class_names=self._data.class_names,
                    facts={_BROKEN: json.dumps({at: error.what for at, error in problems.items()}).encode()},
                )

    def _require_whole(self, folder: Path, shards: list[_Shard]) -> None:
        damaged = [shard.name for shard in shards if not self._is_whole(folder, shard)]
        if damaged:
            raise UserError(
                f"{len(damaged):,} of {len(self._shards):,} shards are missing or damaged.",
                received=f"{folder}: {', '.join(damaged[:10])}",
                hint="look at the disk, then --overwrite to write them anew",
            )

    def _is_whole(self, folder: Path, shard: _Shard) -> bool:
        """Tells whether a shard holds the images that it should; those that it was made without are counted.

        Raises:
            UserError: They are too many.
        """
        images = self._images[shard.part]
        try:
            with pq.ParquetFile(folder / shard.name, page_checksum_verification=True) as file:
                table = file.read()
            without = parse_json(table.schema.metadata[_BROKEN])
            problems = {int(position): str(what) for position, what in without.items()}
            there = [at for at in range(shard.first, shard.end) if at not in problems]
            if table["label"].to_pylist() != images.labels[there].tolist():
                return False
            column = ColumnImages(table["image"], origin=shard.name, identity="", roots=())
            for row in range(len(column)):
                read_header(column, row)
        except _DAMAGE:
            return False
        self._broken.add({locate(images, position): UserError(what) for position, what in problems.items()})
        return True


class _SmallImages(Dataset[bytes | UserError]):
    """Images as they are written. A mistake is returned: raised, it would come as a worker's traceback."""

    def __init__(self, images: ImageSet, side: int) -> None:
        self._images = images
        self._side = side

    def __getitem__(self, position: int) -> bytes | UserError:
        try:
            return encoded_small(self._images, position, self._side)
        except UserError as error:
            return error


def _encoded(images: ImageSet, positions: list[int], side: int) -> Iterator[bytes | UserError]:
    """Yields images as they are written, made by as many processes as there are cores for them."""
    workers = decoding_workers([Cores.of_this_process()])
    with explaining_workers("free some memory, then --resume"):
        yield from decoder(_SmallImages(images, side), positions, workers=workers, ahead=_AHEAD)


def _require_apart(source: str, output: Path, unfinished: Path) -> None:
    """Refuses to write into what is read, and to read what is written."""
    path = Path(source).expanduser()
    if not path.exists():
        return
    path = Path(os.path.realpath(path))
    for folder in (output, unfinished):
        if folder.is_relative_to(path) or path.is_relative_to(folder):
            raise UserError(
                "The output would be within the data, or the data within the output.",
                received=output,
                hint="another --output",
            )


def _is_prepared(folder: Path) -> bool:
    """Tells whether shards stand in a folder, or some of them; where not, it is empty or missing.

    Raises:
        UserError: Something else stands there.
    """
    if folder.is_symlink():  # its target is looked at in its place, unless there is none
        raise UserError(
            "The output is a link that leads to itself.", received=folder, hint="another --output"
        )
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise UserError("The output is a file, not a folder.", received=folder, hint="another --output")
    entries = list(folder.iterdir())
    others = [entry.name for entry in entries if not (_OURS.fullmatch(entry.name) or is_partial(entry))]
    there = (folder / _FACTS).is_file()
    if others or any(entry.suffix == ".parquet" for entry in entries) > there:
        raise UserError(
            "The output folder is not empty and holds something else.",
            received=f"{folder}: {', '.join(others[:10]) or 'parquet files'}",
            hint="another --output",
        )
    return there


def _clear(folder: Path) -> None:
    """Removes what was prepared in a folder of which nothing else is known."""
    if folder.is_dir():
        remove_partial(folder)
        # What tells that the rest is ours goes last.
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name == _FACTS):
            if _OURS.fullmatch(entry.name) and entry.name != _LOCK:
                entry.unlink()
