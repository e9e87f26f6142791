"""Puts a finished `teach` run into the package as the embedded teacher, with its figures and hashes.

    rrm-transfer teach --recipe fashion-mnist-teacher --dataset FOLDER --output RUN
    python -m tools.embed_teacher RUN

Its accuracies are measured anew, on the embedded test images: the 1,000 that the quickstart attacks.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from rrm_transfer.core.files import replacing_folder, sha256_of, write_text
from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.data.fashion_mnist_mini import NAME
from rrm_transfer.data.sources import load_dataset_by_name
from rrm_transfer.evaluation.evaluator import Measurement
from rrm_transfer.evaluation.metrics import read_metrics
from rrm_transfer.recipe.loading import dump_recipe, read_recipe
from rrm_transfer.recipe.resolved import ResolvedRecipe
from rrm_transfer.runs.folder import RunFolder
from rrm_transfer.runtime.context import Context
from rrm_transfer.runtime.progress import Narrator
from rrm_transfer.teachers.loading import load_teacher
from rrm_transfer.teachers.zoo import EMBEDDED

QUICKSTART_IMAGES = 1000
EPS = (8 / 255, 0.05, 0.1)
STEPS = 20


def embed(run: RunFolder, target: Path, narrator: Narrator) -> None:
    """Writes the folder of the embedded teacher."""
    recipe = read_recipe(str(run.recipe))
    size, data = ResolvedRecipe.of(recipe).data.image_size, load_dataset_by_name(NAME)
    teacher = load_teacher(str(run.path), channels=data.channels, image_size=size)
    images = data.test.balanced(QUICKSTART_IMAGES)
    indices = data.test.positions_of(images)
    measurement = Measurement(size, batch_size=250, seed=0, context=Context.begin(narrator))
    attacks = [measurement.pgd(ThreatModel("Linf", eps), steps=STEPS) for eps in EPS]
    rows = measurement.rows(teacher, images, attacks, model="student", split="test")
    made = read_metrics(run.metrics)
    # Folders of this machine say nothing to anybody else.
    recipe = recipe.changed(data=recipe.data.changed(name="fashion-mnist"), output=None)
    with replacing_folder(target) as folder:
        for name in ("config.json", "model.safetensors"):
            shutil.copyfile(run.student / name, folder / name)
        metrics = replace(made, rows=rows, indices=indices, data=images.fingerprint)
        metrics.write(folder / "metrics.json")
        write_text(folder / "recipe.yaml", dump_recipe(recipe))
        hashes = [f"{sha256_of(file)}  {file.name}" for file in sorted(folder.iterdir())]
        write_text(folder / "SHA256", "\n".join(hashes) + "\n")


def main() -> None:
    """Embeds the run named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run of the recipe fashion-mnist-teacher")
    parser.add_argument("--target", type=Path, default=EMBEDDED / "fashion_mnist")
    arguments = parser.parse_args()
    embed(RunFolder(arguments.run), arguments.target, Narrator(Console(stderr=True)))


if __name__ == "__main__":
    main()
