"""What regional layers add to a step of SDXL: operations counted on the meta device, with and without them.

One image of 512 pixels, 64 x 64 latents. Guidance runs a step on two images, one of which has no layout and gets one
vector added. Keys and values are made in the first step and kept.
"""

import argparse
from typing import Any

import torch
from materials.layouts import WordTokenizer, random_layout
from torch.utils.flop_counter import FlopCounterMode

from scenewright.layout_models.rich_context.adapter import attach, attention_grids
from scenewright.layout_models.rich_context.grounding import Canvas, canvas, ground
from scenewright.layout_models.rich_context.regional_attention import Grounding

#: The configuration of stabilityai/stable-diffusion-xl-base-1.0, where it differs from diffusers' defaults.
SDXL = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "projection_class_embeddings_input_dim": 2816,
    "sample_size": 128,
    "transformer_layers_per_block": [1, 2, 10],
    "use_linear_projection": True,
}
GOAL = 1.15
#: What the published layers cost beside the base, counted in the same manner; it does not depend on the layout.
PUBLISHED = 4.37


def sdxl() -> Any:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    with torch.device("meta"):
        unet: Any = UNet2DConditionModel(**SDXL)
        attach(unet)
    return unet.eval()


def flops(unet: Any, side: int, count: int, grounding: Grounding | None) -> int:
    """Operations of one step on ``count`` images, two for each multiplication and addition."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        unet(
            torch.empty(count, 4, side, side),
            torch.empty(count),
            torch.empty(count, 77, 2048),
            added_cond_kwargs={"text_embeds": torch.empty(count, 1280), "time_ids": torch.empty(count, 6)},
            cross_attention_kwargs=None if grounding is None else {"gligen": {"grounding": grounding}},
        )
    return counter.get_total_flops()


def prepared(canvases: list[Canvas | None], grids: Any) -> Grounding:
    grounding = ground(canvases, lambda ids: torch.zeros(*ids.shape, 2048), grids).to("meta", torch.float32)
    grounding.reuse = True
    return grounding


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="one layout, to see that it runs")
    parser.add_argument("--side", type=int, default=64, help="of the latents, an eighth of the image's")
    options = parser.parse_args()
    unet, side = sdxl(), options.side
    grids = attention_grids(unet, side, side)
    base = flops(unet, side, 1, None)
    print(f"SDXL at {8 * side} px, one step on one image without layout: {base / 1e12:.3f} TFLOP")
    for objects in (5,) if options.smoke else (1, 5, 10, 20, 30):
        one = canvas(random_layout(objects), 8 * side, 8 * side, grids, WordTokenizer())
        single, guided = prepared([one], grids), prepared([None, one], grids)
        first = flops(unet, side, 1, single)
        flops(unet, side, 2, guided)
        half, both = flops(unet, side, 1, single) / base, flops(unet, side, 2, guided) / (2 * base)
        regions = [len(ids.unique()) for ids in one.ids]
        print(f"{objects:2d} objects, regions {regions}: step / base {half:.3f}, of both halves of guidance "
              f"{both:.3f} (goal {GOAL}), first step {first / base:.3f}")  # fmt: skip
    print(f"   for comparison, the published layers: step / base {PUBLISHED}")


if __name__ == "__main__":
    main()
