"""The house stands: imports point down and stay light, importing starts nothing, private Faust names live in one module."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("streams", "encoders", "ranking")
SOURCES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
HEAVY = ("torch", "faiss", "transformers")
PRIVATE_ALLOWED = {ROOT / "streams" / name for name in ("batching.py", "fetching.py", "rebootstrap.py")}
NAMED_TUPLES = ("_replace", "_asdict", "_fields", "_make")  # public: underscored to stay out of the fields' way
ALLOWED = ("os._exit", "torch.")  # the first is public; what torch's CPU can do has no public name


def python(code: str) -> str:
    """Return what a fresh interpreter prints for this code."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_imports_point_down() -> None:
    """`streams` stands on `encoders` and `ranking`, and these two know neither it nor each other."""
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from importlinter.cli import lint_imports_command as run; run()", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "imports only point down KEPT" in done.stdout


def test_every_room_is_checked() -> None:
    """The check of the floors knows every room: a graph without one of them would let anything pass."""
    import tomllib

    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    assert set(contract["root_packages"]) == set(ROOMS)
    assert contract["contracts"][0]["layers"] == ["streams", "encoders | ranking"]


@pytest.mark.parametrize(
    "room", ["encoders", "ranking", "ranking.lists", "streams.messages", "streams.settings", "streams.personalizer"]
)
def test_light(room: str) -> None:
    """Importing a room loads none of the heavy libraries: they load when they are used."""
    loaded = python(f"import sys, {room}; print([name for name in {HEAVY!r} if name in sys.modules])")
    assert loaded == "[]"


@pytest.mark.parametrize(
    "path", [path for path in SOURCES if path.name != "__main__.py"], ids=lambda path: str(path.relative_to(ROOT))
)
def test_nothing_at_import(path: Path) -> None:
    """A module's top level defines; it calls nothing but what builds constants."""
    assert list(_acts(ast.parse(path.read_text()))) == []


def _acts(module: ast.Module) -> Iterator[str]:
    """Yield the statements of a module's top level that do something."""
    for statement in module.body:
        is_bare = isinstance(statement, ast.Expr) and not isinstance(statement.value, ast.Constant)
        if is_bare or isinstance(statement, (ast.For, ast.While, ast.With, ast.Delete, ast.Assert, ast.Raise)):
            yield ast.unparse(statement)


def test_importing_starts_no_thread() -> None:
    """Importing every module starts no thread, opens no socket and writes nothing to the terminal."""
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in SOURCES if not path.name.startswith("__")]
    code = (
        "import importlib, sys, threading, socket, warnings\n"
        "warnings.simplefilter('ignore')\n"
        "def refuse(*a, **k): raise AssertionError('a socket at import')\n"
        "socket.socket.connect = socket.socket.bind = refuse\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "print([t.name for t in threading.enumerate()])"
    )
    assert python(code) == "['MainThread']"


@pytest.mark.parametrize("path", [p for p in SOURCES if p not in PRIVATE_ALLOWED], ids=lambda path: str(path.relative_to(ROOT)))
def test_private_names(path: Path) -> None:
    """Private names of other libraries are touched in the modules of PRIVATE_ALLOWED alone."""
    assert sorted(_foreign_private(path)) == []


def _foreign_private(path: Path) -> set[str]:
    """Return the private attributes of other objects that a file touches and does not define itself."""
    module = ast.parse(path.read_text())
    own = set(_defined(module))
    return {
        ast.unparse(node)
        for node in ast.walk(module)
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
        and ast.unparse(node.value) not in ("self", "cls")
        and not ast.unparse(node).startswith(ALLOWED)
        and node.attr not in NAMED_TUPLES
        and node.attr not in own
    }


def _defined(module: ast.Module) -> Iterator[str]:
    """Yield the names of a module's functions and of what it assigns, on self as well."""
    for node in ast.walk(module):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            yield node.attr
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def test_a_foreign_private_name_is_seen(tmp_path: Path) -> None:
    """The check sees a private name on a foreign object, and leaves our own alone."""
    wrong = tmp_path / "wrong.py"
    wrong.write_text("def _own(producer, row):\n    row._own, row._replace\n    return producer._producer.client._wait\n")
    assert _foreign_private(wrong) == {"producer._producer", "producer._producer.client._wait"}


def test_no_environment_below_the_roof() -> None:
    """Clock, randomness, environment and network are read in `streams` alone: below it they are arguments."""
    banned = (
        "os.environ",
        "os.getenv",
        "time.time",
        "datetime.now",
        "random.random",
        "np.random.rand",
        "import socket",
        "import requests",
    )
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for room in ("encoders", "ranking")
        for path in sorted((ROOT / room).rglob("*.py"))
        for name in banned
        if name in path.read_text()
    ]
    assert found == []
