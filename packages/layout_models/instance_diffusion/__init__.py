"""InstanceDiffusion and GLIGEN on a stock Stable Diffusion: grounding tokens beside the pixels of each block.

What a token says is made in ``unifusion`` (InstanceDiffusion: box, point, scribble, mask) or ``gligen`` (box);
``gated_attention`` lets pixels read it, ``scaleu`` rescales the decoder's features, ``attach`` puts all of them on a
UNet, and ``sampler`` draws with the multi-instance sampler.

Source: Wang et al. 2024, arXiv 2402.03290 (InstanceDiffusion); Li et al. 2023, arXiv 2301.07093 (GLIGEN).
"""
