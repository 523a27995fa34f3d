#!/usr/bin/env bash
# timm's "SwiGLU" layers gate by GELU in a VisionTransformer unless the activation is named.
#
# Library:  timm 1.0.31
# Behavior: timm.layers.SwiGLUPacked is a layer with SiLU in its definition. Given to a
#           VisionTransformer as mlp_layer, it is called with the transformer's own
#           activation, which is GELU if act_layer is not given: a GEGLU under the name
#           of SwiGLU. All tensors have the same names and shapes, so weights load with
#           strict=True, and every feature is a little wrong.
# Matters:  UNI 2, Virchow and Virchow 2 are loaded by giving mlp_layer. Who writes their
#           arguments down without act_layer=SiLU gets embeddings that look right
#           (cosine close to 1) and are of another network.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet timm==1.0.31 torch==2.15.0 torchvision numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import timm
import torch
from timm.layers import SwiGLUPacked

shape = {"embed_dim": 48, "depth": 4, "num_heads": 2, "mlp_ratio": 16 / 3}
torch.manual_seed(0)
alone = SwiGLUPacked(48, 256)
bare = timm.create_model("vit_huge_patch14_224", mlp_layer=SwiGLUPacked, **shape)
named = timm.create_model(
    "vit_huge_patch14_224", mlp_layer=SwiGLUPacked, act_layer=torch.nn.SiLU, **shape
)
said = {
    "the layer by itself": alone.act,
    "in a VisionTransformer": bare.blocks[0].mlp.act,
    "with act_layer=SiLU": named.blocks[0].mlp.act,
}
for where, activation in said.items():
    print(f"timm {timm.__version__}, SwiGLUPacked {where}: {type(activation).__name__}")
print("weights of one load into the other with strict=True:",
      named.load_state_dict(bare.state_dict(), strict=True))
with torch.inference_mode():
    image = torch.randn(1, 3, 224, 224)
    one, other = (m.eval().forward_features(image).flatten() for m in (bare, named))
difference = float((one - other).norm() / other.norm())
print(f"relative difference of their features: {difference:.3f}")
names = [type(activation).__name__ for activation in said.values()]
sys.exit(not (names == ["SiLU", "GELU", "SiLU"] and difference > 0.001))
PYTHON
