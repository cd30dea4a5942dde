"""From a state to Envoy's files: pure, so that a golden file shows all that a state becomes.

The files are discovery responses (https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol, file form):
``lds``, ``cds``, ``rds``, ``rds-mirror``, one ``eds-<cluster>`` per version, and one ``ecds-<filter>`` per fed filter.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gateway.clusters import T, assignment_docs, cluster_docs, eds_file, path_source
from gateway.filters import ecds_file, fed_docs
from gateway.listener import logs, mirror_listener, public_listener, rds
from gateway.names import LISTENER, MIRROR_LISTENER
from gateway.port import EnvoySettings, GatewayState, GroupRoute, Member, ServiceRoute
from gateway.route_files import gateway_routes, mirror_routes
from gateway.saved import without_tokens
from rollout.nouns import Lease, Mirror

Doc = dict[str, Any]
LDS, CDS, RDS, RDS_MIRROR = "lds.json", "cds.json", "rds.json", "rds-mirror.json"
ADMIN_MODE = 0o600  # written in decimal: JSON knows no octal
MOST_CONNECTIONS = 5000


@dataclass(frozen=True)
class Layout:
    """Where things lie in the gateway's directory."""

    root: Path

    @classmethod
    def of(cls, settings: EnvoySettings) -> Layout:
        """The layout under the settings' directory, made absolute: Envoy resolves paths against its own folder."""
        return cls(Path(settings.directory).absolute())

    @property
    def xds(self) -> Path:
        return self.root / "xds"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def admin(self) -> Path:
        """The admin socket of the Envoy in charge: a link to its slot's."""
        return self.run / "admin.sock"

    def admin_of(self, slot: str) -> Path:
        """The admin socket of the Envoy in ``slot``, a or b."""
        return self.run / f"admin-{slot}.sock"

    def bootstrap_of(self, slot: str) -> Path:
        return self.root / f"bootstrap-{slot}.json"

    def listeners_of(self, slot: str) -> Path:
        """Listeners are each slot's own: new ones in a running Envoy would cut the streams of the old ones."""
        return self.xds / f"lds-{slot}.json"

    @property
    def envoy_log(self) -> Path:
        return self.run / "envoy.log"

    @property
    def records(self) -> Path:
        return self.run / "records.log"

    @property
    def errors(self) -> Path:
        return self.run / "errors.jsonl"

    @property
    def confirmed(self) -> Path:
        return self.root / "confirmed.json"

    @property
    def history(self) -> Path:
        return self.root / "history.jsonl"

    @property
    def lock(self) -> Path:
        return self.run / "lock"


def render(state: GatewayState, settings: EnvoySettings, revision: str) -> dict[str, Doc]:
    """All discovery files of ``state``, by file name; each carries ``revision``, which Envoy shows once it is used."""
    layout = Layout.of(settings)
    files = {
        LDS: _listeners(settings, _followed(layout), str(layout.xds), {}),
        CDS: cluster_docs(state, settings, str(layout.xds)),
        RDS: [gateway_routes(state)],
        RDS_MIRROR: [mirror_routes(state)],
    }
    files |= {ecds_file(name): [doc] for name, doc in fed_docs(state).items()}
    files |= {eds_file(name): [doc] for name, doc in assignment_docs(state).items()}
    return {name: {"version_info": revision, "resources": resources} for name, resources in files.items()}


def static_twin(state: GatewayState, settings: EnvoySettings) -> Doc:
    """The same state as one static bootstrap, which ``envoy --mode validate`` can check without any file or port.

    Services get a lease where one could be held, so that beginning, changing and ending one needs no further check.
    Tokens stay out of it.
    """
    state = without_tokens(rehearsed(state))
    assignments = assignment_docs(state)
    clusters = [_still(doc, assignments) for doc in cluster_docs(state, settings, "")]
    held = {
        "public": {"route_config": _bare(gateway_routes(state))},
        "mirror": {"route_config": _bare(mirror_routes(state))},
    }
    plain = replace(settings, tls=None)  # certificates are checked where they are read
    listeners = [_bare(doc) for doc in _listeners(plain, held, None, fed_docs(state))]
    return {
        "node": {"id": "gateway", "cluster": "roundhouse"},
        # Never opened; without it the tap filter ends the validation with a segmentation fault.
        "admin": {"address": {"pipe": {"path": "validation.sock"}}},
        "bootstrap_extensions": [_internal_listeners()],
        "static_resources": {"listeners": listeners, "clusters": clusters},
    }


def rehearsed(state: GatewayState) -> GatewayState:
    """``state`` with a lease in each service that could hold one, and a weight for each member of a group."""
    services = tuple(_with_lease(service) for service in state.services)
    return GatewayState(services, tuple(_with_weights(group) for group in state.groups))


def bootstrap(settings: EnvoySettings, slot: str = "a") -> Doc:
    """What the Envoy in ``slot`` starts with: where to find the rest, an admin socket, a limit on connections."""
    layout = Layout.of(settings)
    connections = {
        "@type": T + "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
        "max_active_downstream_connections": MOST_CONNECTIONS,
    }
    monitor = {"name": "envoy.resource_monitors.global_downstream_max_connections", "typed_config": connections}
    return {
        "node": {"id": f"gateway-{slot}", "cluster": "roundhouse"},
        "admin": {"address": {"pipe": {"path": str(layout.admin_of(slot)), "mode": ADMIN_MODE}}},
        "dynamic_resources": {
            "lds_config": path_source(str(layout.listeners_of(slot))),
            "cds_config": path_source(str(layout.xds / CDS)),
        },
        "bootstrap_extensions": [_internal_listeners()],
        "overload_manager": {"resource_monitors": [monitor]},
    }


def _listeners(settings: EnvoySettings, routes: dict[str, Doc], xds: str | None, still: dict[str, Doc]) -> list[Doc]:
    layout = Layout.of(settings)
    live, copies = (logs(kind, str(layout.records), str(layout.errors)) for kind in ("L", "M"))
    public = public_listener(settings, live, routes["public"], xds, still)
    return [public, mirror_listener(settings, copies, routes["mirror"])]


def _followed(layout: Layout) -> dict[str, Doc]:
    return {
        "public": rds(LISTENER, str(layout.xds / RDS)),
        "mirror": rds(MIRROR_LISTENER, str(layout.xds / RDS_MIRROR)),
    }


def _internal_listeners() -> Doc:
    kind = T + "envoy.extensions.bootstrap.internal_listener.v3.InternalListener"
    return {"name": "envoy.bootstrap.internal_listener", "typed_config": {"@type": kind}}


def _still(cluster: Doc, assignments: dict[str, Doc]) -> Doc:
    """An EDS cluster as a static one; others as they are."""
    if cluster.get("type") != "EDS":
        return _bare(cluster)
    kept = {key: value for key, value in _bare(cluster).items() if key != "eds_cluster_config"}
    return {**kept, "type": "STATIC", "load_assignment": _bare(assignments[cluster["name"]])}


def _bare(resource: Doc) -> Doc:
    """A resource as it stands inside another message: without its type."""
    return {key: value for key, value in resource.items() if key != "@type"}


def _with_lease(service: ServiceRoute) -> ServiceRoute:
    others = [b.version for b in service.backends if b.version != service.stable]
    if service.stable is None or not others or service.lease:
        return service
    mirrors = tuple(Mirror(service.name, version, 1) for version in others[1:])
    lease = Lease(others[0], 1, 1, 0, 1, "rehearsal", others[1] if len(others) > 1 else None, mirrors)
    return replace(service, lease=lease)


def _with_weights(group: GroupRoute) -> GroupRoute:
    return replace(group, members=tuple(Member(m.service, m.weight or 1) for m in group.members))
