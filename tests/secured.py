"""A one-node Apache Kafka that lets only known users in and each do only what it was granted.

Two doors: SASL_SSL with SCRAM-SHA-512, its certificate made on the fly, and SASL_PLAINTEXT with PLAIN. The users, their
passwords and rights are made by the commands of docs/security.md, run as they stand there with Kafka's own tools.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from streams.broker import cluster_id, end_with_parent, java_command
from streams.kafka import wait_for_broker
from streams.settings import Settings, load

ROOT = Path(__file__).parents[1]
USERS = ("producer", "worker", "reader")
SCRAM_LOGIN = "org.apache.kafka.common.security.scram.ScramLoginModule required"
PLAIN_LOGIN = "org.apache.kafka.common.security.plain.PlainLoginModule required"
TOOLS = {"kafka-acls.sh": "org.apache.kafka.tools.AclCommand", "kafka-configs.sh": "kafka.admin.ConfigCommand"}
LOG = """
Configuration:
  Appenders:
    Console:
      name: STDOUT
      PatternLayout: {pattern: "%p %m%n"}
  Loggers:
    Root: {level: WARN, AppenderRef: {ref: STDOUT}}
    Logger: [{name: kafka.authorizer.logger, level: DEBUG}]
"""


class Secured(NamedTuple):
    """A secured Kafka: its folder, the addresses of its two doors, and each user's password."""

    folder: Path
    tls: str
    plain: str
    passwords: dict[str, str]

    def settings(self, user: str, **changes: object) -> Settings:
        """Return the settings of a user who comes in by TLS and SCRAM."""
        given: dict[str, object] = {
            "broker": self.tls,
            "security_protocol": "SASL_SSL",
            "sasl_username": user,
            "sasl_password": self.passwords[user],
            "ssl_cafile": self.folder / "ca.pem",
            "encoder": "hashing",
            "partitions": 2,
            "connect_timeout_s": 5.0,
        }
        return load(**(given | changes))

    def run(self, script: str) -> None:
        """Run shell commands, Kafka's tools among them, as the administrator of docs/security.md."""
        settings = f'KAFKA="--bootstrap-server {self.tls} --command-config {self.folder}/admin.properties"\n'
        names = "PREFIX= APP=headrace ENCODER=hashing\n"
        passwords = "".join(f"{user.upper()}_PASSWORD={self.passwords[user]}\n" for user in USERS)
        environment = {**os.environ, "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}"}
        done = subprocess.run(
            ["bash", "-ec", settings + names + passwords + script], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def allowed(self) -> set[tuple[str, str, str]]:
        """Return (user, operation, resource) of all that was done by right so far, as Kafka's authorizer tells it."""
        said = (self.folder / "log").read_text(errors="replace")
        found = re.findall(r"Principal = User:(\w+) is Allowed operation = (\w+) .*? on resource = (\w+):LITERAL:(\S+)", said)
        kinds = {"Topic": "topic", "Group": "group", "TransactionalId": "transactional-id"}
        used = ((user, operation, kinds[kind], name) for user, operation, kind, name in found if kind in kinds)
        # Of the transactional ids, one for each partition, the part that all share is granted.
        return {
            (user, operation, f"{kind} {re.sub(r'[0-9]+$', '', name) if kind == 'transactional-id' else name}")
            for user, operation, kind, name in used
        }


def commands(part: str) -> str:
    """Return the commands of a part of docs/security.md."""
    text = (ROOT / "docs/security.md").read_text("utf-8")
    return re.search(rf"^## {part}\n.*?```bash\n(.*?)```", text, re.MULTILINE | re.DOTALL)[1]  # type: ignore[index]


@contextmanager
def start_secured(home: Path, folder: Path) -> Iterator[Secured]:
    """Run the secured Kafka of the distribution in `home` for the block, without users but the administrator."""
    _make_certificates(folder)
    passwords = {user: f"canary-{user}-{secrets.token_hex(8)}" for user in ("admin", *USERS)}
    tls, plain, controller = (f"127.0.0.1:{port}" for port in _free_ports(3))
    secured = Secured(folder, tls, plain, passwords)
    java = java_command(home)
    (folder / "log4j2.yaml").write_text(LOG)
    properties = folder / "server.properties"
    properties.write_text(_lines(_server(secured, controller)))
    (folder / "admin.properties").write_text(_lines(_client(secured)))
    _write_tools(folder / "bin", java)
    admin = f"SCRAM-SHA-512=[name=admin,password={passwords['admin']}]"
    format_ = ["kafka.tools.StorageTool", "format", "-t", cluster_id(), "-c", str(properties), "--add-scram", admin]
    subprocess.run([*java, *format_], check=True, capture_output=True)
    command = [*java, f"-Dlog4j2.configurationFile={folder}/log4j2.yaml", "-Xmx512m", "kafka.Kafka", str(properties)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=end_with_parent())
    try:
        wait_for_broker(secured.settings("admin", connect_timeout_s=90))
        yield secured
    finally:
        process.kill()
        process.wait()


def _server(secured: Secured, controller: str) -> dict[str, str]:
    doors = f"SASL_SSL://{secured.tls},SASL_PLAINTEXT://{secured.plain}"
    users = "".join(f' user_{user}="{password}"' for user, password in secured.passwords.items())
    login = f'{SCRAM_LOGIN} username="admin" password="{secured.passwords["admin"]}";'
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@{controller}",
        "listeners": f"{doors},CONTROLLER://{controller}",
        "advertised.listeners": doors,
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "SASL_SSL",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL,SASL_PLAINTEXT:SASL_PLAINTEXT",
        "listener.name.sasl_ssl.sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.sasl_plaintext.sasl.enabled.mechanisms": "PLAIN",
        "sasl.mechanism.inter.broker.protocol": "SCRAM-SHA-512",
        "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": login,
        "listener.name.sasl_plaintext.plain.sasl.jaas.config": f"{PLAIN_LOGIN}{users};",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(secured.folder / "keystore.pem"),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(secured.folder / "ca.pem"),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:admin;User:ANONYMOUS",  # ANONYMOUS is the node's own controller
        "allow.everyone.if.no.acl.found": "false",
        "auto.create.topics.enable": "false",
        "log.dirs": str(secured.folder / "data"),
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "1",
        "group.initial.rebalance.delay.ms": "0",
    }


def _client(secured: Secured) -> dict[str, str]:
    return {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.jaas.config": f'{SCRAM_LOGIN} username="admin" password="{secured.passwords["admin"]}";',
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(secured.folder / "ca.pem"),
    }


def _lines(properties: dict[str, str]) -> str:
    return "".join(f"{name}={value}\n" for name, value in properties.items())


def _write_tools(folder: Path, java: list[str]) -> None:
    """Write the scripts of a distribution's bin folder that docs/security.md names: the jars alone do not bring them."""
    folder.mkdir()
    for name, main in TOOLS.items():
        quoted = " ".join(f"'{part}'" for part in [*java, "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", main])
        (folder / name).write_text(f'#!/bin/sh\nexec {quoted} "$@"\n')
        (folder / name).chmod(0o755)


def _make_certificates(folder: Path) -> None:
    """Write ca.pem, and keystore.pem: the server's key, its certificate for 127.0.0.1, and the authority's."""
    key = ("-newkey", "rsa:2048", "-nodes")
    _openssl(folder, "req", "-x509", *key, "-days", "1", "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem")
    _openssl(folder, "req", *key, "-subj", "/CN=127.0.0.1", "-keyout", "key.pem", "-out", "request.pem")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
    signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "1", "-extfile", "names")
    _openssl(folder, "x509", "-req", "-in", "request.pem", *signed, "-out", "certificate.pem")
    _openssl(folder, "pkcs8", "-topk8", "-nocrypt", "-in", "key.pem", "-out", "key8.pem")
    parts = [(folder / name).read_text() for name in ("key8.pem", "certificate.pem", "ca.pem")]
    (folder / "keystore.pem").write_text("".join(parts))


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def _free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports
