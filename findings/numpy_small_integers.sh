#!/usr/bin/env bash
# NumPy 2.4.6 Generator.integers: with uint8, int16 and bool, drawing 130 numbers at once is not drawing 13 ten times.
#
# The guess: a generator is a stream, so how one cuts it into calls does not matter (as with int64, floats, normals).
# It is wrong for dtypes of fewer than 32 bits: a call takes several numbers from one 32-bit word and throws the rest of
# the word away. Actions drawn as uint8 for 13 environments at a time differ from those drawn ahead for 10 steps; a
# prefetch or another batch size changes the run although "the same numbers" were drawn.
#
# Seen (whether the two are equal):
#   bool False, uint8 False, int16 False, int32 True, int64 True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'EOF'
import numpy as np


def same(dtype):
    high = 2 if dtype == "bool" else 18
    at_once = np.random.default_rng(0).integers(high, size=130, dtype=dtype)
    rng = np.random.default_rng(0)
    by_13 = np.concatenate([rng.integers(high, size=13, dtype=dtype) for _ in range(10)])
    return np.array_equal(at_once, by_13)


seen = {dtype: same(dtype) for dtype in ("bool", "uint8", "int16", "int32", "int64")}
print(", ".join(f"{dtype} {equal}" for dtype, equal in seen.items()))
assert list(seen.values()) == [False, False, False, True, True]
EOF
