"""Networks of Grounding DINO's kind: images and a caption in, boxes and a score for every token out.

Source: Liu et al. 2023, arXiv 2303.05499.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torchvision.ops import box_convert

from scenewright.annotators.box_prompts import thickened
from scenewright.annotators.prompts import Prompt, assign, joined, packed, phrases
from scenewright.annotators.suppression import suppress
from scenewright.annotators.text_features import RememberedText
from scenewright.batching import in_batches
from scenewright.layout import Image, Layout

#: One image and one of its prompts.
Question = tuple[Image, Prompt]


@dataclass(frozen=True, eq=False)
class Grounding:
    """Asks such a network where tags are.

    Attributes:
        network: of transformers, in the precision it runs in.
        processor: its ``GroundingDinoProcessor``.
        box_threshold: a box is kept when its score is above this.
        text_threshold: with ``labels="tokens"``, a token is part of the label when its score is above this.
        separator: between two tags of the caption.
        labels: ``tags``: each box gets the tag in which its surest token lies; tags that do not fit into one
            caption are asked for in several. ``tokens``: each box gets all sure tokens of one caption, which is
            cut where it is too long.
        pad_to: images are padded to multiples of so many pixels, and those of one size run together.
        batch_size: images and captions that run together.
        suppression: options of ``suppress``.
    """

    network: Any
    processor: Any
    box_threshold: float
    text_threshold: float
    separator: str
    labels: str
    pad_to: int
    batch_size: int
    suppression: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        model = self.network.model
        model.text_backbone = RememberedText(model.text_backbone, self.processor.tokenizer.pad_token_id)

    @property
    def token_limit(self) -> int:
        """The most tokens of a caption."""
        return self.network.config.max_text_len

    def caption(self, tags: Sequence[str]) -> Prompt:
        """All tags in one caption, however long."""
        return Prompt(tuple(self.processor.tokenizer(joined(tags, self.separator))["input_ids"]))

    def prompts(self, tags: Sequence[str]) -> list[Prompt]:
        """What to ask for these tags; nothing for none."""
        if self.labels == "tags":
            return packed(tags, self.processor.tokenizer, separator=self.separator, limit=self.token_limit)
        return [self.caption(tags)] if tags else []

    @torch.inference_mode()
    def detect(self, images: Sequence[Image], tags: Sequence[Sequence[str]]) -> list[Layout]:
        """Find the tags in the images; an image without tags has no regions."""
        asked = [self.prompts(x) for x in tags]
        longest = self.processor.image_processor.size["longest_edge"]
        seen = [thickened(image, longest) if longest else image for image in images]
        questions = [(image, x) for image, some in zip(seen, asked, strict=True) for x in some]
        if questions:
            self.network.to(images[0].device)
        answers = iter(in_batches(self._answer, questions, self.batch_size, alike=self._padded_size))
        found = [Layout.joined([next(answers) for _ in some]) for some in asked]
        return [suppress(x, **self.suppression) if len(x) else x for x in found]

    def _padded_size(self, question: Question) -> tuple[int, int]:
        from transformers.image_transforms import get_size_with_aspect_ratio

        size = self.processor.image_processor.size
        if size["shortest_edge"]:
            sides = get_size_with_aspect_ratio(question[0].shape[1:], size["shortest_edge"], size["longest_edge"])
        else:
            sides = (size["height"], size["width"])
        height, width = (-(-side // self.pad_to) * self.pad_to for side in sides)
        return height, width

    def _answer(self, questions: list[Question]) -> list[Layout]:
        images = [image for image, _ in questions]
        device, (height, width) = images[0].device, self._padded_size(questions[0])
        pictures = self.processor.image_processor(
            images, return_tensors="pt", device=device, do_pad=True, pad_size={"height": height, "width": width}
        )
        rows = [torch.tensor(prompt.tokens) for _, prompt in questions]
        padding = self.processor.tokenizer.pad_token_id
        tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=padding).to(device)  # (b, t)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        present = torch.arange(tokens.shape[1], device=device) < lengths[:, None]
        outputs = self.network(
            pixel_values=pictures["pixel_values"].to(self.network.dtype),
            pixel_mask=pictures["pixel_mask"],
            input_ids=tokens,
            # the network itself cuts the tokens, after it has looked for the ends of sentences, as the original does
            attention_mask=present[:, : self.token_limit],
        )
        probabilities = outputs.logits.float().sigmoid().cpu()  # (b, q, token_limit)
        boxes = box_convert(outputs.pred_boxes.float().cpu(), "cxcywh", "xyxy")  # (b, q, 4)
        prompts = [prompt for _, prompt in questions]
        return [self._layout(*x) for x in zip(probabilities, boxes, prompts, strict=True)]

    def _layout(self, probabilities: torch.Tensor, boxes: torch.Tensor, prompt: Prompt) -> Layout:
        if self.labels == "tags":
            scores, owners = assign(probabilities, prompt)
        else:
            scores, owners = probabilities.max(1).values, None
        kept = scores > self.box_threshold
        if owners is not None:
            labels = [prompt.tags[i] for i in owners[kept].tolist()]
        else:
            rows = phrases(probabilities[kept], prompt.tokens, self.text_threshold)
            labels = [self.processor.tokenizer.decode(row) for row in rows]
        return Layout(boxes=boxes[kept], labels=labels, scores=scores[kept])
