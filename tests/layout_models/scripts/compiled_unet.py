"""Draws and learns with a UNet whose blocks are compiled whole, and with the same one as it is.

Says whether both did the same.
"""

import json
from copy import deepcopy

import torch
from diffusers import UNet2DConditionModel

from scenewright.layout import Layout
from scenewright.layout_models.rich_context.adapter import adapter_parameters, attach, attention_grids, freeze_base
from scenewright.layout_models.rich_context.grounding import canvas, ground


class Words:
    bos, eos, pad, separator, length = 1, 2, 0, 3, 9

    def tokens(self, text):
        return [4 + sum(map(ord, word)) % 60 for word in text.split()]


def main():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8,),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("UpBlock2D",),
        mid_block_type=None,
        cross_attention_dim=12,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    attach(unet)
    freeze_base(unet)
    for parameter in adapter_parameters(unet).values():
        torch.nn.init.normal_(parameter, std=0.3)
    compiled = deepcopy(unet)
    compiled.compile_repeated_blocks(backend="aot_eager", fullgraph=True)
    grids = attention_grids(unet, 8, 8)

    def predict(network, count, reuse=False):
        boxes = torch.rand(count, 4, generator=torch.Generator().manual_seed(count)).cumsum(1).clamp(max=2) / 2
        layout = Layout(boxes=boxes, labels=[f"thing {i}" for i in range(count)])
        encode = torch.nn.functional.one_hot
        prepared = [canvas(layout, 64, 64, grids, Words()), None]
        grounding = ground(prepared, lambda ids: encode(ids % 12, 12).float(), grids)
        grounding.reuse = reuse
        sample = torch.linspace(-1, 1, 2 * 4 * 64).view(2, 4, 8, 8)
        for _ in range(1 + reuse):
            more = {"gligen": {"grounding": grounding}}
            result = network(sample, 7, torch.ones(2, 3, 12), cross_attention_kwargs=more).sample
        return result

    same = True
    with torch.no_grad():
        for count in (2, 6):
            same &= torch.allclose(predict(compiled, count, reuse=True), predict(unet, count), atol=1e-5)
    found = []
    for network in (unet, compiled):
        predict(network, 4).square().mean().backward()
        found.append({name: x.grad for name, x in network.named_parameters() if x.grad is not None})
    same &= found[0].keys() == found[1].keys() and len(found[0]) > 5
    same &= all(torch.allclose(x, found[1][name], atol=1e-6) for name, x in found[0].items())
    print(json.dumps({"same": same}))


if __name__ == "__main__":
    main()
