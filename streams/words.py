"""Read plain words: what they ask for, what they turn down, and whether an opinion is good or bad. English and Chinese.

Knows no vectors and no users. Rules of thumb over cue words: what they cannot tell counts as a plain statement in favour. A cue
speaks for the words behind it, or before it where it ends a clause ("体育少一点").
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from streams import cues


@dataclass(frozen=True, slots=True)
class Said:
    """One subject of a text. kind: the event type whose weight it has; sign: +1 asked for or stated, -1 turned down."""

    text: str
    kind: str
    sign: int


@dataclass(frozen=True, slots=True)
class Reading:
    """What a text says. opinion: +1 or -1, of the item that the text is about."""

    opinion: int
    said: tuple[Said, ...]


def read(text: str, kind: str, *, is_judged: bool = False) -> Reading:
    """Return the reading of the text of a `wish`, `search` or `comment` event, or of words that came with another event.

    is_judged: another judges opinions; what a text states is told then whatever its cue words say of it.
    """
    text = text.strip()
    if kind == "search" or not text:
        return Reading(1, (Said(text, kind, 1),) if text else ())
    text = text.replace("’", "'")
    return _read_wish(text) if kind == "wish" else _read_comment(text, is_judged)


def topic(text: str) -> str:
    """Return what a text asks for, without the words that ask: "can you recommend a good thriller" is about a good thriller."""
    rest, sign = _after_cues(text)
    return _trim(rest) if sign >= 0 else text  # "no sugar coffee" is a subject


def _clauses(sentence: str) -> list[str]:
    parts = [
        piece
        for clause in cues.CLAUSE.split(sentence)
        for piece in (cues.AMOUNT_FIRST.split(clause) if clause.strip()[:1] in ("多", "少") else [clause])
    ]
    return [part.strip() for part in parts if part.strip()]


def _read_wish(text: str) -> Reading:
    said: list[Said] = []
    for sentence in cues.SENTENCE.split(cues.PREFER.sub(_as_instead, text)):
        sign = 1  # a clause without a cue goes on in the sense of the one before it: "less sport, politics"
        for clause in _clauses(sentence):
            if cues.ASIDE.fullmatch(clause):
                continue
            wanted, *others = cues.INSTEAD.split(clause)
            subject, sign = _subject(wanted, sign)
            said.extend([Said(subject, "wish", sign)] if subject else [])
            for other in others:
                subject, sign = _trim(other), 1
                said.extend([Said(subject, "wish", -1)] if subject else [])
    return Reading(1, tuple(said) or (Said(text, "wish", 1),))


def _as_instead(match: re.Match[str]) -> str:
    """Return what is wanted, then what is not: "swap pop for soul" is "soul instead of pop"."""
    return f"{match['one'] or match['two'] or match['new'] or match['neu']} instead of {match['old'] or match['alt'] or ''}"


def _subject(clause: str, before: int) -> tuple[str, int]:
    """Return what a clause is about and its sign; `before` is the sign that holds without a cue."""
    rest, sign = _after_cues(clause)
    ended = cues.AT_END_AGAINST.search(rest), cues.AT_END_FOR.search(rest)
    for match, own in zip(ended, (-1, 1), strict=True):
        if match is not None and not rest[match.end() :].strip():
            return _trim(rest[: match.start()]), sign if sign < 0 else own
    if sign == 0:
        for pattern, own in ((cues.INSIDE_AGAINST, -1), (cues.INSIDE_FOR, 1)):
            inside = pattern.search(rest)
            if inside is not None:
                return _trim(_after_cues(rest[inside.end() :])[0]) or _trim(rest[: inside.start()]), own
    return _trim(rest), sign or before


def _after_cues(clause: str) -> tuple[str, int]:
    """Return a clause without the cues and fillers that it begins with, and their sign: -1 if any turns down, 0 for none."""
    place, sign = 0, 0
    while place < len(clause):
        liked = cues.FOR.match(clause, place)
        cue = cues.AGAINST.match(clause, place) if liked is None or not liked.group().lower().startswith("can't") else None
        if cue is not None:
            sign = -1
        elif liked is not None:
            cue, sign = liked, sign or 1
        else:
            cue = cues.FILLER.match(clause, place)
        if cue is None or cue.end() == place:
            break
        place = cue.end()
    return clause[place:], sign


def _trim(words: str) -> str:
    """Return words without the fillers at both ends."""
    place = 0
    words = words.strip()
    while (filler := cues.FILLER.match(words, place)) is not None:
        place = filler.end()
    words = words[place:].strip()
    # Looked for only where it can be: from the beginning, 2,000 times "吧" took .4 s, a batch of them minutes.
    while (tail := cues.TAIL.search(words, max(0, len(words) - cues.TAIL_LENGTH))) is not None:
        words = words[: tail.start()].strip()
    return words


def _read_comment(text: str, is_judged: bool) -> Reading:
    """Read an opinion. Clauses that ask for something count as wishes, what is left as one statement."""
    wishes: list[Said] = []
    stated: list[str] = []
    clauses = [text]
    if cues.WANT.search(text):
        clauses = [clause for sentence in cues.SENTENCE.split(text) for clause in _clauses(sentence)]
    for clause in clauses:
        cue = cues.WANT.search(clause)
        subject = _trim(_after_cues(clause[cue.end() :])[0]) if cue and not cues.AGAINST.search(clause) else ""
        if subject:
            wishes.append(Said(subject, "wish", 1))
        else:
            stated.append(clause)
    statement = ", ".join(stated)
    opinion = _opinion(statement)
    own = (Said(statement, "comment", 1),) if statement and (opinion > 0 or is_judged) else ()
    return Reading(opinion, (*own, *wishes))


def _opinion(statement: str) -> int:
    """Return -1 where more speaks against than for it; a "not" before a word turns it round."""
    total = 0
    for match in cues.OPINION.finditer(statement):
        value = -1 if match["plain"] or match["bad"] else 1
        total += -value if match["no"] else value
    return -1 if total < 0 else 1
