"""Read a question: the words to search by, and what it bounds: a price with its currency, a brand, a category.

Knows no vectors and no index: brands and categories are given by their names. English and Chinese. What is not recognised stays
among the words. A brand counts where it is written as the catalogue writes it, or stands behind "by" or "from"; a category
where the thing asked for is called so: "quiet earphones under 50 €" is of `earphones`, "books about coffee" not of `coffee`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ranking.conditions import Attribute, Condition
from streams.words import topic

Bounds = tuple[tuple[str, float], ...]
AROUND = 0.2  # "about 100" is 80-120
_CURRENCY: dict[str, tuple[str, ...]] = {
    r"€|euros?|eur|欧元?": ("EUR",),
    r"£|pounds?|gbp|quid|英镑": ("GBP",),
    r"us\$|\$|dollars?|usd|bucks|美元|美金|刀": ("USD",),
    r"¥|￥": ("CNY", "JPY"),
    r"yuan|rmb|cny|元|块钱?|人民币": ("CNY",),
    r"yen|jpy|日元|円": ("JPY",),
}
_UNIT = "|".join(_CURRENCY)
_CODES = [(re.compile(pattern, re.IGNORECASE), codes) for pattern, codes in _CURRENCY.items()]
_ZH_DIGITS = {**{sign: value for value, sign in enumerate("零一二三四五六七八九")}, "两": 2}
_ZH_TENS = {"十": 10, "百": 100, "千": 1_000, "万": 10_000}


def _amount(name: str) -> str:
    """Return the pattern of a number with a currency before or behind it."""
    return (
        rf"(?P<{name}_before>{_UNIT})?\s*(?P<{name}>\d[\d,]*+(?:\.\d++)?+|[一二两三四五六七八九十百千万]++)\s*"
        rf"(?P<{name}_behind>{_UNIT})?"
    )


_LOW, _HIGH = _amount("low"), _amount("high")
# Nothing follows that makes it an amount of something else: "under 50 grams".
_NO_UNIT = r"(?!\s?(?!(?:and|or|for|with|please|in|by|that|to|as|if|which)\b)[a-z%\d])"
_BOUNDS = (  # the first that is found holds
    ("between", rf"(?:\b(?:between|from)\s+)?{_LOW}\s*(?:and|to|-|–|—|到|至|~)\s*{_HIGH}(?:之间)?{_NO_UNIT}"),
    ("around", rf"(?:\b(?:around|about|roughly)\s+|大约|差不多){_LOW}{_NO_UNIT}"),
    ("around", rf"{_LOW}\s*(?:or so\b|左右|上下)"),
    ("<", rf"(?:\b(?:for )?(?:under|below|less than|cheaper than)\s+|低于|少于|小于|不到){_HIGH}{_NO_UNIT}"),
    ("<=", rf"(?:\b(?:for )?(?:up to|at most|max(?:imum)?(?: of)?|(?:no|not) more than|not over|within)\s+){_HIGH}{_NO_UNIT}"),
    (
        "<=",
        rf"(?:\b(?:my )?budget(?: is| of|:)?\s+|预算(?:是|在|只有)?|不超过|最多|控制在){_HIGH}(?:[以之]内|[以之]下)?{_NO_UNIT}",
    ),
    ("<=", rf"{_HIGH}(?:[以之]内|[以之]下|封顶)"),
    (">", rf"(?:\b(?:for )?(?:over|above|more than)\s+|高于|超过|大于){_LOW}{_NO_UNIT}"),
    (">=", rf"(?:\b(?:for )?(?:at least|from|starting at|min(?:imum)?(?: of)?)\s+|至少|不低于){_LOW}{_NO_UNIT}"),
    (">=", rf"{_LOW}(?:以上|起)"),
)
_PATTERNS = [(kind, re.compile(f"{said}的?", re.IGNORECASE)) for kind, said in _BOUNDS]
_FRAME = re.compile(
    r"^(?:(?:hi|hello|hey|please|so|ok)\b|你好|请问|我?想问一?下)[,，\s]*"
    r"|^(?:what|which)(?: kind of| sort of)?(?= .*\b(?:do you|is there|are there|(?:is|are) good)\b)"
    r"|\b(?:do you (?:have|sell|stock|know)|have you got|is there|are there|what are|where (?:can i )?(?:find|get|buy))"
    r"(?: any| some)?\b|\b(?:that |which )?(?:is |are )?(?:in stock|available(?: now)?)\b"
    r"|\b(?:costing|that costs?|priced(?: at)?|for a price(?: of)?)\b|有?现货的?|有货的?|在售的?"
    r"|价[格位]?[在是]?(?=\s|$)|(?<!没)有(?=\s)",
    re.IGNORECASE,
)
_END = re.compile(r"[\s,，]*\b(?:please|thanks)[\s.!]*$|(?:有没有|有)?[\s?？!！。.,，吗呢么嘛吧的]+$", re.IGNORECASE)
_HEAD_END = re.compile(
    r"\s(?:about|for|with|without|under|below|over|by|from|in|on|of|to|that|which|who|made|like|as)\b.*$|,.*$", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Question:
    """words: to search by. bounds: of the price, as `Attribute` has them; currencies: it is in one of them, in any if empty."""

    words: str
    bounds: Bounds = ()
    currencies: frozenset[str] = frozenset()


def read(text: str) -> Question:
    """Return what a question asks, without the names of the catalogue."""
    rest, bounds, currencies = text.strip(), Bounds(), frozenset[str]()
    for kind, pattern in _PATTERNS:
        match = next((found for found in pattern.finditer(rest) if _is_price(kind, found)), None)
        if match is not None:
            bounds, currencies = _bounds(kind, match), _currencies(match)
            rest = f"{rest[: match.start()]} {rest[match.end() :]}"
            break
    words = _END.sub("", _FRAME.sub(" ", _END.sub("", rest)))
    words = re.sub(r"(?<=[\u4e00-\u9fff])\s+(?=[\u4e00-\u9fff])|\s{2,}", " ", words).strip(" ,，的")
    return Question(topic(words) or words or text.strip(), bounds, currencies)


def condition(
    text: str, categories: Iterable[str], brands: Iterable[str], tells_currency: bool, price: str, currency: str
) -> Condition:
    """Return what a question asks of items. price, currency: names of the attributes; "" where there is none to ask.

    tells_currency: whether items do. Where they do not, prices are taken to be in the one asked for.
    """
    asked = read(text)
    attributes = []
    if asked.bounds and price:
        attributes.append(Attribute(price, bounds=asked.bounds))
        if asked.currencies and tells_currency:
            attributes.append(Attribute(currency, values=asked.currencies))
    head = _HEAD_END.sub("", asked.words).casefold().strip()
    return Condition(
        categories=_longest(categories, lambda name: _is_head(head, name)),
        brands=_longest(brands, lambda name: _names_brand(text, name)),
        attributes=tuple(attributes),
    )


def _longest(names: Iterable[str], is_meant: Callable[[str], bool]) -> frozenset[str]:
    """Return the longest name that is meant: of a smart watch, not of a watch."""
    found = sorted({name for name in names if name and is_meant(name)}, key=lambda name: (-len(name), name))
    return frozenset(found[:1])


def _is_head(head: str, category: str) -> bool:
    """Tell whether a thing is called by a category: its last word or words before any "about", "for", "with"."""
    name = category.replace("-", " ").replace("_", " ").casefold()
    for form in (name, f"{name}s", f"{name}es", name.removesuffix("s")):
        if head.endswith(form) and (not form.isascii() or not head[: -len(form)][-1:].isalnum()):
            return True
    return False


def _names_brand(text: str, brand: str) -> bool:
    if brand.casefold() not in text.casefold():  # a pattern for each of 9,000 brands would take seconds
        return False
    if brand in text:
        as_written = rf"(?<!\w){re.escape(brand)}(?!\w)" if brand.isascii() else re.escape(brand)
        is_name = not brand.isascii() or any(letter.isupper() for letter in brand)
        if is_name and re.search(as_written, text):
            return True
    return re.search(rf"\b(?:by|from|brand)\s+{re.escape(brand)}(?!\w)", text, re.IGNORECASE) is not None


def _is_price(kind: str, match: re.Match[str]) -> bool:
    """Tell whether amounts are of money: by their currency; a bound in words needs none, a range or an "about" does."""
    return kind not in ("between", "around") or bool(_currencies(match))


def _bounds(kind: str, match: re.Match[str]) -> Bounds:
    if kind == "between":
        low, high = sorted((_number(match["low"]), _number(match["high"])))
        return (">=", low), ("<=", high)
    if kind == "around":
        about = _number(match["low"])
        return (">=", about * (1 - AROUND)), ("<=", about * (1 + AROUND))
    return ((kind, _number(match["high" if kind in ("<", "<=") else "low"])),)


def _currencies(match: re.Match[str]) -> frozenset[str]:
    """Return the codes of the currency that stands before or behind an amount, the first that is there."""
    for name, said in match.groupdict().items():
        if said and name.endswith(("_before", "_behind")):
            return frozenset(next(codes for pattern, codes in _CODES if pattern.fullmatch(said)))
    return frozenset()


def _number(said: str) -> float:
    """Return the number of digits with commas, or of Chinese numerals up to 9,999 x 10,000."""
    if said[0].isdigit():
        return float(said.replace(",", ""))
    total, part, digit = 0, 0, 0
    for sign in said:
        if sign == "万":
            total, part, digit = (part + digit or 1) * 10_000, 0, 0
        elif sign in _ZH_TENS:
            part, digit = part + (digit or 1) * _ZH_TENS[sign], 0
        else:
            digit = _ZH_DIGITS[sign]
    return float(total + part + digit)
