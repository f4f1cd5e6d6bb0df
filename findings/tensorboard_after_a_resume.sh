#!/usr/bin/env bash
# TensorBoard 2.21.0 (data server 0.7.2) with PyTorch 2.13.0's SummaryWriter: three readers of one resumed run, three
# curves.
#
# The guess: without purge_step the repeated steps are there twice, with purge_step=T all that was logged at T or later
# is gone, and this holds wherever one looks.
# It is wrong: EventAccumulator, from which one plots, is like that. The page, by default, knows nothing of purge_step:
# it drops what lies at or after the first step that this curve was given again, so a curve that is logged less
# often keeps points of the discarded past, and one that is not logged again keeps all. The page with --load_fast=false
# drops nothing at all.
#
# Seen (0, 10, ..., 90 were logged; a run resumed at 50 logs 60, 70, 80, 90; points shown of steps 50 and more):
#   no purge_step: EventAccumulator 50 60 70 80 90 60 70 80 90, page 50 60 70 80 90, slow page 50 60 70 80 90 60 70 80 90
#   purge_step=50: EventAccumulator 60 70 80 90, page 50 60 70 80 90, slow page 50 60 70 80 90 60 70 80 90
#   purge_step=50, not logged again: EventAccumulator -, page 50 60 70 80 90, slow page 50 60 70 80 90
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0
"$folder/venv/bin/pip" install -q tensorboard==2.21.0 tensorboard-data-server==0.7.2 numpy==2.4.6
cd "$folder"
timeout 200 "$folder/venv/bin/python" - 2>/dev/null <<'EOF'
import json
import subprocess
import sys
import time
import urllib.request

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

ALL, NEW = [50, 60, 70, 80, 90], [60, 70, 80, 90]
RUNS = {  # purge_step, steps after the resume; what the accumulator, the page and the slow page show from 50 on
    "no purge_step": (None, NEW, ALL + NEW, ALL, ALL + NEW),
    "purge_step=50": (50, NEW, NEW, ALL, ALL + NEW),
    "purge_step=50, not logged again": (50, [], [], ALL, ALL),
}
for name, (purge_step, steps, *_) in RUNS.items():
    for kwargs, logged in (({}, range(0, 100, 10)), ({"purge_step": purge_step}, steps)):
        writer = SummaryWriter(f"runs/{name}", **kwargs)
        for step in logged:
            writer.add_scalar("x", step, step)
        writer.close()
        time.sleep(1.1)  # the name of an event file has the second


def from_50(steps):
    return [int(step) for step in steps if step >= 50]


def accumulated(name):
    accumulator = EventAccumulator(f"runs/{name}")
    accumulator.Reload()
    return from_50(event.step for event in accumulator.Scalars("x"))


def page(port, *flags):
    """The steps that the page's own requests get, by run."""

    def get(path):
        with urllib.request.urlopen(f"http://localhost:{port}/data/plugin/scalars/{path}") as reply:
            return json.load(reply)

    command = [sys.executable, "-m", "tensorboard.main", "--logdir", "runs", "--port", str(port), *flags]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(60):
            time.sleep(1)
            try:
                if len(get("tags")) == len(RUNS):
                    break
            except OSError:
                pass
        time.sleep(3)
        urls = {name: f"scalars?run={urllib.request.quote(name)}&tag=x" for name in RUNS}
        return {name: from_50(point[1] for point in get(url)) for name, url in urls.items()}
    finally:
        server.terminate()
        server.wait()


shown, slow = page(16006), page(16007, "--load_fast=false")
for name, (_, _, *expected) in RUNS.items():
    seen = [accumulated(name), shown[name], slow[name]]
    texts = [" ".join(map(str, steps)) or "-" for steps in seen]
    print(f"{name}: EventAccumulator {texts[0]}, page {texts[1]}, slow page {texts[2]}")
    assert seen == expected
EOF
