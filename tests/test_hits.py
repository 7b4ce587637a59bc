import torch

from fotmem.stores.hits import Hits, no_hits

HITS = Hits(torch.tensor([[[4, 2]]]), torch.tensor([[[3.0, 1.0]]]))


def test_first_and_padded_change_the_columns() -> None:
    assert HITS.first(2) is HITS.padded(2) is HITS
    assert HITS.first(1).ids.tolist() == [[[4]]]
    more = HITS.padded(4)
    assert more.ids.tolist() == [[[4, 2, -1, -1]]]
    assert more.scores.tolist() == [[[3, 1, -torch.inf, -torch.inf]]]


def test_no_hits_have_all_columns() -> None:
    none = no_hits(2, 3, 4, torch.device("cpu"))
    assert none.ids.shape == none.scores.shape == (2, 3, 4)
    assert (none.ids == -1).all()
    assert none.ids.dtype == torch.int64
    assert (none.scores == -torch.inf).all()
