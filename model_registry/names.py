"""Names of models, versions and aliases, and the URIs made of them. Pure; the rules hold in every registry."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rollout.errors import Refused

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
ALIAS = re.compile(r"[A-Za-z0-9_-]{1,128}")
URI = re.compile(r"models:/(?P<name>[^/@]+)(?:/(?P<version>[0-9]+)|@(?P<alias>[^/@]+))")


@dataclass(frozen=True)
class Named:
    """What a registry URI names: a version, or what an alias names at the moment it is asked."""

    name: str
    version: str | None
    alias: str | None


def parse_uri(uri: str) -> Named:
    """Read ``models:/name/3`` or ``models:/name@alias``. Raises Refused.

    >>> parse_uri("models:/smollm2@champion")
    Named(name='smollm2', version=None, alias='champion')
    """
    found = URI.fullmatch(uri)
    if not found:
        raise Refused("model", uri, "it names no registered model", "write models:/NAME/3 or models:/NAME@ALIAS")
    return Named(found["name"], found["version"], found["alias"])


def version_uri(name: str, version: str) -> str:
    """The address of one version, which never changes its meaning."""
    return f"models:/{name}/{version}"


def check_name(name: str) -> None:
    """Raises Refused unless ``name`` can stand in a URI, a folder's name and a service's configuration."""
    if not NAME.fullmatch(name):
        rule = "a model's name is 1 to 128 letters, digits, '.', '_' or '-', the first a letter or digit"
        raise Refused("name", name, rule, "choose a name such as smollm2")


def check_alias(alias: str) -> None:
    """Raises Refused for an alias that MLflow reserves (``latest``, ``v3``) or cannot store."""
    if not ALIAS.fullmatch(alias):
        raise Refused("alias", alias, "an alias is letters, digits, '_' or '-'", "use an alias such as candidate")
    if alias.lower() == "latest" or re.fullmatch(r"v\d+", alias, re.IGNORECASE):
        raise Refused("alias", alias, "latest and v<number> are reserved", "use an alias such as candidate")
