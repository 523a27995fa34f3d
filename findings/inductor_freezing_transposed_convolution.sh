#!/usr/bin/env bash
# torch.compile with freezing gets batch norm after a transposed convolution wrong.
#
# Library:  torch 2.15.0, on the CPU (the same in 2.12.1)
# Behavior: with torch._inductor.config.freezing, which folds constants for inference,
#           ConvTranspose2d(n, n) followed by BatchNorm2d(n) in eval mode gives other
#           numbers than without: off by several per cent of the largest value, no
#           warning. With as many input as output channels only; ConvTranspose2d(n, m)
#           is right. A transposed convolution keeps its output channels on the second
#           axis of its weight; the numbers are those of a scale along the first.
# Matters:  decoders of segmentation networks (LinkNet, several U-Nets) upsample by just
#           this pair. Frozen for speed, such a network gives plausible tumor
#           probabilities that are wrong; here a LinkNet's differed by as much as they
#           varied at all.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 numpy==2.4.6
TORCHINDUCTOR_CACHE_DIR="$folder/cache" "$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
import torch._inductor.config as inductor
from torch import nn

torch.manual_seed(0)
wrong = {}
for outputs in (16, 8):
    network = nn.Sequential(
        nn.ConvTranspose2d(16, outputs, 4, stride=2, padding=1), nn.BatchNorm2d(outputs)
    ).eval()
    network[1].running_mean.normal_()
    network[1].running_var.uniform_(0.5, 2)
    image = torch.rand(1, 16, 32, 32)
    for freezing in (False, True):
        torch._dynamo.reset()
        inductor.freezing = freezing
        with torch.no_grad():
            want = network(image)
            error = (torch.compile(network)(image) - want).abs().max() / want.abs().max()
        wrong[outputs, freezing] = float(error) > 0.01
        print(f"torch {torch.__version__}: 16 -> {outputs} channels, freezing "
              f"{freezing}: off by {float(error):.2g} of the largest value")
sys.exit(wrong != {(16, False): False, (16, True): True, (8, False): False, (8, True): False})
PYTHON
