"""Regional cross-attention on stock diffusion models: each pixel listens to the text of its own region."""

from typing import Any

_PIPELINES = ("RichContextPipeline", "RichContextSD15Pipeline", "RichContextSDXLPipeline")

__all__ = ["RichContextPipeline", "RichContextSD15Pipeline", "RichContextSDXLPipeline"]  # noqa: F822


def __getattr__(name: str) -> Any:
    """The pipelines, imported when they are asked for: they bring all of diffusers and transformers with them."""
    if name not in _PIPELINES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from scenewright.layout_models.rich_context import pipeline

    return getattr(pipeline, name)
