"""Linear extrapolation: what it must return where the answer is known."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scenewright.datasets.extrapolated.solving import extrapolate, nearest, rescaled


def draw(seed, b=3, k=4, d=12, c=5):
    random = torch.Generator().manual_seed(seed)
    neighbours = torch.randn(b, k, d, generator=random)
    return (
        torch.randn(b, d, generator=random),
        neighbours,
        torch.randn(b, k, c, generator=random),
        torch.randn(b, k, generator=random),
    )


@settings(max_examples=40)
@given(seed=st.integers(0, 2**31), k=st.integers(1, 8), scale=st.floats(1e-2, 1e2))
def test_an_image_that_neighbours_span_has_their_texts_with_the_same_weights(seed, k, scale):
    _, neighbours, texts, weights = draw(seed, k=k)
    images = scale * (weights[:, None] @ neighbours)[:, 0]
    solved = extrapolate(images, neighbours, texts, ridge=0)
    torch.testing.assert_close(solved.weights, scale * weights, rtol=1e-3, atol=1e-3 * scale)
    expected = scale * (weights[:, None] @ texts)[:, 0]
    torch.testing.assert_close(solved.texts, expected, rtol=1e-3, atol=1e-3 * scale)
    assert solved.residuals.max() < 1e-4 and not solved.singular.any()


def test_one_neighbour_weighs_the_product_over_its_squared_length():
    images, neighbours, texts, _ = draw(1, k=1)
    solved = extrapolate(images, neighbours, texts, ridge=0)
    f, column = images[0], neighbours[0, 0]
    torch.testing.assert_close(solved.weights[0, 0], (column @ f) / column.square().sum())
    torch.testing.assert_close(solved.texts[0], (column @ f) / column.square().sum() * texts[0, 0])


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31), b=st.integers(1, 9), ridge=st.sampled_from([0, 1e-3, 0.5]))
def test_a_batch_is_solved_as_each_image_alone(seed, b, ridge):
    images, neighbours, texts, _ = draw(seed, b=b)
    together = extrapolate(images, neighbours, texts, ridge)
    for i in range(b):
        columns = neighbours[i].double().T
        penalty = ridge * columns.square().sum() / 4
        weights = torch.linalg.solve(columns.T @ columns + penalty * torch.eye(4), columns.T @ images[i].double())
        torch.testing.assert_close(together.weights[i], weights.float(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together.texts[i], (texts[i].double().T @ weights).float(), rtol=1e-4, atol=1e-5)
        missed = (columns @ weights - images[i]).norm() / images[i].norm()
        torch.testing.assert_close(together.residuals[i], missed.float(), rtol=1e-4, atol=1e-5)


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31))
def test_what_least_squares_leaves_is_at_right_angles_to_all_neighbours(seed):
    images, neighbours, texts, _ = draw(seed)
    solved = extrapolate(images, neighbours, texts, ridge=0)
    left = images - (solved.weights[:, None] @ neighbours)[:, 0]
    assert (neighbours @ left[..., None]).abs().max() < 1e-3
    assert 0 <= solved.residuals.min() and solved.residuals.max() <= 1 + 1e-5


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31), scale=st.floats(0.01, 100))
def test_a_ridge_is_relative_to_the_neighbours_and_never_fits_better(seed, scale):
    images, neighbours, texts, _ = draw(seed)
    free, held = (extrapolate(images, neighbours, texts, x) for x in (0, 0.1))
    assert (held.residuals >= free.residuals - 1e-5).all()
    assert (held.weights.norm(dim=1) <= free.weights.norm(dim=1) + 1e-5).all()
    larger = extrapolate(scale * images, scale * neighbours, texts, 0.1)
    torch.testing.assert_close(larger.weights, held.weights, rtol=1e-3, atol=1e-4)


def test_neighbours_that_are_not_there_change_nothing():
    images, neighbours, texts, _ = draw(2, k=3)
    valid = torch.tensor([[True, True, False]] * 3)
    solved = extrapolate(images, neighbours, texts, 1e-3, valid)
    fewer = extrapolate(images, neighbours[:, :2], texts[:, :2], 1e-3)
    torch.testing.assert_close(solved.texts, fewer.texts)
    torch.testing.assert_close(solved.residuals, fewer.residuals)
    assert not solved.weights[:, 2].any()


def test_neighbours_that_depend_on_each_other_have_no_solution_without_a_ridge_and_one_with_it():
    images, neighbours, texts, _ = draw(3)
    neighbours[1, 2] = neighbours[1, 0]
    solved = extrapolate(images, neighbours, texts, ridge=0)
    assert solved.singular.tolist() == [False, True, False]
    assert not solved.texts[1].any() and solved.residuals[1] == torch.inf
    assert not extrapolate(images, neighbours, texts, ridge=1e-3).singular.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f, n, t: (f[:, :5], n, t, 0.1), "features of images have 5 values, those of their neighbours 12"),
        (lambda f, n, t: (f[:, :3], n[..., :3], t, 0), "1 to 3 neighbours, got 4"),
        (lambda f, n, t: (f, n, t, -1.0), "ridge must not be negative"),
        (lambda f, n, t: (f, n[:, :0], t[:, :0], 0.1), "got 0"),
    ],
)
def test_what_cannot_be_solved_is_said(change, message):
    with pytest.raises(ValueError, match=message):
        extrapolate(*change(*draw(4)[:3]))


def test_the_nearest_are_found_in_blocks_too(monkeypatch):
    images, originals = (torch.nn.functional.normalize(torch.randn(n, 6), dim=1) for n in (9, 5))
    cosines, places = nearest(images, originals, 2)
    assert places[:, 0].tolist() == (images @ originals.T).argmax(1).tolist()
    assert (cosines[:, 0] >= cosines[:, 1]).all()
    monkeypatch.setattr("scenewright.datasets.extrapolated.solving._CELLS", 10)
    assert torch.equal(nearest(images, originals, 2)[1], places)
    assert nearest(images, originals, 9)[1].shape == (9, 5) and nearest(images[:0], originals, 2)[1].shape == (0, 2)


def test_features_are_given_a_length_unless_they_have_no_direction():
    given = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    assert rescaled(given, 10.0).tolist() == [[6.0, 8.0], [0.0, 0.0]]
