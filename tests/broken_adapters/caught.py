"""Which test of the contract catches which broken adapter."""

from typing import Any

from fotmem.adapter import Adapter

BROKEN: dict[type[Adapter], tuple[str, str, dict[str, Any]]] = {}
"""For each: the test, the family that shows the mistake, and what its config must say."""


def caught_by(test: str, family: str = "qwen3", **config: Any) -> Any:
    """Register an adapter with one mistake."""

    def enter(adapter: type[Adapter]) -> type[Adapter]:
        BROKEN[adapter] = test, family, config
        return adapter

    return enter
