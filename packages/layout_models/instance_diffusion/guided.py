"""What a model predicts for layouts and for single instances, with guidance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from scenewright.layout_models.instance_diffusion.gated_attention import GroundingTokens, ObjectMasks
from scenewright.layout_models.instance_diffusion.locations import Locations
from scenewright.layout_models.instance_diffusion.unifusion import TYPES

#: How many layouts are made into tokens at once while drawing.
_AT_ONCE = 8


@runtime_checkable
class Model(Protocol):
    """What is asked of a model."""

    text: Any

    def tokens(
        self, locations: Sequence[Locations], texts: Sequence[Sequence[str]], kept: Bool[Tensor, "b 4"]
    ) -> GroundingTokens: ...

    def predict(
        self,
        latents: Float[Tensor, "b c h w"],
        timesteps: Int[Tensor, " b"] | int,
        features: Float[Tensor, "b t d"],
        tokens: GroundingTokens,
    ) -> Float[Tensor, "b c h w"]: ...


class Guided:
    """What a model predicts for some of its inputs, with guidance; tokens and texts are made once.

    Args:
        model: that predicts.
        prompts: one for each input.
        inputs: where the instances of each input are, and what each of them says.
        how: ``Sampling``.
    """

    def __init__(
        self, model: Model, prompts: Sequence[str], inputs: Sequence[tuple[Locations, list[str]]], how: Any
    ) -> None:
        self.model, self.scale, self.max_batch = model, how.guidance_scale, how.max_batch
        texts = [how.negative_prompt or "", *prompts]  # of which the first is the unconditional half's
        distinct = list(dict.fromkeys(texts))
        features, _ = model.text.encode_captions(distinct)
        self.features = features[[distinct.index(text) for text in texts]]
        kept = torch.tensor([name in how.conditions for name in TYPES])
        nothing = Locations(torch.zeros(0, 4), torch.zeros(0, 2))
        self.tokens: list[GroundingTokens] = []
        everything = [(nothing, list[str]()), *inputs]
        for i in range(0, len(everything), _AT_ONCE):
            places, said = zip(*everything[i : i + _AT_ONCE], strict=True)
            made = model.tokens(places, said, kept.expand(len(places), -1))
            self.tokens += of_each(made, len(places))
        self._made: dict[tuple[int, ...], GroundingTokens] = {}

    def __call__(
        self, latents: Float[Tensor, "k c h w"], timestep: int, inputs: Int[Tensor, " k"], gate: float
    ) -> Float[Tensor, "k c h w"]:
        """The noise in latents, see ``sampler.Predict``."""
        rows = [i + 1 for i in inputs.tolist()]
        if self.scale == 1:
            return self._run(latents, timestep, rows, gate)
        alone = [0] * len(rows)
        if self.max_batch is not None and 2 * len(rows) > self.max_batch:
            without, given = (self._run(latents, timestep, x, gate) for x in (alone, rows))
        else:
            without, given = self._run(torch.cat([latents, latents]), timestep, alone + rows, gate).chunk(2)
        return without + self.scale * (given - without)

    def _run(
        self, latents: Float[Tensor, "r c h w"], timestep: int, rows: list[int], gate: float
    ) -> Float[Tensor, "r c h w"]:
        key = tuple(rows)
        if key not in self._made:
            self._made[key] = together([self.tokens[i] for i in rows])
        return self.model.predict(latents, timestep, self.features[rows], self._made[key].at(gate)).float()


def of_each(grounding: GroundingTokens, count: int) -> list[GroundingTokens]:
    """What each of ``count`` samples reads, without padding."""
    objects = grounding.objects
    result = [GroundingTokens(grounding.tokens.new_zeros(1, 0, grounding.tokens.shape[2]))] * count
    rows = range(count) if grounding.rows is None else grounding.rows.tolist()
    for i, row in enumerate(rows):
        real = slice(None) if grounding.valid is None else grounding.valid[i]
        alone = None
        if objects is not None:
            cells = {pixels: x[i][None] for pixels, x in objects.cells.items()}
            alone = ObjectMasks(cells, objects.owners[i][real][None], objects.background)
        result[row] = GroundingTokens(grounding.tokens[i][real][None], objects=alone)
    return result


def together(samples: Sequence[GroundingTokens]) -> GroundingTokens:
    """What several samples read, padded to the most that one has; those without any tokens pass unchanged."""
    rows = [i for i, x in enumerate(samples) if not x.empty]
    if not rows:
        return samples[0]
    tokens = [samples[i].tokens[0] for i in rows]
    padded = pad_sequence(tokens, batch_first=True)
    valid = torch.arange(padded.shape[1]) < torch.tensor([len(x) for x in tokens])[:, None]
    return GroundingTokens(
        padded,
        valid=None if valid.all() else valid.to(padded.device),
        rows=None if len(rows) == len(samples) else torch.tensor(rows, device=padded.device),
        objects=_objects([x for i in rows if (x := samples[i].objects) is not None]),
    )


def _objects(given: Sequence[ObjectMasks]) -> ObjectMasks | None:
    """Those of several samples; all have some, or none has."""
    if not given:
        return None
    most = max(x.owners.shape[1] for x in given)
    return ObjectMasks(
        {n: pad_sequence([x.cells[n][0] for x in given], batch_first=True) for n in given[0].cells},
        torch.cat([pad(x.owners, (0, most - x.owners.shape[1]), value=-1) for x in given]),
        given[0].background,
    )
