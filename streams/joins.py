"""Join lists with what their users did next: which touch follows which list, within a window of event time.

Does not know topics, models or how an example is used. Lists and events of a user come in any order between the two, each kind
in its own; what a list says is settled by the first touch of one of its candidates that follows its event, or by nothing within
the window. Memory is bounded: `OF_USER` open lists of a user, the first ones, and `MOST` of all.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ranking.online import UNSEEN, Example, Shown, example

OF_USER = 4  # open lists: who is busier than that does not count for more
RING = 16  # events of a user that a list may still come for
MOST = 2_000  # open lists of all users, 60 kB each
USERS = 50_000  # whose last events are remembered


class Touched(NamedTuple):
    """An event of a user. slot: of the item that it speaks for, NOWHERE for none; at: Unix seconds."""

    event_id: str
    at: float
    slot: int


@dataclass(slots=True, eq=False)
class _Open:
    """A list whose user may still act on it. began: whether its own event has come, so that what comes now is later."""

    number: int
    event_id: str
    at: float
    shown: Shown
    places: Sequence[int]
    propensities: Mapping[int, float]
    began: bool = False


@dataclass(slots=True)
class _User:
    last: deque[Touched] = field(default_factory=lambda: deque(maxlen=RING))
    open: list[_Open] = field(default_factory=list)


class Joins:
    """Open lists and last events by user. unseen: as in `Steps`."""

    def __init__(self, window_s: float, unseen: float = UNSEEN) -> None:
        self.window_s, self.unseen = window_s, unseen
        self.opened = self.left_out = self.expired = 0
        self._users: OrderedDict[str, _User] = OrderedDict()
        self._order: OrderedDict[int, tuple[float, str]] = OrderedDict()  # by number, of those that are open

    def __len__(self) -> int:
        """Return how many lists are open."""
        return len(self._order)

    def show(
        self,
        user_id: str,
        event_id: str,
        at: float,
        shown: Shown,
        places: Sequence[int],
        propensities: Mapping[int, float] | None = None,
    ) -> list[Example]:
        """Open a list; return what is settled at once, by events that came before it. at: Unix seconds of its event."""
        user = self._user(user_id)
        if len(user.open) >= OF_USER:
            self.left_out += 1
            return []
        self.opened += 1
        mine = _Open(self.opened, event_id, at, shown, places, propensities or {})
        user.open.append(mine)
        self._order[mine.number] = at, user_id
        while len(self._order) > MOST:
            self._expire(next(iter(self._order)))
        return [each for touched in list(user.last) for each in self._settle(user_id, user, [mine], touched)]

    def event(self, user_id: str, touched: Touched) -> list[Example]:
        """Take an event in; return what it settles. The events of a user in their order."""
        user = self._user(user_id)
        user.last.append(touched)
        return self._settle(user_id, user, list(user.open), touched)

    def reread(self, user_id: str, event_id: str, places: Sequence[int], propensities: Mapping[int, float]) -> None:
        """Put a list that is still open into the order in which it was published once more."""
        for mine in self._users.get(user_id, _User()).open:
            if mine.event_id == event_id:
                mine.places, mine.propensities = places, propensities

    def close(self, at: float) -> None:
        """Close the lists whose window has passed at a time."""
        while self._order:
            number, (began, _) = next(iter(self._order.items()))
            if began + self.window_s >= at:
                break
            self._expire(number)

    def forget(self, user_id: str) -> None:
        """Remember nothing of a user."""
        for mine in self._users.pop(user_id, _User()).open:
            del self._order[mine.number]

    def _user(self, user_id: str) -> _User:
        user = self._users.setdefault(user_id, _User())
        self._users.move_to_end(user_id)
        while len(self._users) > USERS:
            self.forget(next(iter(self._users)))
        return user

    def _settle(self, user_id: str, user: _User, lists: Sequence[_Open], touched: Touched) -> list[Example]:
        made = []
        for mine in lists:
            if touched.event_id == mine.event_id:
                mine.began = True
            elif mine.began and mine.number in self._order and mine.at <= touched.at <= mine.at + self.window_s:
                found = example(user_id, touched.at, mine.shown, touched.slot, mine.places, mine.propensities, self.unseen)
                if found is not None:
                    self._end(user, mine.number)
                    made.append(found)
        return made

    def _end(self, user: _User, number: int) -> None:
        del self._order[number]
        user.open = [each for each in user.open if each.number != number]

    def _expire(self, number: int) -> None:
        self._end(self._users[self._order[number][1]], number)
        self.expired += 1
