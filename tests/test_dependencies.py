"""What is installed: pinned, within its range, under a licence that we know, and asked about where a service answers.

Needs no network: all of it stands in pyproject.toml, constraints.txt and the metadata of what is installed.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import Distribution, distributions
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
TOOLS = {"pip", "setuptools", "wheel", "headrace"}  # what a new virtual environment has, and ourselves

# Licences that let anybody use, change and pass on what we are built of; of MPL-2.0 only files of its own stay under it.
ALLOWED = {
    *(
        "0BSD",
        "Apache-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "BSL-1.0",
        "CC0-1.0",
        "CNRI-Python",
        "ISC",
        "MIT",
        "MIT-CMU",
        "MPL-2.0",
    ),
    *("PSF-2.0", "Zlib", "Apache-2.0 WITH LLVM-exception"),
}
# What the metadata of before SPDX say, in a classifier or as free text.
SPELLED = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache": "Apache-2.0",
    "Apache 2": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "Repoze Public License": "BSD-3-Clause",  # its terms, and that changed files say so
}


def pins(name: str) -> dict[str, Version]:
    """Return the versions that a file pins, by canonical name."""
    lines = [line for line in (ROOT / name).read_text("utf-8").splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(package): Version(version) for package, version in (line.split("==") for line in lines)}


PINS = pins("constraints.txt")
WEIGHTS = pins("weights.txt")


def asked_for() -> list[Requirement]:
    """Return the requirements of pyproject.toml, those of every extra among them."""
    extras = [each for some in PROJECT["optional-dependencies"].values() for each in some]
    return [one for one in map(Requirement, [*PROJECT["dependencies"], *extras]) if one.name != PROJECT["name"]]


INSTALLED = {canonicalize_name(one.name): one for one in distributions()}
OURS = {name: one for name, one in INSTALLED.items() if name in PINS or name in WEIGHTS}


def needs(one: Distribution) -> list[Requirement]:
    """Return what a distribution needs here, without extras."""
    return [each for each in map(Requirement, one.requires or []) if not each.marker or each.marker.evaluate({"extra": ""})]


def licences(one: Distribution) -> set[str]:
    """Return a distribution's licences by their SPDX names: of its expression, else its classifiers, its text, its file."""
    told = one.metadata
    if expression := told.get("License-Expression"):
        return set(re.split(r" (?:AND|OR) ", re.sub("[()]", "", expression)))
    classified = [each.rpartition(" :: ")[2] for each in told.get_all("Classifier") or [] if each.startswith("License :: ")]
    said = [each for each in classified if each != "DFSG approved"] or re.split(" AND ", told.get("License") or "")
    if said in ([""], ["UNKNOWN"]):
        texts = [each.read_text("utf-8") for each in one.files or [] if each.name.startswith("LICENSE")]
        said = [
            "Apache-2.0" if re.match(r"\s*Apache (Software )?License\s+(Version )?2\.0", text) else text[:40] for text in texts
        ]
    return {SPELLED.get(each, each) for each in said}


@pytest.mark.parametrize("requirement", asked_for(), ids=str)
def test_what_is_asked_for_is_pinned_within_its_range(requirement: Requirement) -> None:
    """Each requirement, of every extra, has a version in constraints.txt that its range takes."""
    assert PINS[canonicalize_name(requirement.name)] in requirement.specifier


def test_what_is_needed_is_pinned_within_its_range() -> None:
    """What the installed distributions need, and has a pin, takes the pinned version."""
    for name, one in OURS.items():
        for requirement in needs(one):
            pinned = PINS.get(canonicalize_name(requirement.name))
            assert pinned is None or pinned in requirement.specifier, f"{name} needs {requirement}"


def test_what_is_installed_is_what_is_pinned() -> None:
    """Each distribution has its pinned version, and none is there that no file names."""
    versions = {name: Version(Version(one.version).public) for name, one in OURS.items()}  # torch's build is +cpu or none
    assert versions == {name: version for name, version in (PINS | WEIGHTS).items() if name in INSTALLED}
    unnamed = INSTALLED.keys() - OURS.keys() - TOOLS
    if "CI" not in os.environ:  # what a developer put beside is none of ours, unless one of ours needs it
        unnamed &= {canonicalize_name(one.name) for some in OURS.values() for one in needs(some)}
    assert not unnamed


def test_nothing_is_pinned_twice_or_out_of_order() -> None:
    """The pins are in order, one for each package, each of one version."""
    names = re.findall(r"^([^#=]+)==", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE)
    assert names == sorted(names, key=str.lower)
    assert len(names) == len(PINS)


def test_all_that_is_installed_fits_together() -> None:
    """`pip check` has nothing to say, but of the weights: only their data are read, and what they need is left out."""
    command = [sys.executable, "-m", "pip", "check", "--disable-pip-version-check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = [line for line in done.stdout.splitlines() if canonicalize_name(line.split()[0]) not in WEIGHTS]
    assert said in ([], ["No broken requirements found."])


@pytest.mark.parametrize("name", sorted(OURS))
def test_licence_is_one_that_we_know(name: str) -> None:
    """Each distribution is under licences of the list, and says so itself."""
    found = licences(OURS[name])
    assert found
    assert found <= ALLOWED


def load_audit() -> ModuleType:
    """Return deploy/audit.py, imported."""
    spec = importlib.util.spec_from_file_location("audit", ROOT / "deploy/audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def report(*vulnerable: str, unknown: tuple[str, ...] = (), clean: tuple[str, ...] = ("tea",)) -> dict[str, Any]:
    """Return what pip-audit writes when it knows some vulnerable and clean packages, and others not."""
    bad = {"id": "CVE-1", "fix_versions": ["2.0"], "aliases": [], "description": ""}
    known = [{"name": name, "version": "1.0", "vulns": [bad] if name in vulnerable else []} for name in (*vulnerable, *clean)]
    left_out = [{"name": name, "skip_reason": "Dependency not found on PyPI"} for name in unknown]
    return {"dependencies": [*known, *left_out], "fixes": []}


def test_a_known_vulnerability_fails_the_audit(capsys: pytest.CaptureFixture[str]) -> None:
    """The audit ends with 1 and says which version and what mends it, by whichever service answers first."""
    audit = load_audit()
    answers = {"pypi": "no route", "osv": audit.read(report("pot", unknown=("jar",)))}
    assert audit.main(answers.__getitem__) == 1
    assert capsys.readouterr().out.splitlines() == [
        "2 versions asked about at osv: 1 vulnerabilities",
        "not known there: jar",
        "pot 1.0: CVE-1, mended in 2.0",
    ]


def test_a_clean_audit_ends_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    """A service that knows all and nothing bad of them is enough."""
    audit = load_audit()
    assert audit.main({"pypi": audit.read(report())}.__getitem__) == 0
    assert capsys.readouterr().out == "1 versions asked about at pypi: 0 vulnerabilities\n"


def test_an_audit_without_a_service_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """No network is no failure and no clean bill: one line says who did not answer, a mirror that knows nothing among them."""
    audit = load_audit()
    answers = {"pypi": audit.read(report(unknown=("tea", "pot"), clean=())), "osv": "Failed to resolve"}
    assert audit.main(answers.__getitem__) == 0
    assert capsys.readouterr().out == (
        "NOT AUDITED, no vulnerability service could be asked: pypi (knows none of the packages); osv (Failed to resolve)\n"
    )


def test_the_audit_asks_about_every_pin(monkeypatch: pytest.MonkeyPatch) -> None:
    """pip-audit is run on both files with the service's name; what it writes is read, or its last line where it cannot ask."""
    audit = load_audit()
    commands: list[list[str]] = []
    said = [
        subprocess.CompletedProcess([], 0, '{"dependencies": []}', ""),
        subprocess.CompletedProcess([], 1, "", "a\nno host\n"),
    ]

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return said[len(commands) - 1]

    monkeypatch.setattr(audit.subprocess, "run", run)
    assert audit.ask("pypi") == (0, [], [])
    assert audit.ask("osv") == "no host"
    for service, command in zip(("pypi", "osv"), commands, strict=True):
        assert command[1:5] == ["-m", "pip_audit", "-s", service]
        assert [each for each in command if each.endswith(".txt")] == [str(ROOT / "constraints.txt"), str(ROOT / "weights.txt")]
