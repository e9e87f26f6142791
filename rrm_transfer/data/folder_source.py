"""A folder of images: by class, as it is or divided into training and evaluation, or without classes."""

from __future__ import annotations

from pathlib import Path

import torch

from rrm_transfer.core.documents import require_text
from rrm_transfer.core.errors import UserError
from rrm_transfer.core.names import did_you_mean
from rrm_transfer.data.broken import BrokenImages
from rrm_transfer.data.decoding import EncodedPart, image_sets
from rrm_transfer.data.encoded import FileImages
from rrm_transfer.data.parts import PART_NAMES, SourceParts, choose_parts

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
LAYOUT = "FOLDER/CLASS/image.png, or FOLDER/train/CLASS/image.png with test or val beside train"


def load_image_folder(folder: Path, broken: BrokenImages) -> SourceParts:
    """Reads a folder of images by class; classes count in the order of their folders' names.

    Raises:
        UserError: The folder has another layout, or an empty class, or too many images are broken.
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
    encoded = {part: _encode(folders[part], files[part], class_names) for part in files}
    chosen, choices = choose_parts({part: stored.labels for part, stored in encoded.items()})
    return SourceParts(
        folder.resolve().name,
        str(folder),
        image_sets({role: encoded[part] for role, part in chosen.items()}, broken),
        class_names=class_names,
        notes=(*notes, *choices),
    )


def load_unlabelled_folder(folder: Path, broken: BrokenImages) -> SourceParts:
    """Reads all images below a folder, whatever its folders mean; of a divided one those to train on.

    Raises:
        UserError: There is none, or too many are broken.
    """
    divided = {PART_NAMES[child.name.lower()]: child for child in _folders(folder) if _is_part(child)}
    root = divided.get("train", folder)
    found = [] if divided and root is folder else _images_below(root, folder)[0]
    if not found:
        raise UserError(
            "The folder holds no image to train on.",
            received=folder,
            allowed=f"files that end in {', '.join(sorted(SUFFIXES))}, with or without folders between",
        )
    part = EncodedPart(FileImages(root, found), torch.zeros(len(found), dtype=torch.int64))
    return SourceParts(folder.resolve().name, str(folder), image_sets({"train": part}, broken))


def _is_part(folder: Path) -> bool:
    return folder.name.lower() in PART_NAMES


def _images_below(folder: Path, root: Path) -> tuple[list[Path], int]:
    """Returns the images at any depth, and how many files are none by their names.

    Raises:
        UserError: A name below ``root`` is not text.
    """
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name[0] != "."]
    above = len(str(root)) + 1
    for path in files:
        require_text(str(path)[above:], what="A file's name in the data")
    images = [path for path in files if path.suffix.lower() in SUFFIXES]
    return images, len(files) - len(images)


def _folders(path: Path) -> list[Path]:
    return sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))


def _files_by_class(folder: Path, notes: list[str]) -> dict[str, list[Path]]:
    classes = {}
    skipped = 0
    for child in _folders(folder):
        classes[child.name], others = _images_below(child, folder)
        skipped += others
    empty = [name for name, files in classes.items() if not files]
    if not classes or len(empty) == len(classes):
        raise UserError("The folder holds no images by class.", received=folder, allowed=LAYOUT)
    if empty:
        raise UserError(
            f"{len(empty):,} of {len(classes):,} class folders hold no image.",
            received=f"{folder}: {', '.join(empty[:10])}",
            allowed=f"files that end in {', '.join(sorted(SUFFIXES))}",
        )
    if skipped:
        notes.append(f"{skipped:,} files in {folder.name} are not images by their names and are left out")
    return classes


def _encode(folder: Path, files: dict[str, list[Path]], class_names: tuple[str, ...]) -> EncodedPart:
    unknown = sorted(set(files) - set(class_names))
    if unknown:
        raise UserError(
            "A class to evaluate on has no training folder.",
            received=f"{folder}: {', '.join(unknown[:10])}",
            hint=did_you_mean(unknown[0], class_names),
        )
    labels = [label for label, name in enumerate(class_names) for _ in files.get(name, ())]
    ordered = [path for name in class_names for path in files.get(name, ())]
    return EncodedPart(FileImages(folder, ordered), torch.tensor(labels))
