"""Options that several commands have.

Does not know what the commands do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Broker = Annotated[
    str | None, typer.Option("--broker", metavar="HOST:PORT", help="Kafka's address, in place of HEADRACE_BROKER.")
]
Map = Annotated[list[str], typer.Option("--map", metavar="OURS=THEIRS", help="A column under another name, as user_id=userId.")]
Titles = Annotated[Path | None, typer.Option("--items", metavar="FILE", help="Titles from this file, not from the broker.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON, one object a line, for other programs.")]
EventType = Annotated[str | None, typer.Option("--type", help="Type of every event, for a file without a type column.")]
