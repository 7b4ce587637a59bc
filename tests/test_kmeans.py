"""k-means, against distances computed one by one in float64."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from fotmem.stores import kmeans, moved_centres, nearest_centres
from fotmem.testing.store.naive import draw, quick


@quick
@given(
    heads=st.integers(1, 3),
    count=st.integers(0, 40),
    places=st.integers(1, 9),
    block=st.sampled_from((1, 50, 2**20)),
)
def test_the_nearest_centre_is_the_nearest(heads: int, count: int, places: int, block: int) -> None:
    vectors, centres = draw(heads, count, 5), draw(heads, places, 5, seed=1)
    before, kmeans.BLOCK = kmeans.BLOCK, block
    try:
        found = nearest_centres(vectors, centres)
    finally:
        kmeans.BLOCK = before
    assert (found.shape, found.dtype) == ((heads, count), torch.int64)
    distances = (vectors[:, :, None] - centres[:, None]).double().norm(dim=3)
    best = distances.gather(2, found[..., None]).squeeze(2)
    assert torch.allclose(best, distances.amin(2), atol=1e-5)


def test_a_step_moves_centres_to_means_and_leaves_those_without_vectors() -> None:
    vectors = torch.tensor([[0.0, 0.0], [2.0, 0.0], [10.0, 4.0]])
    centres = torch.tensor([[1.0, 1.0], [9.0, 9.0], [50.0, 50.0]])
    expected = torch.tensor([[1.0, 0.0], [10.0, 4.0], [50.0, 50.0]])
    assert torch.equal(moved_centres(vectors, centres), expected)


def test_steps_lead_to_the_clusters_that_are_there() -> None:
    true = 10 * draw(6, 8)
    members = torch.arange(600) % 6
    vectors = true[members] + draw(600, 8, seed=1)
    centres = vectors[:6]
    for _ in range(5):
        centres = moved_centres(vectors, centres)
    means = torch.stack([vectors[members == one].mean(0) for one in range(6)])
    assert torch.allclose(centres, means, atol=1e-4)
