"""The numbers of the report, as tables."""

import math
from collections import Counter

import numpy as np
import pytest

from scenewright.evaluation.report import Statistics
from scenewright.evaluation.report.statistics import Histogram, gunning_fog, image_size, mean, median, syllables, words
from scenewright.layout import EncodedImage, Sample


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" .,; 12 3.5 ", []),
        ("A red star.", ["A", "red", "star"]),
        ("the child's two-tone ball (no. 7)", ["the", "child's", "two-tone", "ball", "no"]),
        ("ein schöner Fuß", ["ein", "schöner", "Fuß"]),
    ],
)
def test_words_are_letters_held_together_by_hyphens_and_apostrophes(text, expected):
    assert words(text) == expected


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        *[("", 1), ("a", 1), ("the", 1), ("star", 1), ("stripe", 1), ("stripes", 1), ("striped", 1), ("whale", 1)],
        *[("table", 2), ("purple", 2), ("circles", 2), ("dotted", 2), ("houses", 2), ("café", 2), ("triangle", 3)],
        *[("beautiful", 3), ("elephant", 3), ("diagonal", 4), ("architecture", 4)],
    ],
)
def test_syllables_are_groups_of_vowels_less_silent_endings(word, expected):
    assert syllables(word) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0.0),
        ("... 12", 0.0),
        ("dog", 0.4),  # as in the literature, a bare label scores 0.4
        ("A red star. A blue ring.", 0.4 * 3),
        ("a beautiful star", 0.4 * (3 + 100 / 3)),
        ("Beautiful star", 0.4 * (2 + 50)),  # capitalised because it is the first word, not as a name
        ("we met Alexander today", 0.4 * 4),  # a name is not hard
        ("the horse was galloping", 0.4 * 4),  # -ing is no third syllable
        ("a two-coloured-wooden box", 0.4 * 3),  # a compound of easy words is easy
    ],
)
def test_gunning_fog_adds_words_per_sentence_and_percent_of_complex_words(text, expected):
    assert gunning_fog(text) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("counts", "middle", "average"),
    [({}, 0, 0), ({3: 1}, 3, 3), ({1: 1, 4: 1}, 2.5, 2.5), ({0: 5, 10: 2}, 0, 20 / 7), ({1: 2, 2: 2}, 1.5, 1.5)],
)
def test_median_and_mean_of_counts_are_those_of_the_values(counts, middle, average):
    values = list(Counter(counts).elements())
    assert median(Counter(counts)) == middle == (np.median(values) if values else 0)
    assert mean(Counter(counts)) == pytest.approx(average)


@pytest.mark.parametrize(
    ("values", "counts", "average"),
    [
        ([], [0, 0, 0, 0], 0),
        ([0.0, 0.24, 0.25, 1.0], [2, 1, 0, 1], 0.3725),
        ([-5.0, 7.0], [1, 0, 0, 1], 1),
        ([math.nan, math.inf, 0.6], [0, 0, 1, 0], 0.6),
    ],
)
def test_a_histogram_keeps_what_lies_outside_in_its_last_bins(values, counts, average):
    histogram = Histogram(0.0, 1.0, 4)
    histogram.add(values[:1])
    histogram.add(values[1:])
    assert histogram.counts.tolist() == counts
    assert histogram.total == sum(counts)
    assert histogram.mean == pytest.approx(average)


def test_statistics_of_nothing_are_zero():
    statistics = Statistics()
    assert (statistics.images, statistics.regions, statistics.warned) == (0, 0, 0)


def test_statistics_count_each_sample_once(some_samples, layout):
    statistics = Statistics()
    for sample in some_samples():
        statistics.add(sample)
    statistics.add(Sample("f", error="lost", layout=layout(["never counted"])))
    assert statistics.statuses == {"ok": 4, "empty": 1, "error": 1}
    assert statistics.objects == {0: 1, 1: 2, 2: 1, 7: 1}
    assert statistics.regions == 11 == statistics.scores.total == statistics.centres.counts.sum()
    assert statistics.box_sizes.counts[statistics.box_sizes.edges[:-1].searchsorted(0.2**0.5) - 1] == 11
    assert statistics.labels["cup"] == 2 and "never counted" not in statistics.labels
    assert statistics.image_captions.lengths == {7: 1, 3: 1, 2: 1}
    assert statistics.region_captions.vocabulary >= {"rather", "large", "thing"}
    assert statistics.fills.total == 3 and 0.8 < statistics.fills.mean < 1
    assert statistics.aspects.total == 4 and statistics.aspects.mean == pytest.approx(math.log2(80 / 60))
    assert (statistics.warned, statistics.warnings) == (1, {"… boxes were dropped": 1})


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda file, layout: Sample("a"), None),
        (lambda file, layout: Sample("a", EncodedImage(b"", "jpg")), None),
        (lambda file, layout: Sample("a", EncodedImage(b"text", "jpg")), None),
        (lambda file, layout: Sample("a", EncodedImage(file("PNG", size=(40, 30)), "png")), (30, 40)),
        (
            lambda file, layout: Sample("a", EncodedImage(file("PNG", size=(40, 30)), "png", border=(5, 0, 5, 10))),
            (20, 30),
        ),
        (lambda file, layout: Sample("a", EncodedImage(file("JPEG", size=(40, 30), exif=_turned()), "jpg")), (40, 30)),
        (lambda file, layout: Sample("a", layout=layout(["cup"], size=(50, 20))), (50, 20)),
    ],
)
def test_the_size_of_an_image_is_known_without_decoding_it(make, expected, picture, layout):
    assert image_size(make(picture, layout)) == expected


def _turned() -> bytes:
    from PIL import Image

    exif = Image.Exif()
    exif[0x112] = 6
    return exif.tobytes()
