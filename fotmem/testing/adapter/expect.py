"""Comparisons whose messages give the expected and the actual value."""

import torch
from torch import Tensor


def expect(truth: bool, message: str) -> None:
    """Fail with a message unless something is true."""
    __tracebackhide__ = True
    if not truth:
        raise AssertionError(message)


def expect_close(
    what: str, actual: Tensor, expected: Tensor, *, within: float, hint: str = ""
) -> None:
    """Fail unless two tensors have one shape and differ by at most `within` anywhere.

    Parameters
    ----------
    what : str
        Names the tensor in the message.
    actual, expected : Tensor
        Of any shape and floating dtype.
    within : float
        The largest absolute difference that is allowed; 0: equal to the last bit.
    hint : str
        Where to look for the mistake.
    """
    __tracebackhide__ = True
    expect(
        actual.shape == expected.shape,
        f"{what}: expected shape {list(expected.shape)}, got {list(actual.shape)}. {hint}",
    )
    differences = (actual.detach().double() - expected.detach().double()).abs()
    if differences.numel() == 0 or bool((differences <= within).all()):
        return
    worst = int(differences.nan_to_num(torch.inf).argmax())
    place = [int(index) for index in torch.unravel_index(torch.tensor(worst), actual.shape)]
    share = float((~(differences <= within)).double().mean())
    raise AssertionError(
        f"{what}: {share:.0%} of it differs by more than {within:g}; the most at {place}: expected "
        f"{expected[tuple(place)].item():.6g}, got {actual[tuple(place)].item():.6g}. {hint}"
    )
