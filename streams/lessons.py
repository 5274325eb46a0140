"""Lessons: from lists as they were published and events as they came to rounds of learning.

Does not know topics or how a version is published. Each list is written down as the model in service ranks it, from the profile
that it was made of; then `joins` waits for what the user does next, and `rounds` learns from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ranking.bundle import Bundle
from ranking.index import NOWHERE
from ranking.lists import CHUNK
from ranking.online import Example, write_down
from ranking.profile import Profile
from ranking.rounds import Plan, Round, Rounds
from streams.joins import Joins, Touched
from streams.messages import ERASE, Event, RecommendationList
from streams.personalizer import Personalizer


class Listed(NamedTuple):
    """A list as it was published, and the profile that it was made of.

    profile: None of one that was reread after it had found its profile: then its order alone is news.
    """

    profile: Profile | None
    list: RecommendationList


def is_of_another(told: RecommendationList, model: str) -> bool:
    """Tell whether a list is of a variant with a model of its own, of which nothing is to be learnt for this one.

    Without an experiment a list of another model is one from before or after a swap, and joins as it always did.
    """
    return told.variant is not None and told.model != model


class Lessons:
    """Learning on the model that a personalizer ranks with. Not safe to use from two threads at once.

    is_wanted: whether an event says that its user wanted the item; where its weight is positive when left out.
    is_free: as in `Rounds`.
    """

    def __init__(
        self,
        personalizer: Personalizer,
        base: Bundle,
        window_s: float,
        plan: Plan | None = None,
        is_wanted: Callable[[Event], bool] | None = None,
        *,
        is_free: bool = False,
    ) -> None:
        """Start from the model in service. Raises OnlineError."""
        self.personalizer = personalizer
        self.rounds = Rounds(base, personalizer.maker.index, plan, is_free=is_free)
        self.joins = Joins(window_s, self.rounds.plan.steps.unseen)
        self.examples = 0
        self._is_wanted = is_wanted or (lambda event: personalizer.weights.of_item(event, 1) > 0)

    def listed(self, lists: Sequence[Listed]) -> list[Round]:
        """Take published lists in, in their order; return the rounds that have ended with them.

        What a user saw last is learnt from: a list that was reread has the order that it came to.
        """
        newest = {each.list.list_id: each.list for each in lists}
        made = [(each.profile, newest[each.list.list_id]) for each in lists if each.profile is not None]
        ended = []
        for start in range(0, len(made), CHUNK):
            profiles, told = zip(*made[start : start + CHUNK], strict=True)
            orders = [self._order(each) for each in told]
            also = sorted({slot for _, chances in orders for slot in chances if slot != NOWHERE})
            at = max(each.published_at for each in told)
            shown = write_down(self.personalizer.maker, profiles, at, also)
            for each, own, order in zip(told, shown, orders, strict=True):
                ended += self._take(self.joins.show(each.user_id, each.event_id, each.event_at, own, *order))
        for each in lists:
            if each.profile is None:
                self.joins.reread(each.list.user_id, each.list.event_id, *self._order(each.list))
        return ended

    def happened(self, events: Sequence[Event]) -> list[Round]:
        """Take events in, each user's in their order; return the rounds that have ended with them."""
        ended = []
        for event in events:
            if event.type == ERASE:
                self.joins.forget(event.user_id)
                self.rounds.forget(event.user_id)
                continue
            slot = self._slot(event.item_id) if event.item_id and self._is_wanted(event) else NOWHERE
            ended += self._take(self.joins.event(event.user_id, Touched(event.event_id, float(event.at), slot)))
        return ended

    def _take(self, examples: list[Example]) -> list[Round]:
        self.examples += len(examples)
        ended = self.rounds.take(examples)
        return [] if ended is None else [ended]

    def _order(self, told: RecommendationList) -> tuple[list[int], dict[int, float]]:
        """Return the slots of a list's items, from the top, and the propensities by slot, of those that have one."""
        slots = [self._slot(each.item_id) for each in told.items]
        chances = zip(slots, [each.propensity for each in told.items], strict=True)
        return slots, {slot: chance for slot, chance in chances if chance is not None}

    def _slot(self, item_id: str) -> int:
        return self.personalizer.maker.index.slot(item_id)
