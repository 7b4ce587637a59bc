"""Checks that a call is refused, by the right error."""

from collections.abc import Callable

from fotmem.errors import FotmemError
from fotmem.testing.store.expectations import fail


def expect_refusal(
    kind: type[FotmemError] | tuple[type[FotmemError], ...],
    call: Callable[[], object],
    what: str,
) -> None:
    """Expect a call to raise an error of this kind, with a message."""
    __tracebackhide__ = True
    kinds = kind if isinstance(kind, tuple) else (kind,)
    wanted = " or ".join(each.__name__ for each in kinds)
    try:
        call()
    except kinds as error:
        if not str(error).strip():
            fail(f"{what} must be refused with a message, got an empty {type(error).__name__}")
    except Exception as error:
        fail(f"{what} must be refused by {wanted}, got {type(error).__name__}: {error}")
    else:
        fail(f"{what} must be refused by {wanted}, but was accepted")
