"""A setting: one store with options, as benchmarks, evaluations and the selection name it."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError


class StrictModel(BaseModel):
    """The base of everything a report holds: immutable, no unknown keys, no NaN, no Inf."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Setting(StrictModel):
    """A store and its options."""

    store: str
    options: dict[str, Any] = Field(default_factory=dict)
    """The options that differ from the store's defaults."""

    @property
    def key(self) -> str:
        """A text that is equal for equal settings."""
        return json.dumps([self.store, self.options], sort_keys=True, default=str)

    def __str__(self) -> str:
        return " ".join([self.store, *(f"{name}={value}" for name, value in self.options.items())])


def first_of(error: ValidationError) -> str:
    """Describe the first mistake that pydantic found, and where it is."""
    found = error.errors()[0]
    return f"{'.'.join(map(str, found['loc']))}: {found['msg']}".removeprefix(": ")
