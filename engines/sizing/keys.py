"""Reading a ``config.json`` one key at a time; each value that cannot be is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rollout.errors import Refused

LARGEST = 10**9  # no width, count or length of a model comes near it
_ABSENT = object()


@dataclass(frozen=True)
class Keys:
    """A configuration and the defaults that transformers has for what it omits. ``prefix`` is said in refusals."""

    config: Mapping[str, Any]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    prefix: str = ""

    def raw(self, name: str) -> Any:
        """The value as it stands; an omitted key has its default, and None where there is none."""
        value = self.config.get(name, _ABSENT)
        return self.defaults.get(name) if value is _ABSENT else value

    def count(self, name: str, least: int = 1, most: int = LARGEST) -> int:
        """A whole number that must be there. Raises Refused."""
        value = self.raw(name)
        if value is None:
            raise Refused(self.prefix + name, value, "the key is missing", _fix(name))
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise Refused(
                self.prefix + name, _short(value), f"a whole number from {least} to {most} is needed", _fix(name)
            )
        return value

    def count_or(self, name: str, otherwise: int, least: int = 1) -> int:
        """A whole number; ``otherwise`` where the key is null, or omitted and without a default. Raises Refused."""
        return otherwise if self.raw(name) is None else self.count(name, least)

    def flag(self, name: str) -> bool:
        """True or false; omitted and null are the default, else false. Raises Refused."""
        value = self.raw(name)
        if value is None:
            return bool(self.defaults.get(name, False))
        if not isinstance(value, bool):
            raise Refused(self.prefix + name, _short(value), "true or false is needed", _fix(name))
        return value

    def mapping(self, name: str) -> Mapping[str, Any]:
        """A nested object; empty where the key is null or omitted. Raises Refused."""
        value = self.raw(name)
        if value is not None and not isinstance(value, Mapping):
            raise Refused(self.prefix + name, _short(value), "an object is needed", _fix(name))
        return value or {}

    def items(self, name: str, kind: type) -> list[Any] | None:
        """A list of ``kind``; None where the key is null or omitted. Raises Refused."""
        value = self.raw(name)
        if value is None:
            return None
        if not isinstance(value, list) or any(type(item) is not kind for item in value):
            raise Refused(self.prefix + name, _short(value), f"a list of {kind.__name__} is needed", _fix(name))
        return value

    def refuse(self, name: str, rule: str) -> Refused:
        """A refusal of the value of that key, to be raised."""
        return Refused(self.prefix + name, _short(self.raw(name)), rule, _fix(name))


def _fix(name: str) -> str:
    return f"take config.json from the model's own repository, and see that {name} is as its authors published it"


def _short(value: Any) -> Any:
    text = repr(value)
    return value if len(text) <= 80 else text[:77] + "..."
