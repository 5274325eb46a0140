"""Read plain words: what they ask for, what they turn down, and whether an opinion is good or bad. English and Chinese.

Knows no vectors and no users. Rules of thumb over cue words: what they cannot tell counts as a plain statement in favour. A cue
speaks for the words behind it, or before it where it ends a clause ("体育少一点").
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_ZH = r"\u4e00-\u9fff"


def _pattern(english: str, chinese: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{english})(?!\w)|(?:{chinese})", re.IGNORECASE)


_SENTENCE = re.compile(r"[。;；!！?？\n]+|\.(?!\d)")
_CLAUSE = re.compile(
    rf"[,，、]+|(?<!anything )(?<!everything )(?<!nothing )\bbut\b|(?<=[{_ZH}])\s+(?=[{_ZH}])|但是|但|可是|不过|然后"
    rf"|(?<=[{_ZH}])(?=我?更(?:喜欢|爱|想))"  # "比起咖啡我更喜欢茶"
    r"|\band\b(?=\s+(?:i |more|less|no|not|fewer|don't|stop|some|show|hide)\b)",
    re.IGNORECASE,
)
_AMOUNT_FIRST = re.compile(rf"(?<=[{_ZH}])(?=[多少](?:一点|一些|点|些|来|推))")  # "少一点体育多一点爵士乐"
_PREFER = re.compile(r"\b(prefer .+?) (?:to|over) ", re.IGNORECASE)
_INSTEAD = re.compile(r"\b(?:instead of|rather than)\b", re.IGNORECASE)

_AGAINST = _pattern(
    r"less|fewer|no(?!-)|not|never|without|avoid|stop|hate|dislike|enough(?: of)?|tired of|sick of|bored (?:of|with)"
    r"|fed up with|skip|cut down on|hide|remove|too (?:much|many)"
    r"|(?!don't mind)\w+n't|cannot|(?:any|every)thing (?:but|except)",
    r"少(?:一点|一些|点|些|来点?|给|看|推荐?|放|播)|减少|不要|不想|不喜欢|不爱|不需要|不用|讨厌|不再|不太"
    r"|(?<![特分区个类性级])别(?![的人样致墅名称处])|看腻了?|厌倦了?|受够了?|太多|屏蔽|比起|除了",
)
_FOR = _pattern(
    r"can't get enough(?: of)?|nothing but|more|wants?|looking for|searching for|needs?|(?:would|'d) (?:like|love)"
    r"|wish(?: for)?|don't mind|into|bring on|interested in|try(?:ing)?|prefer|like|love"
    r"|enjoy|some|show(?:ing)?|give|play(?:ing)?|recommend(?:ing)?|send(?:ing)?",
    r"多(?:一点|一些|点|些|来点?|给|看|推荐?)|更多|想(?![象法念])|要(?![闻点素])|希望|需要|推荐|更?喜欢|爱(?![情国心])|来(?:一?[点些])"
    r"|有没有|有什么|求(?![职生知婚])",
)
_AT_END_AGAINST = _pattern(
    r"no more|no thanks|less",
    r"(?:少一?[点些]|[看听]?够|[看听]腻|太多|别推荐?|不要|不看|不喜欢|不感兴趣|没有?兴趣)[了吧啊]?$",
)
_AT_END_FOR = _pattern(r"instead|more", r"(?:多一?[点些]|也?推荐一?[点些下]|[很更]?感兴趣|有兴趣|也行|也可以)[了吧啊]?$")
_INSIDE_AGAINST = _pattern(
    r"too (?:much|many)|hate|tired of|sick of|stop|no more|don't (?:want|like|need)", r"讨厌|不想|不喜欢|不要"
)
_INSIDE_FOR = _pattern(
    r"looking for|(?:would|'d) (?:like|love)|i (?:want|need|love|like)|recommend", r"想[要看听买学找]|喜欢|希望"
)

_FILLER = re.compile(
    r"(?:i'm|i've|i'd|i|we|do|did|rather|only|you|it|am|have|had|can|could|would|to|an?|the|any|of|me|us"
    r"|please|see|buy|get|find|watch|read|hear|listen to"
    r"|(?:new )?pair of|about|for|with|now|also|just|really|still|so|very|what|(?:something|anything|stuff) (?:about|on))"
    r"(?:\s+|$)"
    r"|我们?(?!的)|请|麻烦|[能可]不[能可]以?|可以|能(?![量源力])|[给帮]我?|再|也|还|就(?!业)"
    r"|都(?!市)|[很最]|非常|特别(?!是)|比较|真的|近|现在|对"
    r"|[看听试]{2}|看(?![点法])到?|听(?![力书说])|学(?![习校生术科院])|找|买(?![手家])|喝|吃|玩(?![具家偶])|尝试|推(?![理拿土])荐?|一下"
    r"|[一几]?[双个款副台本首部](?![人性])|一?些|一?点(?![心评击赞])|到|更多|有?关于?|来(?!自)|\s+",
    re.IGNORECASE,
)
_TAIL = re.compile(
    r"(?:\s*\b(?:please|too|as well|anymore|any more|thanks|now)|了|吧|呢|啊|呀|的内容|(?<=.)的)$", re.IGNORECASE
)

_TAIL_LENGTH = 16  # characters; the longest of them, "any more", has 8 and a few blanks before it

_WANT = _pattern(
    r"(?:i|we)(?:'d| would)? (?:also |now |still |really )*(?:want|need|like to \w+|love to \w+)|looking for|would like",
    r"(?<!不)(?:还|也|再)?想(?![象法念到])(?:再|要)?|希望能?",
)
_NOT = (
    r"(?:\b(?:not(?! only)|never|no|hardly|cannot|without|wanted to|\w+n't)\s+(?:\w+\s+){0,2}"
    r"|(?:不|没有?|毫无)(?:会|是|很|太|那么|这么|怎么|什么|够|算|再|让[我人]?|令人|想象中|觉得|感到|特别|非常|的)*)?"
)
_GOOD = (
    r"\b(?:good|great|loved?|loves|lovely|excellent|amazing|awesome|nice|best|perfect|wonderful|enjoy(?:ed|able)?|funny"
    r"|hilarious|beautiful|happy|glad|recommend(?:ed)?|worth|fantastic|comfortable|delicious"
    r"|works (?:fine|well|great)|buy (?:it )?again)\b"
    r"|好(?![像几多久难贵慢差吵无想])|棒|赞|喜欢|不错|漂亮|有趣|精彩|满意|深度|完美|香|值得|推荐|会再买|舒服|惊喜|耐用|划算"
)
_BAD = (
    r"\b(?:bad|terrible|awful|disappoint\w*|boring|bored|waste|worst|worse|poor(?:ly)?|broken?|broke|horrible|refund|useless"
    r"|hate[ds]?|shallow|damaged|defective|fake|faults?|problems?|issues|fell (?:off|apart)|stop(?:s|ped) working|returned"
    r"|clickbait|too (?:slow|small|big|large|loud|expensive|heavy|hard|short|long|thin|tight|sweet|salty|complicated)"
    r"|leak(?:s|ed)?|one star)\b"
    r"|失望|难[喝吃看用听]|[太很]差|差[评劲]|太[慢贵小大重吵薄硬软咸淡]|无聊|浪费|垃圾|后悔|退[货款]|肤浅|没(?:什么)?意思|不值|不行"
    r"|不耐用|坏[了掉]|假货|破损|声音很?小|很[慢卡]|上当"
)
_PLAIN = (  # what a "not" in it or before it does not turn round
    r"\b(?:(?:do not|don't|never) buy|(?:not|\w+n't) (?:really |much )?(?:like|work)|never been (?:so|more) disappointed)\b"
    r"|不值(?!得)|不耐用|不行|不咋[地样]|看不懂|标题党|骗人|空洞|很怪"
)
_PRAISE = (
    r"\b(?:can(?:no|')t recommend (?:it |this )?enough|can't (?:fault|complain)|could(?:n't| not) be (?:happier|better))\b"
)
_OPINION = re.compile(rf"(?P<plain>{_PLAIN})|{_PRAISE}|(?P<no>{_NOT})(?:(?P<good>{_GOOD})|(?P<bad>{_BAD}))", re.IGNORECASE)


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


def read(text: str, kind: str) -> Reading:
    """Return the reading of the text of a `wish`, `search` or `comment` event, or of words that came with another event."""
    text = text.strip()
    if kind == "search" or not text:
        return Reading(1, (Said(text, kind, 1),) if text else ())
    text = text.replace("’", "'")
    return _read_wish(text) if kind == "wish" else _read_comment(text)


def _clauses(sentence: str) -> list[str]:
    parts = [
        piece
        for clause in _CLAUSE.split(sentence)
        for piece in (_AMOUNT_FIRST.split(clause) if clause.strip()[:1] in ("多", "少") else [clause])
    ]
    return [part.strip() for part in parts if part.strip()]


def _read_wish(text: str) -> Reading:
    said: list[Said] = []
    for sentence in _SENTENCE.split(_PREFER.sub(r"\1 instead of ", text)):
        sign = 1  # a clause without a cue goes on in the sense of the one before it: "less sport, politics"
        for clause in _clauses(sentence):
            wanted, *others = _INSTEAD.split(clause)
            subject, sign = _subject(wanted, sign)
            said.extend([Said(subject, "wish", sign)] if subject else [])
            for other in others:
                subject, sign = _trim(other), 1
                said.extend([Said(subject, "wish", -1)] if subject else [])
    return Reading(1, tuple(said) or (Said(text, "wish", 1),))


def _subject(clause: str, before: int) -> tuple[str, int]:
    """Return what a clause is about and its sign; `before` is the sign that holds without a cue."""
    rest, sign = _after_cues(clause)
    ended = _AT_END_AGAINST.search(rest), _AT_END_FOR.search(rest)
    for match, own in zip(ended, (-1, 1), strict=True):
        if match is not None and not rest[match.end() :].strip():
            return _trim(rest[: match.start()]), sign if sign < 0 else own
    if sign == 0:
        for pattern, own in ((_INSIDE_AGAINST, -1), (_INSIDE_FOR, 1)):
            inside = pattern.search(rest)
            if inside is not None:
                return _trim(_after_cues(rest[inside.end() :])[0]) or _trim(rest[: inside.start()]), own
    return _trim(rest), sign or before


def _after_cues(clause: str) -> tuple[str, int]:
    """Return a clause without the cues and fillers that it begins with, and their sign: -1 if any turns down, 0 for none."""
    place, sign = 0, 0
    while place < len(clause):
        liked = _FOR.match(clause, place)
        cue = _AGAINST.match(clause, place) if liked is None or not liked.group().lower().startswith("can't") else None
        if cue is not None:
            sign = -1
        elif liked is not None:
            cue, sign = liked, sign or 1
        else:
            cue = _FILLER.match(clause, place)
        if cue is None or cue.end() == place:
            break
        place = cue.end()
    return clause[place:], sign


def _trim(words: str) -> str:
    """Return words without the fillers at both ends."""
    place = 0
    words = words.strip()
    while (filler := _FILLER.match(words, place)) is not None:
        place = filler.end()
    words = words[place:].strip()
    # Looked for only where it can be: from the beginning, 2,000 times "吧" took .4 s, a batch of them minutes.
    while (tail := _TAIL.search(words, max(0, len(words) - _TAIL_LENGTH))) is not None:
        words = words[: tail.start()].strip()
    return words


def _read_comment(text: str) -> Reading:
    """Read an opinion. Clauses that ask for something count as wishes, what is left as one statement."""
    wishes: list[Said] = []
    stated: list[str] = []
    clauses = [clause for sentence in _SENTENCE.split(text) for clause in _clauses(sentence)] if _WANT.search(text) else [text]
    for clause in clauses:
        cue = _WANT.search(clause)
        subject = _trim(_after_cues(clause[cue.end() :])[0]) if cue and not _AGAINST.search(clause) else ""
        if subject:
            wishes.append(Said(subject, "wish", 1))
        else:
            stated.append(clause)
    statement = ", ".join(stated)
    opinion = _opinion(statement)
    own = (Said(statement, "comment", 1),) if statement and opinion > 0 else ()
    return Reading(opinion, (*own, *wishes))


def _opinion(statement: str) -> int:
    """Return -1 where more speaks against than for it; a "not" before a word turns it round."""
    total = 0
    for match in _OPINION.finditer(statement):
        value = -1 if match["plain"] or match["bad"] else 1
        total += -value if match["no"] else value
    return -1 if total < 0 else 1
