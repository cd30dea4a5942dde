"""``python -m agent``: the small always-on process of one machine."""

from __future__ import annotations

import fcntl
import logging
import os
import sys
import threading
import time

import uvicorn

from agent.app import make_app, prefect_emitter
from agent.machine import Machine
from agent.metrics_page import metrics_page
from agent.parts import Parts
from agent.probes import Probes
from agent.reconcile import Reconciler
from agent.telemetry import GpuMetrics, GpuWatch
from agent.watch import TrafficWatch
from configs.stack import Stack, load_stack
from engines.hardware import read_hardware
from gateway import tls
from gateway.admin import Admin
from gateway.dropped import dropped_copies
from gateway.port import EnvoySettings, open_gateway
from gateway.recorder import keep_recorder
from gateway.records import end_of_records, rotate
from gateway.render import Layout
from gateway.tokens import TokenFile
from platforms.port import open_platform
from store.port import Store, open_store

LOOK_S = 0.1
STUCK_S = 20.0
TIDY_S = 10.0
RECORDS_BYTES = 64 << 20  # of one file of records, before the next is begun
RECORDS_FILES = 4
log = logging.getLogger("roundhouse.agent")


class Loop:
    """Ticks in a thread of its own, ten times a second."""

    def __init__(self, reconciler: Reconciler, gateway: EnvoySettings) -> None:
        self._reconciler, self._gateway = reconciler, gateway
        self._last = self._tidied = time.monotonic()
        self._thread = threading.Thread(target=self._turn, name="reconcile", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def alive(self) -> bool:
        """Whether the loop turned a short while ago."""
        return self._thread.is_alive() and time.monotonic() - self._last < STUCK_S

    def _turn(self) -> None:
        while True:
            self._last = time.monotonic()
            try:
                self._reconciler.tick()
            except Exception:  # whatever it is, the next tick starts from what is real
                log.exception("tick failed")
            self._tidy()
            time.sleep(LOOK_S)

    def _tidy(self) -> None:
        """Keep the records bounded on disk, and the certificate that is served the one on disk."""
        if time.monotonic() - self._tidied < TIDY_S:
            return
        self._tidied = time.monotonic()
        try:
            rotate(self._gateway, RECORDS_BYTES, RECORDS_FILES)
        except Exception:
            log.exception("the records could not be rotated")
        try:
            tls.refresh(self._gateway)
        except Exception:
            log.exception("the certificate could not be renewed")


def main() -> int:
    """Run until SIGTERM. Instances and traffic stay as they are when it ends."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    stack = load_stack()
    lock = _only_one(stack)
    if lock is None:
        log.error("another agent already runs on %s", stack.home)
        return 4
    store = open_store(stack.store())
    machine = Machine(lambda: read_hardware(str(stack.home)), str(stack.home))
    threading.Thread(target=machine.keep_looking, name="hardware", daemon=True).start()
    loop = Loop(Reconciler(_parts(stack, store, machine)), stack.gateway())
    loop.start()
    recorder = (stack.gateway(), threading.Event())
    threading.Thread(target=keep_recorder, args=recorder, name="calls", daemon=True).start()
    secret = (stack.secrets / "mlflow-webhook").read_text().strip()
    watch = _watch(stack, store)
    threading.Thread(target=watch.keep_looking, name="watch", daemon=True).start()
    gpus = GpuWatch(machine.last)
    threading.Thread(target=gpus.keep_looking, name="gpus", daemon=True).start()
    emit, metrics = prefect_emitter(stack.prefect_api), metrics_page(stack.gateway(), GpuMetrics(gpus.readings))
    app = make_app(store, secret, emit, loop.alive, metrics, watch.page, gpus)
    uvicorn.run(app, host=stack.host, port=stack.ports.agent, log_level="warning", access_log=False)
    return 0


def _parts(stack: Stack, store: Store, machine: Machine) -> Parts:
    return Parts(
        store=store,
        platform=open_platform(stack.platform()),
        gateway=open_gateway(stack.gateway()),
        engines=stack.engines(),
        tokens=TokenFile(stack.tokens),
        probes=Probes(),
        ports=range(stack.ports.engines_from, stack.ports.engines_to + 1),
        host=stack.host,
        hardware=machine.last,
    )


def _watch(stack: Stack, store: Store) -> TrafficWatch:
    layout = Layout.of(stack.gateway())
    admin = Admin(layout.admin)
    return TrafficWatch(
        store, open_gateway(stack.gateway()), lambda: dropped_copies(admin), end_of_records(layout.records)
    )


def _only_one(stack: Stack) -> int | None:
    stack.run.mkdir(parents=True, exist_ok=True)
    handle = os.open(stack.run / "agent.lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


if __name__ == "__main__":
    raise SystemExit(main())
