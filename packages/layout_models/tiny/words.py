"""The words of the drawn scenes, and their tokenizer."""

import re
from collections.abc import Sequence

#: The grammar of the shapes dataset and of the appearance captioner. New words go to the end: a word's place is its id.
WORDS = """
a an and arrow at background bar behind black blue bottom brown by center checker checkerboard circle cloudy
crescent cross dark diamond dots eight eleven fading five four from front green grey heart hexagon huge in inside
is large left light lower medium next nine no of on one ones only orange partly pattern pink plain purple red right
ring seven shape shapes six small smaller something square star striped stripes ten the there three tiny to top
triangle twelve two two-tone upper white with yellow
""".split()

_SPECIAL = ("<pad>", "<bos>", "<eos>", ";", "<unk>")


class WordTokenizer:
    """One id per word; punctuation is left out, words that no scene has are all one id.

    Args:
        length: positions of a sequence, with bos and eos.
        added: further words, such as ``<star1>``; their ids follow all others.
    """

    pad, bos, eos, separator, unknown = range(5)

    def __init__(self, length: int = 48, added: Sequence[str] = ()) -> None:
        self.length = length
        self._ids = {word: number for number, word in enumerate([*WORDS, *added], len(_SPECIAL))}
        whole = [re.escape(x) for x in sorted(added, key=len, reverse=True)]
        self._word = re.compile("|".join([*whole, r"[a-z0-9]+(?:-[a-z]+)*"]))

    def __len__(self) -> int:
        return len(_SPECIAL) + len(self._ids)

    def tokens(self, text: str) -> list[int]:
        """The ids of the words, as many as there are."""
        return [self._ids.get(word, self.unknown) for word in self._word.findall(text.lower())]

    def sequence(self, text: str) -> list[int]:
        """From bos to eos, cut or padded to ``length``."""
        ids = [self.bos, *self.tokens(text)[: self.length - 2], self.eos]
        return ids + [self.pad] * (self.length - len(ids))
