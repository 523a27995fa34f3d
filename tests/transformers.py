"""Members whose encoders are transformers, with decoders that build in no time."""

from digipath_ray.config.run import MemberSpec

LIGHT_DECODER = {
    "decoder_intermediate_channels": [8, 8, 8, 8],
    "decoder_fusion_channels": 8,
}


def dpt(encoder: str, **options: object) -> MemberSpec:
    """A DPT of 24 channels with an encoder of timm, randomly weighted."""
    small = {"embed_dim": 24, "num_heads": 2, **LIGHT_DECODER}
    return MemberSpec(
        name="vit",
        architecture="DPT",
        encoder=f"tu-{encoder}",
        weights="random",
        options={**small, **options},
    )


VIT16 = dpt("vit_tiny_patch16_224")
VIT14 = dpt("vit_small_patch14_dinov2")
VIT32 = dpt("vit_small_patch32_224")
