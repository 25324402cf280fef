"""What filters say, done: regions and images leave the sample, and the reason stays."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from scenewright.layout import Layout, Sample, Verdict
from scenewright.protocols import Filter


def dropped(filters: Sequence[Filter], samples: Sequence[Sample], purge: bool = False) -> list[Sample]:
    """The samples without what the filters, one after the other, do not let pass.

    Args:
        purge: forget the dropped regions instead of keeping them in ``Sample.dropped``.

    Raises:
        ValueError: a filter's verdicts are not one per sample, or not one reason per region.
    """
    samples = list(samples)
    for judge in filters:
        places = [i for i, sample in enumerate(samples) if not sample.rejected]
        verdicts = judge.judge([samples[i] for i in places]) if places else []
        if len(verdicts) != len(places):
            raise ValueError(f"{type(judge).__name__} gave {len(verdicts)} verdicts for {len(places)} images")
        for i, verdict in zip(places, verdicts, strict=True):
            samples[i] = _without(samples[i], verdict, purge)
    return samples


def _without(sample: Sample, verdict: Verdict, purge: bool) -> Sample:
    if verdict.image:
        return replace(sample, rejected=verdict.image)
    if not any(verdict.regions):
        return sample
    if len(verdict.regions) != len(sample.layout):
        raise ValueError(f"there must be one reason per region ({len(sample.layout)}), got {len(verdict.regions)}")
    goes = torch.tensor([bool(reason) for reason in verdict.regions])
    kept = replace(sample, layout=sample.layout.keep(~goes))
    if purge:
        return kept
    gone = sample.layout.keep(goes)
    return replace(
        kept,
        dropped=Layout.joined([sample.dropped, gone]),
        reasons=[*sample.reasons, *filter(None, verdict.regions)],
    )
