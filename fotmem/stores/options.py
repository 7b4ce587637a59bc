"""The options of a store: a model that takes values as they are given."""

from collections.abc import Mapping
from typing import Any, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
)
from pydantic_core import PydanticCustomError

from fotmem.errors import OptionError, shown

_Options = TypeVar("_Options", bound=BaseModel)


def checked_options(model: type[_Options], options: Mapping[str, Any], owner: str) -> _Options:
    """Make an options model; an `OptionError` names `owner`."""
    try:
        return model.model_validate(dict(options))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "options"
        said = _in_our_words(first["msg"])
        raise OptionError(
            f"option {place!r} of {owner}{said}, got {shown(first['input'])}"
        ) from error


class StoreOptions(BaseModel):
    """Base of a store's options: immutable; refuses unknown options and converted values."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="wrap")
    @classmethod
    def _as_given(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        """Refuse a number or boolean that was made of something else, such as ``"3"`` or True."""
        taken = handler(value)
        if _is_converted(value, taken):
            kind = "boolean" if type(taken) is bool else "number"
            raise PydanticCustomError(
                "as_given", f"Input should be a {kind}, which {type(value).__name__} is not"
            )
        return taken

    def changed(self, options: Mapping[str, Any]) -> Self:
        """Return these options with some of them changed.

        Raises
        ------
        OptionError
            One is unknown, or its value not allowed.
        """
        return checked_options(type(self), {**self.model_dump(), **options}, "this store")


def _in_our_words(message: str) -> str:
    """Say what pydantic says as our errors do: "must be at least 1"."""
    if not message.startswith("Input should be "):
        return f": {message}"
    expected = message.removeprefix("Input should be ")
    for theirs, ours in (("greater", "at least"), ("less", "at most")):
        expected = expected.replace(f"{theirs} than or equal to", ours)
    return f" must be {expected}"


def _is_converted(value: object, taken: object) -> bool:
    """Return whether a number or boolean was made of something else."""
    truth = type(value).__name__ in ("bool", "bool_")  # also NumPy's
    if type(taken) is bool:
        return not truth
    if not isinstance(taken, int | float):
        return False
    texts = () if type(taken) not in (int, float) else (str, bytes)  # pydantic.ByteSize reads them
    floats = (float,) if isinstance(taken, int) else ()
    return truth or isinstance(value, (*texts, *floats))
