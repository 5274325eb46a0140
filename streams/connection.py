"""How every Kafka client connects: addresses, TLS, SASL. kafka-python and aiokafka take the same, Faust its own.

Opens nothing.

    BrokerUnreachable(ConnectionError)   no broker answers, or it refuses us: says which address and what to check
    RightsError(RuntimeError)            Kafka knows the user, who may not do this: says what, and where to find the commands
"""

from __future__ import annotations

import ssl
from typing import Any

from streams.settings import Settings


class BrokerUnreachable(ConnectionError):  # noqa: N818  reads as what happened
    """No broker answers, or it refuses us."""


class RightsError(RuntimeError):
    """Kafka knows the user, who may not do what was asked for."""

    def __init__(self, settings: Settings, lacking: str) -> None:
        user = f"user {settings.sasl_username}" if settings.sasl_username else "the user of this connection"
        super().__init__(
            f"{user} may not {lacking}: an administrator of Kafka grants it, with the commands of docs/security.md"
        )


class _Secret(str):
    """A text that clients can use and no repr shows: they log what they were opened with."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'**********'"


def connection(settings: Settings) -> dict[str, Any]:
    """Return what every kafka-python and aiokafka client is opened with."""
    given: dict[str, Any] = {
        "bootstrap_servers": settings.broker.split(","),
        "security_protocol": settings.security_protocol,
    }
    if settings.security_protocol.endswith("SSL"):
        given["ssl_context"] = ssl_context(settings)
    if settings.security_protocol.startswith("SASL"):
        given["sasl_mechanism"] = settings.sasl_mechanism
        given["sasl_plain_username"] = settings.sasl_username
        given["sasl_plain_password"] = _Secret(settings.sasl_password.get_secret_value())
    return given


def faust_connection(settings: Settings) -> dict[str, Any]:
    """Return what `faust.App` is built with: `broker`, and `broker_credentials` where the protocol has any."""
    from faust.auth import SASLCredentials, SSLCredentials

    given: dict[str, Any] = {"broker": [f"kafka://{address}" for address in settings.broker.split(",")]}
    context = ssl_context(settings) if settings.security_protocol.endswith("SSL") else None
    if settings.security_protocol.startswith("SASL"):
        given["broker_credentials"] = SASLCredentials(
            username=settings.sasl_username,
            password=_Secret(settings.sasl_password.get_secret_value()),
            ssl_context=context,
            mechanism=settings.sasl_mechanism,
        )
    elif context is not None:
        given["broker_credentials"] = SSLCredentials(context)
    return given


def ssl_context(settings: Settings) -> ssl.SSLContext:
    """Return what TLS sessions are opened with. Raises BrokerUnreachable for a client's certificate that cannot be used."""
    context = ssl.create_default_context(cafile=settings.ssl_cafile)
    context.check_hostname = settings.ssl_check_hostname
    if settings.ssl_certfile is not None:
        try:
            context.load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile, settings.ssl_password.get_secret_value())
        except (OSError, ValueError) as error:  # ssl's own errors are OSErrors, a passphrase too long is a ValueError
            raise BrokerUnreachable(
                f"the client's certificate {settings.ssl_certfile} cannot be used ({error}): "
                "check HEADRACE_SSL_CERTFILE, HEADRACE_SSL_KEYFILE and HEADRACE_SSL_PASSWORD"
            ) from error
    return context
