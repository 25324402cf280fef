"""Which locations a sample shows while training."""

from collections import Counter

import pytest
import torch

from scenewright.layout_models.instance_diffusion.type_dropping import TypeDropping


def names(shown: torch.Tensor) -> list[str]:
    return ["".join(x for x, there in zip("BPSM", row, strict=True) if there) for row in shown.tolist()]


def test_the_mixture_is_that_of_the_paper_within_sampling_error():
    count = 100_000
    found = Counter(names(TypeDropping(grounding=0.0).draw(count, torch.Generator().manual_seed(5))))
    published = {"BPSM": 0.656, "BPM": 0.154, "P": 0.101, "BPS": 0.073, "BP": 0.008, "PS": 0.007}
    for kind, share in published.items():
        error = 4 * (share * (1 - share) / count) ** 0.5
        assert found[kind] / count == pytest.approx(share, abs=error + 0.0005), kind  # of a share that is rounded
    assert found[""] == 0 and set(found) - set(published) <= {"S", "B"}


def test_each_sample_draws_for_itself_and_a_seed_draws_the_same_again():
    dropping = TypeDropping()
    first, again = (dropping.draw(64, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, again) and len(set(names(first))) > 2
    assert not torch.equal(first, dropping.draw(64, torch.Generator().manual_seed(2)))


def test_grounding_is_dropped_as_often_as_asked_for():
    shown = TypeDropping(grounding=0.25).draw(20_000, torch.Generator().manual_seed(0))
    assert (~shown.any(1)).float().mean().item() == pytest.approx(0.25, abs=0.015)


@pytest.mark.parametrize(
    ("probabilities", "wanted"),
    [
        ((0, 0, 0, 0), "BPSM"),
        ((0, 1, 0, 0), "P"),
        ((0, 1, 1, 0), "P"),
        ((0, 0, 1, 0), "BPM"),
        ((1, 0, 1, 0), "B"),
        ((0, 0, 0, 1), ""),
    ],
)
def test_certain_draws_show_what_they_say(probabilities, wanted):
    assert set(names(TypeDropping(*map(float, probabilities)).draw(9, torch.Generator()))) == {wanted}


def test_a_probability_beyond_one_is_refused():
    with pytest.raises(ValueError, match="point_only is a probability, got 1.5"):
        TypeDropping(point_only=1.5)
