"""What a worker writes is its own to read, what it serves is behind its token, and its log holds no secret."""

from __future__ import annotations

import json
import logging
import os
import stat
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from flows import World, eventually
from secured import Running, free_ports

from streams.worker import Discreet


@pytest.mark.parametrize("secret", ["plain-secret", "quo\"te's and \\ back", "pässwörd", "日本語の秘密"])
def test_no_spelling_of_a_secret_is_logged(secret: str) -> None:
    """A secret is starred as it is and as Python spells it in texts and bytes, in a line and in its traceback."""
    lines = Discreet("%(message)s", [secret])
    shown = "**********"
    for text, wanted in ((secret, shown), (f"{[secret]}", f"['{shown}']"), (f"{secret.encode()}", f"b'{shown}'")):
        try:
            raise ValueError(text)
        except ValueError:
            record = logging.LogRecord("kafka", logging.ERROR, "x.py", 1, "sent %s", (text,), sys.exc_info())
        said = lines.format(record)
        assert said.splitlines()[0].replace('"', "'") == f"sent {wanted}"
        assert said.splitlines()[-1].replace('"', "'") == f"ValueError: {wanted}"


@pytest.mark.embedded
def test_what_a_worker_writes_is_its_own(embedded_world: Callable[..., World], tmp_path: Path) -> None:
    """Profiles, snapshots and locks: each file 0600, each folder 0700, whatever umask and folder the worker is started with."""
    world = embedded_world(snapshot_s=1.0)
    folder = world.settings.state_dir
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    worker = Running(world.settings, tmp_path, umask=0)
    try:
        worker.ready()
        world.send_raw(world.topics.items, b"tea", json.dumps({"item_id": "tea", "title": "Green tea"}).encode())
        world.send([world.event("ann", type="click", item_id="tea")])
        eventually(world.lists, lambda lists: "ann" in lists)
        eventually(lambda: list(folder.glob("snapshot-*")), bool)
        assert worker.stop() == 0, worker.said()
    finally:
        worker.process.kill()
        worker.process.wait()
    made = [folder, *folder.rglob("*")]
    names = " ".join(path.name for path in made)
    assert all(name in names for name in ("owner.json", "snapshot", "MANIFEST", ".log"))  # ours and RocksDB's
    wrong = {str(path): oct(path.stat().st_mode) for path in made if path.stat().st_mode & 0o077}
    assert not wrong
    assert {stat.S_IMODE(path.stat().st_mode) for path in made if path.is_file()} == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in made if path.is_dir()} == {0o700}


@pytest.mark.embedded
def test_faust_serves_nothing(embedded_world: Callable[..., World], tmp_path: Path) -> None:
    """Faust's own web server, which shows tables, is off: the one port that a worker listens on is ours, behind the token."""
    token, port = "a token of its own".replace(" ", "-"), free_ports(1)[0]
    world = embedded_world(web_port=port, web_host="0.0.0.0", web_token=token)
    worker = Running(world.settings, tmp_path)
    try:
        worker.ready()
        assert listening(worker.process.pid) == {("0.0.0.0", port)}
        for path in ("metrics", "health", "tables", "tables/profiles-hashing/ann", ""):
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=30)
            assert caught.value.code == 401
            caught.value.close()
        asked = urllib.request.Request(f"http://127.0.0.1:{port}/health", headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(asked, timeout=30) as answer:
            assert answer.status == 200
        assert worker.stop() == 0
    finally:
        worker.process.kill()
        worker.process.wait()


def listening(pid: int) -> set[tuple[str, int]]:
    """Return (address, port) of all that a process listens on."""
    held = {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()}
    found = set()
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in held:
                address, _, port = local.partition(":")
                found.add(("0.0.0.0" if set(address) == {"0"} else address, int(port, 16)))
    return found
