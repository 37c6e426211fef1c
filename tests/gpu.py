"""What needs a GPU, in one command: tests marked `gpu`, benchmarks on CUDA, a measured projection of the paper.

    python tests/gpu.py FOLDER              # one GPU, some ten minutes; the same command goes on where it was stopped
    python tests/gpu.py FOLDER --device cpu # small sizes, to see that the script works

It writes FOLDER/gpu.json (every step's command, time and output) and FOLDER/gpu.md (the same for people). Nothing is
fetched: networks have random weights, and images and features are noise.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from dr_utils.device import hardware_name
from dr_utils.store import atomic_path

ROOT = Path(__file__).resolve().parent.parent
BENCH = "tests/benchmarks/bench_"
TESTS = "-m pytest -q -m gpu " + " ".join(
    f"tests/{path.name}" for path in sorted(ROOT.glob("tests/test_*.py")) if "mark.gpu" in path.read_text()
)
# Enough images that hashing the weights, once a pass, does not count.
BATCHES = "--resolution 224 --rounds 2 --batch-size 64 256 512"
SMALL = {
    "tests": TESTS,
    "extraction": f"{BENCH}extraction.py --network resnet18_standard --images 64",
    "probes": f"{BENCH}probes.py --width 256 --images 500 --epochs 2",
    "probes, 1,000 classes": f"{BENCH}imagenet.py --images 2000 --width 128",
    "CKA": f"{BENCH}cka.py --width 256",
    "projection of the paper": "-m dr_utils estimate --profile mini",
}
LARGE = {
    "tests": TESTS,
    "extraction, images of 224 pixels": f"{BENCH}extraction.py {BATCHES} --images 16384 --side 224",
    "extraction, images of 32 pixels": f"{BENCH}extraction.py {BATCHES} --images 32768",
    "probes": f"{BENCH}probes.py --images 45000 --epochs 50 --loop-epochs 1",
    "probes on this machine's CPU": f"{BENCH}probes.py --images 45000 --epochs 2 --loop-epochs 0 --device cpu",
    "probes, 1,000 classes": f"{BENCH}imagenet.py --images 200000",
    "CKA": f"{BENCH}cka.py --images 10000",
    "projection of the paper": "-m dr_utils estimate --profile paper",
}


def main() -> int:
    """Run what has not been run yet; 1 if a step failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where gpu.json and gpu.md go")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="(default: %(default)s)")
    parser.add_argument("--only", nargs="+", default=[], metavar="STEP", help="steps whose names begin so")
    parser.add_argument("--minutes", type=float, default=25, help="no step begins later (default: %(default)s)")
    options = parser.parse_args()
    start, path = time.monotonic(), options.folder / "gpu.json"
    device = hardware_name(options.device)
    done = json.loads(path.read_text()) if path.exists() else {}
    if done.get("device", device) != device:
        parser.error(f"{path} is of {done['device']}, this is {device}; name another folder")
    steps = done.setdefault("steps", {})
    done |= {"device": device, "torch": torch.__version__, "cuda": torch.version.cuda}
    for name, command in (LARGE if options.device == "cuda" else SMALL).items():
        wanted = not options.only or name.startswith(tuple(options.only))
        if not wanted or steps.get(name, {}).get("status") == 0:
            continue
        if time.monotonic() - start > 60 * options.minutes:
            print(f"{name}: no time left; the same command goes on from here", flush=True)
            continue
        if name != "tests" and "--device" not in command:
            command += f" --device {options.device}"
        steps[name] = run(name, command)
        for file, text in ((path, json.dumps(done, indent=1)), (path.with_suffix(".md"), page(done))):
            with atomic_path(file) as part:
                part.write_text(text)
    return any(step["status"] for step in steps.values())


def run(name: str, command: str) -> dict:
    """Run one step in a process of its own, so that its peak memory is its own; show and keep what it prints."""
    print(f"== {name}: {command}", flush=True)
    began, lines = time.monotonic(), []
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    process = subprocess.Popen(
        [sys.executable, *command.split()], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "DR_PROGRESS": "off"},
    )  # fmt: skip
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line.rstrip())
    seconds = round(time.monotonic() - began, 1)
    return {"command": command, "status": process.wait(), "seconds": seconds, "output": lines}


def page(done: dict) -> str:
    """Return the table: a heading and what it printed for each step."""
    text = [f"# {done['device']}, torch {done['torch']}", ""]
    for name, step in done["steps"].items():
        state = "" if step["status"] == 0 else f", FAILED with status {step['status']}"
        text += [f"## {name} ({step['seconds']} s{state})", "", f"`{step['command']}`", ""]
        text += [*(f"    {line}" for line in step["output"][-30:]), ""]
    return "\n".join(text)


if __name__ == "__main__":
    sys.exit(main())
