"""Text features of Stable Diffusion's CLIP towers: of captions as diffusers computes them, and of labels.

SDXL reads captions from the penultimate layers of two towers and labels from the last ones, SD 1.5
both from the last layer of its only tower, as the released weights expect.

Source: Cheng et al. 2024, arXiv 2409.04847; Podell et al. 2023, arXiv 2307.01952, section 2.1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from scenewright.layout_models.feature_cache import Entry, FeatureCache, key, weights_digest

#: Sequences of labels are computed at the first of these lengths that holds them: padding would say nothing.
_LENGTHS = (16, 32)

#: Rows of one computation, always: the same text then gives the same bits whatever it is computed with.
_ROWS = 8


class LabelTokenizer:
    """A CLIP tokenizer as labels are read with it.

    Attributes:
        bos: the id that begins a sequence.
        eos: the id that ends it.
        pad: the id that fills it up.
        separator: the id of ``;``, which stands between labels.
        length: positions of a sequence.
    """

    def __init__(self, tokenizer: Any, length: int | None = None) -> None:
        self._tokenizer = tokenizer
        self.bos, self.eos, self.pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
        self.length = length or tokenizer.model_max_length
        (self.separator,) = self.tokens(";")

    def tokens(self, text: str) -> list[int]:
        """The ids of a text alone; marks that are written out in it are left out."""
        ids = self._tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        return [x for x in ids if x not in (self.bos, self.eos)]


class TextFeatures:
    """What a UNet reads: features of captions and of labels, each text computed once.

    Args:
        tokenizers: of one tower or of two.
        encoders: the towers; they stay whose they are, and where they are.
        cache: keeps the features; without one they are computed anew in each batch.
    """

    def __init__(self, tokenizers: Sequence[Any], encoders: Sequence[Any], cache: FeatureCache | None = None) -> None:
        self.tokenizers, self.encoders, self.cache = list(tokenizers), list(encoders), cache
        self.labels = LabelTokenizer(tokenizers[0], self._positions(0))
        self._weights = "" if cache is None else key(*(weights_digest(x) for x in encoders))

    @classmethod
    def of(cls, pipeline: Any, cache: FeatureCache | None = None) -> TextFeatures:
        """Those of a pipeline of Stable Diffusion, with one tower or with two."""
        names = [x for x in ("", "_2") if getattr(pipeline, f"text_encoder{x}", None) is not None]
        return cls(
            [getattr(pipeline, f"tokenizer{x}") for x in names],
            [getattr(pipeline, f"text_encoder{x}") for x in names],
            cache,
        )

    def encode_captions(self, captions: Sequence[str]) -> tuple[Float[Tensor, "b t c"], Float[Tensor, "b p"] | None]:
        """Features of captions, and with two towers the pooled ones of the second, else None."""
        ids = [self._caption_ids(number, captions) for number in range(len(self.encoders))]

        def make(places: list[int]) -> list[Entry]:
            rows = _in_batches(torch.stack(ids, 1)[places], self._read_captions)
            return [{name: x[i] for name, x in rows.items()} for i in range(len(places))]

        found = self._fetch("caption", torch.stack(ids, 1), make)
        pooled = torch.stack([x["pooled"] for x in found]) if "pooled" in found[0] else None
        return torch.stack([x["features"] for x in found]), pooled

    def encode_labels(self, ids: Int[Tensor, "u t"]) -> Float[Tensor, "u t c"]:
        """Last layers of all towers, side by side.

        Args:
            ids: of the first tower's tokenizer, from bos to eos and then padded.

        Returns:
            Zero at padding, which nobody attends to; but where there is no label, of padding too.
        """
        width = sum(x.config.hidden_size for x in self.encoders)
        result = torch.zeros(*ids.shape, width, device=self._device, dtype=self._dtype)
        if not len(ids):
            return result
        lengths = (ids == self.labels.eos).int().argmax(1) + 1
        marks = torch.tensor([self.labels.bos, self.labels.eos, self.labels.pad, self.labels.separator])
        used = _padded(lengths, ~torch.isin(ids, marks).all(1), ids.shape[1])

        def make(places: list[int]) -> list[Entry]:
            made: dict[int, Entry] = {}
            for width in used[places].unique().tolist():
                at = [i for i in places if used[i] == width]
                rows = _in_batches(torch.stack([ids[at], lengths[at, None].expand(-1, ids.shape[1])], 1),
                                   lambda x, width=width: self._read_labels(x[:, 0, :width], x[:, 1, 0]))  # fmt: skip
                made |= {i: {"features": x} for i, x in zip(at, rows["features"], strict=True)}
            return [made[i] for i in places]

        for row, entry in zip(result, self._fetch("label", ids, make), strict=True):
            row[: len(entry["features"])] = entry["features"].to(row.device, non_blocking=True)
        return result

    def encode_phrases(self, phrases: Sequence[str]) -> Float[Tensor, "b c"]:
        """The feature of each phrase: the first tower's at its end, after the last norm and before the projection."""
        if not phrases:
            return torch.zeros(0, self.encoders[0].config.hidden_size, device=self._device, dtype=self._dtype)
        ids = self._caption_ids(0, phrases)
        steps = torch.tensor([x for x in _LENGTHS if x < ids.shape[1]] + [ids.shape[1]])
        lengths = steps[torch.bucketize((ids == self.labels.eos).int().argmax(1) + 1, steps)]

        def make(places: list[int]) -> list[Entry]:
            made: dict[int, Entry] = {}
            for length in lengths[places].unique().tolist():
                at = [i for i in places if lengths[i] == length]
                rows = _in_batches(ids[at, :length], lambda x: {"pooled": self._run(0, x).pooler_output})
                made |= {i: {"pooled": x} for i, x in zip(at, rows["pooled"], strict=True)}
            return [made[i] for i in places]

        return torch.stack([x["pooled"] for x in self._fetch("phrase", ids, make)])

    @property
    def _device(self) -> torch.device:
        return next(self.encoders[0].parameters()).device

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.encoders[-1].parameters()).dtype

    def _positions(self, number: int) -> int:
        return min(self.tokenizers[number].model_max_length, self.encoders[number].config.max_position_embeddings)

    def _fetch(self, kind: str, ids: Tensor, make: Callable[[list[int]], Sequence[Entry]]) -> list[Entry]:
        if self.cache is None:
            return list(make(list(range(len(ids)))))
        # the towers' type is part of the key: weights that were moved to half precision give other features
        names = [key(kind, self._weights, str(self._dtype), row) for row in ids]
        found = self.cache.fetch(names, make)
        return [{name: x.to(self._device, non_blocking=True) for name, x in entry.items()} for entry in found]

    def _caption_ids(self, number: int, captions: Sequence[str]) -> Int[Tensor, "b t"]:
        inputs = self.tokenizers[number](
            list(captions),
            padding="max_length",
            max_length=self._positions(number),
            truncation=True,
            return_tensors="pt",
        )
        return inputs.input_ids

    def _read_captions(self, ids: Int[Tensor, "b n t"]) -> Entry:
        if len(self.encoders) == 1:
            return {"features": self._run(0, ids[:, 0]).last_hidden_state}
        found = [self._run(i, ids[:, i], output_hidden_states=True) for i in range(len(self.encoders))]
        return {"features": torch.cat([x.hidden_states[-2] for x in found], -1), "pooled": found[-1].text_embeds}

    def _read_labels(self, ids: Int[Tensor, "b t"], lengths: Int[Tensor, " b"]) -> Entry:
        attended = torch.arange(ids.shape[1]) < lengths[:, None]
        found = []
        for number, tokenizer in enumerate(self.tokenizers):
            own = torch.where(attended, ids, tokenizer.pad_token_id)
            found.append(self._run(number, own, attention_mask=attended).last_hidden_state)
        return {"features": torch.cat(found, -1)}

    def _run(self, number: int, ids: Int[Tensor, "b t"], attention_mask: Bool[Tensor, "b t"] | None = None,
             **options: Any) -> Any:  # fmt: skip
        if attention_mask is not None:
            options["attention_mask"] = attention_mask.to(self._device, torch.long)
        # in the towers' own precision, whatever the rest is trained in
        with torch.no_grad(), torch.autocast(self._device.type, enabled=False):
            return self.encoders[number](ids.to(self._device), **options)


def _padded(lengths: Int[Tensor, " u"], spoken: Bool[Tensor, " u"], longest: int) -> Int[Tensor, " u"]:
    """So many positions are computed; all of them where there is no label, as its padding is attended to too."""
    steps = torch.tensor([x for x in _LENGTHS if x < longest] + [longest])
    return torch.where(spoken, steps[torch.bucketize(lengths, steps)], longest)


def _in_batches(rows: Tensor, run: Callable[[Tensor], Entry]) -> Entry:
    """Compute rows in batches of one size; the last one is filled up."""
    filled = torch.cat([rows, rows[-1:].expand(-len(rows) % _ROWS, *rows.shape[1:])])
    parts = [run(x) for x in filled.split(_ROWS)]
    return {name: torch.cat([x[name] for x in parts])[: len(rows)] for name in parts[0]}
