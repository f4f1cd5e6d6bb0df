#!/usr/bin/env bash
# PyTorch 2.13.0 Optimizer.load_state_dict: it keeps the very tensors that it is given, and replaces those that one holds.
#
# The guess: it copies, as Module.load_state_dict does, and fills what is there.
# It is wrong both ways. The moments and the step count of the state_dict become the optimizer's own, so that after
# b.load_state_dict(a.state_dict()) every step of a changes b's moments: a population or an ensemble that copies its
# best member couples the two from then on. The same holds for a state_dict that was kept as "the best so far". And a
# learning rate that is a tensor is replaced by a copy: a schedule, or a CUDA graph, that writes to the old tensor
# has no effect after a resume.
#
# Seen:
#   b's step count after one step each of a and b: 3
#   the kept state's step count after one more step: 2
#   learning rate after lr.fill_(0.0): 0.1
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'EOF'
import torch


def member():
    parameter = torch.nn.Parameter(torch.zeros(3))
    return parameter, torch.optim.Adam([parameter], lr=0.1)


def step(parameter, optimizer):
    parameter.grad = torch.ones(3)
    optimizer.step()


a, adam_of_a = member()
step(a, adam_of_a)
b, adam_of_b = member()
adam_of_b.load_state_dict(adam_of_a.state_dict())
step(a, adam_of_a)
step(b, adam_of_b)
steps_of_b = int(adam_of_b.state[b]["step"])
print("b's step count after one step each of a and b:", steps_of_b)  # 1 from a's state, 1 of its own

a, adam_of_a = member()
step(a, adam_of_a)
kept = adam_of_a.state_dict()
step(a, adam_of_a)
print("the kept state's step count after one more step:", int(kept["state"][0]["step"]))

lr = torch.tensor(0.1)
parameter = torch.nn.Parameter(torch.zeros(3))
adam = torch.optim.Adam([parameter], lr=lr)
step(parameter, adam)
adam.load_state_dict(adam.state_dict())
lr.fill_(0.0)
lr_used = float(adam.param_groups[0]["lr"])
print(f"learning rate after lr.fill_(0.0): {lr_used:.1f}")

assert steps_of_b == 3 and int(kept["state"][0]["step"]) == 2 and round(lr_used, 6) == 0.1
EOF
