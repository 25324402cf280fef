"""How well a picture goes with a text, as CLIP sees it.

Source: Radford et al. 2021, arXiv 2103.00020. Weights: https://huggingface.co/openai/clip-vit-base-patch32, MIT.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any
from weakref import WeakValueDictionary

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.transforms.v2.functional import normalize, resize

from scenewright.batching import in_batches
from scenewright.checkpoints import MODEL_FILES, Checkpoint
from scenewright.layout import Image, Images
from scenewright.networks import precision

#: CLIP looks at the middle square of a picture; longer crops are cut to it with this margin before they are resized,
#: or a sliver of 1 x 1024 pixels would become one of 224 x 229376.
_LONGEST = 8

#: Networks that something holds: several metrics of one network load it once.
_IN_USE: WeakValueDictionary[tuple[Checkpoint, str, bool], Any] = WeakValueDictionary()

_NETWORK = ("config.json", "model.safetensors")
#: Not all that is saved anew has a preprocessor_config.json, so that it is no sign of whether anything is there.
_PROCESSOR = ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json")


class CLIP:
    """The two towers of a CLIP, on one sphere.

    Args:
        checkpoint: a CLIP of transformers, a folder or a hub id.
        batch_size: pictures or texts in one forward pass.
        dtype: of the weights: "float32", "bfloat16", "float16".
        compile: compile both towers on first use.
        processor: a folder or hub id that pictures and texts are prepared as, where the checkpoint has none of its
            own: PickScore's is that of the CLIP it was made from.
        processor_revision: of ``processor``.
    """

    def __init__(
        self,
        checkpoint: str,
        revision: str = "main",
        batch_size: int = 64,
        dtype: str = "float32",
        compile: bool = False,
        processor: str | None = None,
        processor_revision: str = "main",
    ) -> None:
        self.checkpoint, self.revision = checkpoint, revision
        self.batch_size, self.dtype, self.compile = batch_size, dtype, compile
        self.processor, self.processor_revision = processor, processor_revision

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """The network's, and the processor's if that is another."""
        if self.processor is None:
            return [Checkpoint(self.checkpoint, self.revision, MODEL_FILES)]
        network = Checkpoint(self.checkpoint, self.revision, _NETWORK)
        return [network, Checkpoint(self.processor, self.processor_revision, _PROCESSOR)]

    @property
    def scale(self) -> float:
        """What cosines are multiplied by before a softmax: 100 for OpenAI's checkpoints."""
        return self._network.logit_scale.detach().exp().item()

    @torch.inference_mode()
    def of_pictures(self, pictures: Sequence[Image], whole: bool = False) -> Float[Tensor, "n d"]:
        """One direction per picture, of length 1, where the pictures are.

        Args:
            whole: a picture is scaled to fit, and what is beside it in the square is of the colour that the network
                sees as zero. Else it sees the middle square of the picture, as CLIP was trained.
        """
        return self._stacked(in_batches(lambda some: self._see(some, whole), list(pictures), self.batch_size))

    @torch.inference_mode()
    def of_texts(self, texts: Sequence[str], device: torch.device | str) -> Float[Tensor, "n d"]:
        """One direction per text, of length 1; equal texts are encoded once, long ones cut to what CLIP reads.

        OpenAI's read 77 tokens, the first and the last of which are marks.
        """
        distinct = list(dict.fromkeys(texts))
        # padded texts read the same as alone: CLIP looks back only, and at the first end of text
        found = in_batches(lambda some: self._read(some, device), distinct, self.batch_size)
        place = {text: i for i, text in enumerate(distinct)}
        return self._stacked(found)[[place[text] for text in texts]]

    def logits(self, cosines: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """What the network itself says of pictures and texts with these cosines: scale × cosine."""
        return self.scale * cosines

    def _see(self, pictures: list[Image], whole: bool) -> list[Tensor]:
        device, processor = pictures[0].device, self._processor.image_processor
        if whole:
            squares = _in_squares(pictures, processor)
        else:
            bytes_only = {"do_rescale": False, "do_normalize": False}
            middles = [_middle(x) for x in pictures]
            squares = processor(middles, return_tensors="pt", device=device, **bytes_only)["pixel_values"]
        # as the processor would, but all at once and in place: floats are four times as large as bytes
        mean, deviation = (
            [x / processor.rescale_factor for x in y] for y in (processor.image_mean, processor.image_std)
        )
        pixels = normalize(squares.float(), mean, deviation, inplace=True)
        seen = self._network.to(device).get_image_features(pixels.to(device, self._network.dtype))
        return list(_on_sphere(seen))

    def _read(self, texts: list[str], device: torch.device | str) -> list[Tensor]:
        length = self._network.config.text_config.max_position_embeddings
        tokens = self._processor.tokenizer(
            texts, padding=True, truncation=True, max_length=length, return_tensors="pt"
        ).to(device)
        chosen: Mapping[str, Tensor] = {k: tokens[k] for k in ("input_ids", "attention_mask")}
        return list(_on_sphere(self._network.to(device).get_text_features(**chosen)))

    def _stacked(self, directions: Sequence[Tensor]) -> Float[Tensor, "n d"]:
        return torch.stack(list(directions)) if directions else torch.zeros(0, self._network.config.projection_dim)

    @cached_property
    def _network(self) -> Any:
        key = (self.checkpoints[0], self.dtype, self.compile)
        network = _IN_USE.get(key)
        if network is None:
            network = _IN_USE[key] = self._load()
        return network

    def _load(self) -> Any:
        from transformers import CLIPModel

        # None: OpenAI's repository of ViT-B/32 holds a .bin only, which transformers reads with weights_only=True
        network = self.checkpoints[0].load(CLIPModel, dtype=precision(self.dtype), use_safetensors=None).eval()
        if self.compile:
            network.vision_model, network.text_model = map(torch.compile, (network.vision_model, network.text_model))
        return network

    @cached_property
    def _processor(self) -> Any:
        from transformers import CLIPProcessor

        return self.checkpoints[-1].load(CLIPProcessor)


def cosines(pictures: Float[Tensor, "n d"], texts: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """100 × cosine of each picture with its own text, in [-100, 100].

    With OpenAI's checkpoints, whose scale is 100, these are ``logits_per_image``. On Rich-Context's crops they are
    around 30 (standard deviation 4) for good captions, and 24 for bare labels.
    """
    return 100 * (pictures * texts).sum(1)


def _middle(picture: Image) -> Image:
    """A picture without the far ends that CLIP would cut off anyway."""
    height, width = picture.shape[1:]
    longest = _LONGEST * min(height, width)
    # as many rows or columns on both sides, or the middle would move: of a sliver, by half of what is seen
    top, left = max(0, height - longest) // 2, max(0, width - longest) // 2
    return picture[:, top : height - top, left : width - left]


def _in_squares(pictures: Sequence[Image], processor: Any) -> Images:
    """Pictures scaled to fit into what the network sees, with its mean colour around them."""
    side = processor.crop_size["height"]
    colour = pictures[0].new_tensor([round(255 * x) for x in processor.image_mean])
    squares = colour[:, None, None].repeat(len(pictures), 1, side, side)
    for square, picture in zip(squares, pictures, strict=True):
        scale = side / max(picture.shape[1:])
        height, width = (max(1, round(x * scale)) for x in picture.shape[1:])
        left, top = (side - width) // 2, (side - height) // 2
        colours_last = picture[None].contiguous(memory_format=torch.channels_last)  # half the time on a CPU
        fitted = resize(colours_last, [height, width], int(processor.resample), antialias=True)
        square[:, top : top + height, left : left + width] = fitted[0]
    return squares


def _on_sphere(features: Any) -> Float[Tensor, "b d"]:
    """transformers gives tensors, or from 5 on an output that holds them."""
    pooled = features if isinstance(features, Tensor) else features.pooler_output
    return torch.nn.functional.normalize(pooled.float(), dim=-1)
