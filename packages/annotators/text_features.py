"""What a text encoder says of a text, computed once while the text keeps coming back."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class TextFeatures:
    """Remembers the features of the texts that were used last.

    Args:
        capacity: texts that are remembered beyond those of one call.
    """

    def __init__(self, capacity: int = 256) -> None:
        self.capacity = capacity
        self._known: OrderedDict[Hashable, Tensor] = OrderedDict()

    def of(self, keys: Sequence[Hashable], encode: Callable[[list[int]], Sequence[Tensor]]) -> list[Tensor]:
        """One tensor per key.

        Args:
            keys: the texts, in tokens.
            encode: given the places of the texts that are not known, returns their features.
        """
        first = {key: place for place, key in reversed(list(enumerate(keys)))}
        missing = sorted(place for key, place in first.items() if key not in self._known)
        if missing:
            self._known |= zip([keys[place] for place in missing], encode(missing), strict=True)
        for key in first:
            self._known.move_to_end(key)
        features = [self._known[key] for key in keys]
        while len(self._known) > self.capacity:
            self._known.popitem(last=False)
        return features


class RememberedText(nn.Module):
    """Stands in for the text backbone of a Grounding DINO, and runs it only on prompts it has not seen.

    A prompt's features depend on its own tokens alone: positions and attention are derived from
    them, and padding is never attended to.

    Args:
        backbone: a BERT.
        padding: the id that fills a prompt up to its batch's length.
        capacity: prompts that are remembered; 256 tokens of BERT-base take 0.8 MB.
    """

    def __init__(self, backbone: nn.Module, padding: int = 0, capacity: int = 64) -> None:
        super().__init__()
        self.backbone, self.padding = backbone, padding
        self._features = TextFeatures(capacity)
        self._uncompiled: Any = torch.compiler.disable(self._states)  # what it remembers is no constant

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor, position_ids: Tensor, **options: Any
    ) -> Any:
        """The backbone's output for a batch of prompts; zero where they are padded."""
        from transformers.modeling_outputs import BaseModelOutput

        states = self._uncompiled(input_ids, attention_mask, token_type_ids, position_ids, options)
        return BaseModelOutput(last_hidden_state=states)

    def _states(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor,
        position_ids: Tensor,
        options: dict[str, Any],
    ) -> Tensor:
        keys = [self._trimmed(row) for row in input_ids.tolist()]

        def encode(places: list[int]) -> list[Tensor]:
            inputs = (x[places] for x in (input_ids, attention_mask, token_type_ids, position_ids))
            states = self.backbone(*inputs, **options)[0]  # (missing, t, d)
            return [row[: len(keys[place])].clone() for row, place in zip(states, places, strict=True)]

        rows = [row.to(input_ids.device) for row in self._features.of(keys, encode)]
        padded = [nn.functional.pad(row, (0, 0, 0, input_ids.shape[1] - len(row))) for row in rows]
        return torch.stack(padded)  # (b, t, d)

    def _trimmed(self, row: list[int]) -> tuple[int, ...]:
        stop = len(row)
        while stop and row[stop - 1] == self.padding:
            stop -= 1
        return tuple(row[:stop])
