"""Names become a detector's prompt, and its token scores become names again.

Source: Liu et al. 2023, Grounding DINO, arXiv 2303.05499, section 3.4: names that end in a
period do not attend to each other ("sub-sentence level text feature").
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Prompt:
    """A caption in tokens, and where in it each tag is.

    Attributes:
        tokens: ids of the text encoder, from its first special token to its last.
        tags: the names that are asked for, as the user wrote them.
        spans: first token of each tag, and the one after its last; none where tags need no place.
    """

    tokens: tuple[int, ...]
    tags: tuple[str, ...] = ()
    spans: tuple[tuple[int, int], ...] = ()


def joined(tags: Sequence[str], separator: str = ", ") -> str:
    """One caption of all tags: lower case, ending in a period.

    Source: the data generation of InstanceDiffusion, whose tags come as "a | b".
    """
    text = separator.join(tags).lower().strip()
    return text if text.endswith(".") else text + "."


def distinct(tags: Sequence[str]) -> list[str]:
    """The tags without blanks and repetitions, in order; case and white space make no difference."""
    first: dict[str, str] = {}
    for tag in tags:
        if tag.strip():
            first.setdefault(" ".join(tag.lower().split()), tag)
    return list(first.values())


def chunks(
    tags: Sequence[str], *, max_tags: int | None = None, fits: Callable[[list[str]], bool] | None = None
) -> list[list[str]]:
    """Split tags, in order, into as few lists as will do; a tag that fits nowhere has a list of its own.

    Args:
        max_tags: the most in one list.
        fits: whether a list is short enough.
    """
    found: list[list[str]] = []
    for tag in tags:
        longer = [*found[-1], tag] if found else []
        if longer and (max_tags is None or len(longer) <= max_tags) and (fits is None or fits(longer)):
            found[-1] = longer
        else:
            found.append([tag])
    return found


def packed(tags: Sequence[str], tokenizer: Any, *, separator: str = " . ", limit: int = 256) -> list[Prompt]:
    """The prompts that ask for every tag: one if its tokens fit, else as many as it takes.

    Args:
        tokenizer: BERT's, of transformers. It splits at punctuation, so that a caption's tokens are its parts'
            tokens one after the other.
        separator: between two tags; a period keeps them from attending to each other.
        limit: the most tokens of one prompt, its two special ones included. A single tag that is longer is cut.
    """
    names = distinct(tags)
    if not names:
        return []
    between = tokenizer(separator, add_special_tokens=False)["input_ids"]
    (end,) = tokenizer(".", add_special_tokens=False)["input_ids"]
    # what the network takes for a border inside a name would tear the name apart
    borders = {end, *tokenizer.all_special_ids, *tokenizer("?", add_special_tokens=False)["input_ids"]}
    borders.discard(tokenizer.unk_token_id)
    rows = tokenizer([name.lower() for name in names], add_special_tokens=False)["input_ids"]
    pieces = {name: [x for x in row if x not in borders][: limit - 3] for name, row in zip(names, rows, strict=True)}

    def fits(some: list[str]) -> bool:
        return 3 + sum(len(pieces[name]) for name in some) + len(between) * (len(some) - 1) <= limit

    found = []
    for some in chunks([name for name in names if pieces[name]], fits=fits):
        tokens, spans = [tokenizer.cls_token_id], []
        for name in some:
            tokens += between if spans else []
            spans.append((len(tokens), len(tokens) + len(pieces[name])))
            tokens += pieces[name]
        found.append(Prompt((*tokens, end, tokenizer.sep_token_id), tuple(some), tuple(spans)))
    return found


def assign(probabilities: Float[Tensor, "q t"], prompt: Prompt) -> tuple[Float[Tensor, " q"], Int[Tensor, " q"]]:
    """Give each query the one tag in which its surest token lies.

    Args:
        probabilities: of the prompt's tokens, and of padding behind them, in [0, 1].

    Returns:
        That token's probability, and the index of its tag. Tokens outside of all tags are not looked at.
    """
    owners = torch.full((probabilities.shape[1],), -1, device=probabilities.device)
    for i, (start, stop) in enumerate(prompt.spans):
        owners[start:stop] = i
    scores, places = probabilities.masked_fill(owners < 0, -1.0).max(1)
    return scores, owners[places]


def phrases(probabilities: Float[Tensor, "q t"], tokens: Sequence[int], threshold: float) -> list[list[int]]:
    """The tokens that each query scores above a threshold, in the caption's order, of whatever names.

    The first and the last position are never taken, so a phrase can be empty; pieces of words and
    separators are taken.

    Source: ``get_phrases_from_posmap`` of Grounding DINO (upstream main).
    """
    above = probabilities > threshold
    above[:, 0] = above[:, -1] = False
    return [[tokens[i] for i in row.nonzero()[:, 0].tolist()] for row in above]
