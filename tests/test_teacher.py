"""The model as it was, against which a tuned one is held."""

import torch
from torch.nn.functional import kl_div

from fotmem.training.teacher import Teacher
from tests import tiny
from tests.tiny import WINDOW, one_thread  # noqa: F401 - a fixture


def test_divergence_is_from_predictions_in_one_context() -> None:
    model, other = tiny.llama(), tiny.llama(seed=9)
    counts = [3, 2]
    windows = tiny.ids(5 * WINDOW).view(5, WINDOW)
    scored = torch.zeros(5, WINDOW, dtype=torch.bool)
    scored[:, torch.tensor([0, 2, WINDOW - 2])] = True
    scored[1, 5] = True  # not the same in all windows
    logits = other(windows).logits[scored]
    found = Teacher(model, ()).divergence(windows, scored, logits, counts)
    assert len(found) == 16
    for place, (row, column) in enumerate(scored.nonzero().tolist()):
        first = 0 if row < 3 else 3
        seen = windows[first : row + 1].flatten()[: (row - first) * WINDOW + column + 1]
        expected = model(seen[None]).logits[0, -1].double().log_softmax(-1)
        given = logits[place].double().log_softmax(-1)
        exact = kl_div(given, expected, log_target=True, reduction="sum")
        assert abs(float(found[place] - exact)) <= 1e-5 + 1e-4 * float(exact)


def test_the_teacher_does_not_change_and_shares_untrained_weights() -> None:
    model = tiny.llama()
    trained = list(model.model.layers[1].self_attn.parameters())
    teacher = Teacher(model, trained)
    ids, scored = tiny.ids(2 * WINDOW).view(2, WINDOW), torch.ones(2, WINDOW, dtype=torch.bool)
    logits = model(ids).logits[scored]
    before = teacher.divergence(ids, scored, logits, [2])
    with torch.no_grad():
        for weight in trained:
            weight.add_(1.0)
    assert torch.equal(teacher.divergence(ids, scored, logits, [2]), before)
    own = {id(weight) for weight in model.parameters()}
    copied = [weight for weight in teacher._model.parameters() if id(weight) not in own]
    assert len(copied) == len(trained)
    assert not any(weight.requires_grad for weight in copied)


def test_an_untrained_model_does_not_diverge() -> None:
    model = tiny.llama()
    ids, scored = tiny.ids(2 * WINDOW).view(2, WINDOW), torch.ones(2, WINDOW, dtype=torch.bool)
    found = Teacher(model, ()).divergence(ids, scored, model(ids).logits[scored], [2])
    assert float(found[:WINDOW].abs().max()) <= 1e-5
