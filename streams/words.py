"""Read plain words: what they ask for, what they turn down, and whether an opinion is good or bad. English and Chinese.

Knows no vectors and no users. Rules of thumb over cue words: what they cannot tell counts as a plain statement in favour. How
wishes are taken apart is in `streams.wishes`.
"""

from __future__ import annotations

from dataclasses import dataclass

from streams import cues, wishes


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
    if kind == "wish":
        return Reading(1, tuple(Said(subject, kind, sign) for subject, sign in wishes.read(text)))
    return _read_comment(text, is_judged)


def topic(text: str) -> str:
    """Return what a text asks for, without the words that ask: "can you recommend a good thriller" is about a good thriller."""
    rest, sign = wishes.after_cues(text)
    return wishes.trim(rest) if sign >= 0 else text  # "no sugar coffee" is a subject


def _read_comment(text: str, is_judged: bool) -> Reading:
    """Read an opinion. Clauses that ask for something count as wishes, what is left as one statement."""
    asked: list[Said] = []
    stated: list[str] = []
    clauses = [text]
    if cues.WANT.search(text):
        clauses = [clause for sentence in cues.SENTENCE.split(text) for clause in wishes.split(sentence)]
    for clause in clauses:
        cue = cues.WANT.search(clause)
        rest, sign = wishes.after_cues(clause[cue.end() :]) if cue else ("", 0)
        subject = wishes.trim(rest) if sign >= 0 and not (cues.NOT.search(clause) or cues.DOWN.search(clause)) else ""
        if subject:
            asked.append(Said(subject, "wish", 1))
        else:
            stated.append(clause)
    statement = ", ".join(stated)
    opinion = _opinion(statement)
    own = (Said(statement, "comment", 1),) if statement and (opinion > 0 or is_judged) else ()
    return Reading(opinion, (*own, *asked))


def _opinion(statement: str) -> int:
    """Return -1 where more speaks against than for it; a "not" before a word turns it round."""
    total = 0
    for match in cues.OPINION.finditer(statement):
        value = -1 if match["plain"] or match["bad"] else 1
        total += -value if match["no"] else value
    return -1 if total < 0 else 1
