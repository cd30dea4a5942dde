"""What the agent works on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from agent.probes import Probes
from engines.hardware import Hardware, read_hardware
from engines.port import EngineSettings
from gateway.port import Gateway
from gateway.tokens import TokenFile
from platforms.port import Platform
from platforms.ports import is_free
from store.port import Store


def this_machine() -> Hardware:
    """What this machine has now; GPUs' free memory changes."""
    return read_hardware(os.sep)


@dataclass(frozen=True)
class Parts:
    """What the loop works on; tests hand in the in-memory ones."""

    store: Store
    platform: Platform
    gateway: Gateway
    engines: EngineSettings
    tokens: TokenFile
    probes: Probes
    ports: range
    host: str = "127.0.0.1"
    clock: Callable[[], float] = time.time
    port_free: Callable[[int, str], bool] = is_free
    hardware: Callable[[], Hardware] = this_machine  # of an agent that must not wait for a driver: ``Machine.last``
