"""What runs of the stack, and how it is. Changes nothing, and answers also when nothing runs."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx

from cli.parts import GATEWAYS, Part, parts
from cli.processes import listening_port, marked, memory_mib
from cli.release_approve import how_to_answer
from cli.stack import answers
from cli.traffic_show import Seen, observed
from configs.stack import Stack
from platforms.on_process import ProcessStates, Supervisor
from rollout.command import GIB
from rollout.errors import Unavailable
from store.port import InstanceState, Store, open_store
from store.telling import warm_up_told

ALIVE = (ProcessStates.RUNNING, ProcessStates.STARTING, ProcessStates.STOPPING)


@dataclass(frozen=True)
class PartStatus:
    """One line of ``roundhouse status``. Health: ready, starting, running, stopping, stopped, failed, stray, alarm,
    refused, waiting."""

    name: str
    pid: int | None
    port: int | None
    health: str
    memory_mib: float | None
    detail: str = ""
    instance: bool = False


def status(stack: Stack) -> list[PartStatus]:
    """Each part, then each instance, then what a crash left behind."""
    infos, pid = _infos(stack)
    known = parts(stack)
    with ThreadPoolExecutor(len(known)) as pool:
        lines = list(pool.map(lambda part: _part(part, infos.get(part.program)), known))
    names = {part.name for part in known} | set(GATEWAYS.values())
    lives = {i.id: i for i in open_store(stack.store()).instances()} if infos else {}
    instances = [_instance(info, lives.get(name)) for name, info in sorted(infos.items()) if name not in names]
    instances += [waiting(life) for name, life in sorted(lives.items()) if name not in infos]
    alarms = traffic_alarms(observed(stack) if infos else None)
    refused = refusals(open_store(stack.store())) if infos else []
    asking = questions(open_store(stack.store())) if infos else []
    return [_supervisor(stack, pid), *lines, *instances, *alarms, *refused, *asking, *_strays(stack, pid)]


def _infos(stack: Stack) -> tuple[dict[str, dict[str, Any]], int | None]:
    supervisor = Supervisor(str(stack.supervisor_socket))
    try:
        return {info["name"]: info for info in supervisor.call("getAllProcessInfo")}, int(supervisor.call("getPID"))
    except Unavailable:
        return {}, None


def _supervisor(stack: Stack, pid: int | None) -> PartStatus:
    if pid is None:
        return PartStatus("supervisor", None, None, "stopped", None, "start it with `roundhouse up`")
    return PartStatus("supervisor", pid, None, "ready", memory_mib(pid, below=False), str(stack.supervisor_socket))


def _part(part: Part, info: dict[str, Any] | None) -> PartStatus:
    if info is None or info["state"] not in ALIVE:
        return PartStatus(part.name, None, part.port, state_word(info), None, detail(info))
    ready = part.probe is None or answers(part.probe)
    health = state_word(info) if ready else "starting" if time.time() - info["start"] < part.ready_s else "failed"
    why = detail(info) if ready else f"{part.probe} does not answer; see {part.log}"
    return PartStatus(part.name, info["pid"], part.port, health, memory_mib(info["pid"]), why)


def _instance(info: dict[str, Any], life: InstanceState | None) -> PartStatus:
    """An instance; the agent knows of its life, supervisord of its process."""
    pid = info["pid"] or None
    health = str(life.health if life else "running") if info["state"] == ProcessStates.RUNNING else state_word(info)
    memory, port = (memory_mib(pid), listening_port(pid)) if pid else (None, None)
    told = instance_detail(detail(info), life) if life else detail(info)
    return PartStatus(info["name"], pid, port, health, memory, told, instance=True)


def waiting(life: InstanceState) -> PartStatus:
    """An instance that supervisord does not run: in a container, or not started yet, with the reason."""
    return PartStatus(life.id, life.pid, life.port, str(life.health), None, instance_detail("", life), instance=True)


def instance_detail(process: str, life: InstanceState) -> str:
    """What its process says, why it is as it is, and how its warm-up went."""
    warm = f"warm-up: {warm_up_told(life.warm_up)}" if life.warm_up else ""
    return "; ".join(part for part in (process, life.reason, warm) if part)


def gpu_line(stack: Stack) -> str:
    """The machine's GPUs as the agent sees them, or why it has none; empty when the agent does not answer."""
    try:
        hardware = httpx.get(f"{stack.agent_url}/v1/hardware", timeout=5.0, trust_env=False).raise_for_status().json()
        sizes = [(gpu["name"], gpu["free_bytes"] / GIB, gpu["memory_bytes"] / GIB) for gpu in hardware["gpus"]]
    except (httpx.HTTPError, ValueError, KeyError):
        return ""
    if not sizes:
        return str(hardware["gpu_note"])
    told = "; ".join(f"{name}, {free:.1f} of {whole:.1f} GiB free" for name, free, whole in sizes)
    return f"GPUs (driver {hardware['driver']}): {told}"


def traffic_alarms(seen: Seen | None) -> list[PartStatus]:
    """What is proven not to go where it was asked to go; `roundhouse traffic` ends with 8 then."""
    page = seen or {}
    shares = [(s["door"], s) for s in (*page.get("shares", ()), *page.get("members", ()))]
    alarms = [
        (door, one) for door, one in (*shares, *((c["source"], c) for c in page.get("copies", ()))) if one["alarm"]
    ]
    return [
        PartStatus(f"traffic {door}", None, None, "alarm", None, one["text"], instance=True) for door, one in alarms
    ]


def refusals(store: Store) -> list[PartStatus]:
    """Changes that the gateway did not take over, with the reason; what was in force before still is."""
    doors = [*(s.name for s in store.services()), *(g.name for g in store.groups())]
    observed = {door: seen.error for door in doors if (seen := store.observed(door)) and seen.error}
    whole = store.in_force()
    if whole and whole.error and whole.error not in observed.values():
        observed["(all)"] = whole.error
    return [PartStatus(f"traffic {door}", None, None, "refused", None, why, True) for door, why in observed.items()]


def questions(store: Store) -> list[PartStatus]:
    """Releases that a person is to decide on, with what they ask."""
    asking = [r for r in store.unsettled() if r.phase.active and r.waiting]
    told = [(r.id, f"{r.waiting} Answer with {how_to_answer(r)}") for r in asking]
    return [PartStatus(f"release {name}", None, None, "waiting", None, text, True) for name, text in told]


def _strays(stack: Stack, pid: int | None) -> list[PartStatus]:
    """Without a supervisord whatever carries our mark was left behind."""
    if pid:
        return []
    return [
        PartStatus(each.name(), each.pid, listening_port(each.pid), "stray", memory_mib(each.pid, below=False))
        for each in marked(stack)
    ]


def state_word(info: dict[str, Any] | None) -> str:
    """supervisord's state in our words."""
    if info is None:
        return "stopped"
    match info["state"]:
        case ProcessStates.RUNNING:
            return "ready"
        case ProcessStates.STARTING:
            return "starting"
        case ProcessStates.STOPPING:
            return "stopping"
        case ProcessStates.FATAL | ProcessStates.BACKOFF:
            return "failed"
    return "stopped"


def detail(info: dict[str, Any] | None) -> str:
    """How long it runs, or how it ended."""
    if info is None:
        return ""
    if info["state"] in ALIVE:
        return f"up {max(0, info['now'] - info['start'])} s"
    if info["spawnerr"]:
        return str(info["spawnerr"])
    return f"{info['statename'].lower()}, status {info['exitstatus']}" if info["start"] else ""
