#!/usr/bin/env bash
# pytest 7.4.4, 8.4.2 and 9.2.0 each run something else for `pytest tests/test_z.py tests`, and none what one expects.
#
# The guess: tests run in the order of the arguments and once each, so that a file named before its folder starts first,
# which keeps a long one from running alone at the end under pytest-xdist.
# It is wrong: 7.4.4 runs the file twice. 8.4.2 runs the file and, without a word, nothing else of the folder. 9.2.0
# drops the file, which the folder contains, and keeps the folder's order.
#
# Seen:
#   pytest 7.4.4: test_z.py test_a.py test_z.py
#   pytest 8.4.2: test_z.py
#   pytest 9.2.0: test_a.py test_z.py
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/tests"
for name in a z; do echo "def test(): pass" >"$folder/tests/test_$name.py"; done
cd "$folder"
check() {
  python3 -m venv "$1"
  "$1/bin/pip" install -q "pytest==$1"
  order=$("$1/bin/python" -m pytest --collect-only -q tests/test_z.py tests | sed -n 's|tests/\(.*\)::.*|\1|p' | xargs)
  echo "pytest $1: $order"
  [ "$order" = "$2" ]
}
check 7.4.4 "test_z.py test_a.py test_z.py"
check 8.4.2 "test_z.py"
check 9.2.0 "test_a.py test_z.py"
