"""A folder of images: by class, as it is or divided into training and evaluation, or without classes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from rrm_transfer.core.documents import require_text
from rrm_transfer.core.errors import UserError
from rrm_transfer.core.names import did_you_mean
from rrm_transfer.data.broken import BrokenImages
from rrm_transfer.data.decoding import EncodedPart, image_sets, surveyed
from rrm_transfer.data.encoded import FileImages
from rrm_transfer.data.parts import PART_NAMES, SourceParts, choose_parts

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
LAYOUT = "FOLDER/CLASS/image.png, or FOLDER/train/CLASS/image.png with test or val beside train"


@dataclass(frozen=True)
class FolderIndex:
    """What a folder holds: its images' names, sizes, labels and digest.

    It is made once and sent to the other processes: a folder on a network's file system takes long to list.

    Attributes:
        images: ``train`` and ``test``, as far as they exist.
        labels: Theirs, ``(N,)`` int64.
        class_names: In the order of the class indices, None for images without classes.
        notes: What was left out, and choices.
    """

    images: Mapping[str, FileImages]
    labels: Mapping[str, Tensor]
    class_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


def index_image_folder(folder: Path) -> FolderIndex:
    """Lists a folder of images by class; classes count in the order of their folders' names.

    Raises:
        UserError: The folder has another layout, or an empty class.
    """
    divided = [child for child in _folders(folder) if _is_part(child)]
    notes: list[str] = []
    if divided:
        others = [child.name for child in _folders(folder) if child not in divided]
        notes += [f"folders that are not a part of the set are left out: {', '.join(others)}"] * bool(others)
        folders = {PART_NAMES[child.name.lower()]: child for child in divided}
        if len(folders) < len(divided):
            raise UserError(
                "Two folders stand for the same part.",
                received=", ".join(str(child) for child in divided),
                allowed=LAYOUT,
            )
    else:
        folders = {"train": folder}
    files = {part: _files_by_class(path, notes) for part, path in folders.items()}
    class_names = tuple(files["train"] if "train" in files else next(iter(files.values())))
    labels = {part: _labels(folders[part], files[part], class_names) for part in files}
    chosen, choices = choose_parts(labels)
    images = {
        role: FileImages(folders[part], chain(*(files[part].get(name, ()) for name in class_names)))
        for role, part in chosen.items()
    }
    chosen_labels = {role: labels[part] for role, part in chosen.items()}
    return FolderIndex(images, chosen_labels, class_names, (*notes, *choices))


def index_unlabelled_folder(folder: Path) -> FolderIndex:
    """Lists all images below a folder, whatever its folders mean; of a divided one those to train on.

    Raises:
        UserError: There is none.
    """
    divided = {PART_NAMES[child.name.lower()]: child for child in _folders(folder) if _is_part(child)}
    root = divided.get("train", folder)
    found = [] if divided and root is folder else _images_below(root, "")[0]
    if not found:
        raise UserError(
            "The folder holds no image to train on.",
            received=folder,
            allowed=f"files that end in {', '.join(SUFFIXES)}, with or without folders between",
        )
    labels = torch.zeros(len(found), dtype=torch.int64)
    return FolderIndex({"train": FileImages(root, found)}, {"train": labels})


def load_folder(folder: Path, index: FolderIndex, broken: BrokenImages) -> SourceParts:
    """Makes image sets of what a folder was found to hold.

    Args:
        folder: As it is named.
        index: Made here or by another process.
        broken: Counts the images that cannot be read.

    Raises:
        UserError: Another process found other files, or too many images are broken.
    """
    for images in index.images.values():
        images.require_found(surveyed(len(images)))
    parts = {role: EncodedPart(images, index.labels[role]) for role, images in index.images.items()}
    return SourceParts(
        folder.resolve().name,
        str(folder),
        image_sets(parts, broken),
        class_names=index.class_names,
        notes=index.notes,
    )


def _is_part(folder: Path) -> bool:
    return folder.name.lower() in PART_NAMES


def _images_below(root: Path, inside: str) -> tuple[list[str], int]:
    """Returns the images at any depth below a folder of ``root``, and how many files are none by their names.

    Args:
        root: Names are relative to it.
        inside: The folder's name in it; empty for ``root`` itself.

    Raises:
        UserError: A name is not text.
    """
    images, others = [], 0
    pending = [(inside, True)]
    while pending:
        name, is_folder = pending.pop()
        if is_folder:
            pending += reversed(_entries(root, name))
            continue
        require_text(name, what="A file's name in the data")
        if name.lower().endswith(SUFFIXES):
            images.append(name)
        else:
            others += 1
    return images, others


def _entries(root: Path, inside: str) -> list[tuple[str, bool]]:
    """Returns a folder's files and folders, in order, and which are folders; a link to one is none."""
    found = []
    with suppress(PermissionError), os.scandir(root / inside) as entries:
        for entry in entries:
            is_folder = entry.is_dir(follow_symlinks=False)
            is_file = not is_folder and entry.name[0] != "." and _is_file(entry)
            if is_folder or is_file:
                found.append((f"{inside}/{entry.name}" if inside else entry.name, is_folder))
    return sorted(found)


def _is_file(entry: os.DirEntry[str]) -> bool:
    return Path(entry.path).is_file() if entry.is_symlink() else entry.is_file()


def _folders(path: Path) -> list[Path]:
    return sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))


def _files_by_class(folder: Path, notes: list[str]) -> dict[str, list[str]]:
    classes = {}
    skipped = 0
    for child in _folders(folder):
        classes[child.name], others = _images_below(folder, child.name)
        skipped += others
    empty = [name for name, files in classes.items() if not files]
    if not classes or len(empty) == len(classes):
        raise UserError("The folder holds no images by class.", received=folder, allowed=LAYOUT)
    if empty:
        raise UserError(
            f"{len(empty):,} of {len(classes):,} class folders hold no image.",
            received=f"{folder}: {', '.join(empty[:10])}",
            allowed=f"files that end in {', '.join(SUFFIXES)}",
        )
    if skipped:
        notes.append(f"{skipped:,} files in {folder.name} are not images by their names and are left out")
    return classes


def _labels(folder: Path, files: dict[str, list[str]], class_names: tuple[str, ...]) -> Tensor:
    unknown = sorted(set(files) - set(class_names))
    if unknown:
        raise UserError(
            "A class to evaluate on has no training folder.",
            received=f"{folder}: {', '.join(unknown[:10])}",
            hint=did_you_mean(unknown[0], class_names),
        )
    counts = torch.tensor([len(files.get(name, ())) for name in class_names])
    return torch.arange(len(class_names)).repeat_interleave(counts)
