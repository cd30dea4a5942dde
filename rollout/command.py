"""What is run, and where: a process, alone on a machine or in a container. Engines say it, platforms do it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rollout.errors import NotFound

GIB = 1024**3


@dataclass(frozen=True)
class Mount:
    """A directory of the host inside a container."""

    host: str
    inside: str
    read_only: bool = True


@dataclass(frozen=True)
class Container:
    """The container that a command runs in. ``gpus`` are NVML UUIDs; empty: none are asked for."""

    image: str
    gpus: tuple[str, ...] = ()
    shm_bytes: int = 0  # size of /dev/shm; 0: the runtime's own
    mounts: tuple[Mount, ...] = ()
    ulimits: dict[str, int] = field(default_factory=dict)  # soft and hard; -1: no limit
    ipc: str = ""  # "host" shares the host's; empty: its own
    entrypoint: str = ""  # replaces the image's own, which else gets the whole argument list


@dataclass(frozen=True)
class Command:
    """One process: argument list, the environment added to the parent's, and the container around it if there is one.

    A value such as ``$HF_TOKEN`` stands for a variable of the environment in which it is started: see ``revealed``.

    ``cores`` are the processors that it may run on; empty: all.
    """

    argv: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    container: Container | None = None
    cores: tuple[int, ...] = ()


MASK = "***"
_SHORTEST = 8  # characters of a secret that is masked wherever it stands; a shorter one would mask plain words
_LONGEST_LINE = 65_536  # bytes that are held back for want of a line's end
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_SECRET = re.compile(
    r"SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|(^|_)CREDS?($|_)"
    r"|API_?KEY|(^|_)KEY($|_ID$|_BASE64$|_\d+$)"
    r"|(^|_)AUTH(ORIZATION)?($|_)(?!TYPE|METHOD|MODE|ENABLED|URL)"
    r"|(?<!EOS_)(?<!BOS_)(?<!PAD_)(?<!UNK_)(?<!SEP_)(?<!CLS_)(?<!MASK_)(?<!STOP_)(?<!PER_)(?<!IMAGE_)(?<!FIRST_)"
    r"TOKEN($|_(?!IDS?$|INDEX$|DELAY|BUDGET|LIMIT|COUNT|TREE|TYPE|LEN|PARSER|BLOCK))"
)
_HOLDS_NONE = re.compile(r"_?(FILE|PATH|DIR)$")  # such a name says where one lies
_IN_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/\s:@]*:([^/\s@]+)@")
_PLAIN = re.compile(r"\d{1,6}|[\d.]{1,6}|true|false|none|auto", re.IGNORECASE)  # a setting, whatever its name
_REFERENCE = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")


def is_secret(name: str) -> bool:
    """Whether a variable or an option of this name is likely to hold a secret: HF_TOKEN, api-key, not eos_token_id."""
    plain = _CAMEL.sub("_", name).upper().replace("-", "_").replace(".", "_")
    return _SECRET.search(plain) is not None and _HOLDS_NONE.search(plain) is None


def has_password(value: str) -> bool:
    """Whether it is a URL with a password: ``postgres://user:password@host``."""
    return _IN_URL.search(value) is not None


def secret_in(value: object, name: str = "") -> str:
    """The name under which a value holds a secret, at any depth, in lists of flags too; empty where it holds none."""
    if isinstance(value, str):
        literal = is_secret(name) and value != "" and not _PLAIN.fullmatch(value)
        return (name or "a URL") if literal or has_password(value) else ""
    if isinstance(value, Mapping):
        return next((found for key, inner in value.items() if (found := secret_in(inner, str(key)))), "")
    if not isinstance(value, Sequence):
        return ""
    flag = ""
    for word in value:
        stated = isinstance(word, str) and word.startswith("-")
        flag, _, given = word.lstrip("-").partition("=") if stated else (flag, "", word)
        if found := secret_in(given, flag or name):
            return found
        flag = flag if stated else ""
    return ""


def secrets_of(environment: Mapping[str, str], shortest: int = _SHORTEST) -> tuple[str, ...]:
    """The values of variables whose names sound secret and the passwords of URLs, longest first; of several lines each.

    Those under ``shortest`` characters are left out.
    """
    named = {line for name, value in environment.items() if is_secret(name) for line in value.splitlines()}
    found = named | {password for value in environment.values() for password in _IN_URL.findall(value)}
    return tuple(sorted((value for value in found if len(value) >= shortest), key=len, reverse=True))


def masked(text: str, secrets: Sequence[str]) -> str:
    """The text without them."""
    for secret in secrets:
        text = text.replace(secret, MASK)
    return text


class MaskedLines:
    """Masks what comes in pieces: a secret may be divided between two, so that only whole lines are passed on."""

    def __init__(self, secrets: Sequence[str]) -> None:
        self._secrets = [secret.encode() for secret in secrets]
        self._held = b""

    def more(self, piece: bytes) -> bytes:
        """What can be passed on now."""
        held = self._held + piece
        end = max(held.rfind(b"\n"), held.rfind(b"\r")) + 1
        if len(held) - end > _LONGEST_LINE:
            held = self._masked(held)
            end = len(held) - max(map(len, self._secrets), default=0)
        self._held = held[end:]
        return self._masked(held[:end])

    def rest(self) -> bytes:
        """What was held back, at the end."""
        last, self._held = self._masked(self._held), b""
        return last

    def _masked(self, text: bytes) -> bytes:
        for secret in self._secrets:
            text = text.replace(secret, MASK.encode())
        return text


def referred(value: str) -> str:
    """The variable that a value such as ``$HF_TOKEN`` refers to; empty where it is a value."""
    found = _REFERENCE.fullmatch(value)
    return found.group(1) if found else ""


def revealed(env: Mapping[str, str], known: Mapping[str, str]) -> dict[str, str]:
    """The environment with references looked up in ``known``, at the last moment, so that no record holds a secret.

    Raises NotFound where one is not there.
    """
    missing = sorted(name for value in env.values() if (name := referred(value)) and name not in known)
    if missing:
        raise NotFound(f"the environment has no {', '.join(missing)}; export it where this runs, and start again")
    return {name: known[referred(value)] if referred(value) else value for name, value in env.items()}
