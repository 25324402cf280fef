"""SegmentAnything: SAM by its authors' own package, for the ``.pth`` files that they publish.

Source: Kirillov et al. 2023, "Segment Anything", arXiv 2304.02643; the package ``segment_anything`` 1.0, Apache-2.0.
Weights: ``sam_vit_h_4b8939.pth``, ``sam_vit_l_0b3195.pth`` and ``sam_vit_b_01ec64.pth``, linked under "Model
Checkpoints" in the README of github.com/facebookresearch/segment-anything, Apache-2.0; the default is a copy of them.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from scenewright.annotators.box_prompts import BoxPrompted, Seen, best, ready, thickened
from scenewright.checkpoints import Checkpoint, CheckpointError, fill, read_tensors
from scenewright.layout import Image
from scenewright.networks import precision

#: Heads of the decoder's attention in every published file; no tensor's shape tells.
_DECODER_HEADS = 8


class SegmentAnything(BoxPrompted):
    """Segments each box with Meta's package.

    The file is read as tensors only, never as a pickle that may run code, and its architecture from their shapes.
    Images are resized as transformers does, on their own device: bilinear with antialiasing on 8-bit pixels, which
    differs from the package's own way through Pillow by one level of 255 at most.

    Args:
        checkpoint: a published file, a folder with it, or a hub's repository with it.
        filename: of the file in the folder or repository.
        multimask: take the best of three candidates (part, object, whole) by predicted IoU; else the single one, as
            is right for boxes.
        batch_size: images that are looked at together.
        boxes_per_call: boxes of one image that are decoded together.
        dtype: of the image encoder: "float32", "bfloat16" or "float16". Prompts and masks are float32.
        compile: compile the image encoder on first use.
    """

    #: The package's decoder takes the prompts of one image at a time.
    across_images = False

    def __init__(
        self,
        checkpoint: str = "ybelkada/segment-anything",
        revision: str = "main",
        *,
        filename: str = "checkpoints/sam_vit_h_4b8939.pth",
        multimask: bool = False,
        batch_size: int = 4,
        boxes_per_call: int = 64,
        dtype: str = "float32",
        compile: bool = False,
    ) -> None:
        self.checkpoint, self.revision, self.filename, self.multimask = checkpoint, revision, filename, multimask
        self.batch_size, self.boxes_per_call = batch_size, boxes_per_call
        self.dtype, self.compile = dtype, compile

    @property
    def checkpoints(self) -> list[Checkpoint]:
        return [Checkpoint(self.checkpoint, self.revision, (self.filename,))]

    def _look(self, images: list[Image]) -> Seen:
        network = self._network.to(images[0].device)
        side, shapes = network.image_encoder.img_size, [tuple(image.shape[1:]) for image in images]
        small = [_resized(thickened(image, side), side) for image in images]
        sizes = [(image.shape[1], image.shape[2]) for image in small]
        pixels = torch.stack([network.preprocess(image.float()) for image in small])
        embeddings = network.image_encoder(pixels.to(precision(self.dtype))).float()
        positions = network.prompt_encoder.get_dense_pe()

        def decode(places: list[int], prompts: Tensor) -> tuple[Tensor, Tensor]:
            sparse, dense = network.prompt_encoder(points=None, boxes=prompts, masks=None)
            return best(
                *network.mask_decoder(
                    image_embeddings=embeddings[places[:1]],
                    image_pe=positions,
                    sparse_prompt_embeddings=sparse,
                    dense_prompt_embeddings=dense,
                    multimask_output=self.multimask,
                )
            )

        def enlarge(i: int, logits: Tensor) -> Tensor:
            return network.postprocess_masks(logits[:, None], sizes[i], shapes[i])[:, 0] > network.mask_threshold

        return Seen(sizes, decode, enlarge)

    @cached_property
    def _network(self) -> Any:
        path = self.checkpoints[0].path()
        network = _read(path)
        return ready(network, network.image_encoder, [network.image_encoder], self.dtype, self.compile)


def _resized(image: Image, side: int) -> Image:
    from segment_anything.utils.transforms import ResizeLongestSide

    height, width = image.shape[1:]
    return resize(image, list(ResizeLongestSide.get_preprocess_shape(height, width, side)), antialias=True)


def _read(path: str | Path) -> Any:
    """The network that a file holds.

    Raises:
        CheckpointError: it is no file of the package.
    """
    tensors = read_tensors(path)
    try:
        with torch.device("meta"):  # no second copy of the weights, and no random ones
            network = _build(tensors)
    except (KeyError, IndexError, ZeroDivisionError) as error:
        raise CheckpointError(f"{path} is no checkpoint of segment_anything: it has no tensor {error}") from error
    network = network.to_empty(device="cpu")
    # not in the file: the mean and deviation of ImageNet's pixels, 0..255, as the package sets them
    network.pixel_mean = torch.tensor([123.675, 116.28, 103.53]).view(-1, 1, 1)
    network.pixel_std = torch.tensor([58.395, 57.12, 57.375]).view(-1, 1, 1)
    fill(network, tensors, path)
    return network


def _build(tensors: Mapping[str, Tensor]) -> Any:
    """The architecture of a file, read off its tensors' shapes."""
    from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    def shape(name: str) -> Sequence[int]:
        return tensors[name].shape

    def count(before: str, after: str) -> int:
        names = range(len(tensors))
        return next(i for i in names if f"{before}.{i}.{after}" not in tensors)

    patch, grid = shape("image_encoder.patch_embed.proj.weight")[-1], shape("image_encoder.pos_embed")[1]
    width, side = shape("image_encoder.neck.0.weight")[0], patch * grid
    decoder = "mask_decoder.transformer.layers"
    return Sam(
        image_encoder=_image_encoder(shape, count("image_encoder.blocks", "attn.qkv.weight"), patch, grid),
        prompt_encoder=PromptEncoder(
            embed_dim=width,
            image_embedding_size=(grid, grid),
            input_image_size=(side, side),
            mask_in_chans=shape("prompt_encoder.mask_downscaling.3.weight")[0],
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=shape("mask_decoder.mask_tokens.weight")[0] - 1,
            transformer=TwoWayTransformer(
                depth=count(decoder, "norm1.weight"),
                embedding_dim=width,
                mlp_dim=shape(f"{decoder}.0.mlp.lin1.weight")[0],
                num_heads=_DECODER_HEADS,
            ),
            transformer_dim=width,
            iou_head_depth=count("mask_decoder.iou_prediction_head.layers", "weight"),
            iou_head_hidden_dim=shape("mask_decoder.iou_prediction_head.layers.0.weight")[0],
        ),
    )


def _image_encoder(shape: Any, depth: int, patch: int, grid: int) -> Any:
    from segment_anything.modeling import ImageEncoderViT

    width = shape("image_encoder.patch_embed.proj.weight")[0]
    # relative positions reach from one end of the block's window to the other: 2 * window - 1
    reach = [shape(f"image_encoder.blocks.{i}.attn.rel_pos_h") for i in range(depth)]
    windows = [(length + 1) // 2 for length, _ in reach]
    norm: Any = partial(torch.nn.LayerNorm, eps=1e-6)
    return ImageEncoderViT(
        img_size=patch * grid,
        patch_size=patch,
        embed_dim=width,
        depth=depth,
        num_heads=width // reach[0][1],
        mlp_ratio=shape("image_encoder.blocks.0.mlp.lin1.weight")[0] / width,
        out_chans=shape("image_encoder.neck.0.weight")[0],
        qkv_bias=True,
        norm_layer=norm,
        use_rel_pos=True,
        window_size=min(windows),
        global_attn_indexes=tuple(i for i, window in enumerate(windows) if window == grid),
    )
