"""Measures which of timm's classifiers can be students, and writes docs/reference/architectures.json.

    python -m tools.survey && python -m tools.architectures_page

Every architecture is built on the meta device and its classifier taken apart. Then, for each of timm's
modules and each form of head, the smallest architecture is built with random weights and a projection to
another width, takes one optimizer step of a representation-matching loss, gets random batch statistics, is
folded and saved, and is reloaded by stock timm in a process that cannot import this package, which compares
the logits. An interrupted survey goes on from its cache, which is bound to the version of timm.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import timm
import torch
from safetensors.torch import save_file
from timm.models import model_entrypoint
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.files import write_text
from rrm_transfer.students import Student, build_student, save_student
from rrm_transfer.students.heads import find_head
from rrm_transfer.students.sizes import InputPlan, plan_input

RECORD = Path(__file__).parents[1] / "docs" / "reference" / "architectures.json"
TOLERANCE = 1e-5
CLASSES, FEATURES = 7, 24
SIZES = (28, 32, 64)

_STOCK_TIMM = """
import json, sys
sys.modules["rrm_transfer"] = None  # importing it raises from here on
import timm, torch
from safetensors.torch import load_file
torch.set_num_threads(1)
for line in sys.stdin:
    try:
        model = timm.create_model("local-dir:" + line.strip() + "/student", pretrained=True).eval()
        sample = load_file(line.strip() + "/sample.safetensors")
        with torch.no_grad():
            difference = model(sample["x"]) - sample["logits"]
        print(json.dumps(float(difference.abs().max() / sample["logits"].abs().max())), flush=True)
    except Exception as error:
        print(json.dumps(f"{type(error).__name__}: {error}"[:300]), flush=True)
"""

Reload = Callable[[Path], float | str]


@dataclass(frozen=True)
class Scan:
    """What an architecture's classifier is; ``form`` is None for an encoder or an unknown form."""

    name: str
    module: str
    parameters: int
    signature: str
    form: str | None
    failure: str | None = None


@dataclass
class Row:
    """The survey's result for one representative.

    Attributes:
        fold_error: Of the folded network, relative to the largest logit of the trained one.
        reload_error: The same for stock timm in its own process.
        without_gradient: Parameters that the loss does not reach although they are trained.
        sizes: Per image size the chosen arguments and the last map, or why it is refused.
        failure: The first thing that went wrong.
    """

    name: str
    form: str = ""
    image_size: int = 0
    width: int = 0
    fold_error: float | None = None
    reload_error: float | None = None
    without_gradient: list[str] = field(default_factory=list)
    sizes: dict[str, str] = field(default_factory=dict)
    failure: str | None = None


@contextmanager
def stock_timm() -> Iterator[Reload]:
    """Starts a process that has timm but not this package, and gives a function that reloads in it."""
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(
            [sys.executable, "-c", _STOCK_TIMM],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the worker has no pipes")
        send, receive = process.stdin, process.stdout

        def reload(export: Path) -> float | str:
            send.write(f"{export}\n")
            send.flush()
            return cast(float | str, json.loads(receive.readline()))

        yield reload
        send.close()


def scan(name: str) -> Scan:
    """Takes an architecture's classifier apart on the meta device."""
    module = model_entrypoint(name).__module__.rpartition(".")[2]
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=CLASSES)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    try:
        form = find_head(model, name).form
    except UserError as error:
        encoder = not hasattr(model, "get_classifier")
        return Scan(name, module, parameters, "encoder", None, None if encoder else str(error))
    pool = getattr(model, "global_pool", None)
    head = getattr(model, "head", None)
    signature = [module, type(model).__name__, form, pool if isinstance(pool, str) else ""]
    signature += [type(getattr(model, part, None)).__name__ for part in ("head", "fc_norm", "attn_pool")]
    signature += sorted({type(m).__name__ for m in head.modules()} if isinstance(head, nn.Module) else ())
    return Scan(name, module, parameters, "|".join(signature), form)


def representatives(scans: list[Scan]) -> list[Scan]:
    """Returns the smallest classifier of each module and head signature."""
    smallest: dict[str, Scan] = {}
    for one in sorted((s for s in scans if s.form), key=lambda s: (s.parameters, s.name)):
        smallest.setdefault(one.signature, one)
    return sorted(smallest.values(), key=lambda s: (s.module, s.name))


def plans(name: str) -> dict[int, InputPlan | str]:
    """Plans an architecture for the surveyed sizes, or tells why one is refused."""
    found: dict[int, InputPlan | str] = {}
    for size in SIZES:
        try:
            found[size] = plan_input(name, num_classes=CLASSES, channels=3, image_size=size, args={})
        except UserError as error:
            found[size] = f"refused ({str(error.allowed).partition('timm said: ')[2][:80]})"
    return found


def examine(name: str, reload: Reload, *, image_size: int, args: dict[str, object] | None = None) -> Row:
    """Trains, folds, saves and reloads one architecture."""
    torch.manual_seed(0)
    row = Row(name, image_size=image_size)
    student = build_student(
        name, num_classes=CLASSES, channels=3, image_size=image_size, feature_width=FEATURES, args=args
    )
    row.form = student.form.form
    row.width = cast(nn.Linear, student.head.projection).in_features
    row.without_gradient = _step(student)
    _disturb(student)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        x = torch.rand(2, 3, image_size, image_size)
        try:
            row.fold_error = save_student(
                student, folder / "student", sample=x, class_names=None, license=None, rrm={}
            )
        except UserError as error:
            row.failure = str(error.received)
            return row
        with torch.no_grad():
            sample = {"x": student.normalize(x), "logits": student.eval()(x).logits.contiguous()}
        save_file(sample, folder / "sample.safetensors")
        answer = reload(folder)
    if isinstance(answer, str):
        row.failure = answer
    else:
        row.reload_error = answer
        if not answer <= TOLERANCE:
            row.failure = f"stock timm answers otherwise: relative error {answer:.1e}"
    if row.without_gradient:
        row.failure = row.failure or f"no gradient reaches {', '.join(row.without_gradient[:3])}"
    return row


def _step(student: Student) -> list[str]:
    """Takes one step on the matching loss of RRM and returns the trained parameters without a gradient."""
    trained = {name: p for name, p in student.train().named_parameters() if p.requires_grad}
    optimizer = torch.optim.SGD(trained.values(), lr=0.01)
    logits, features, _ = student(torch.rand(2, 3, student.image_size, student.image_size))
    target = torch.randn_like(features)
    loss: Tensor = (
        1 - cosine_similarity(features, target).mean() + cross_entropy(logits, torch.tensor([0, 1]))
    )
    loss.backward()  # type: ignore[no-untyped-call]
    missing = [name for name, parameter in trained.items() if parameter.grad is None]
    nn.utils.clip_grad_norm_(trained.values(), 1.0)
    optimizer.step()
    return missing


@torch.no_grad()
def _disturb(student: Student) -> None:
    """Gives batch normalizations statistics that a wrong fold would show: fresh ones hide mistakes."""
    for module in student.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_(std=0.1)
            cast(Tensor, module.running_var).uniform_(0.8, 1.25)
            if module.affine:
                module.weight.uniform_(0.8, 1.25)
                module.bias.normal_(std=0.1)


def survey_row(one: Scan, reload: Reload) -> Row:
    """Examines a representative at the least size above 28 px; whatever goes wrong is in the row."""
    try:
        own = timm.models.get_pretrained_cfg(one.name).input_size[1]
        planned = plans(one.name)
        size = next((size for size in SIZES[1:] if isinstance(planned[size], InputPlan)), own)
        plan = planned.get(size)
        args = plan.args if isinstance(plan, InputPlan) else None
        row = examine(one.name, reload, image_size=size, args=args)
        row.sizes = {str(size): _told(plan) for size, plan in planned.items()}
    except Exception as error:  # a survey names every failure and goes on
        row = Row(one.name, form=one.form or "", failure=f"{type(error).__name__}: {error}"[:300])
    return row


def _told(plan: InputPlan | str) -> str:
    if isinstance(plan, str):
        return plan
    chosen = ", ".join(f"{key}={value}" for key, value in plan.args.items() if key != "img_size")
    return f"{chosen or 'as it is'} → {'?' if plan.positions is None else plan.positions}"


class Cache:
    """One JSON object per line and finished item."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder

    def through(self, kind: str, names: list[str], work: Callable[[str], Any]) -> list[dict[str, Any]]:
        """Returns the cached or freshly computed dataclass of every name, as dictionaries, in order."""
        path = self.folder / f"{kind}-timm-{timm.__version__}.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        known = {item["name"]: item for item in map(json.loads, lines)}
        with path.open("a", encoding="utf-8") as stream:
            for position, name in enumerate(names):
                if name not in known:
                    known[name] = asdict(work(name))
                    stream.write(json.dumps(known[name]) + "\n")
                    stream.flush()
                    print(f"{kind} {position + 1}/{len(names)} {name}", file=sys.stderr, flush=True)
        return [known[name] for name in names]


def record(scans: list[Scan], rows: list[Row]) -> str:
    """Returns the survey as JSON, one line for each representative."""
    by_name = {one.name: one for one in scans}
    shared = Counter(one.signature for one in scans)
    head = {
        "timm": timm.__version__,
        "encoders": [one.name for one in scans if not one.form and not one.failure],
        "unknown": {one.name: one.failure for one in scans if one.failure},
    }
    members = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    found = []
    for row in rows:
        one = by_name[row.name]
        beside = {"module": one.module, "stands_for": shared[one.signature]}
        found.append("  " + json.dumps({**asdict(row), **beside}, ensure_ascii=False))
    inside = ",\n".join(found)
    return "{\n " + ",\n ".join([*members, f'"representatives": [\n{inside}\n ]']) + "\n}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    default = Path(tempfile.gettempdir()) / "rrm-transfer-survey"
    parser.add_argument("--cache", type=Path, default=default, help="folder of what is done already")
    cache = Cache(parser.parse_args().cache)
    scans = [Scan(**item) for item in cache.through("scan", timm.list_models(), scan)]
    chosen = {one.name: one for one in representatives(scans)}
    with stock_timm() as reload:
        found = cache.through("row", list(chosen), lambda name: survey_row(chosen[name], reload))
    rows = [Row(**item) for item in found]
    write_text(RECORD, record(scans, rows))
    print(f"{RECORD}: {sum(row.failure is None for row in rows)} of {len(rows)} representatives pass")


if __name__ == "__main__":
    main()
