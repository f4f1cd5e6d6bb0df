#!/usr/bin/env bash
# ale-py 0.12.1 AtariVectorEnv: close() closes nothing.
#
# The guess: after close() the emulators' threads have ended, as after that of gymnasium's AsyncVectorEnv, so an
# evaluation that makes environments and closes them leaves none behind.
# It is wrong: close() is the one of gymnasium's base class. The threads end with the last reference to the object. Code
# that closes environments but keeps them, in a list or on a logger, gathers threads and emulators phase by phase.
#
# Seen (2 cores, 8 games): threads before 1, open 3, closed 3, after del 1
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q ale-py==0.12.1 gymnasium==1.4.0 numpy==2.4.6 psutil==7.2.2
cd "$folder"
OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 "$folder/venv/bin/python" - <<'EOF'
import numpy as np
import psutil
from ale_py import AtariVectorEnv

threads = psutil.Process().num_threads
before = threads()
games = AtariVectorEnv("breakout", 8, num_threads=8)
games.reset(seed=np.arange(8))
opened = threads()
games.close()
closed = threads()
del games
deleted = threads()
print(f"threads before {before}, open {opened}, closed {closed}, after del {deleted}")
assert opened > before and closed == opened and deleted == before, "another behaviour than in ale-py 0.12.1"
EOF
