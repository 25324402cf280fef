"""Caption: drops regions whose captions say nothing, say it over and over, or say that there is nothing to say.

Source: the share of repeated n-grams, Welleck et al. 2019, arXiv 1908.04319 (seq-rep-n). No weights.
"""

import re
from collections.abc import Sequence

from scenewright.annotators.limits import check, first, outside, require
from scenewright.layout import Sample, Verdict

#: How an answer begins that is none, of chat models that were shown a crop.
REFUSALS = (
    "I cannot",
    "I can't",
    "I can not",
    "I'm sorry",
    "I am sorry",
    "I apologize",
    "Sorry",
    "Unfortunately",
    "I'm unable",
    "I am unable",
    "I'm not able",
    "I am not able",
    "I don't see",
    "I do not see",
    "As an AI",
    "As a language model",
    "There is no image",
    "No image",
    "Please provide",
    "Please upload",
)
#: A word; a character of a script without spaces counts as one.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+(?:['’-][^\W_]+)*")
_SENTENCE = re.compile(r"(?:^|[.!?:]\s+|\n)[\s\"'“‘*]*")


class Caption:
    """Drops regions by the text of their captions. Regions that have no captions at all are kept.

    Args:
        minimum_words: shorter captions go, an empty one among them; None for no limit. A label that stands in for
            the caption of a tiny region is a caption of a word.
        maximum_words: longer captions go; None for no limit.
        maximum_repetition: the share of n-grams that were said before in the same caption, in [0, 1]; None for no
            limit.
        ngram: words of an n-gram.
        refusals: captions in which a sentence begins so go, in upper or lower case; None for ``REFUSALS``, an empty
            list for none.
        whole: judge the caption of the whole image too, and drop the image for it.
    """

    after = "captioner"

    def __init__(
        self,
        minimum_words: int | None = 2,
        maximum_words: int | None = 60,
        maximum_repetition: float | int | None = 0.3,
        ngram: int = 3,
        refusals: Sequence[str] | None = None,
        whole: bool = False,
    ) -> None:
        check("caption words", minimum_words, maximum_words)
        if ngram < 1:
            raise ValueError(f"caption: ngram must be at least 1, got {ngram}")
        chosen = None if refusals is not None and not refusals else True
        require("caption", minimum_words, maximum_words, maximum_repetition, chosen)
        self.minimum_words, self.maximum_words = minimum_words, maximum_words
        self.maximum_repetition, self.ngram = maximum_repetition, ngram
        self.refusals, self.whole = refusals, whole

    def judge(self, samples: Sequence[Sample]) -> list[Verdict]:
        """A reason for each region, and with ``whole`` each image, whose caption is no good."""
        return [
            Verdict(
                image=self._reason(s.caption, "the image's caption") if self.whole else "",
                regions=[self._reason(caption, "caption") for caption in s.layout.captions],
            )
            for s in samples
        ]

    def _reason(self, caption: str, what: str) -> str:
        words = _WORD.findall(caption.casefold())
        begun = _refusal(caption, REFUSALS if self.refusals is None else self.refusals)
        return first(
            [
                f"{what} begins a sentence with {begun!r}" if begun else "",
                outside(f"{what}'s length", len(words), self.minimum_words, self.maximum_words, unit=" words"),
                outside(f"{what}'s repetition", repetition(words, self.ngram), None, self.maximum_repetition),
            ]
        )


def repetition(words: Sequence[str], n: int) -> float:
    """The share of n-grams that were said before, in [0, 1); 0 for fewer than ``n`` words."""
    said = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1 - len(set(said)) / len(said) if said else 0.0


def _refusal(caption: str, refusals: Sequence[str]) -> str:
    """The refusal that begins one of the caption's sentences, or none."""
    plain = caption.replace("’", "'").casefold()
    for begins in _SENTENCE.finditer(plain):
        rest = plain[begins.end() :]
        for refusal in refusals:
            # a whole word: "no image" is not in "no images"
            if re.match(re.escape(refusal.replace("’", "'").casefold()) + r"(?!\w)", rest):
                return refusal
    return ""
