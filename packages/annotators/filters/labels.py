"""Labels: drops regions by what they are called."""

from collections.abc import Sequence

from scenewright.annotators.limits import require
from scenewright.layout import Sample, Verdict


class Labels:
    """Keeps the regions of a vocabulary, or drops those of one. Upper and lower case are the same.

    Args:
        keep: a region of any other label is dropped; None keeps all.
        deny: regions of these labels are dropped, whatever ``keep`` says.
    """

    after = "detector"

    def __init__(self, keep: Sequence[str] | None = None, deny: Sequence[str] | None = None) -> None:
        require("labels", keep, deny or None, hint="set filter.labels.keep=[dog,cat] or filter.labels.deny=[room]")
        for name, words in (("keep", keep), ("deny", deny)):
            if isinstance(words, str):  # it would pass for a list of letters
                raise ValueError(f"labels: {name} must be a list of words, got {words!r}")
        self.keep, self.deny = keep, deny

    def judge(self, samples: Sequence[Sample]) -> list[Verdict]:
        """A reason for each region whose label is not wanted."""
        keep = None if self.keep is None else {plain(x) for x in self.keep}
        deny = {plain(x) for x in self.deny or ()}

        def reason(label: str) -> str:
            if plain(label) in deny:
                return f"label {label!r} is one to drop"
            return "" if keep is None or plain(label) in keep else f"label {label!r} is none of the {len(keep)} to keep"

        return [Verdict(regions=[reason(label) for label in s.layout.labels]) for s in samples]


def plain(label: str) -> str:
    """What two labels that mean the same have in common: no capitals, single spaces."""
    return " ".join(label.casefold().split())
