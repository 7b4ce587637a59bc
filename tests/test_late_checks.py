import pytest
import torch

from fotmem.errors import NonFiniteError
from fotmem.stores.late_checks import LateChecks


def test_a_failed_check_is_reported_once() -> None:
    checks = LateChecks()
    checks.report()
    for fine in (True, False, True):
        checks.note(torch.tensor(fine))
    with pytest.raises(NonFiniteError, match="queries or bias of an earlier search must be fin"):
        checks.report()
    checks.note(torch.tensor(True))
    checks.report()
