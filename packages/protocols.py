"""The verbs: every door a plugin can stand behind.

A plugin is any class with the right method. It inherits nothing and registers
nowhere; a YAML file in ``conf/`` names it, and that is its registration.

Annotators take a batch of images and return one item per image, in order. They
run where their images are, and what they return for an image does not depend on
its batch. One that draws random numbers takes a keyword ``seeds`` after its other
arguments and is given one integer per image.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor
from torch.nn import Parameter

from scenewright.layout import Batch, Image, Images, Layout, RunLengths, Sample, Verdict


@runtime_checkable
class Tagger(Protocol):
    """Names what is in an image, without saying where."""

    def tag(self, images: Sequence[Image]) -> list[list[str]]: ...


@runtime_checkable
class Detector(Protocol):
    """Finds where named things are. A closed-set detector may ignore ``tags``."""

    def detect(self, images: Sequence[Image], tags: Sequence[Sequence[str]]) -> list[Layout]: ...


@runtime_checkable
class Segmenter(Protocol):
    """Cuts out each box: one mask per region, in the layout's order, at the size of the image."""

    def segment(self, images: Sequence[Image], layouts: Sequence[Layout]) -> list[list[RunLengths]]: ...


@runtime_checkable
class ScoringSegmenter(Segmenter, Protocol):
    """A segmenter may also say how sure it is: beside each mask, the IoU that it believes the mask to have."""

    def segment_scored(
        self, images: Sequence[Image], layouts: Sequence[Layout]
    ) -> list[list[tuple[RunLengths, float]]]: ...


@runtime_checkable
class PointSegmenter(Segmenter, Protocol):
    """A segmenter may also cut out what is at a point: a scored mask per point ``x y``, in fractions of the image."""

    def segment_points(
        self, images: Sequence[Image], points: Sequence[Float[Tensor, "_n 2"]]
    ) -> list[list[tuple[RunLengths, float]]]: ...


@runtime_checkable
class MattingSegmenter(Segmenter, Protocol):
    """A segmenter may also say how much of each pixel belongs to a region, and how sure it is that something does.

    Per region an alpha in [0, 1] at the size of the image, and a confidence in [0, 1]: the highest probability before
    the alpha was stretched, 0 where nothing was found.
    """

    def segment_alpha(
        self, images: Sequence[Image], layouts: Sequence[Layout]
    ) -> list[list[tuple[Float[Tensor, "_h _w"], float]]]: ...


@runtime_checkable
class Captioner(Protocol):
    """Describes each region: one caption per box, in the layout's order."""

    def caption(self, images: Sequence[Image], layouts: Sequence[Layout]) -> list[list[str]]: ...


@runtime_checkable
class Filter(Protocol):
    """Says what is not worth keeping, and why; the pipeline drops it.

    ``after`` names the stage whose results it looks at: "source", "tagger", "detector",
    "segmenter" or "captioner". What a filter drops, later stages never see.
    """

    after: str

    def judge(self, samples: Sequence[Sample]) -> list[Verdict]: ...


@runtime_checkable
class Dataset(Protocol):
    """Yields samples: a folder, a benchmark or a stream of shards.

    A file that cannot be read is a sample too: touching its image raises, and the
    pipeline counts it. Images are decoded on first touch, not while iterating.
    """

    def __iter__(self) -> Iterator[Sample]: ...


@runtime_checkable
class RangedDataset(Dataset, Protocol):
    """A dataset that can start anywhere, so that processes share it without reading it all.

    ``read(start, stop)`` yields exactly ``stop - start`` samples, those that
    iterating would yield at these places. ``fingerprint`` changes when the source has
    other samples, so that a continued run notices.
    """

    @property
    def fingerprint(self) -> str: ...

    def __len__(self) -> int: ...

    def read(self, start: int, stop: int) -> Iterator[Sample]: ...


@runtime_checkable
class Accounting(Protocol):
    """A dataset that chooses its samples, and says in a line what it chose of what."""

    @property
    def account(self) -> str: ...


@runtime_checkable
class LayoutModel(Protocol):
    """Draws images from layouts, and learns to. In practice a ``torch.nn.Module``."""

    def parameters(self) -> Iterator[Parameter]: ...

    def __call__(self, batch: Batch) -> Float[Tensor, ""]:
        """The training loss. ``forward``, so that DDP and FSDP see it."""
        ...

    def sample(
        self,
        captions: Sequence[str],
        layouts: Sequence[Layout],
        seeds: Sequence[int],
        *,
        height: int,
        width: int,
    ) -> Images:
        """One image per layout. An image depends on its own seed, never on its batch."""
        ...


@runtime_checkable
class Metric(Protocol):
    """Judges generated images against the samples they were drawn from.

    What an image gets does not depend on the other images of an ``update``. Images of one layout come in one
    ``update``, one after the other, each with the sample again.
    """

    higher_is_better: bool

    def update(self, generated: Sequence[Image], samples: Sequence[Sample]) -> None: ...

    def compute(self) -> dict[str, float]:
        """Collective: every process calls it and every process gets the same numbers."""
        ...

    def reset(self) -> None: ...
