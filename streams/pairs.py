"""Pair published lists with the profiles that they were made of, by the newest event that both know.

Does not know topics. A worker writes profile and list of an event together, and they are read from two topics: whichever comes
first waits for the other. Memory is bounded: what has found nothing when `MOST` others of its kind have come is dropped.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from ranking.profile import Profile, key_of
from streams.lessons import Listed
from streams.messages import RecommendationList

MOST = 4_000  # profiles of 5 kB, and lists

Place = tuple[str, int]  # user, key of the newest event


class Pairs:
    """Profiles and lists that wait for each other. read: returns the profile of a record. Raises what `read` raises."""

    def __init__(self, read: Callable[[bytes], Profile]) -> None:
        self._read = read
        self._profiles: OrderedDict[Place, Profile] = OrderedDict()
        self._lists: OrderedDict[Place, RecommendationList] = OrderedDict()
        self.dropped = 0

    def profile(self, user_id: str, record: bytes) -> Listed | None:
        """Take a profile in; return it with its list when that has come. Raises RecordError."""
        profile = self._read(record)
        place = user_id, int.from_bytes(profile.event_keys[-8:], "little")
        told = self._lists.pop(place, None)
        if told is not None:
            return Listed(profile, told)
        self._profiles[place] = profile
        if len(self._profiles) > MOST:
            self._profiles.popitem(last=False)
        return None

    def list(self, told: RecommendationList) -> Listed | None:
        """Take a list in; return it with its profile when that has come.

        One that was reread takes the place of the same list as it was ranked. Where that is not here any more, it is returned
        without a profile.
        """
        place = told.user_id, key_of(told.event_id)
        profile = self._profiles.pop(place, None)
        if profile is not None or (told.reread is not None and place not in self._lists):
            return Listed(profile, told)
        self._lists[place] = told
        if len(self._lists) > MOST:
            self._lists.popitem(last=False)
            self.dropped += 1
        return None

    def forget(self, user_id: str) -> None:
        """Drop what waits of a user."""
        for waiting in (self._profiles, self._lists):
            for place in [place for place in waiting if place[0] == user_id]:
                del waiting[place]
