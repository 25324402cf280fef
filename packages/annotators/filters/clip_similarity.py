"""CLIPSimilarity: drops regions whose crop does not show what their caption says.

Source: Radford et al. 2021, arXiv 2103.00020; the statistic of Rich-Context's annotations, arXiv 2409.04847.
Weights: https://huggingface.co/openai/clip-vit-base-patch32, MIT.
"""

from collections.abc import Sequence
from functools import cached_property
from itertools import chain, islice

from scenewright.annotators.limits import check, outside, require
from scenewright.annotators.similarity import CLIP, cosines
from scenewright.crops import cut
from scenewright.layout import Sample, Verdict

_HINT = (
    "set filter.clip_similarity.minimum: good captions score about 30 ± 4, bare labels 24, on the scale of 100 × cosine"
)


class CLIPSimilarity:
    """Drops regions by 100 × cosine of their crop and their text. What has no text is kept.

    With OpenAI's checkpoints, whose scale is 100, that is ``logits_per_image``.

    Args:
        minimum: in [-100, 100]; None for no limit.
        maximum: in [-100, 100]; to look at what goes well. None for no limit.
        of: "captions", or "labels", which are there before any caption is made.
        prompt: what is read of a text; ``{text}`` stands for it.
        padding: context around a crop, as a fraction of its box.
        checkpoint: a CLIP of transformers, a folder or a hub id.
        batch_size: crops or texts in one forward pass.
        dtype: of the weights: "float32", "bfloat16", "float16".
        compile: compile the network on first use.
    """

    def __init__(
        self,
        minimum: float | int | None = None,
        maximum: float | int | None = None,
        of: str = "captions",
        prompt: str = "{text}",
        padding: float = 0.0,
        checkpoint: str = "openai/clip-vit-base-patch32",
        revision: str = "main",
        batch_size: int = 64,
        dtype: str = "float32",
        compile: bool = False,
    ) -> None:
        if of not in ("captions", "labels"):
            raise ValueError(f'clip_similarity: of must be "captions" or "labels", got {of!r}')
        check("clip_similarity", minimum, maximum)
        require("clip_similarity", minimum, maximum, hint=_HINT)
        self.minimum, self.maximum, self.of, self.prompt, self.padding = minimum, maximum, of, prompt, padding
        self.checkpoint, self.revision = checkpoint, revision
        self.batch_size, self.dtype, self.compile = batch_size, dtype, compile

    @property
    def after(self) -> str:
        """The stage that makes the texts."""
        return "captioner" if self.of == "captions" else "detector"

    def judge(self, samples: Sequence[Sample]) -> list[Verdict]:
        """A reason for each region that does not look like its text; the crops of all images go together.

        Raises:
            CheckpointError: the checkpoint is not here, or no CLIP.
        """
        texts = [s.layout.captions if self.of == "captions" else s.layout.labels for s in samples]
        crops = [cut(s.image, s.layout, padding=self.padding) if t else [] for s, t in zip(samples, texts, strict=True)]
        reasons = iter(self._reasons(list(chain(*crops)), list(chain(*texts))))
        return [Verdict(regions=list(islice(reasons, len(x)))) for x in texts]

    def _reasons(self, crops: list, texts: list[str]) -> list[str]:
        said = [i for i, text in enumerate(texts) if text.strip()]
        reasons = [""] * len(texts)
        if said:
            pictures = self._clip.of_pictures([crops[i] for i in said])
            read = self._clip.of_texts([self.prompt.replace("{text}", texts[i]) for i in said], pictures.device)
            for i, value in zip(said, cosines(pictures, read).tolist(), strict=True):
                # a whole thousandth, which is more than the network's own precision
                reasons[i] = outside(f"similarity to its {self.of[:-1]}", round(value, 3), self.minimum, self.maximum)
        return reasons

    @cached_property
    def _clip(self) -> CLIP:
        return CLIP(self.checkpoint, self.revision, self.batch_size, self.dtype, self.compile)
