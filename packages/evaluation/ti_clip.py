"""TICLIP: does the image still show its scene, and not only the objects that a model was trained on?"""

from collections.abc import Sequence

from scenewright.evaluation.image_text import ImageText, image_records
from scenewright.evaluation.scoring import Record, RecordingMetric
from scenewright.layout import Image, Sample


class TICLIP(RecordingMetric):
    """The cosine of each image and its prompt, in [-1, 1]: around 0.15 for background prompts with ViT-B/32.

    A model that is trained on more and better scenes of some objects should keep it while CP-CLIP rises; where it
    falls, the model overfits. An image without the prompt is not scored.

    Args:
        image_text: a CLIP.
        prompt: "background": ``metadata["background_prompt"]``, which names the scene without the objects; or
            "caption": what the image was drawn from. The paper defines it both ways, and means the first.
        compat: see ``CLIPScore``.

    Source: Yeh et al. 2024, "Gen4Gen", arXiv 2402.15504, section 3.5 and appendix 9.
    """

    def __init__(self, image_text: ImageText, prompt: str = "background", compat: bool = False) -> None:
        if prompt not in _MISSING:
            raise ValueError(f'ti_clip: prompt must be "background" or "caption", got {prompt!r}')
        super().__init__()
        self.image_text, self.prompt, self.compat = image_text, prompt, compat

    def score(self, generated: Sequence[Image], samples: Sequence[Sample]) -> list[Record]:
        if self.prompt == "caption":
            texts = [x.caption for x in samples]
        else:
            texts = [str(x.metadata.get("background_prompt") or "") for x in samples]
        return image_records(
            "ti_clip",
            self.image_text,
            generated,
            samples,
            texts,
            missing=_MISSING[self.prompt],
            compat=self.compat,
            scaled=False,
        )


_MISSING = {
    "background": "it has no metadata.background_prompt; metric.ti_clip.prompt=caption takes the caption",
    "caption": "it has no caption",
}
