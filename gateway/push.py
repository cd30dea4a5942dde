"""One change of Envoy's files, confirmed or undone.

The order is the one under which Envoy drops nothing: endpoints, clusters old and new together, wait until they are
warm, routes, and only then the clusters that no route names any more, once they have no open request.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from gateway import files
from gateway.admin import Admin, Stats
from gateway.clusters import eds_file
from gateway.port import GatewayRefused
from gateway.render import CDS, LDS, RDS, RDS_MIRROR, Layout

Doc = dict[str, Any]
WARMING = "cluster_manager.warming_clusters"
_SUBSCRIPTIONS = {CDS: "cluster_manager.cds", RDS: "http.gw.rds.gateway", RDS_MIRROR: "http.mirror.rds.mirror"}
_REASON_WAIT_S = 1.0  # Envoy flushes its log ten times a second


class Push:
    """Writes what differs from the disk, waits until Envoy confirms each step, and can put everything back."""

    def __init__(self, layout: Layout, admin: Admin, revision: str, timeout_s: float) -> None:
        self._layout, self._admin, self._revision = layout, admin, revision
        self._timeout_s = timeout_s
        self._log_from = _size(layout.envoy_log)
        self._before: dict[str, bytes | None] = {}  # in the order of writing

    def make(self, rendered: dict[str, Doc]) -> None:
        """Bring Envoy to ``rendered``. Raises GatewayRefused with Envoy's reason, Unavailable."""
        self._admin.stats([WARMING])  # an Envoy that does not answer is found out before anything is written
        clusters = _by_name(rendered[CDS])
        held = _by_name(files.parsed(files.read(self._layout.xds / CDS)) or {})
        endpoints = [name for name in rendered if name.startswith("eds-")]
        known = {eds_file(name) for name in held}
        self._step({n: rendered[n] for n in endpoints}, confirm=lambda name: name in known)
        self._step({CDS: _discovery(self._revision, {**held, **clusters})}, also=set(endpoints) - known)
        self._step({RDS_MIRROR: rendered[RDS_MIRROR]})
        self._step({RDS: rendered[RDS]})
        self._retire({**held, **clusters}, set(held) - set(clusters))

    def undo(self) -> None:
        """Put back every file written, last first, and wait for Envoy to hold them again as far as it answers."""
        for name, content in reversed(self._before.items()):
            path = self._layout.xds / name
            if content is None:
                path.unlink(missing_ok=True)
            else:
                files.put(path, content)

    def _step(self, docs: dict[str, Doc], confirm=lambda name: True, also: set[str] = frozenset()) -> None:
        """Write those of ``docs`` that differ, then wait for the ones to ``confirm`` and for ``also``."""
        changed = {name: doc for name, doc in docs.items() if self._differs(name, doc)}
        awaited = {name for name in changed if confirm(name)}
        if awaited:
            awaited |= also
        before = self._stats(awaited) if awaited else {}
        for name, doc in changed.items():
            self._write(name, doc)
        if awaited:
            self._wait(awaited, before)
