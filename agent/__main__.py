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
from agent.probes import Probes
from agent.reconcile import Parts, Reconciler
from configs.stack import Stack, load_stack
from gateway.port import EnvoySettings, open_gateway
from gateway.records import rotate
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
        """Keep the records bounded on disk."""
        if time.monotonic() - self._tidied < TIDY_S:
            return
        self._tidied = time.monotonic()
        try:
            rotate(self._gateway, RECORDS_BYTES, RECORDS_FILES)
        except Exception:
            log.exception("the records could not be rotated")


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
    loop = Loop(Reconciler(_parts(stack, store)), stack.gateway())
    loop.start()
    secret = (stack.secrets / "mlflow-webhook").read_text().strip()
    app = make_app(store, secret, prefect_emitter(stack.prefect_api), loop.alive)
    uvicorn.run(app, host=stack.host, port=stack.ports.agent, log_level="warning", access_log=False)
    return 0


def _parts(stack: Stack, store: Store) -> Parts:
    return Parts(
        store=store,
        platform=open_platform(stack.platform()),
        gateway=open_gateway(stack.gateway()),
        engines=stack.engines(),
        tokens=TokenFile(stack.secrets / "tokens.json"),
        probes=Probes(),
        ports=range(stack.ports.engines_from, stack.ports.engines_to + 1),
        host=stack.host,
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
