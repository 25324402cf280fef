"""Florence2: a small model of many tasks describes each crop, or each box in sight of the whole image.

Source: Xiao et al. 2024, "Florence-2", arXiv 2311.06242. Weights: ``florence-community/Florence-2-large-ft`` and
``-base-ft``, 0.77 and 0.23 billion parameters (MIT).
"""

from collections.abc import Sequence
from functools import cached_property

from scenewright.annotators.captions import answered, describe, is_whole
from scenewright.annotators.florence import Florence, located
from scenewright.checkpoints import Checkpoint
from scenewright.layout import Image, Layout

#: Tasks that describe a picture, and the two that take a box of it.
_OF_CROPS = ("CAPTION", "DETAILED_CAPTION", "MORE_DETAILED_CAPTION")
_OF_BOXES = ("REGION_TO_DESCRIPTION", "REGION_TO_CATEGORY")


class Florence2:
    """Describes regions by one of Florence-2's own tasks; it takes no free prompts.

    With ``CAPTION`` or ``DETAILED_CAPTION`` it sees each region's crop; with ``REGION_TO_DESCRIPTION`` it sees the
    whole image and is told the box, and its answer is a few words. Only a caption's first sentence is kept.

    Args:
        task: for regions.
        image_task: for whole images.
        padding: context around a crop, as a fraction of the box's width and height.
        blur: of what is around the region in its crop, as a fraction of the crop's longer side.
        min_area: regions of fewer pixels are not looked at and take their label.
        num_beams: 1 is greedy; the authors use 3.
        batch_size: regions that are looked at together, of any images.
        compile: the image encoder.

    Raises:
        ValueError: there is no such task.
    """

    def __init__(
        self,
        checkpoint: str = "florence-community/Florence-2-large-ft",
        revision: str = "main",
        task: str = "CAPTION",
        image_task: str = "DETAILED_CAPTION",
        padding: float = 0.1,
        blur: float = 0.0,
        min_area: int = 1024,
        max_new_tokens: int = 40,
        num_beams: int = 1,
        batch_size: int = 16,
        dtype: str = "float32",
        compile: bool = False,
    ) -> None:
        for name, value, known in (("task", task, _OF_CROPS + _OF_BOXES), ("image_task", image_task, _OF_CROPS)):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        self.checkpoint, self.revision = checkpoint, revision
        self.task, self.image_task = task, image_task
        self.padding, self.blur, self.min_area = padding, blur, min_area
        self.max_new_tokens, self.num_beams = max_new_tokens, num_beams
        self.batch_size, self.dtype, self.compile = batch_size, dtype, compile

    def caption(self, images: Sequence[Image], layouts: Sequence[Layout]) -> list[list[str]]:
        """One caption per region, in the layout's order; none for no regions.

        Raises:
            CheckpointError: the weights are not there, or not Florence-2's.
        """
        if self.task in _OF_BOXES:
            return self._of_boxes(images, layouts)
        return describe(
            images,
            layouts,
            self._ask,
            prompt=f"<{self.task}>",
            image_prompt=f"<{self.image_task}>",
            padding=self.padding,
            blur=self.blur,
            min_area=self.min_area,
            batch_size=self.batch_size,
        )

    def _of_boxes(self, images: Sequence[Image], layouts: Sequence[Layout]) -> list[list[str]]:
        pictures = [[image] * len(layout) for image, layout in zip(images, layouts, strict=True)]
        prompts = [
            [f"<{self.image_task}>"]
            if is_whole(layout)
            else [f"<{self.task}>{located(box)}" for box in layout.boxes.tolist()]
            for layout in layouts
        ]
        return answered(
            images, layouts, pictures, prompts, self._ask, min_area=self.min_area, batch_size=self.batch_size
        )

    def _ask(self, pictures: list[Image], prompts: list[str]) -> list[str]:
        answers = self._florence.answer(pictures, prompts, max_new_tokens=self.max_new_tokens, num_beams=self.num_beams)
        return [answer.text for answer in answers]

    @cached_property
    def _florence(self) -> Florence:
        return Florence(Checkpoint(self.checkpoint, self.revision), self.dtype, self.compile)
