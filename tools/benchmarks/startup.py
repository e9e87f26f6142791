"""Target 7: from the command to the first step, the teacher check aside, nothing downloaded.

python -m tools.benchmarks.startup [--times 5]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tools.benchmarks.record import CHECKOUT, emit

_SETTINGS = {
    "train.epochs": 1,
    "train.log_every": 1,
    "train.precision": "float32",
    "train.channels_last": "true",
    "evaluate.images": 10,
}
_COMMAND = ["run", "--no-control", "--skip-teacher-check", "--quiet"]
_COMMAND += [part for key, value in _SETTINGS.items() for part in ("--set", f"{key}={value}")]
_IMPORTTIME = re.compile(r"import time:\s+\d+ \|\s+(\d+) \|( +)(\S+)")
_IMPORTS = "import rrm_transfer.api, rrm_transfer.report.table"


def main() -> None:
    """Starts runs of the quickstart and prints how long they took to their first step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=5)
    options = parser.parse_args()
    starts, imports = [], []
    for _ in range(options.times):
        with tempfile.TemporaryDirectory() as folder:
            starts.append(_to_first_step(Path(folder) / "run"))
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-c", _IMPORTS], cwd=CHECKOUT, check=True)
        imports.append(time.perf_counter() - begun)
    start, importing = statistics.median(starts), statistics.median(imports)
    emit(
        f"start-up of the quickstart, medians of {options.times}",
        [
            {"what": "command to first step", "seconds": start, "least": min(starts), "most": max(starts)},
            {"what": "of these imports", "seconds": importing, "least": min(imports), "most": max(imports)},
        ],
        {f"{start:.1f} s < 12 s": start < 12},
    )
    print("\nslowest imports, with what they import:")
    for seconds, name in _slowest():
        print(f"  {seconds:.2f} s  {name}")


def _to_first_step(folder: Path) -> float:
    """Starts a run, waits for the log line of its first step, and ends the run."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    begun = time.time()
    process = subprocess.Popen(
        [sys.executable, "-m", "rrm_transfer", *_COMMAND, "--output", str(folder)],
        cwd=CHECKOUT,
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    try:
        while process.poll() is None:
            log = folder / "log.jsonl"
            for line in log.read_text(encoding="utf-8").splitlines() if log.is_file() else []:
                if '"event": "step"' in line and line.endswith("}"):
                    first: float = json.loads(line)["time"]
                    return first - begun
            time.sleep(0.05)
    finally:
        process.terminate()
        process.wait()
    raise RuntimeError(f"the run ended with {process.returncode} before its first step")


def _slowest(count: int = 12) -> list[tuple[float, str]]:
    ended = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", _IMPORTS],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    )
    found = [(int(m[1]) / 1e6, m[3]) for m in _IMPORTTIME.finditer(ended.stderr)]
    return sorted(found, reverse=True)[:count]


if __name__ == "__main__":
    main()
