"""What hangs on a model's modules, to prove that nothing was left there."""

from typing import Any

from torch import nn


def snapshot(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Everything that hangs on every module, hooks and forward functions included."""
    return {
        name: {
            key: dict(value) if isinstance(value, dict) else value
            for key, value in vars(module).items()
        }
        for name, module in model.named_modules()
    }


def assert_untouched(model: nn.Module, before: dict[str, dict[str, Any]]) -> None:
    after = snapshot(model)
    assert after.keys() == before.keys()
    for name, were in before.items():
        assert after[name].keys() == were.keys(), name
        for key, value in were.items():
            now = after[name][key]
            if isinstance(value, dict):
                assert now.keys() == value.keys(), (name, key)
                assert all(now[inner] is value[inner] for inner in value), (name, key)
            else:
                assert now is value or now == value, (name, key)
    for module in model.modules():
        assert getattr(module.forward, "__func__", None) is type(module).forward
