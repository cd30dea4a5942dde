"""``roundhouse token``: the keys that open services and groups."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

import typer

from cli.durations import seconds
from cli.screen import out, say, show_json, show_table
from configs.stack import load_stack
from gateway.port import Token
from gateway.signed import MOST_TOKENS
from gateway.tokens import OWN, TokenFile, fingerprint
from rollout.errors import NotFound, Refused, Unavailable
from store.port import Store, open_store
from store.steer import NotTaken, confirm_all

app = typer.Typer(help="Keys that open services and groups: shown once, when they are made.", no_args_is_help=True)

Door = Annotated[str, typer.Argument(help="A service or a group, for example chat.")]
Client = Annotated[str, typer.Option("--client", help="Who is to use it; the name stands in the records.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]


@app.command()
def create(
    door: Door,
    client: Client,
    may_pin: Annotated[bool, typer.Option("--may-pin", help="May choose a version by x-roundhouse-version.")] = False,
    lasting: Annotated[
        str, typer.Option("--for", help="How long it opens, for example 30d; empty: until revoked.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Make a token for one client. It is printed once and never shown again; the gateway knows it then.

    Example: `roundhouse token create chat --client alice --for 30d`
    """
    store, tokens = _open()
    must_be_door(store, door)
    if may_pin and door in [group.name for group in store.groups()]:
        rule = "a version is chosen at a service's own path, and this is a group"
        raise Refused("--may-pin", door, rule, "make the token for one of its members, or leave --may-pin out")
    must_have_room(store, tokens, door)
    until = time.time() + seconds("--for", lasting) if lasting else None
    _show_new(store, tokens, door, tokens.create(door, client, may_pin, until), as_json)


@app.command("ls")
def list_tokens(door: Door, as_json: Json = False) -> None:
    """Who has a token of a service or group, and until when; never the tokens themselves.

    Example: `roundhouse token ls chat`
    """
    store, tokens = _open()
    must_be_door(store, door)
    listed = tokens.listed(door)
    if as_json:
        show_json([asdict(entry) for entry in listed])
        return
    rows = [(e.client, e.fingerprint, "yes" if e.may_pin else "", _day(e.created_at), _day(e.until)) for e in listed]
    show_table("", ("client", "fingerprint", "may pin", "made", "opens until"), rows)


@app.command()
def rotate(
    door: Door,
    client: Client = OWN,
    overlap: Annotated[str, typer.Option("--overlap", help="How long the old one still opens.")] = "1h",
    as_json: Json = False,
) -> None:
    """Make a client a new token; its old one opens for the overlap and then no more.

    Example: `roundhouse token rotate chat --client alice --overlap 1h`
    """
    store, tokens = _open()
    must_be_door(store, door)
    overlap_s = seconds("--overlap", overlap)
    must_have_room(store, tokens, door, instead_of=client if overlap_s == 0 else "")
    _show_new(store, tokens, door, tokens.rotate(door, client, overlap_s), as_json)


@app.command()
def revoke(
    door: Door,
    named: Annotated[str, typer.Option("--client", help="A client, or the fingerprint of one token (see `token ls`).")],
    as_json: Json = False,
) -> None:
    """End a client's tokens, or one token, also on connections that are open. Returns when the gateway refuses it.

    Example: `roundhouse token revoke chat --client alice`
    """
    store, tokens = _open()
    gone = tokens.revoke(door, named)
    # Of no door in particular: settings that were refused, of this one too, keep no revoked token open.
    confirm_all(store, [], f"the end of {gone} token(s) of {door}", tokens=tokens.serial())
    if as_json:
        show_json({"door": door, "revoked": gone, "confirmed": True})
    else:
        out.print(f"{gone} token(s) of {door} open nothing any more")


@app.command()
def show(
    door: Door,
    header: Annotated[
        bool, typer.Option(help="As a header line, for curl's -H @FILE: no token on a command line.")
    ] = False,
) -> None:
    """Print the token that the stack itself calls a service or group with (client `default`), for a first try.

    Example: `curl -H @<(roundhouse token show chat --header) ...`
    """
    secret = TokenFile(load_stack().tokens).secret(door)
    sys.stdout.write(f"Authorization: Bearer {secret}\n" if header else f"{secret}\n")


def must_be_door(store: Store, name: str) -> None:
    """Raises NotFound unless a service or a group has that name."""
    doors = [s.name for s in store.services()] + [g.name for g in store.groups()]
    if name not in doors:
        raise NotFound(f"there is no service or group {name!r}; there are: {', '.join(doors) or 'none yet'}")


def must_have_room(store: Store, tokens: TokenFile, door: str, instead_of: str = "") -> None:
    """Raises Refused when one more token is too many for a door that takes signatures; a client's may be replaced."""
    signed = {s.name for s in store.services() if s.traffic.get("signed") is True}
    signed |= {g.name for g in store.groups() if signed & {m.service for m in g.members}}
    count = 1 + sum(token.client != instead_of for token in tokens.of(door))
    if door in signed and count > MOST_TOKENS:
        rule = f"a door that takes signatures has at most {MOST_TOKENS} tokens: each costs a hash per request"
        raise Refused(f"tokens of {door}", count, rule, "revoke a token, or turn `signed` off")


def _open() -> tuple[Store, TokenFile]:
    stack = load_stack()
    return open_store(stack.store()), TokenFile(stack.tokens)


def _show_new(store: Store, tokens: TokenFile, door: str, token: Token, as_json: bool) -> None:
    """The one time that a token is shown. It was made, whether or not an agent is there to pass it on."""
    confirmed = True
    try:
        confirm_all(store, [door], f"the new token of {door}", tokens=tokens.serial())
    except (NotTaken, Unavailable) as error:  # in no case is the secret lost
        confirmed = False
        say(f"{error}; the token was made and opens {door} once that is mended")
    if as_json:
        show_json(_plain(door, token, confirmed))
        return
    say(f"client {token.client}, fingerprint {fingerprint(token.secret)}; it is not shown again:")
    sys.stdout.write(token.secret + "\n")


def _plain(door: str, token: Token, confirmed: bool) -> dict[str, Any]:
    return {"door": door, **asdict(token), "fingerprint": fingerprint(token.secret), "confirmed": confirmed}


def _day(at: float | None) -> str:
    return datetime.fromtimestamp(at).strftime("%Y-%m-%d %H:%M") if at else ""
