"""How anything here says no. One shape, so that a person always learns the field, the value, the rule and the fix."""

from __future__ import annotations


class RoundhouseError(Exception):
    """Base of all errors that a user is meant to read. ``exit_code`` is what the CLI ends with."""

    exit_code = 1


class Refused(RoundhouseError):
    """Input that cannot work, refused before anything was changed.

    >>> str(Refused("port", 8080, "8080 and 9090 are reserved", "choose another port, for example 18100"))
    'port: 8080 is refused: 8080 and 9090 are reserved. Fix: choose another port, for example 18100.'
    """

    exit_code = 2

    def __init__(self, field: str, value: object, rule: str, fix: str) -> None:
        self.field, self.value, self.rule, self.fix = field, value, rule, fix
        shown = repr(value) if isinstance(value, str) else str(value)
        super().__init__(f"{field}: {shown} is refused: {rule.rstrip('.')}. Fix: {fix.rstrip('.')}.")


class NotFound(RoundhouseError):
    """Something that was named does not exist."""

    exit_code = 3


class Conflict(RoundhouseError):
    """Somebody else holds it: a port, a release of the same service, a lock."""

    exit_code = 4


class Unavailable(RoundhouseError):
    """A part that is needed does not answer; trying again later may work."""

    exit_code = 5


class Corrupt(RoundhouseError):
    """A file is not what the record says it is."""

    exit_code = 6
