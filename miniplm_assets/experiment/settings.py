"""The base of every section of the experiment file: frozen, and closed to unknown keys."""

import difflib
from collections.abc import Collection, Iterator
from typing import Annotated, Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import InitErrorDetails, PydanticCustomError

# Names become asset keys, folders and SQL identifiers, so they hold what all three allow.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$", max_length=100)]
Share = Annotated[float, Field(ge=0, lt=1)]


def nearest(word: str, known: list[str]) -> str:
    """Return a hint that names the closest known word, or all of them where none is close."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)  # two letters swapped in a short word
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(sorted(known)) or 'none'}"


def unknown(where: str, name: str, known: Collection[str], *, left_out: Collection[str]) -> Iterator[str]:
    """Say that something is named which the file does not have, with the nearest that it has.

    Args:
        where: the key.
        name: that stands there.
        known: names that the file has.
        left_out: names that it has too, and that are wrong in themselves; nothing is said of these.
    """
    if name not in known and name not in left_out:
        yield f"{where} '{name}' is not in this file; {nearest(name, list(known))}"


class Settings(BaseModel):
    """A section of the experiment file. Unknown keys are refused, with the nearest known one."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    # Never in a fingerprint: where and how fast a result is computed, not which one.
    runtime_only: ClassVar[frozenset[str]] = frozenset()
    # Never in a fingerprint: what is looked at on the way to a result, and changes nothing of it.
    reporting_only: ClassVar[frozenset[str]] = frozenset()

    def identity(self) -> dict[str, Any]:
        """Return the settings that a result depends on, as JSON values: what a fingerprint hashes.

        A setting that is at its default is left out, so that one which a later release adds re-keys no stored result.
        The price: a default that changes gives other results under the same fingerprint, so whoever changes one raises
        the code version of every kind that reads it. `test_identity` pins the defaults.
        """
        left_out = self.runtime_only | self.reporting_only
        return {
            name: _identity(getattr(self, name))
            for name, declared in type(self).model_fields.items()
            if name not in left_out
            and (declared.is_required() or getattr(self, name) != declared.get_default(call_default_factory=True))
        }

    @model_validator(mode="wrap")
    @classmethod
    def _name_the_nearest_key(cls, value: Any, handler: ModelWrapValidatorHandler["Settings"]) -> "Settings":
        if isinstance(value, dict):
            cls._refuse_booleans(value)
        try:
            return handler(value)
        except ValidationError as error:
            raise ValidationError.from_exception_data(
                error.title, [cls._reworded(details) for details in error.errors(include_url=False)]
            ) from None

    @classmethod
    def _refuse_booleans(cls, values: dict[Any, Any]) -> None:
        """Make sure that no number is a boolean: Python takes true for 1.

        Raises:
            ValidationError: where one is.
        """
        wrong = [
            InitErrorDetails(
                type=PydanticCustomError("boolean", "a number is expected, not true or false"),
                loc=(name,),
                input=values[name],
            )
            for name, declared in cls.model_fields.items()
            if any(isinstance(value, bool) for value in _flat(values.get(name))) and not _takes_booleans(declared)
        ]
        if wrong:
            raise ValidationError.from_exception_data(cls.__name__, wrong)

    @classmethod
    def _reworded(cls, details: Any) -> InitErrorDetails:
        kind, text = details["type"], details["msg"]
        if kind == "extra_forbidden" and len(details["loc"]) == 1:
            kind, text = "unknown_key", f"unknown key; {nearest(str(details['loc'][0]), list(cls.model_fields))}"
        problem = PydanticCustomError(kind, "{text}", {"text": text})
        return InitErrorDetails(type=problem, loc=details["loc"], input=details["input"])


def _flat(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _takes_booleans(declared: FieldInfo) -> bool:
    def inside(annotation: Any) -> Iterator[Any]:
        yield annotation
        for argument in get_args(annotation):
            yield from inside(argument)

    return any(part is bool for part in inside(declared.annotation))


def _identity(value: Any) -> Any:
    match value:
        case Settings():
            return value.identity()
        case dict():
            return {name: _identity(inner) for name, inner in value.items()}
        case list() | tuple():
            return [_identity(inner) for inner in value]
        case _:
            return value
