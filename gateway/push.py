"""One change of Envoy's files, confirmed or undone.

The order is the one under which Envoy drops nothing: endpoints, clusters old and new together, wait until they are
warm, what filters are fed with, routes, and only then the clusters that no route names any more, once they have no open
request.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gateway import files
from gateway.admin import Admin, Stats
from gateway.clusters import additions, bridge, eds_file
from gateway.filters import KINDS, both, ecds_file
from gateway.names import JWT, LISTENER, MIRROR_LISTENER
from gateway.port import GatewayRefused
from gateway.render import CDS, RDS, RDS_MIRROR, Layout
from rollout.errors import Unavailable

Doc = dict[str, Any]
WARMING = "cluster_manager.warming_clusters"
#: All that Envoy says of what it follows. One short pattern: quoting each name apart took longer than the answer.
FOLLOWED = rf"(version_text|update_rejected|update_failure|{re.escape(WARMING)})$"
_KEPT = {ecds_file(name) for name in KINDS}
_POLL_S = 0.002
_REASON_WAIT_S = 1.0  # Envoy writes its log out ten times a second
_UNDO_WAIT_S = 1.0
_HEALTH_WAIT_S = 2.0  # an instance that is not healthy by then is not waited for
_LOG_PREFIX = re.compile(r"^(\[[^\]]*\]\s*)+")


class Push:
    """Writes what differs from the disk, waits until Envoy confirms each step, and can put everything back."""

    def __init__(self, layout: Layout, admins: list[Admin], timeout_s: float) -> None:
        """``admins`` are all Envoys that serve, the one in charge first: each has to confirm."""
        self._layout, self._admins, self._timeout_s = layout, list(admins), timeout_s
        self._before: dict[str, Path | None] = {}  # what each written file held, in the order of writing
        self._at_first: dict[Admin, Stats] = {}
        self._log_from = 0

    def make(self, rendered: dict[str, Doc]) -> None:
        """Bring Envoy to ``rendered``. Raises GatewayRefused with Envoy's reason, Unavailable."""
        self._log_from = files.size(self._layout.envoy_log)
        # An Envoy that does not answer is found out here, before anything is written.
        self._at_first = self._told(FOLLOWED)
        held, wanted = _by_name(self._on_disk(CDS)), _by_name(rendered[CDS])
        endpoints = {name: doc for name, doc in rendered.items() if name.startswith("eds-")}
        fresh = endpoints.keys() - {eds_file(name) for name in held}
        kept = {name: doc for name, doc in endpoints.items() if name not in fresh}
        self._bridge(kept)
        self._put_endpoints(kept)
        self._write({name: endpoints[name] for name in fresh})
        if self._write({CDS: _clusters(rendered[CDS], {**held, **wanted})}):
            self._confirm({CDS} | fresh)
        fed = {name: rendered[name] for name in map(ecds_file, KINDS)}
        jwt = ecds_file(JWT)
        union = {**fed[jwt], "resources": [both(self._held(jwt), fed[jwt]["resources"][0])]}
        self._confirm(self._write({**fed, jwt: union}))
        for name in (RDS_MIRROR, RDS):
            self._confirm(self._write({name: rendered[name]}))
        self._confirm(self._write({jwt: fed[jwt]}))
        self._retire(rendered[CDS], held, wanted)

    def undo(self) -> None:
        """Put back every file that was written, last first, each held by Envoy again before the next where it can.

        By renames alone: a full disk must not keep the old rules from coming back.
        """
        for name, kept in reversed(self._before.items()):
            path = self._layout.xds / name
            if kept is None:
                path.unlink(missing_ok=True)
                continue
            os.rename(kept, path)
            self._settle(name)

    def done(self) -> None:
        """Let go of what could have been put back."""
        for kept in self._before.values():
            if kept is not None:
                kept.unlink(missing_ok=True)

    def _bridge(self, endpoints: dict[str, Doc]) -> None:
        """Add endpoints before others leave."""
        bridges = {name: bridge(self._held(name), doc["resources"][0]) for name, doc in endpoints.items()}
        self._put_endpoints({n: {**endpoints[n], "resources": [found]} for n, found in bridges.items() if found})

    def _put_endpoints(self, docs: dict[str, Doc]) -> None:
        """Write endpoints, and give the added ones the time of a health check: before it no route leads to them."""
        counts = {name: additions(self._held(name), doc["resources"][0]) for name, doc in docs.items()}
        healthy = {f"{_subscription(name)}.membership_healthy": n for name, n in counts.items() if n}
        pattern = names(healthy)
        before = self._told(pattern) if healthy else {}
        self._confirm(self._write(docs))
        deadline = time.monotonic() + _HEALTH_WAIT_S
        while healthy and time.monotonic() < deadline:
            now = [(stats, before[admin]) for admin, stats in self._told(pattern).items()]
            if all(s.get(stat, 0) >= b.get(stat, 0) + n for s, b in now for stat, n in healthy.items()):
                return
            time.sleep(_POLL_S)

    def _retire(self, rendered: Doc, held: dict[str, Doc], wanted: dict[str, Doc]) -> None:
        """Drop the clusters that nothing names any more; those with open requests wait for a later change."""
        unused = held.keys() - wanted.keys()
        if not unused:
            return
        open_now = self._told(names(f"cluster.{name}.upstream_rq_active" for name in unused)).values()
        open_in = {stat for stats in open_now for stat, count in stats.items() if count}
        busy = {name: held[name] for name in unused if f"cluster.{name}.upstream_rq_active" in open_in}
        self._confirm(self._write({CDS: _clusters(rendered, {**busy, **wanted})}))
        for name in unused - busy.keys():
            (self._layout.xds / eds_file(name)).unlink(missing_ok=True)

    def _write(self, docs: dict[str, Doc]) -> set[str]:
        """Write those of ``docs`` that differ from the disk, or that Envoy did not take from there; their names.

        Unsynced, but for those that hold keys: after a loss of power the rest is made again from the confirmed state.
        """
        changed = {name: doc for name, doc in docs.items() if self._is_news(name, doc)}
        staged: dict[str, Path] = {}
        try:
            for name, doc in changed.items():
                staged[name] = files.stage(self._layout.xds / name, files.as_json(doc))
                if name in _KEPT:
                    files.synced(staged[name])
            for name, aside in staged.items():
                path = self._layout.xds / name
                if name not in self._before:
                    self._before[name] = files.keep(path)
                os.rename(aside, path)
        finally:
            for aside in staged.values():
                aside.unlink(missing_ok=True)
        return set(changed)

    def _is_news(self, name: str, doc: Doc) -> bool:
        differs = self._on_disk(name).get("resources") != doc["resources"]
        return differs or (name not in self._before and not all(self._holds(s, name) for s in self._at_first.values()))

    def _confirm(self, written: set[str]) -> None:
        """Wait until each Envoy holds the files ``written`` and no cluster is warming."""
        deadline = time.monotonic() + self._timeout_s
        while written:
            told = self._told(FOLLOWED)
            refused = [
                n for n in written if any(_refusals(s, n) > _refusals(self._at_first[a], n) for a, s in told.items())
            ]
            if refused:
                raise GatewayRefused(self._reason(refused))
            missing = sorted(n for n in written if not all(self._holds(s, n) for s in told.values()))
            if not missing and not any(s.get(WARMING) for s in told.values()):
                return
            if time.monotonic() > deadline:
                late = ", ".join(missing) or "clusters still warming"
                raise GatewayRefused(f"no confirmation within {self._timeout_s} s of {late}")
            time.sleep(_POLL_S)

    def _settle(self, name: str) -> None:
        deadline = time.monotonic() + _UNDO_WAIT_S
        try:
            while time.monotonic() < deadline:
                if all(self._holds(stats, name) for stats in self._told(FOLLOWED).values()):
                    return
                time.sleep(_POLL_S)
        except Unavailable:
            return  # an Envoy that comes back reads the files that now lie there

    def _told(self, pattern: str) -> dict[Admin, Stats]:
        """The stats that match, by Envoy. One that was relieved and has ended is forgotten. Raises Unavailable."""
        found = {self._admins[0]: self._admins[0].matching(pattern)}
        for admin in self._admins[1:]:
            try:
                found[admin] = admin.matching(pattern)
            except Unavailable:
                self._admins.remove(admin)
        return found

    def _holds(self, stats: Stats, name: str) -> bool:
        return stats.get(f"{_subscription(name)}.version_text") == self._on_disk(name).get("version_info")

    def _reason(self, refused: list[str]) -> str:
        """Envoy's own words: for files they stand only in its log."""
        deadline = time.monotonic() + _REASON_WAIT_S
        while time.monotonic() < deadline:
            written = files.tail(self._layout.envoy_log, self._log_from).decode(errors="replace")
            lines = [line for line in written.splitlines() if "rejected" in line or "failure" in line]
            if lines:
                return _LOG_PREFIX.sub("", lines[-1])
            time.sleep(0.02)
        return f"{', '.join(refused)} rejected, without a reason in Envoy's log"

    def _held(self, name: str) -> Doc:
        """A cluster's endpoints as they lie on the disk."""
        return next(iter(self._on_disk(name).get("resources") or [{}]))

    def _on_disk(self, name: str) -> Doc:
        found = files.parsed(files.read(self._layout.xds / name))
        return found if files.is_discovery(found) else {}


def _by_name(discovery: Doc) -> dict[str, Doc]:
    return {resource["name"]: resource for resource in discovery.get("resources", []) if "name" in resource}


def _clusters(discovery: Doc, clusters: dict[str, Doc]) -> Doc:
    """``discovery`` with these clusters, in one order however they came together."""
    return {**discovery, "resources": [clusters[name] for name in sorted(clusters)]}


def _subscription(name: str) -> str:
    """Where Envoy counts what became of a file."""
    known = {
        CDS: "cluster_manager.cds",
        RDS: f"http.gw.rds.{LISTENER}",
        RDS_MIRROR: f"http.mirror.rds.{MIRROR_LISTENER}",
        **{ecds_file(filter_name): f"extension_config_discovery.http_filter.{filter_name}" for filter_name in KINDS},
    }
    return known.get(name) or f"cluster.{name.removeprefix('eds-').removesuffix('.json')}"


def names(stats: Iterable[str]) -> str:
    """The pattern of these stats and no other."""
    return f"^({'|'.join(re.escape(name) for name in stats)})$"


def _refusals(stats: Stats, name: str) -> int:
    return sum(int(stats.get(f"{_subscription(name)}.{what}", 0)) for what in ("update_rejected", "update_failure"))
