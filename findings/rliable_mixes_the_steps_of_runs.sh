#!/usr/bin/env bash
# rliable 1.2.0 get_interval_estimates with scores of (runs, games, steps): a resampled "run" is put together from other
# runs step by step; and random_state does not seed.
#
# The guess: a bootstrap draws whole runs, so that the interval of a statistic over steps (area under the curve, mean
# or maximum over the run) is that of the same statistic computed before.
# It is wrong: every step of every game draws its own run. The interval at each single step is right; that of an average
# over steps shrinks with the root of their number, and the more evaluations one logs, the surer one seems.
# The second guess was that random_state=RandomState(0) makes the interval repeatable; np.random.seed(0) does.
#
# Seen (10 runs of 5 games that differ from run to run only, not from step to step):
#   width of the interval of the mean, averaged over 25 steps before: 0.49, inside: 0.09
#   two calls with random_state=RandomState(0): equal False, after np.random.seed(0): equal True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q rliable==1.2.0 arch==7.2.0 pandas==2.3.3 numpy==2.4.6 scipy==1.17.1
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'EOF'
import numpy as np
from rliable import library

runs = np.random.default_rng(0).normal(size=(10, 5))
curves = np.repeat(runs[:, :, None], 25, axis=2)


def interval(scores, **kwargs):
    _, limits = library.get_interval_estimates({"a": scores}, lambda s: np.array([s.mean()]), reps=300, **kwargs)
    return limits["a"].ravel()


np.random.seed(0)
before, inside = np.ptp(interval(runs)), np.ptp(interval(curves))
print(f"width of the interval of the mean, averaged over 25 steps before: {before:.2f}, inside: {inside:.2f}")
assert before > 3 * inside

with_argument = [interval(runs, random_state=np.random.RandomState(0)) for _ in range(2)]
with_seed = []
for _ in range(2):
    np.random.seed(0)
    with_seed.append(interval(runs))
equal = [np.array_equal(*pair) for pair in (with_argument, with_seed)]
print(f"two calls with random_state=RandomState(0): equal {equal[0]}, after np.random.seed(0): equal {equal[1]}")
assert equal == [False, True]
EOF
