"""Find out why a broker does not let us in, and say what to check: kafka-python 3.0.12 only logs it."""

from __future__ import annotations

import asyncio
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor

from streams.connection import BrokerUnreachable, connection, ssl_context
from streams.settings import Settings

PROBE_S = 5.0
ALERT_S = 1.0


def unreachable(settings: Settings, error: Exception) -> BrokerUnreachable:
    """Return what to raise for a client that could not be opened with `error`: each address with its reason."""
    reasons = "; ".join(_reason(address, settings, error) for address in settings.broker.split(","))
    return BrokerUnreachable(f"no Kafka at {settings.broker} within {settings.connect_timeout_s:g} s: {reasons}")


def _reason(address: str, settings: Settings, error: Exception) -> str:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
    except socket.gaierror:
        return f"{host} does not resolve: check HEADRACE_BROKER"
    except OSError as refused:
        return f"{address} says {refused.strerror or refused}: start a broker (`headrace broker`) or set HEADRACE_BROKER"
    if settings.security_protocol != "PLAINTEXT":
        with ThreadPoolExecutor(1) as apart:  # there may be a loop in this thread
            error = apart.submit(asyncio.run, _refusal(host, int(port), settings)).result() or error
    return _refused(address, settings, error)


async def _refusal(host: str, port: int, settings: Settings) -> Exception | None:
    """Return what a connection fails with, None when it does not fail: kafka-python 3.0.12 only logs it."""
    from aiokafka.conn import AIOKafkaConnection
    from aiokafka.errors import KafkaConnectionError as LostConnection

    try:
        given = connection(settings)
        del given["bootstrap_servers"]
        tried = AIOKafkaConnection(host, port, request_timeout_ms=round(PROBE_S * 1000), **given)
        try:
            await asyncio.wait_for(tried.connect(), PROBE_S)
        finally:
            await asyncio.wait([tried.close()], timeout=1.0)
    except LostConnection as error:
        return _alert(host, port, settings) or error
    except Exception as error:
        return error
    return None


def _alert(host: str, port: int, settings: Settings) -> ssl.SSLError | None:
    """Return how Kafka ends a TLS session over the client's certificate: from TLS 1.3 on aiokafka only says that it ended."""
    if not settings.security_protocol.endswith("SSL"):
        return None
    try:
        with (
            socket.create_connection((host, port), timeout=PROBE_S) as plain,
            ssl_context(settings).wrap_socket(plain, server_hostname=host) as session,
        ):
            session.settimeout(ALERT_S)
            session.recv(1)  # nothing comes before we ask for something, but the alert
    except ssl.SSLError as error:
        return error if _is_about_our_certificate(error) else None
    except OSError:
        return None
    return None


def _is_about_our_certificate(error: ssl.SSLError) -> bool:
    reason = error.reason or ""
    return "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason)


def _refused(address: str, settings: Settings, error: Exception) -> str:
    from aiokafka.errors import SaslAuthenticationFailed, UnsupportedSaslMechanismError

    if isinstance(error, SaslAuthenticationFailed):
        return (
            f"{address} refuses user {settings.sasl_username} with this password, by {settings.sasl_mechanism}: "
            "check HEADRACE_SASL_USERNAME and HEADRACE_SASL_PASSWORD"
        )
    if isinstance(error, UnsupportedSaslMechanismError):
        return (
            f"{address} does not take {settings.sasl_mechanism} over {settings.security_protocol}: "
            "check HEADRACE_SASL_MECHANISM and HEADRACE_SECURITY_PROTOCOL"
        )
    if isinstance(error, BrokerUnreachable):  # we did not come so far as to ask
        return str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{address} has a certificate that is not to be trusted ({error.verify_message}): check HEADRACE_SSL_CAFILE"
    if isinstance(error, ssl.SSLError) and _is_about_our_certificate(error):
        why = str(error.reason).replace("_", " ").lower()
        if settings.ssl_certfile is None:
            return f"{address} wants a certificate of the client ({why}): set HEADRACE_SSL_CERTFILE and HEADRACE_SSL_KEYFILE"
        return f"{address} does not trust {settings.ssl_certfile} ({why}): set HEADRACE_SSL_CERTFILE to one that it does"
    return (
        f"{address} listens but does not let us in over {settings.security_protocol} ({str(error) or type(error).__name__}): "
        "check HEADRACE_SECURITY_PROTOCOL, HEADRACE_SASL_* and HEADRACE_SSL_*"
    )
