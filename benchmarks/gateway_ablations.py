"""Parts of our rendered configuration that can be left out, to see what each costs. Each edits the files in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

Doc = dict[str, Any]
Files = dict[str, Doc]
Without = Callable[[Files], None]


def _manager(files: Files) -> Doc:
    """The public listener's connection manager."""
    listeners = files["lds.json"]["resources"]
    public = next(listener for listener in listeners if "internal_listener" not in listener)
    return public["filter_chains"][0]["filters"][0]["typed_config"]


def _routes(files: Files) -> Iterator[Doc]:
    for config in files["rds.json"]["resources"]:
        for host in config["virtual_hosts"]:
            yield from host["routes"]


def _clusters(files: Files) -> list[Doc]:
    return files["cds.json"]["resources"]


def no_filters(*names: str) -> Without:
    """Without these HTTP filters."""

    def edit(files: Files) -> None:
        manager = _manager(files)
        manager["http_filters"] = [f for f in manager["http_filters"] if f["name"] not in names]

    return edit


def each_filter(files: Files) -> dict[str, Without]:
    """One ablation for each HTTP filter in use but the last, which routes, and one for all of them."""
    names = [part["name"] for part in _manager(files)["http_filters"][:-1]]
    alone: dict[str, Without] = {f"filter {name}": no_filters(name) for name in names if name not in _idle(files)}
    return {"all filters but the router": no_filters(*names), **alone}


def no_idle_filters(files: Files) -> None:
    """Without the filters that this service does not switch on."""
    no_filters(*_idle(files))(files)


def _idle(files: Files) -> set[str]:
    used = {name for route in _routes(files) for name in route.get("typed_per_filter_config", {})}
    return {part["name"] for part in _manager(files)["http_filters"] if part.get("disabled")} - used


def no_settings(*names: str) -> Without:
    """Without these fields of the connection manager."""

    def edit(files: Files) -> None:
        for name in names:
            _manager(files).pop(name, None)

    return edit


def no_route_settings(*names: str) -> Without:
    """Without these fields of routes and of their actions."""

    def edit(files: Files) -> None:
        for route in _routes(files):
            for name in names:
                route.pop(name, None)
                route.get("route", {}).pop(name, None)

    return edit


def no_config_settings(*names: str) -> Without:
    """Without these fields of the whole route configuration."""

    def edit(files: Files) -> None:
        for config in files["rds.json"]["resources"]:
            for name in names:
                config.pop(name, None)

    return edit


def no_cluster_settings(*names: str) -> Without:
    """Without these fields of each cluster."""

    def edit(files: Files) -> None:
        for cluster in _clusters(files):
            for name in names:
                cluster.pop(name, None)

    return edit


def no_lease(files: Files) -> None:
    """Only the routes that match without the stamp of the request's start."""
    for config in files["rds.json"]["resources"]:
        for host in config["virtual_hosts"]:
            host["routes"] = [route for route in host["routes"] if "weighted_clusters" not in route.get("route", {})]


def no_fall_back(files: Files) -> None:
    """Arms lead to their own version straight, not through an aggregate of both."""
    for route in _routes(files):
        action = route.get("route", {})
        for arm in action.get("weighted_clusters", {}).get("clusters", []):
            arm["name"] = arm["name"].partition("+")[0]
        action.get("retry_policy", {}).pop("retry_priority", None)


def no_retry_predicates(files: Files) -> None:
    """Retries without memory of which instance was tried."""
    for route in _routes(files):
        policy = route.get("route", {}).get("retry_policy", {})
        for name in ("retry_host_predicate", "retry_priority", "host_selection_retry_max_attempts"):
            policy.pop(name, None)


def fixed_filters(files: Files) -> None:
    """Keys and limits in the listener itself instead of files of their own."""
    manager = _manager(files)
    manager["http_filters"] = [_fixed(f, files) for f in manager["http_filters"]]


def _fixed(part: Doc, files: Files) -> Doc:
    if "config_discovery" not in part:
        return part
    config = files[f"ecds-{part['name']}.json"]["resources"][0]["typed_config"]
    return {**{k: v for k, v in part.items() if k != "config_discovery"}, "typed_config": config}


def log_without(*operators: str) -> Without:
    """Without these columns of the record."""

    def edit(files: Files) -> None:
        log = _manager(files)["access_log"][0]["typed_config"]["log_format"]["text_format_source"]
        columns = log["inline_string"].rstrip("\n").split("\t")
        log["inline_string"] = "\t".join(c for c in columns if not any(o in c for o in operators)) + "\n"

    return edit


def no_error_log(files: Files) -> None:
    """Without the second log, which is written for errors only."""
    del _manager(files)["access_log"][1:]


ABLATIONS: dict[str, Without] = {
    "keys and who may use them": no_filters("auth", "door"),
    "both rates": no_filters("service-rate", "token-rate"),
    "filters that are switched off": no_idle_filters,
    "files that feed filters": fixed_filters,
    "records": no_settings("access_log"),
    "the log of errors": no_error_log,
    "record's usage columns": log_without("X-USAGE", "DYNAMIC_METADATA"),
    "record's DYNAMIC_METADATA column": log_without("DYNAMIC_METADATA"),
    "record's GRPC_STATUS_NUMBER column": log_without("GRPC_STATUS"),
    "record's two exact durations": log_without("COMMON_DURATION"),
    "record's time": log_without("START_TIME"),
    "lease": no_lease,
    "fall back to the other version": no_fall_back,
    "stamp of the start, lease": no_settings("early_header_mutation_extensions"),
    "retry policy": no_route_settings("retry_policy"),
    "memory of retries": no_retry_predicates,
    "answer's version header": no_config_settings("response_headers_to_add"),
    "internal headers": no_config_settings("internal_only_headers"),
    "headers taken off requests": no_config_settings("request_headers_to_remove"),
    "request id in answers": no_settings("always_set_request_id_in_response"),
    "path normalisation": no_settings("normalize_path", "merge_slashes", "path_with_escaped_slashes_action"),
    "remote address": no_settings("use_remote_address"),
    "port in the host": no_settings("strip_any_host_port"),
    "timeouts": no_settings("request_headers_timeout", "request_timeout", "stream_idle_timeout"),
    "idle timeout of the route": no_route_settings("idle_timeout"),
    "bounds on headers": no_settings("common_http_protocol_options", "max_request_headers_kb"),
    "error bodies": no_settings("local_reply_config"),
    "health checks, outliers": no_cluster_settings("health_checks", "outlier_detection"),
    "circuit breakers": no_cluster_settings("circuit_breakers"),
    "least request": no_cluster_settings("load_balancing_policy"),
    "trailers": no_cluster_settings("typed_extension_protocol_options"),
}
