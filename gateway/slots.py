"""Two slots for Envoy, a and b. One is in charge; while an upgrade lasts, both serve on the same port."""

from __future__ import annotations

import os

from gateway.admin import Admin, admin_at, is_live
from gateway.port import EnvoySettings
from gateway.render import Layout

SLOTS = ("a", "b")


def in_charge(layout: Layout) -> str:
    """The slot whose Envoy is asked for what is in force; a before the first start."""
    held = os.readlink(layout.admin) if layout.admin.is_symlink() else ""
    return next((slot for slot in SLOTS if layout.admin_of(slot).name == held), SLOTS[0])


def other(slot: str) -> str:
    """The other slot."""
    return SLOTS[1 - SLOTS.index(slot)]


def put_in_charge(layout: Layout, slot: str) -> None:
    """From now on everybody asks the Envoy in ``slot``. One rename, so that there always is one in charge."""
    aside = layout.run / f".admin.{os.getpid()}"
    aside.unlink(missing_ok=True)
    aside.symlink_to(layout.admin_of(slot).name)
    os.replace(aside, layout.admin)


def slot_admin(settings: EnvoySettings, slot: str) -> Admin:
    """The client of the Envoy in ``slot``, whoever is in charge."""
    return admin_at(Layout.of(settings).admin_of(slot))


def admins(layout: Layout) -> list[Admin]:
    """Clients of all Envoys that serve now, the one in charge first: one, or two while one relieves the other.

    What is to hold for every request must be confirmed by each. One that was relieved may end meanwhile.
    """
    first = in_charge(layout)
    leaving = layout.admin_of(other(first))
    relieved = [admin_at(leaving)] if leaving.exists() and is_live(admin_at(leaving)) else []
    return [admin_at(layout.admin), *relieved]
