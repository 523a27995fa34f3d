#!/usr/bin/env bash
# The DPT of segmentation_models_pytorch takes no image at all with tokens of 14 px.
#
# Library:  segmentation-models-pytorch 0.6.0 with timm 1.0.31
# Behavior: smp.DPT("tu-vit_small_patch14_dinov2", dynamic_img_size=True) is built
#           without a word, and then raises for every size of a square image, multiples
#           of 14 included: its decoder doubles maps to 1/32, 1/16, 1/8 and 1/4 of the
#           image, where a grid of tokens of 14 px never fits. With tokens of 16 px
#           multiples of 32 are taken, though its own check asks for multiples of 16.
# Matters:  DINOv2 and most pathology foundation models made like it (UNI 2, Virchow 2,
#           H-optimus, GigaPath with tokens of 14 or 16 px) are used as encoders with a
#           light decoder; which sizes a network takes is only seen by trying it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet \
  segmentation-models-pytorch==0.6.0 timm==1.0.31 torch==2.15.0 torchvision numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys
import warnings

import segmentation_models_pytorch as smp
import timm
import torch

warnings.simplefilter("ignore")
taken = {}
for px in (14, 16):
    name = {14: "tu-vit_small_patch14_dinov2", 16: "tu-vit_small_patch16_224"}[px]
    with torch.device("meta"):  # shapes alone: nothing is computed
        network = smp.DPT(name, encoder_weights=None, classes=2, dynamic_img_size=True)
        taken[px] = []
        for side in range(px, 1100, px):
            try:
                network.eval()(torch.empty(1, 3, side, side))
                taken[px].append(side)
            except RuntimeError:
                pass
    tried = len(range(px, 1100, px))
    print(f"smp {smp.__version__}, timm {timm.__version__}, tokens of {px} px: takes "
          f"{len(taken[px])} of {tried} sizes that are multiples of {px}")
by_32 = bool(taken[16]) and all(side % 32 == 0 for side in taken[16])
print("those taken with tokens of 16 px are all multiples of 32:", by_32)
sys.exit(not (taken[14] == [] and by_32))
PYTHON
