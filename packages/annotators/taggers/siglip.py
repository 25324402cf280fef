"""SigLIP: names which tags of a list fit a picture, with no training for them.

Source: "Sigmoid Loss for Language Image Pre-Training", Zhai et al. 2023, arXiv 2303.15343, and SigLIP 2, Tschannen et
al. 2025, arXiv 2502.14786. Weights: google/siglip2-base-patch16-384 and its kin, google/siglip-so400m-patch14-384,
Apache-2.0.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from scenewright.annotators.recognition.tags import ram_tags, read_names
from scenewright.batching import in_batches
from scenewright.checkpoints import Checkpoint, CheckpointError
from scenewright.layout import Image
from scenewright.networks import precision


class SigLIP:
    """Tags each image with those names of a list that the model holds for likely, at most the likeliest ``max_tags``.

    A tag's probability is its own, whatever else is in the list. It is low even for what is clearly there, so
    the threshold is too; choose it on pictures of one's own.

    Args:
        tags: what to look for: names, or the path of a text file with one per line; RAM's tags if not given.
        prompt: the sentence around a name; the model was judged with this one.
        threshold: a tag is reported where its probability, in [0, 1], is above.
        max_tags: as many at most for one image.
        length: tokens that a sentence is padded to, as in training.
        text_batch_size: sentences that are encoded at once; each is encoded once in all.
        dtype: "float32", "bfloat16" or "float16".
        compile: compile the image side on first use.
    """

    def __init__(
        self,
        checkpoint: str = "google/siglip2-base-patch16-384",
        revision: str = "f775b65a79762255128c981547af89addcfe0f88",
        *,
        tags: Sequence[str] | str | None = None,
        prompt: str = "This is a photo of {}.",
        threshold: float = 0.1,
        max_tags: int = 20,
        length: int = 64,
        batch_size: int = 8,
        text_batch_size: int = 256,
        dtype: str = "float32",
        compile: bool = False,
    ) -> None:
        self.checkpoint, self.revision = checkpoint, revision
        self.tags, self.prompt, self.threshold, self.max_tags, self.length = tags, prompt, threshold, max_tags, length
        self.batch_size, self.text_batch_size = batch_size, text_batch_size
        self.dtype, self.compile = dtype, compile
        self._texts: Tensor | None = None

    def tag(self, images: Sequence[Image]) -> list[list[str]]:
        """The tags of each image, in the order of the list.

        Raises:
            CheckpointError: the weights cannot be loaded, or the list cannot be read.
        """
        if not images:
            return []
        network = self._network.to(images[0].device, precision(self.dtype))
        if self._texts is None:
            self._texts = self._text_features(network)
        with torch.inference_mode():
            return in_batches(self._seen, images, self.batch_size)

    def _seen(self, images: list[Image]) -> list[list[str]]:
        probabilities = self._probabilities(images)  # (b, n)
        best, places = probabilities.topk(min(self.max_tags, probabilities.shape[1]))
        chosen = (best > self.threshold).cpu()
        return [
            [self._names[i] for i in sorted(x[keep].tolist())] for x, keep in zip(places.cpu(), chosen, strict=True)
        ]

    def _probabilities(self, images: list[Image]) -> Float[Tensor, "b n"]:
        network, texts = self._network, self._texts
        assert texts is not None
        device, dtype = texts.device, precision(self.dtype)
        inputs = self._processor.image_processor(images, return_tensors="pt", device=device).to(device)
        inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
        features = network.get_image_features(**inputs).pooler_output
        scale, bias = network.logit_scale.float().exp(), network.logit_bias.float()
        return (normalize(features.float(), dim=-1) @ texts.T * scale + bias).sigmoid()

    def _text_features(self, network: Any) -> Float[Tensor, "n d"]:
        """One feature of length 1 for each tag."""
        device = network.logit_scale.device

        def encode(sentences: list[str]) -> tuple[Tensor, ...]:
            tokens = self._processor.tokenizer(
                sentences, padding="max_length", max_length=self.length, truncation=True, return_tensors="pt"
            )
            # without the mask of the padding, as in training
            features = network.get_text_features(input_ids=tokens["input_ids"].to(device)).pooler_output
            return normalize(features.float(), dim=-1).unbind()

        sentences = [self.prompt.format(name).lower() for name in self._names]  # both were trained in lower case
        with torch.inference_mode():
            return torch.stack(in_batches(encode, sentences, self.text_batch_size))

    @cached_property
    def _names(self) -> list[str]:
        if self.tags is None:
            return [tag for tag, threshold in ram_tags().items() if threshold < 1]
        names = read_names(self.tags) if isinstance(self.tags, str) else [str(x) for x in self.tags]
        if not names or not all(names):
            raise CheckpointError(f"tags must hold names, each with a letter at least, got {names!r:.80}")
        return names

    @property
    def _checkpoint(self) -> Checkpoint:
        return Checkpoint(self.checkpoint, self.revision)

    @cached_property
    def _processor(self) -> Any:
        from transformers import AutoProcessor

        return self._checkpoint.load(AutoProcessor)

    @cached_property
    def _network(self) -> Any:
        from transformers import AutoModel

        network = self._checkpoint.load(AutoModel, use_safetensors=True)
        if not hasattr(network, "logit_bias"):
            raise CheckpointError(f"{self.checkpoint} is no SigLIP, but {type(network).__name__}")
        if self.compile:
            network.vision_model.compile()
        return network.requires_grad_(False).eval()
