"""What the agent works on."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from agent.probes import Probes
from engines.port import EngineSettings
from gateway.port import Gateway
from gateway.tokens import TokenFile
from platforms.port import Platform
from platforms.ports import is_free
from store.port import Store


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
