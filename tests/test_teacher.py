"""The model as it was, against which a tuned one is held."""

import torch
from torch.nn.functional import kl_div

from fotmem.training.teacher import Teacher
from tests import tiny
from tests.tiny import WINDOW, one_thread  # noqa: F401 - a fixture


def test_divergence_is_from_predictions_in_one_context() -> None:
    model, other = tiny.llama(), tiny.llama(seed=9)
    ids = torch.cat([tiny.ids(2 * WINDOW, seed=seed) for seed in range(3)])
    windows = torch.cat([ids[:, :WINDOW], ids[:, WINDOW:]])
    columns = torch.tensor([0, 2, 5, WINDOW - 2])
    logits = other(windows).logits[:, columns]
    found = Teacher(model, ()).divergence(windows, columns, logits)
    for row in range(3):
        for half in range(2):
            for place, column in enumerate(columns.tolist()):
                seen = ids[row : row + 1, : half * WINDOW + column + 1]
                expected = model(seen).logits[0, -1].double().log_softmax(-1)
                given = logits[half * 3 + row, place].double().log_softmax(-1)
                exact = kl_div(given, expected, log_target=True, reduction="sum")
                difference = abs(float(found[half * 3 + row, place] - exact))
                assert difference <= 1e-5 + 1e-4 * float(exact)


def test_the_teacher_has_earlier_windows_in_its_context() -> None:
    model, other = tiny.llama(), tiny.llama(seed=9)
    earlier = [tiny.ids(count * WINDOW, seed=count).view(-1, WINDOW) for count in (2, 0)]
    windows = tiny.ids(4 * WINDOW).view(4, WINDOW)
    columns = torch.tensor([3, WINDOW - 2])
    logits = other(windows).logits[:, columns]
    teacher = Teacher(model, ())
    found = teacher.divergence(windows, columns, logits, earlier)
    assert torch.allclose(found[:2], teacher.divergence(windows, columns, logits)[:2], atol=1e-5)
    for row in range(2):
        context = torch.cat([*earlier[row], windows[row], windows[2 + row]])[None]
        for place, column in enumerate(columns.tolist()):
            seen = context[:, : context.shape[1] - WINDOW + column + 1]
            expected = model(seen).logits[0, -1].double().log_softmax(-1)
            given = logits[2 + row, place].double().log_softmax(-1)
            exact = kl_div(given, expected, log_target=True, reduction="sum")
            assert abs(float(found[2 + row, place] - exact)) <= 1e-5 + 1e-4 * float(exact)


def test_the_teacher_does_not_change_and_shares_untrained_weights() -> None:
    model = tiny.llama()
    trained = list(model.model.layers[1].self_attn.parameters())
    teacher = Teacher(model, trained)
    columns, ids = torch.arange(WINDOW - 1), tiny.ids(2 * WINDOW).view(2, WINDOW)
    logits = model(ids).logits[:, columns]
    before = teacher.divergence(ids, columns, logits)
    with torch.no_grad():
        for weight in trained:
            weight.add_(1.0)
    assert torch.equal(teacher.divergence(ids, columns, logits), before)
    own = {id(weight) for weight in model.parameters()}
    copied = [weight for weight in teacher._model.parameters() if id(weight) not in own]
    assert len(copied) == len(trained)
    assert not any(weight.requires_grad for weight in copied)


def test_an_untrained_model_does_not_diverge() -> None:
    model = tiny.llama()
    ids = tiny.ids(2 * WINDOW).view(2, WINDOW)
    columns = torch.arange(WINDOW - 1)
    previous, _ = Teacher(model, ()).divergence(ids, columns, model(ids).logits[:, columns])
    assert float(previous.abs().max()) <= 1e-5
