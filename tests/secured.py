"""A one-node Apache Kafka that lets only known users in and each do only what it was granted.

Three doors: SASL_SSL with SCRAM-SHA-512, SASL_PLAINTEXT with PLAIN, and SSL, which wants a certificate of the client; all
certificates are made on the fly. The users, their passwords and rights are made by the commands of docs/security.md, run as
they stand there with Kafka's own tools.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from flows import eventually
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ACLResourcePatternType, ResourcePattern, ResourceType
from pydantic import SecretStr

from streams.broker import cluster_id, end_with_parent, java_command
from streams.connection import RightsError
from streams.kafka import open_admin, wait_for_broker
from streams.rights import SHOWN
from streams.settings import PREFIX, Settings, load

ROOT = Path(__file__).parents[1]
USERS = ("producer", "worker", "reader")
OPERATORS = (  # they come in by PLAIN
    *("reviewer", "repairer", "eraser", "importer", "loader", "viewer", "creator"),
    *("lister", "publisher", "chooser", "trainer", "reporter", "asker", "inquirer"),
)
KEY_PASSWORD = "canary-key-0123456789"
SCRAM_LOGIN = "org.apache.kafka.common.security.scram.ScramLoginModule required"
PLAIN_LOGIN = "org.apache.kafka.common.security.plain.PlainLoginModule required"
TOOLS = {"kafka-acls.sh": "org.apache.kafka.tools.AclCommand", "kafka-configs.sh": "kafka.admin.ConfigCommand"}
GRANTS = "an administrator of Kafka grants it, with the commands of docs/security.md"
Right = tuple[str, str, str]  # user, operation, "topic NAME" or "group NAME"
PLAY = """
import java.nio.file.*;
import java.util.*;

class Play {  // each call is a class and its arguments, with an empty one behind; a tool that fails ends the machine
    public static void main(String[] files) throws Throwable {
        List<String> call = new ArrayList<>();
        for (String part : Files.readString(Path.of(files[0])).split("\\0", -1)) {
            if (!part.isEmpty()) {
                call.add(part);
            } else if (!call.isEmpty()) {
                String[] arguments = call.subList(1, call.size()).toArray(new String[0]);
                Class.forName(call.get(0)).getMethod("main", String[].class).invoke(null, (Object) arguments);
                call.clear();
            }
        }
    }
}
"""
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


class Running:
    """A `headrace worker` process, its log in a file."""

    def __init__(self, settings: Settings, folder: Path, umask: int = -1, **more: str) -> None:
        self.log = folder / f"worker-{time.time_ns()}.log"
        given = environment(settings, **more)
        with self.log.open("wb") as output:
            command = [sys.executable, "-m", "streams", "worker"]
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=given, cwd=ROOT, umask=umask)

    def said(self) -> str:
        """Return its log."""
        return self.log.read_text(errors="replace")

    def ready(self) -> Running:
        """Return when it turns events into lists."""
        eventually(self.said, lambda said: "ready in" in said or self.process.poll() is not None, 90)
        assert self.process.poll() is None, self.said()
        return self

    def stop(self) -> int:
        """Ask it to stop, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


class Secured(NamedTuple):
    """A secured Kafka: its folder, the addresses of its three doors, and each user's password."""

    folder: Path
    tls: str
    plain: str
    mutual: str
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

    def operator(self, user: str, **changes: object) -> Settings:
        """Return the settings of a user who comes in by PLAIN, for the installation that operators have to themselves."""
        door = {"broker": self.plain, "security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN", "ssl_cafile": None}
        return self.settings(user, **door, topic_prefix="ops.", app_id="ops", partitions=1, **changes)

    def certified(self, user: str, **changes: object) -> Settings:
        """Return the settings of a user who comes in by a certificate, its key behind a passphrase."""
        given: dict[str, object] = {
            "broker": self.mutual,
            "security_protocol": "SSL",
            "sasl_username": "",
            "sasl_password": "",
            "ssl_certfile": self.folder / f"{user}.pem",
            "ssl_keyfile": self.folder / f"{user}.key",
            "ssl_password": KEY_PASSWORD,
        }
        return self.settings(user, **(given | changes))

    def run(self, script: str, prefix: str = "", app: str = "headrace") -> None:
        """Run shell commands as the administrator of docs/security.md; what they ask of Kafka's tools is for `play` to do."""
        settings = f'KAFKA="--bootstrap-server {self.tls} --command-config {self.folder}/admin.properties"\n'
        names = f"PREFIX={prefix} APP={app} ENCODER=hashing\n"
        passwords = "".join(f"{user.upper()}_PASSWORD={self.passwords[user]}\n" for user in USERS)
        self._tool("bash", "-euc", settings + names + passwords + script)

    def play(self) -> None:
        """Have Kafka's tools do what they were called for."""
        self._tool("play")

    def _tool(self, *command: str) -> None:
        environment = {**os.environ, "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
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


def commands(part: str, kind: str = "bash") -> str:
    """Return the commands of a part of docs/security.md."""
    text = (ROOT / "docs/security.md").read_text("utf-8")
    return re.search(rf"^## {part}\n.*?```{kind}\n(.*?)```", text, re.MULTILINE | re.DOTALL)[1]  # type: ignore[index]


def granted(part: str = "Rights", prefix: str = "", app: str = "headrace") -> set[Right]:
    """Return what the commands of a part of docs/security.md grant."""
    text = commands(part).replace("\\\n", " ").replace("${PREFIX}", prefix).replace("$APP", app)
    names = {shown: operation for operation, shown in SHOWN.items()}
    return {
        (user, names[operation], f"{kind} {name}")
        for line in text.replace("$ENCODER", "hashing").splitlines()
        for user in re.findall(r"--allow-principal User:(\w+)", line)
        for operation in re.findall(r"--operation (\w+)", line)
        for kind, name in re.findall(r"--(topic|group|transactional-id) (\S+)", line)
    }


@contextmanager
def without(secured: Secured, right: Right) -> Iterator[None]:
    """Take a right away for the block."""
    user, operation, resource = right
    kind, _, name = resource.partition(" ")
    how = ACLResourcePatternType.PREFIXED if kind == "transactional-id" else ACLResourcePatternType.LITERAL
    pattern = ResourcePattern(ResourceType[kind.upper().replace("-", "_")], name, how)
    acl = ACL(f"User:{user}", "*", ACLOperation[operation], ACLPermissionType.ALLOW, pattern)
    with open_admin(secured.settings("admin")) as admin:
        admin.delete_acls([acl])
        try:
            yield
        finally:
            admin.create_acls([acl])


def refusal(call: Callable[[], None]) -> str:
    """Return what a call is refused with, nothing where it is not."""
    try:
        call()
    except RightsError as error:
        return str(error)
    return ""


def environment(settings: Settings, **more: str) -> dict[str, str]:
    """Return the environment of a process with these settings, secrets included."""
    given = {name: getattr(settings, name) for name in settings.model_fields_set if getattr(settings, name) is not None}
    text = {name: value.get_secret_value() if isinstance(value, SecretStr) else str(value) for name, value in given.items()}
    own = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return {**own, "COLUMNS": "200", **{PREFIX + name.upper(): value for name, value in text.items()}, **more}


@contextmanager
def start_secured(home: Path, folder: Path) -> Iterator[Secured]:
    """Run the secured Kafka of the distribution in `home` for the block, without users but the administrator."""
    _make_certificates(folder)
    passwords = {user: f"canary-{user}-{secrets.token_hex(8)}" for user in ("admin", *USERS, *OPERATORS)}
    *doors, controller = (f"127.0.0.1:{port}" for port in free_ports(4))
    secured = Secured(folder, *doors, passwords)
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
    doors = f"SASL_SSL://{secured.tls},SASL_PLAINTEXT://{secured.plain},SSL://{secured.mutual}"
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
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL,SASL_PLAINTEXT:SASL_PLAINTEXT,SSL:SSL",
        "listener.name.sasl_ssl.sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.sasl_plaintext.sasl.enabled.mechanisms": "PLAIN",
        "sasl.mechanism.inter.broker.protocol": "SCRAM-SHA-512",
        "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": login,
        "listener.name.sasl_plaintext.plain.sasl.jaas.config": f"{PLAIN_LOGIN}{users};",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(secured.folder / "keystore.pem"),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(secured.folder / "ca.pem"),
        **dict(line.split("=", 1) for line in commands("Certificates in place of passwords", "properties").splitlines()),
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
    """Write the scripts of a distribution's bin folder that docs/security.md names: the jars alone do not bring them.

    They note how they are called, and `play` does it all, in order, in one Java machine: 24 of them took 55 s. It needs a JDK.
    """
    folder.mkdir()
    calls = folder / "calls"
    scripts = {name: f"printf '%s\\0' '{main}' \"$@\" '' >> '{calls}'" for name, main in TOOLS.items()}
    quoted = " ".join(f"'{part}'" for part in [*java, "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", str(folder / "Play.java")])
    scripts["play"] = f"{quoted} '{calls}' && rm '{calls}'"
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    (folder / "Play.java").write_text(PLAY)


def _make_certificates(folder: Path) -> None:
    """Write ca.pem, the authority's; keystore.pem: the server's key and certificate, for 127.0.0.1, and the authority's; and
    certificate and key of each user, and of a stranger, who signed them himself.
    """
    own = ("-x509", "-days", "1")
    _openssl(folder, "req", *own, *_KEY, "-nodes", "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem")
    _openssl(folder, "req", *own, *_KEY, *_LOCKED, "-subj", "/CN=worker", "-keyout", "stranger.key", "-out", "stranger.pem")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
    _certify(folder, "server", "/CN=127.0.0.1", "-nodes")
    for user in USERS:
        _certify(folder, user, f"/O=Example/CN={user}", *_LOCKED)
    parts = [(folder / name).read_text() for name in ("server.key", "server.pem", "ca.pem")]
    (folder / "keystore.pem").write_text("".join(parts))


_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
_LOCKED = ("-passout", f"pass:{KEY_PASSWORD}")


def _certify(folder: Path, name: str, subject: str, *lock: str) -> None:
    """Write NAME.key and NAME.pem, signed by the authority."""
    _openssl(folder, "req", *_KEY, *lock, "-subj", subject, "-keyout", f"{name}.key", "-out", "request.pem")
    signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "1", "-extfile", "names")
    _openssl(folder, "x509", "-req", "-in", "request.pem", *signed, "-out", f"{name}.pem")


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def free_ports(count: int) -> list[int]:
    """Return ports that nothing listens on."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports
