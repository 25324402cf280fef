"""Annotators with the networks of the field, small and with random weights: they cost what such networks cost.

What they find means nothing. Each prepares and runs its images as one batch.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.ops import box_convert, roi_align

from scenewright.layout import Image, Layout, RunLengths

#: As transformers' image processors have them.
_MEAN, _STD = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]


class RandomGroundingDINO:
    """Grounding DINO on a Swin and a BERT of a few layers; its surest boxes, whatever they are."""

    def __init__(self, side: int = 160, regions: int = 6) -> None:
        self.side, self.regions = side, regions

    @cached_property
    def _network(self) -> Any:
        swin = transformers.SwinConfig(embed_dim=48, depths=[2, 2, 2, 2], num_heads=[2, 4, 8, 16], image_size=self.side)
        swin.out_indices = [2, 3, 4]
        bert = transformers.BertConfig(
            hidden_size=128, num_hidden_layers=2, num_attention_heads=4, intermediate_size=512
        )
        config = transformers.GroundingDinoConfig(
            backbone_config=swin,
            text_config=bert,
            d_model=128,
            encoder_layers=2,
            decoder_layers=2,
            encoder_ffn_dim=512,
            decoder_ffn_dim=512,
            num_queries=100,
        )
        return _seeded(transformers.GroundingDinoForObjectDetection, config)

    @torch.no_grad()
    def detect(self, images: Sequence[Image], tags: Sequence[Sequence[str]]) -> list[Layout]:
        # "[CLS] a . b . [SEP]", as BERT's tokenizer numbers the marks
        ids = torch.tensor([[101, 3899, 1012, 4937, 1012, 5637, 1012, 102]]).expand(len(images), -1)
        out = self._network(pixel_values=_prepared(images, self.side), input_ids=ids)
        scores, places = out.logits.sigmoid().amax(-1).topk(self.regions)
        layouts = []
        for boxes, sure, at in zip(out.pred_boxes, scores, places, strict=True):
            corners = box_convert(boxes[at], "cxcywh", "xyxy").clamp(0, 1)
            layouts.append(Layout(boxes=corners, labels=["thing"] * len(at), scores=sure))
        return layouts


class RandomSAM:
    """SAM with a small image encoder; all boxes of all images in one call."""

    def __init__(self, side: int = 192) -> None:
        self.side = side

    @cached_property
    def _network(self) -> Any:
        vision = transformers.SamVisionConfig(
            hidden_size=192,
            num_hidden_layers=4,
            num_attention_heads=6,
            global_attn_indexes=[1, 3],
            image_size=self.side,
        )
        prompts = transformers.SamPromptEncoderConfig(image_size=self.side)
        return _seeded(
            transformers.SamModel, transformers.SamConfig(vision_config=vision, prompt_encoder_config=prompts)
        )

    @torch.no_grad()
    def segment(self, images: Sequence[Image], layouts: Sequence[Layout]) -> list[list[RunLengths]]:
        most = max(map(len, layouts))
        boxes = torch.stack([torch.cat([x.boxes, x.boxes.new_zeros(most - len(x), 4)]) for x in layouts])
        pixels = _prepared(images, self.side)
        out = self._network(pixel_values=pixels, input_boxes=boxes * self.side, multimask_output=False)
        masks = []
        for image, layout, logits in zip(images, layouts, out.pred_masks[:, :, 0], strict=True):
            large = interpolate(logits[None, : len(layout)], image.shape[1:], mode="bilinear")[0]
            masks.append(RunLengths.encode(large > 0))
        return masks


class RandomBLIP:
    """BLIP of a few layers, eight words for each crop; the crops of all images in one call."""

    def __init__(self, side: int = 96) -> None:
        self.side = side

    @cached_property
    def _network(self) -> Any:
        vision = {"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 6}
        text = {**vision, "encoder_hidden_size": 192, "vocab_size": 30524}
        vision |= {"image_size": self.side, "patch_size": 16}
        config = transformers.BlipConfig(vision_config=vision, text_config=text, image_text_hidden_size=192)
        return _seeded(transformers.BlipForConditionalGeneration, config)

    @torch.no_grad()
    def caption(self, images: Sequence[Image], layouts: Sequence[Layout]) -> list[list[str]]:
        crops = []
        for image, layout in zip(images, layouts, strict=True):
            boxes = layout.pixel_boxes(image.shape[1], image.shape[2])
            crops.append(
                roi_align(image[None].float(), [boxes], (self.side, self.side), sampling_ratio=2, aligned=True)
            )
        pixels = (torch.cat(crops) / 255 - _MEAN) / _STD
        words = self._network.generate(pixel_values=pixels, min_new_tokens=8, max_new_tokens=8)
        captions = iter(" ".join(map(str, line)) for line in words.tolist())
        return [[next(captions) for _ in range(len(layout))] for layout in layouts]


def _prepared(images: Sequence[Image], side: int) -> Tensor:
    """One normalised batch of squares."""
    squares = [interpolate(x[None].float(), (side, side), mode="bilinear", antialias=True) for x in images]
    return (torch.cat(squares) / 255 - _MEAN) / _STD


def _seeded(kind: Any, config: Any) -> Any:
    """A network with the same random weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(config).eval()
