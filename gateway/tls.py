"""TLS."""

from gateway.port import EnvoySettings


def transport_socket(settings: EnvoySettings):
    return None
