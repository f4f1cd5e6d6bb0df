#!/usr/bin/env bash
# rlax 0.1.9 quantile_regression_loss: kappa (huber_param) scales the loss, and 0 is not its limit.
#
# The guess: the Huber loss is divided by kappa (Dabney et al. 2018, equation 3), so a small kappa gives nearly the
# quantile loss, which 0 gives exactly.
# It is wrong: it is not divided. From kappa 1 to 0.01 the loss and its gradients shrink a hundredfold, and 0 brings them
# back: a sweep over kappa is a sweep over learning rates. At kappa 1 nothing is different.
#
# Seen (4 fractions of 0.5, targets 3 away; divided by kappa it would be 5.0, 5.9, 5.99, 6.0):
#   kappa 1: 5, 0.1: 0.59, 0.01: 0.0599, 0: 6
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q rlax==0.1.9 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cd "$folder"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'EOF'
import jax.numpy as jnp
import rlax

quantiles, fractions, targets = jnp.zeros(4), jnp.full(4, 0.5), jnp.full(4, 3.0)
losses = [float(rlax.quantile_regression_loss(quantiles, fractions, targets, kappa)) for kappa in (1.0, 0.1, 0.01, 0.0)]
print("kappa 1: {:.3g}, 0.1: {:.3g}, 0.01: {:.3g}, 0: {:.3g}".format(*losses))
assert [round(loss, 4) for loss in losses] == [5.0, 0.59, 0.0599, 6.0]
EOF
