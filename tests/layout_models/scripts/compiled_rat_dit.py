"""Draws and learns with RAT-Diffusion's network compiled whole, and with the same one as it is.

Says whether both did the same.
"""

import json
from copy import deepcopy

import torch

from scenewright.layout_models.rat_dit.network import RatTransformer, Size


def main():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = RatTransformer(Size(depth=5, width=8, heads=2), grid=4, text_width=8)
    for parameter in network.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    network.gradient_checkpointing = True
    compiled = deepcopy(network)
    compiled.compile(backend="eager", fullgraph=True)
    noisy, text, timesteps = torch.randn(2, 4, 4, 4), torch.randn(2, 8), torch.tensor([3, 700])
    outputs, gradients = [], []
    for one in (network, compiled):
        output = one(noisy, timesteps, one.states(text))
        output.square().sum().backward()
        outputs.append(output)
        gradients.append([x.grad for x in one.parameters()])
    learnt = [torch.allclose(a, b, atol=1e-4, rtol=1e-4) for a, b in zip(*gradients, strict=True)]
    print(json.dumps({"drew": torch.allclose(*outputs, atol=1e-5), "learnt": all(learnt)}))


if __name__ == "__main__":
    main()
