"""The signals agent's work: interactions to what all users together did with an item. Knows no topic and no broker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

from ranking.signals import Counts, Signals, Visit
from streams.messages import Interaction, Interactions, ItemSignal, encode

PARCEL = 128  # interactions of a record: 6 ids of 256 characters, 4 bytes each, fit Kafka's 1 MB


class SignalCounter:
    """Count interactions into the signals that this worker follows, and make the records that other workers follow."""

    def __init__(self, signals: Signals) -> None:
        self.signals = signals

    def count(self, batch: Sequence[Interaction]) -> set[str]:
        """Count a batch; return the ids of the items that changed. What was counted before is left out."""
        return self.signals.count([Visit(each.item_id, each.after, each.weight, each.at, each.source) for each in batch])

    def records(self, item_ids: Sequence[str]) -> list[ItemSignal]:
        """Return the messages with items' counts now; those never counted, or deleted since, are left out."""
        return [
            ItemSignal(
                item_id=item_id,
                at=counts.at,
                recent=counts.recent,
                steady=counts.steady,
                day=counts.day,
                week=counts.week,
                after=dict(counts.after),
                sources=dict(counts.sources),
            )
            for item_id, counts in zip(item_ids, self.signals.counts(item_ids), strict=True)
            if counts is not None
        ]


def parcels(interactions: Sequence[Interaction], partition: Callable[[bytes], int]) -> list[tuple[int, bytes]]:
    """Return the partition and value of each record that tells of interactions: few, since each costs more than it holds.

    partition: gives an item's, by the bytes of its id.
    """
    shares: dict[int, list[Interaction]] = {}
    for each in interactions:
        shares.setdefault(partition(each.item_id.encode()), []).append(each)
    return [
        (place, encode(Interactions(own[start : start + PARCEL])))
        for place, own in shares.items()
        for start in range(0, len(own), PARCEL)
    ]


def apply(changes: Sequence[ItemSignal | str], signals: Signals) -> None:
    """Bring signals up to date: messages replace older counts, bare ids are forgotten, in order."""
    for deletes, group in groupby(changes, lambda change: isinstance(change, str)):
        if deletes:
            signals.remove([str(item_id) for item_id in group])
        else:
            signals.put([(each.item_id, _counts(each)) for each in group if isinstance(each, ItemSignal)])


def _counts(change: ItemSignal) -> Counts:
    return Counts(change.at, change.recent, change.steady, change.after, change.sources, change.day, change.week)
