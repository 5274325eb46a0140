"""The command line: each command reads its options, calls the part that does the work, and prints what it did.

Does not do any work of its own. Settings come in here, once; torch, faiss and faust load inside the commands that need them.
An error of our own classes is written for the reader: it ends as one line on standard error, with exit code 2.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from streams import OURS
from streams import settings as all_settings
from streams.ask_command import ask
from streams.broker import BrokerError, start_apache, start_embedded
from streams.finetune_command import finetune, rerank
from streams.image_command import images
from streams.kafka import wait_for_broker
from streams.model_commands import model, train
from streams.options import AsJson, Broker, EventType, Map, Titles
from streams.report_command import report
from streams.rows import Row, parse_columns, rows
from streams.sending import delete_items, send_events, send_items
from streams.sentiment_command import sentiment
from streams.settings import Settings
from streams.terminal import bar
from streams.topics import TopicError, check_topics, create_topics, topics

KAFKA_STATE = Path(".headrace/broker")

app = typer.Typer(
    name="headrace",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Behaviour events in on Kafka, fresh recommendation lists out, milliseconds later.\n\n"
    "Start here: [bold]headrace demo[/bold]. Every setting is a HEADRACE_* environment variable: docs/settings.md.",
)
items = typer.Typer(no_args_is_help=True, help="The catalogue: load items, delete some, count them.")
app.add_typer(items, name="items", rich_help_panel="Data")
dead_letters = typer.Typer(no_args_is_help=True, help="What workers refused: look at it, and send it again after repair.")
app.add_typer(dead_letters, name="dead-letters", rich_help_panel="Data")
app.command(rich_help_panel="Models")(train)
app.command(rich_help_panel="Models")(finetune)
app.command(rich_help_panel="Look")(rerank)
app.add_typer(model, name="model", rich_help_panel="Models")
app.add_typer(images, name="images", rich_help_panel="Models")
app.add_typer(sentiment, name="sentiment", rich_help_panel="Models")
app.command(rich_help_panel="Look")(report)
app.command(rich_help_panel="Look")(ask)


@app.command(rich_help_panel="Run")
def demo(keep: Annotated[bool, typer.Option("--keep", help="Leave everything running until Ctrl-C.")] = False) -> None:
    """Play the stories: broker, catalogue, worker and events, all on this machine. Example: [bold]headrace demo[/bold]"""
    from streams.demo import main as play

    play(all_settings.load(), keep)


@app.command(rich_help_panel="Run")
def broker(
    kafka: Annotated[
        bool, typer.Option("--kafka", help="Apache Kafka of the folder in KAFKA_HOME, not the embedded one.")
    ] = False,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port; HEADRACE_BROKER's when left out, 0 a free one.")
    ] = None,
    folder: Annotated[Path, typer.Option(help="Folder of the data and the log.")] = KAFKA_STATE,
) -> None:
    """Run a broker on this machine until Ctrl-C. Example: [bold]headrace broker --port 9092[/bold]"""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    settings = all_settings.load()
    port = int(settings.broker.split(",")[0].rpartition(":")[2]) if port is None else port
    started = start_apache(_kafka_home(), folder, port) if kafka else start_embedded(folder, port)
    try:
        with started as running:
            print(
                f"{'Apache Kafka' if kafka else 'the embedded broker'} answers at {running.address}; Ctrl-C stops it",
                flush=True,
            )
            running.wait()
    except KeyboardInterrupt:
        print("stopped")


def _kafka_home() -> Path:
    if not os.environ.get("KAFKA_HOME"):
        raise BrokerError("--kafka needs KAFKA_HOME: set it to the folder of an unpacked Apache Kafka 4 distribution")
    return Path(os.environ["KAFKA_HOME"])


@app.command(name="topics", rich_help_panel="Run")
def list_topics(
    create: Annotated[bool, typer.Option("--create", help="Create those that are missing; others are never changed.")] = False,
    wait_s: Annotated[float, typer.Option(min=0, help="Seconds to wait for the broker first.")] = 0,
    broker: Broker = None,
) -> None:
    """Show the topics and check that they are as the settings ask. Example: [bold]headrace topics --create[/bold]"""
    settings = all_settings.load(broker=broker)
    if wait_s:
        wait_for_broker(settings, wait_s)
    made = create_topics(settings) if create else []
    problem = None
    try:
        check_topics(settings)
    except TopicError as error:
        problem = error
    table = Table(Column("topic", no_wrap=True), "key", Column("n", justify="right"), "clean-up", "because")
    for topic in topics(settings):
        table.add_row(
            topic.name,
            topic.key,
            str(topic.partitions),
            topic.config["cleanup.policy"],
            topic.why,
            style="green" if topic.name in made else None,
        )
    Console().print(table)
    print(f"created: {', '.join(made)}" if made else "created: none")
    if problem is not None:
        raise problem


@app.command(rich_help_panel="Run")
def move(
    old: Annotated[str, typer.Argument(metavar="APP_ID", help="HEADRACE_APP_ID of the installation that is there.")],
    prefix: Annotated[str, typer.Option(help="Its HEADRACE_TOPIC_PREFIX.")] = "",
    broker: Broker = None,
) -> None:
    """Copy an installation into topics of other names, with another number of partitions. See docs/operate.md.

    The settings are those of the new installation: another HEADRACE_APP_ID and HEADRACE_TOPIC_PREFIX, and HEADRACE_PARTITIONS.
    Example: [bold]headrace move headrace[/bold]
    """
    from streams import move as moving

    settings = all_settings.load(broker=broker)
    for name, count in moving.move(settings, old, prefix)._asdict().items():
        print(f"{count} records of {name.replace('_', '-')} copied")
    print(f"next: send events and items to {settings.topic_prefix}events and {settings.topic_prefix}items, and start workers")


@app.command(rich_help_panel="Run")
def worker(broker: Broker = None) -> None:
    """Turn events into lists until Ctrl-C. Run as many as there are partitions. Example: [bold]headrace worker[/bold]

    Each worker of a machine needs a state folder of its own: HEADRACE_STATE_DIR=.headrace/two headrace worker
    """
    from streams.worker import run_worker

    raise typer.Exit(run_worker(all_settings.load(broker=broker)))


@app.command(rich_help_panel="Run")
def learn(broker: Broker = None) -> None:
    """Learn from what users do with their lists, and publish each model that is better, until Ctrl-C. See docs/learning.md.

    Example: headrace learn --broker 127.0.0.1:9092
    """
    from streams.learn import run_learner

    raise typer.Exit(run_learner(all_settings.load(broker=broker)))


@app.command(rich_help_panel="Data")
def produce(
    file: Annotated[
        Path | None, typer.Argument(help="Events as jsonl, csv or parquet; - is jsonl from standard input.")
    ] = None,
    user: Annotated[str | None, typer.Option(help="Who did it.")] = None,
    kind: Annotated[
        str | None, typer.Option("--type", help="view, click, cart, purchase, rating, like, comment, wish, ...")
    ] = None,
    item: Annotated[str | None, typer.Option(help="The item it is about.")] = None,
    text: Annotated[str | None, typer.Option(help="What the user wrote.")] = None,
    rating: Annotated[float | None, typer.Option(help="A rating's number.")] = None,
    progress: Annotated[float | None, typer.Option(help="Share of a view watched or read, 0-1.")] = None,
    at: Annotated[str | None, typer.Option(help="When; Unix seconds or ISO 8601. Now when left out.")] = None,
    columns: Map = [],  # noqa: B006  typer wants a list, and none is changed
    broker: Broker = None,
) -> None:
    """Send one event, or a file of them, each checked first.

    Example: [bold]headrace produce --user ann --type wish --text "less sport, more jazz"[/bold]
    """
    settings = all_settings.load(broker=broker)
    one = {"user_id": user, "type": kind, "item_id": item, "text": text, "rating": rating, "progress": progress, "at": at}
    given = {name: value for name, value in one.items() if value is not None}
    if (file is None) == (not given):
        raise typer.BadParameter("give a file of events, or one event by its options (--user, --type, ...)")
    if file is None:
        ((_, sent),) = send_events(settings, [Row(0, given, 1.0)])
        place = sent.get(timeout=settings.connect_timeout_s)
        print(f"{place.topic}[{place.partition}]@{place.offset}")
        return
    print(f"{sum(1 for _ in _sent('sending', file, columns, send_events, settings))} events sent")


@items.command()
def load(
    file: Annotated[Path, typer.Argument(help="Items as jsonl, csv or parquet; - is jsonl from standard input.")],
    columns: Map = [],  # noqa: B006  as above
    wait: Annotated[bool, typer.Option("--wait", help="Until workers have encoded them and can recommend them.")] = False,
    broker: Broker = None,
) -> None:
    """Put a file of items on the items topic; one that is there already is replaced.

    Needs item_id and title; knows text, category, brand, tags (a|b in csv), image, available; other columns become attributes.
    Example: [bold]headrace items load examples/items.jsonl[/bold]
    """
    from streams.reading import arrivals
    from streams.rights import check_command_rights

    settings = all_settings.load(broker=broker)
    if wait:
        check_command_rights(settings, "items load --wait")
    # Who only sends may not read what workers make of it.
    with arrivals(settings, topics(settings).item_vectors) if wait else nullcontext() as wait_for:
        ids = [str(row.values["item_id"]) for row in _sent("loading", file, columns, send_items, settings)]
        if wait_for is not None:
            with bar("encoding") as advance:
                wait_for({item_id.encode() for item_id in ids}, advance)
    print(f"{len(ids)} items {'can be recommended' if wait else 'sent'}")


def _sent(doing: str, file: Path, columns: list[str], send: Any, settings: Settings) -> Iterator[Row]:
    with bar(doing) as advance:
        for row, _ in send(settings, rows(file, parse_columns(columns))):
            advance(row.done)
            yield row


@items.command()
def delete(item_ids: Annotated[list[str], typer.Argument(help="Ids of items.")], broker: Broker = None) -> None:
    """Take items out of the catalogue and so out of lists. Example: [bold]headrace items delete p1 p2[/bold]"""
    print(f"{delete_items(all_settings.load(broker=broker), item_ids)} deletions sent")


@items.command(name="count")
def count_items(broker: Broker = None) -> None:
    """Count the items on the items topic. Example: [bold]headrace items count[/bold]"""
    from streams.reading import records

    settings = all_settings.load(broker=broker)
    there: set[bytes] = set()
    with Console(stderr=True).status("reading items"):
        for record in records(settings, topics(settings).items):
            (there.add if record.value else there.discard)(record.key)
    print(f"{len(there)} items")


@dead_letters.command(name="list")
def list_letters(
    topic: Annotated[str | None, typer.Option(help="Only messages of this topic: events or items.")] = None,
    reason: Annotated[str | None, typer.Option(help="Only those whose reason has this text in it.")] = None,
    count: Annotated[int, typer.Option(min=0, help="Only so many, the newest; 0 is all.")] = 0,
    as_json: AsJson = False,
    broker: Broker = None,
) -> None:
    """Show what was refused and not sent again since, oldest first. Ends with 1 when there is nothing to show.

    Example: [bold]headrace dead-letters list --topic items --count 10[/bold]
    """
    from streams.letters import open_letters, show

    found = open_letters(all_settings.load(broker=broker), topic, reason)
    if not show(deque(found, maxlen=count) if count else found, as_json=as_json):
        print("no dead letters" if topic is reason is None else "no dead letters like these", file=sys.stderr)
        raise typer.Exit(1)


@dead_letters.command()
def retry(
    places: Annotated[list[str] | None, typer.Argument(metavar="[PLACE]...", help="Letters, as events[1]@42.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All letters, as they are.")] = False,
    file: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", help="Lines of `list --json`, repaired; - is standard input.")
    ] = None,
    broker: Broker = None,
) -> None:
    """Send refused messages again, each checked first. Ends with 2 when one is refused again.

    To repair: `headrace dead-letters list --json > letters.jsonl`, change each line's value, then send the file.
    Example: [bold]headrace dead-letters retry --from letters.jsonl[/bold]
    """
    from streams import letters

    if sum((bool(places), everything, file is not None)) != 1:
        raise typer.BadParameter("give places of letters, or --all, or --from with a file of them")
    wanted = None if everything else dict(letters.repaired(file)) if file else dict.fromkeys(places or ())
    sent = refused = troubled = 0
    for outcome in letters.retry(all_settings.load(broker=broker), wanted):
        if outcome.sent:
            print(f"{outcome.place} sent as {outcome.sent}")
        if outcome.reason:
            print(f"{outcome.place}: {outcome.reason}", file=sys.stderr)
        sent, refused, troubled = sent + bool(outcome.sent), refused + (not outcome.sent), troubled + bool(outcome.reason)
    print(f"{sent} sent, {refused} refused")
    raise typer.Exit(2 if troubled else 0)


@app.command(name="import", rich_help_panel="Data")
def import_history(
    file: Annotated[Path | None, typer.Argument(help="Past events as csv, jsonl or parquet.")] = None,
    columns: Map = [],  # noqa: B006  as above
    kind: EventType = None,
    merge: Annotated[bool, typer.Option("--merge", help="Fold into the profiles that are there, not into none.")] = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave rows out that are no events, and show them.")] = False,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="In place of a file: the items and events of the topics, for another encoder.")
    ] = False,
    broker: Broker = None,
) -> None:
    """Fold past events into profiles, before workers start. Load the items first.

    With --rebuild and HEADRACE_ENCODER=the new one, while workers of the old encoder go on: see docs/operate.md.

    Example: [bold]headrace import ratings.csv --type rating --map user_id=userId --map item_id=movieId --map at=time[/bold]
    """
    settings = all_settings.load(broker=broker)
    if rebuild:
        if file is not None or columns or kind or merge or skip_bad:
            raise typer.BadParameter("--rebuild reads the topics: give neither a file nor options for one")
        _rebuild(settings)
        return
    if file is None:
        raise typer.BadParameter("give a file of past events, or --rebuild for the topics' own")
    from streams.backfill import import_file

    done = import_file(settings, file, columns=parse_columns(columns), event_type=kind, merge=merge, skip_bad=skip_bad)
    print(f"{done.folded} events folded, {done.replayed} known already, {done.users} profiles written")
    if done.erased:
        print(f"{done.erased} events of erased users left out")


def _rebuild(settings: Settings) -> None:
    from streams.rebuild import rebuild

    done = rebuild(settings)
    print(
        f"{done.items} items and {done.profiles} profiles are there: {done.events} events folded, {done.known} known already, "
        f"{done.left_out} messages left out"
    )
    print(
        f"next: start workers with {all_settings.named_encoder(settings)} and state folders of their own (HEADRACE_STATE_DIR)"
    )


@app.command(rich_help_panel="Data")
def erase(
    user: Annotated[str, typer.Argument(help="Who is to be forgotten.")],
    wait: Annotated[bool, typer.Option("--wait", help="Until a worker has done it.")] = False,
    broker: Broker = None,
) -> None:
    """Delete a user's profile, lists and dead letters, for good: events from before stay out. See docs/erasure.md.

    Example: [bold]headrace erase ann --wait[/bold]
    """
    from streams import forget

    settings = all_settings.load(broker=broker)
    place = forget.request(settings, user, is_awaited=wait)
    if wait:
        console = Console(stderr=True)
        with console.status("erasing") as status:
            for is_served in forget.wait(settings, place):
                status.update("erasing" if is_served else "no worker runs: start one with `headrace worker`")
    letters = forget.erase_letters(settings, user)
    if wait:
        print(f"{user} is erased, and {letters} dead letters")
    else:
        print(f"asked for in {place.topic}[{place.partition}]@{place.offset}; {letters} dead letters are erased already")


@app.command(rich_help_panel="Look")
def evaluate(
    events: Annotated[Path, typer.Option("--events", metavar="FILE", help="Past events as csv, jsonl or parquet.")],
    items: Annotated[Path, typer.Option("--items", metavar="FILE", help="The items, as csv, jsonl or parquet.")],
    columns: Map = [],  # noqa: B006  as above
    kind: Annotated[str | None, typer.Option("--type", help="Type of every event, for a file without a type column.")] = None,
    protocol: Annotated[str, typer.Option(help="split, stream or leave-one-out; see docs/evaluation.md.")] = "split",
    model: Annotated[
        Path | None, typer.Option(metavar="BUNDLE", help="Rank with this model; the zero-shot one when left out.")
    ] = None,
    report: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Write an HTML page with plots here.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure lists on past events: what users touched in the last fifth, predicted from what came before. Needs no broker.

    Example: [bold]headrace evaluate --events examples/history.jsonl --items examples/catalogue.jsonl[/bold]
    """
    from streams import report as reports
    from streams.datasets import from_files
    from streams.measuring import measure

    with bar("reading") as progress:
        dataset = from_files(events, items, columns=parse_columns(columns), event_type=kind, progress=progress)
    console = Console(stderr=as_json)
    began = time.perf_counter()
    verdicts = measure(dataset, console, protocol=protocol, model=model)
    if report is not None:
        console.print(f"report: {reports.write(list(verdicts.values()), report)}")
    if as_json:
        print(reports.line(verdicts, time.perf_counter() - began, set=dataset.name, part="test", model=verdicts[""].model))


@app.command(rich_help_panel="Look")
def watch(
    user: Annotated[str | None, typer.Argument(help="Lists of this user only.")] = None,
    count: Annotated[int, typer.Option(min=0, help="Stop after so many lists; 0 goes on.")] = 0,
    from_start: Annotated[bool, typer.Option("--from-start", help="Lists that are there already, too.")] = False,
    items: Titles = None,
    as_json: AsJson = False,
    broker: Broker = None,
) -> None:
    """Show each list as it is published. Example: [bold]headrace watch ann --count 1[/bold]"""
    from streams.watch import published, show

    settings = all_settings.load(broker=broker)
    try:
        show(settings, published(settings, user, from_start=from_start), as_json=as_json, count=count, items=items)
    except KeyboardInterrupt:
        return


@app.command(name="list", rich_help_panel="Look")
def show_list(user: str, items: Titles = None, as_json: AsJson = False, broker: Broker = None) -> None:
    """Show a user's newest list. Example: [bold]headrace list ann[/bold]"""
    from streams.watch import newest_list, show

    settings = all_settings.load(broker=broker)
    show(settings, iter([newest_list(settings, user)]), as_json=as_json, count=1, items=items)


@app.command(rich_help_panel="Look")
def profile(user: str, items: Titles = None, broker: Broker = None) -> None:
    """Show what a user's profile holds. Example: [bold]headrace profile ann[/bold]"""
    from streams.watch import known_titles, profile_table, stored_profile

    settings = all_settings.load(broker=broker)
    stored = stored_profile(settings, user)
    Console().print(profile_table(user, stored, known_titles(settings, items)))


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; what a user can put right exits with 2."""
    for name in ("kafka", "aiokafka"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # they log each retry; our errors say what is wrong, once
    try:
        app(arguments)
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in OURS:
            raise
        print(f"headrace: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
