"""The agent's loop on a real Envoy, which refuses what our own rules pass."""

from __future__ import annotations

import json

import httpx
from agent_house import House
from running_envoy import an_envoy

from store.port import ServiceState


def test_a_service_that_envoy_refuses_keeps_no_other_services_token_open(tmp_path):
    """A key set with a key that is none: told at its own name, while another service's token is revoked."""
    with an_envoy() as proxy:
        house = House(tmp_path, proxy.gateway)
        house.store.put_service(ServiceState("other"))
        made = house.tokens.create("other", "alice")
        house.turn(1)
        url = f"{proxy.url}/api/predict/other/v1/models"

        def status():
            return httpx.get(url, headers={"Authorization": f"Bearer {made.secret}"}).status_code

        assert status() == 503  # it may come in, and nothing is in service
        key_set = json.dumps({"keys": [{"kty": "RSA"}]})
        house.store.put_service(
            ServiceState("chat", traffic={"jwt": {"issuer": "https://issuer", "audiences": ["a"], "jwks": key_set}})
        )
        house.tokens.revoke("other", "alice")
        house.turn(1)
        assert status() == 401
        assert "the gateway refused" in house.store.observed("chat").error and house.store.observed("other").error == ""
        assert house.store.in_force().tokens == house.tokens.serial()
