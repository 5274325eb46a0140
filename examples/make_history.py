"""Writes history.jsonl: what sixty invented people did in the fortnight before 1 November 2026.

Run `python -m examples.make_history`; the same seed gives the same file. Knows nothing of rankings: people have habits, and
habits make co-visits. Who buys beans buys filters and other beans; who buys a watch buys a strap, then earphones, then music
and a case.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from random import Random

from msgspec.structs import replace

from examples import load_catalogue, matches
from streams.messages import Event, Item, encode

SEED = 20261101
START = datetime(2026, 10, 18, tzinfo=timezone.utc)
DAYS = 14
POPULAR = 1.0  # Zipf exponent of an item's popularity: of ten items the first gets a third of the visits
STRAY = 0.08  # share of visits to something off the habit, as everybody does
HABITUAL = {
    "zh": range(11, 15),
    "en": range(17, 22),
}  # UTC hours of an evening in Shanghai and of an afternoon and evening in Europe

# A session is a line of (what, where): look = click, read = view with progress, buy = click, perhaps cart, purchase.
Session = tuple[tuple[str, str], ...]
SESSIONS: dict[str, Session] = {
    "beans": (("search", "coffee"), ("look", "category:coffee"), ("look", "category:coffee"), ("buy", "category:coffee")),
    "more beans": (
        ("review", "category:coffee"),
        ("look", "category:coffee"),
        ("look", "category:coffee"),
        ("buy", "category:coffee"),
    ),
    "brewing": (
        ("read", "video-cook-latte-art|video-cook-pour-over|video-review-grinder"),
        ("look", "category:coffee-gear"),
        ("buy", "category:coffee-gear"),
        ("look", "category:coffee"),
    ),
    "tea": (("search", "tea"), ("look", "category:tea"), ("look", "category:tea"), ("buy", "category:tea")),
    "tea table": (
        ("look", "category:tea-ware"),
        ("buy", "category:tea-ware"),
        ("look", "category:tea"),
        ("look", "category:tea"),
    ),
    "watch": (
        ("read", "video-review-watch-lumen|video-review-watch-en"),
        ("look", "category:smart-watch"),
        ("buy", "category:smart-watch"),
        ("buy", "category:watch-accessory"),
        ("look", "category:earphones"),
    ),
    "earphones": (
        ("search", "earphones"),
        ("look", "category:earphones"),
        ("buy", "category:earphones"),
        ("look", "category:music-app"),
        ("buy", "category:music-app"),
        ("look", "category:earphone-accessory"),
        ("buy", "category:earphone-accessory"),
    ),
    "music": (
        ("review", "category:earphones"),
        ("look", "category:music-app"),
        ("look", "category:earphone-accessory"),
        ("look", "category:watch-accessory"),
    ),
    "learning": (("read", "category:news-deep-learning"),) * 4 + (("look", "tag:deep-learning"),),
    "papers": (("read", "tag:in-depth"), ("read", "tag:in-depth"), ("like", "tag:in-depth"), ("read", "category:news-science")),
    "laughs": (("read", "category:video-funny"),) * 5 + (("like", "category:video-funny"),),
    "views": (("read", "category:video-scenic"),) * 3 + (("like", "category:video-scenic"), ("read", "category:news-travel")),
    "sport": (
        ("read", "category:news-sport"),
        ("read", "category:video-sport"),
        ("read", "category:news-sport"),
        ("read", "category:video-sport"),
        ("look", "category:sport-goods"),
    ),
    "training": (("look", "category:sport-goods"), ("buy", "category:sport-goods"), ("read", "category:video-sport")),
    "jazz": (
        ("read", "category:video-jazz"),
        ("read", "category:video-jazz"),
        ("read", "category:news-jazz"),
        ("look", "category:music-record"),
        ("like", "category:video-jazz"),
    ),
    "records": (
        ("search", "jazz"),
        ("look", "category:music-record"),
        ("buy", "category:music-record"),
        ("read", "category:news-jazz"),
    ),
    "supper": (
        ("read", "category:video-cooking"),
        ("read", "category:video-cooking"),
        ("look", "category:kitchen"),
        ("buy", "category:grocery"),
        ("read", "category:news-food"),
    ),
    "nursery": (
        ("read", "category:video-kids"),
        ("read", "category:video-kids"),
        ("look", "category:toy"),
        ("buy", "category:toy"),
    ),
    "household": (
        ("look", "category:home"),
        ("buy", "category:home"),
        ("look", "category:garden"),
        ("look", "category:clothing"),
    ),
    "wardrobe": (
        ("look", "category:clothing"),
        ("buy", "category:clothing"),
        ("look", "category:beauty"),
        ("look", "category:beauty"),
    ),
    "paper": (
        ("read", "category:news-economy"),
        ("read", "category:news-local"),
        ("read", "category:news-health"),
        ("read", "category:news-environment"),
    ),
    "gossip": (("read", "category:news-gadget"), ("read", "category:news-gadget"), ("look", "category:phone-accessory")),
    "shelf": (("look", "category:book"), ("buy", "category:book"), ("read", "category:video-documentary")),
    "pets": (("read", "tag:funny"), ("look", "category:pet"), ("buy", "category:pet")),
}

# (people who write Chinese, people who write English, their sessions over the fortnight)
PEOPLE: tuple[tuple[int, int, tuple[str, ...]], ...] = (
    (5, 4, ("beans", "brewing", "more beans", "supper")),
    (2, 1, ("beans", "tea", "more beans", "paper", "tea table")),
    (2, 1, ("tea", "tea table", "tea", "views")),
    (6, 6, ("watch", "earphones", "music", "gossip")),
    (4, 4, ("learning", "papers", "learning", "shelf")),
    (4, 2, ("laughs", "laughs", "pets", "gossip")),
    (2, 2, ("views", "views", "shelf", "household")),
    (3, 3, ("sport", "training", "sport", "sport")),
    (3, 3, ("jazz", "records", "jazz", "paper")),
    (1, 2, ("nursery", "household", "supper", "wardrobe")),
)

SEARCHES = {
    ("coffee", "zh"): ("手冲咖啡豆 浅烘", "意式拼配 奶咖", "新鲜烘焙 咖啡豆", "低因咖啡", "挂耳 混装"),
    ("coffee", "en"): ("fresh coffee beans", "light roast for pour-over", "decaf that tastes good", "espresso beans dark"),
    ("tea", "zh"): ("龙井 明前", "熟普 茶饼", "乌龙茶包", "茶叶 送长辈"),
    ("tea", "en"): ("loose leaf black tea", "green tea from Japan", "tea bags strong"),
    ("earphones", "zh"): ("降噪耳机 通勤", "智能耳机 配手表", "跑步 耳机 不掉"),
    ("earphones", "en"): ("smart earphones for my watch", "noise cancelling earbuds", "earphones for running"),
    ("jazz", "zh"): ("爵士 黑胶", "萨克斯 现场", "爵士钢琴三重奏"),
    ("jazz", "en"): ("jazz vinyl live", "hard bop", "big band swing"),
}
REVIEWS = {
    ("category:coffee", "zh"): (
        ("很新鲜，一打开满屋子都是香气", 5.0),
        ("香气足，就是酸了一点，下次买深一点的", 4.0),
        ("喝到第三天风味才打开，值得等", 5.0),
        ("有点淡，可能是我水放多了", 3.0),
        ("家里人也说好喝，准备再试另一个产地", 5.0),
    ),
    ("category:coffee", "en"): (
        ("Tastes exactly like the label says, which never happens", 5.0),
        ("Lovely in the morning, a bit sharp for the evening", 4.0),
        ("Fine, but I like a darker roast", 3.0),
        ("Second order already. Trying the next origin soon", 5.0),
    ),
    ("category:earphones", "zh"): (
        ("声音干净，戴两个小时耳朵也不累", 5.0),
        ("地铁里能听清播客，想再配个好点的音乐会员", 5.0),
        ("左耳偶尔断一下，客服换了新的", 3.0),
    ),
    ("category:earphones", "en"): (
        ("Comfortable, clear, and now I need more music", 5.0),
        ("Good sound, the case scratches easily", 4.0),
        ("They fall out when I chew", 2.0),
    ),
}


class Person:
    """One invented person: what they touched, bought and when; all chance comes from `chance`."""

    def __init__(self, user_id: str, language: str, chance: Random, items: list[Item]) -> None:
        self.user_id, self.language, self.chance = user_id, language, chance
        self.items = [item for item in items if matches(f"language:{language}", item)]
        self.bought: list[Item] = []
        self.touched: set[str] = set()
        self.at = 0.0

    def live(self, sessions: tuple[str, ...]) -> Iterator[Event]:
        """Yield the person's events in time order, the sessions on different days of the fortnight."""
        days = sorted(self.chance.sample(range(DAYS), len(sessions)))
        for day, name in zip(days, sessions, strict=True):
            hour = self.chance.choice(HABITUAL[self.language]) + self.chance.random()
            self.at = float(round(START.timestamp() + day * 86_400 + hour * 3_600))
            for what, where in SESSIONS[name]:
                yield from self.act(what, where)

    def act(self, what: str, where: str) -> Iterator[Event]:
        """Yield the events of one step of a session."""
        if what == "search":
            yield self.event("search", text=self.chance.choice(SEARCHES[where, self.language]))
        elif what == "review":
            yield from self.review(where)
        else:
            item = self.choose(where)
            if what == "read":
                yield self.read(item)
            else:
                yield self.event("click", item)
            yield from self.finish(what, item)

    def finish(self, what: str, item: Item) -> Iterator[Event]:
        """Yield what follows the look at an item: the purchase, or a like."""
        if what == "like":
            yield self.event("like", item)
        if what == "buy":
            if self.chance.random() < 0.4:
                yield self.event("cart", item)
            yield self.event("purchase", item)
            self.bought.append(item)

    def read(self, item: Item) -> Event:
        """Return a view whose progress is mostly high, sometimes a bounce; time passes with it."""
        progress = round(self.chance.betavariate(4, 1.3) if self.chance.random() < 0.85 else self.chance.uniform(0.03, 0.2), 2)
        length_s = item.attributes.get("duration_s") or 60 * float(item.attributes.get("minutes") or 1)
        event = self.event("view", item, progress=progress)
        self.at += round(progress * float(length_s))
        return event

    def review(self, where: str) -> Iterator[Event]:
        """Yield a rating and a comment on something bought earlier under `where`."""
        owned = [item for item in self.bought if matches(where, item)]
        if owned:
            text, rating = self.chance.choice(REVIEWS[where, self.language])
            yield self.event("rating", owned[-1], rating=rating)
            yield self.event("comment", owned[-1], text=text)

    def choose(self, where: str) -> Item:
        """Return an item that the person has not touched yet, the popular ones (early in the catalogue) more often."""
        selectors = where.split("|")
        if self.chance.random() < STRAY:
            selectors = ["kind:shop", "kind:news", "kind:video"]
        fresh = [item for item in self.items if item.item_id not in self.touched and self.published(item)]
        found = [item for item in fresh if any(matches(selector, item) for selector in selectors)] or fresh
        item = self.chance.choices(found, [1 / (place + 1) ** POPULAR for place in range(len(found))])[0]
        self.touched.add(item.item_id)
        return item

    def published(self, item: Item) -> bool:
        """Return whether the item is there at the person's time: nobody reads tomorrow's news."""
        date = item.attributes.get("date")
        return date is None or datetime.fromisoformat(f"{date}T00:00:00+00:00").timestamp() <= self.at

    def event(self, type_: str, item: Item | None = None, **more: object) -> Event:
        """Return the next event, numbered later; ten seconds to some minutes pass before it."""
        self.at += round(10 + min(600, math.exp(self.chance.gauss(3.4, 0.8))))
        item_id = item.item_id if item else None
        return Event(event_id="unnumbered", user_id=self.user_id, type=type_, at=self.at, item_id=item_id, **more)  # type: ignore[arg-type]


def make(items: list[Item], seed: int = SEED) -> list[Event]:
    """Return all people's events in time order, with ids bg-e0001, bg-e0002 ... in that order."""
    chance = Random(seed)
    groups = [(language, sessions) for zh, en, sessions in PEOPLE for language in ["zh"] * zh + ["en"] * en]
    chance.shuffle(groups)
    events: list[Event] = []
    for number, (language, sessions) in enumerate(groups, 1):
        events += Person(f"bg-{number:03}", language, chance, items).live(sessions)
    events.sort(key=lambda event: (event.at, event.user_id))
    return [replace(event, event_id=f"bg-e{number:04}") for number, event in enumerate(events, 1)]


if __name__ == "__main__":
    history = make(load_catalogue())
    Path(__file__).with_name("history.jsonl").write_bytes(b"".join(encode(event) + b"\n" for event in history))
    print(f"{len(history)} events of {len({event.user_id for event in history})} people")
