"""Read wishes: which subjects they turn down and which they ask for. A small grammar over classes of cues, English and Chinese.

Knows no vectors and no users. A text is cut into clauses; a clause is a front of cues and fillers, a subject, and what is said
of it behind: "please stop showing me | football |", "| golf | bores me", 我对 | 体育 | 不感兴趣. The classes of both ends
make its sign (`_sign`). A clause without a cue goes on in the sense of the one before ("less sport, politics"), or tells of
the writer and is left out where another clause wishes for something ("I have two cats, so no dog food").
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from streams import cues
from streams.spelling import spell

_Classes = tuple[tuple[str, re.Pattern[str]], ...]
_FRONT: _Classes = (  # of two that are as long, the first counts
    ("lack", cues.LACK),
    ("excess", cues.EXCESS),
    ("not", cues.NOT),
    ("down", cues.DOWN),
    ("up", cues.UP),
    ("carry", cues.CARRY),
    ("filler", cues.FILLER),
)
_BEHIND: _Classes = (("up", cues.PRAISE), ("down", cues.BLAME), ("tail", cues.TAIL_WORD), ("filler", cues.FILLER))
_ALL: _Classes = (_FRONT[0], *_BEHIND[:2], *_FRONT[1:], _BEHIND[2])
_LOOKED_AT = 200  # characters of a clause in which a cue is looked for at each word
_WEAK = {"carry", "filler"}
_SILENT = {"filler", "tail"}


@dataclass(slots=True)
class _Clause:
    """subject: "" where it only says something of the last one. sign: 0 without a cue. before: the sign it goes on with."""

    subject: str
    sign: int
    before: int = 1
    is_statement: bool = False


def read(text: str) -> list[tuple[str, int]]:
    """Return the subjects of a wish, with +1 where asked for and -1 where turned down; the whole text where none is found."""
    clauses: list[_Clause] = []
    mood = 1
    for sentence in cues.SENTENCE.split(_plain(spell(text))):
        mood = 1
        for clause in split(sentence):
            mood = _add(clauses, clause, mood)
    is_cued = any(clause.sign for clause in clauses if clause.subject)
    said = [
        (each.subject, each.sign or each.before) for each in clauses if each.subject and not (is_cued and each.is_statement)
    ]
    return list(dict.fromkeys(said)) or [(text, mood)]


def split(sentence: str) -> list[str]:
    """Return the clauses of a sentence."""
    parts = [piece for clause in cues.CLAUSE.split(sentence) for piece in _amounts(clause.strip())]
    return [part.strip() for part in parts if part.strip()]


def after_cues(clause: str) -> tuple[str, int]:
    """Return a clause without the cues and fillers that it begins with, and their sign: 0 for none."""
    place, classes = _chain(clause, 0, _FRONT)
    return clause[place:], _sign(classes)


def trim(words: str) -> str:
    """Return words without the fillers at both ends."""
    place = 0
    words = words.strip()
    while (filler := cues.FILLER.match(words, place)) is not None and filler.end() > place:
        place = filler.end()
    words = words[place:].strip()
    # Looked for only where it can be: from the beginning, 2,000 times "吧" took .4 s, a batch of them minutes.
    while (tail := cues.TAIL.search(words, max(0, len(words) - cues.TAIL_LENGTH))) is not None:
        words = words[: tail.start()].strip()
    return words


def _amounts(clause: str) -> list[str]:
    """Cut where the sense changes without a comma: "less lipstick more skincare", 少一点体育多一点爵士乐, 只看文字不看视频."""
    place, classes = _chain(clause, 0, _FRONT)
    if _sign(classes) == 0:
        return [clause]
    first, *others = cues.AMOUNT.split(clause[place:])
    return [clause[:place] + first, *others]


def _plain(text: str) -> str:
    """Return a text with its turns of phrase put plainly."""
    if text.lower().startswith(("i", "we", "not")):
        text = cues.KIND_OF_PERSON.sub(r"into \g<kind>", text)
    return cues.PREFER.sub(_as_instead, cues.CONDITION.sub(_as_refused, text))


def _as_instead(match: re.Match[str]) -> str:
    """Return what is wanted, then what is not: "swap pop for soul" is "soul instead of pop"."""
    wanted, other = (
        next((match[name] for name in names if match[name] is not None), "") for names in (cues.WANTED, cues.UNWANTED)
    )
    return f"more {wanted} instead of {other}"


def _as_refused(match: re.Match[str]) -> str:
    return f"别{match['can'] or match['again']}"


def _add(clauses: list[_Clause], clause: str, mood: int) -> int:
    """Add what a clause says, and return the sign with which one without a cue would go on."""
    if cues.ASIDE.fullmatch(clause):
        return mood
    wanted, *others = cues.INSTEAD.split(clause)
    listed = [_parse(part.strip()) for part in wanted.split("、") if part.strip()]
    for each in listed:
        each.before = mood
        each.sign = each.sign or listed[-1].sign  # "麻将、扑克都不感兴趣"
        mood = each.sign or mood
        if each.subject and clauses and clauses[-1].subject.casefold() == each.subject.casefold() and not clauses[-1].sign:
            clauses.pop()  # "weddings, weddings": said twice, or first by itself
        if each.subject:
            clauses.append(each)
        elif clauses:
            _say_of(clauses[-1], each.sign, clause)
    for other in others:
        clauses.append(_Clause(trim(after_cues(other)[0]), -1))
        mood = 1
    return mood


def _say_of(last: _Clause, sign: int, clause: str) -> None:
    """Let a clause without a subject speak of the one before: "sports? no thanks", "puzzles, but not anymore"."""
    if sign and (last.sign == 0 or cues.NO_LONGER.search(clause)):
        last.sign, last.is_statement = sign, False


def _parse(clause: str) -> _Clause:
    place, classes = _chain(clause, 0, _ALL)
    if place == len(clause):
        return _Clause("", _sign(classes))
    if (opinion := cues.PLAIN_OPINION.fullmatch(clause)) is not None:
        return _Clause("", 1 if opinion["fine"] else -1)
    place, front = _chain(clause, 0, _FRONT)
    start, back = _predicate(clause, place)
    sign = _sign(front + back)
    subject = trim(clause[place:start])
    if sign == 0 and (inside := _inside(clause, place)) < len(clause):
        rest, sign = after_cues(clause[inside:])
        subject = trim(rest) or trim(clause[place:inside])
    told = cues.TOLD if sign else cues.STATEMENT
    return _Clause(subject, sign, is_statement=sign >= 0 and told.fullmatch(clause) is not None)


def _inside(clause: str, place: int) -> int:
    """Return where a cue begins behind words that are none; the clause's end without one."""
    found = cues.INSIDE.search(clause, place)
    if found is None and cues.SPOKEN.match(clause):  # no subject: "how come I never see any bluegrass"
        starts = (match.end() for match in re.finditer(r"\s", clause[:_LOOKED_AT]) if match.end() > place)
        return next((start for start in starts if _strong(clause, start)), len(clause))
    return len(clause) if found is None else found.start()


def _strong(clause: str, place: int) -> bool:
    end, classes = _chain(clause, place, _FRONT)
    return end < len(clause) and not _WEAK.issuperset(classes[:1])


def _predicate(clause: str, place: int) -> tuple[int, list[str]]:
    """Return where what is said of the subject begins behind it, and its classes; the clause's end where nothing is."""
    for start in range(max(place + 1, len(clause) - cues.PREDICATE_LENGTH), len(clause)):
        if clause[start - 1].isascii() and clause[start].isascii() and clause[start - 1] != " ":
            continue  # inside a word
        end, classes = _chain(clause, start, _BEHIND if clause[start].isascii() else _ALL)  # "books to love" is a subject
        if end == len(clause) and not _SILENT.issuperset(classes):
            return start, classes
    return len(clause), []


def _chain(clause: str, place: int, among: _Classes) -> tuple[int, list[str]]:
    """Return where the cues that follow each other from a place on end, and their classes. The longest counts at each place."""
    classes: list[str] = []
    while place < len(clause):
        end, name = max(((_end(pattern, clause, place), name) for name, pattern in among), key=lambda found: found[0])
        if end <= place:
            break
        place = end
        classes.append(name)
    return place, classes


def _end(pattern: re.Pattern[str], clause: str, place: int) -> int:
    match = pattern.match(clause, place)
    if match is None or match.end() == place:
        return place
    end = match.end()
    while end < len(clause) and clause[end].isspace():
        end += 1
    return end


def _sign(classes: list[str]) -> int:
    """Return the sign that cues make together. One NOT turns "stop" and "hate" round, and two take each other away."""
    if "lack" in classes:
        return 1
    if "excess" in classes:
        return -1
    is_turned = classes.count("not") % 2 == 1
    if "down" in classes or "not" in classes:
        return -1 if ("down" in classes) != is_turned else 1
    return 1 if "up" in classes or "carry" in classes else 0
