"""Regional cross-attention on stock diffusion models: each pixel listens to the text of its own region."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scenewright.layout_models.rich_context.pipeline import (
        RichContextPipeline,
        RichContextSD15Pipeline,
        RichContextSDXLPipeline,
    )

__all__ = ["RichContextPipeline", "RichContextSD15Pipeline", "RichContextSDXLPipeline"]


def __getattr__(name: str) -> Any:
    """The pipelines, imported when they are asked for: they bring all of diffusers and transformers with them."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from scenewright.layout_models.rich_context import pipeline

    return getattr(pipeline, name)
