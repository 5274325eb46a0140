"""Whose the group's committed offsets are: beside each stands the id of the encoder whose profiles hold what lies before it.

Workers commit with their encoder's id (`streams.batching`). One whose encoder is another would go on where those have stopped,
with profiles that lack all that came before: it is refused, until a rebuild has made its profiles and handed the offsets over.

    OtherEncoder(RuntimeError)   the offsets are another encoder's: says whose, and the steps
"""

from __future__ import annotations

from collections.abc import Mapping

from kafka import KafkaAdminClient, TopicPartition
from kafka.errors import IllegalGenerationError, NoError, RebalanceInProgressError, UnknownMemberIdError
from kafka.structs import OffsetAndMetadata

from streams.kafka import ask
from streams.settings import Settings, named_encoder
from streams.topics import topics

JOINED = {UnknownMemberIdError, IllegalGenerationError, RebalanceInProgressError}  # somebody is in the group

Commits = Mapping[TopicPartition, OffsetAndMetadata]


class OtherEncoder(RuntimeError):  # noqa: N818  reads as what is there
    """The committed offsets are another encoder's."""


def commits(settings: Settings) -> Commits:
    """Return what the group has committed of this installation's topics. Raises BrokerUnreachable, RightsError."""
    named = topics(settings)
    ours = {named.events.name, named.items.name, named.interactions.name}
    found = ask(settings, lambda admin: admin.list_group_offsets(settings.app_id))[settings.app_id]
    return {place: told for place, told in found.items() if place.topic in ours and told.offset >= 0}


def owners(committed: Commits) -> set[str]:
    """Return the ids of the encoders that the offsets are of; what was set by hand has none."""
    return {told.metadata for told in committed.values() if told.metadata}


def refuse_other(settings: Settings, encoder_id: str) -> None:
    """Raise OtherEncoder when the group's offsets are those of another encoder."""
    others = owners(commits(settings)) - {encoder_id}
    if others:
        raise OtherEncoder(
            f"group {settings.app_id} has processed items and events with encoder {', '.join(sorted(others))}, this worker has "
            f"{encoder_id}: set HEADRACE_ENCODER, HEADRACE_COMPACT and HEADRACE_IMAGES back, or run "
            f"`headrace import --rebuild` with {named_encoder(settings)} first (docs/operate.md, Another encoder)"
        )


def hand_over(settings: Settings, committed: Commits, encoder_id: str) -> bool:
    """Commit the same offsets as an encoder's own; tell whether the group was empty: else Kafka does not take them.

    Raises RightsError, BrokerUnreachable.
    """
    signed = {place: told._replace(metadata=encoder_id) for place, told in committed.items()}
    return ask(settings, lambda admin: _commit(admin, settings.app_id, signed))


def _commit(admin: KafkaAdminClient, group: str, signed: Commits) -> bool:
    answers = set(admin.alter_group_offsets(group, signed).values())
    for refusal in answers - {NoError, *JOINED}:
        raise refusal(f"offsets of group {group}")
    return not answers & JOINED
