"""Plain words are read as people mean them: what they ask for, what they turn down, and what they think of an item."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.words import Reading, Said, read

# A wish, what it turns down, what it asks for.
WISHES: list[tuple[str, list[str], list[str]]] = [
    ("less sport, more jazz", ["sport"], ["jazz"]),
    ("Less sport and more jazz please", ["sport"], ["jazz"]),
    ("more jazz and less sport", ["sport"], ["jazz"]),
    ("more jazz, fewer politics stories!", ["politics stories"], ["jazz"]),
    ("no more football", ["football"], []),
    ("no football, no tennis, some chess", ["football", "tennis"], ["chess"]),
    ("stop showing me celebrity gossip", ["celebrity gossip"], []),
    ("please stop recommending horror films", ["horror films"], []),
    ("don't show me any horror", ["horror"], []),
    ("Don’t recommend any more crypto", ["crypto"], []),
    ("I don't want romance, I want science fiction", ["romance"], ["science fiction"]),
    ("I do not like spicy food", ["spicy food"], []),
    ("I'm tired of politics", ["politics"], []),
    ("I am sick of cat videos but I love dogs", ["cat videos"], ["dogs"]),
    ("enough football. Jazz instead", ["football"], ["jazz"]),
    ("not interested in cars", ["cars"], []),
    ("I'm not interested in cars, show me bikes", ["cars"], ["bikes"]),
    ("hide pop music; show me classical music", ["pop music"], ["classical music"]),
    ("I'd like some decaf coffee", [], ["decaf coffee"]),
    ("I would love to read more history books", [], ["history books"]),
    ("looking for running shoes", [], ["running shoes"]),
    ("I am looking for a warm winter coat", [], ["warm winter coat"]),
    ("I need a gift for my mother", [], ["gift for my mother"]),
    ("can you recommend a good thriller?", [], ["good thriller"]),
    ("show me more deep learning", [], ["deep learning"]),
    ("jazz", [], ["jazz"]),
    ("something about space", [], ["space"]),
    ("I want headphones that don't hurt", [], ["headphones that don't hurt"]),
    ("coffee without sugar", [], ["coffee without sugar"]),
    ("I can't get enough of jazz", [], ["jazz"]),
    ("anything but football", ["football"], []),
    ("I hate sport", ["sport"], []),
    ("too much sport", ["sport"], []),
    ("I've had too many ads for shoes, more books", ["ads for shoes"], ["books"]),
    ("I prefer tea to coffee", ["coffee"], ["tea"]),
    ("jazz instead of rock", ["rock"], ["jazz"]),
    ("more jazz rather than sport", ["sport"], ["jazz"]),
    ("少一点体育，多一点爵士乐", ["体育"], ["爵士乐"]),
    ("少一点体育多一点爵士乐", ["体育"], ["爵士乐"]),
    ("多一点爵士乐，少一点体育", ["体育"], ["爵士乐"]),
    ("体育少一点，爵士乐多一点", ["体育"], ["爵士乐"]),
    ("少推荐体育新闻，多推荐科技新闻", ["体育新闻"], ["科技新闻"]),
    ("不要再给我推荐足球了", ["足球"], []),
    ("别再推体育了，想看一些音乐视频", ["体育"], ["音乐视频"]),
    ("不想看恐怖片", ["恐怖片"], []),
    ("我不想再看到恐怖片", ["恐怖片"], []),
    ("我不喜欢辣的，喜欢甜的", ["辣"], ["甜"]),
    ("我对体育不感兴趣", ["体育"], []),
    ("对汽车没兴趣，多来点音乐", ["汽车"], ["音乐"]),
    ("看腻了搞笑视频", ["搞笑视频"], []),
    ("体育看够了", ["体育"], []),
    ("讨厌广告", ["广告"], []),
    ("我想买一双跑步鞋", [], ["跑步鞋"]),
    ("想要一副降噪耳机", [], ["降噪耳机"]),
    ("我想找一些关于深度学习的内容", [], ["深度学习"]),
    ("请给我推荐几本历史书", [], ["历史书"]),
    ("希望能看到更多科技新闻", [], ["科技新闻"]),
    ("来点爵士乐", [], ["爵士乐"]),
    ("我喜欢喝咖啡和茶叶", [], ["咖啡和茶叶"]),
    ("最近对摄影很感兴趣", [], ["摄影"]),
    ("爵士乐", [], ["爵士乐"]),
    ("太多体育了", ["体育"], []),
    ("不要体育，要爵士乐", ["体育"], ["爵士乐"]),
    ("特别想听古典音乐", [], ["古典音乐"]),
    ("有没有适合送妈妈的礼物", [], ["适合送妈妈的礼物"]),
    ("无糖咖啡", [], ["无糖咖啡"]),
    ("比起咖啡我更喜欢茶", ["咖啡"], ["茶"]),
    ("别的类型也推荐一些", [], ["别的类型"]),
    ("I never want to see golf again", ["golf"], []),
    ("could you show fewer cooking videos and more travel", ["cooking videos"], ["travel"]),
    ("I love jazz but not free jazz", ["free jazz"], ["jazz"]),
    ("my kids hate sport", ["sport"], []),
    ("skip the politics, bring on the science", ["politics"], ["science"]),
    ("cut down on sport", ["sport"], []),
    ("no-sugar drinks", [], ["no-sugar drinks"]),
    ("a cheap laptop for gaming, not a Mac", ["mac"], ["cheap laptop for gaming"]),
    ("I don't mind sport", [], ["sport"]),
    ("Norwegian crime novels", [], ["norwegian crime novels"]),
    ("最近不太想看新闻", ["新闻"], []),
    ("足球别推了", ["足球"], []),
    ("我不想看体育，也不想看财经", ["体育", "财经"], []),
    ("除了体育什么都可以", ["体育"], []),
    ("多些科普少些八卦", ["八卦"], ["科普"]),
    ("能不能少来点广告", ["广告"], []),
    ("多功能料理锅", [], ["多功能料理锅"]),
    ("特别喜欢科幻小说", [], ["科幻小说"]),
    ("爱情电影", [], ["爱情电影"]),
]

# A comment, its opinion of the item, what it asks for besides.
COMMENTS: list[tuple[str, int, list[str]]] = [
    ("great coffee, fast delivery", 1, []),
    ("I love this watch", 1, []),
    ("Not bad at all", 1, []),
    ("not good", -1, []),
    ("It was not very good", -1, []),
    ("This isn't worth the money", -1, []),
    ("I didn't like it", -1, []),
    ("I don't recommend this", -1, []),
    ("would not buy again", -1, []),
    ("would buy again", 1, []),
    ("broke after two days", -1, []),
    ("the strap fell off, very disappointed", -1, []),
    ("terrible sound, great looks, awful battery", -1, []),
    ("boring and shallow", -1, []),
    ("never boring", 1, []),
    ("no problems, works fine", 1, []),
    ("can't fault it, excellent", 1, []),
    ("couldn't be happier", 1, []),
    ("waste of money", -1, []),
    ("waited three weeks and it arrived damaged", -1, []),
    ("Good, but far too expensive and it stopped working", -1, []),
    ("I bought this smart watch and it feels great; now I would like a pair of smart earphones", 1, ["smart earphones"]),
    ("Lovely beans. I want to try something from Kenya next", 1, ["something from Kenya next"]),
    ("too slow for me", -1, []),
    ("hilarious", 1, []),
    ("I read it on the train", 1, []),
    ("so glad I bought it", 1, []),
    ("don't buy this", -1, []),
    ("awesome!", 1, []),
    ("I wanted to love it but it is useless", -1, []),
    ("我最近买了精品咖啡豆，味道不错，还想尝试一些新口味", 1, ["新口味"]),
    ("我最近买了这个智能手表，感觉很棒，想再买一双智能耳机", 1, ["智能耳机"]),
    ("这篇文章写得很好，有深度", 1, []),
    ("这个视频很有趣，画面也很漂亮", 1, []),
    ("不好", -1, []),
    ("不太好用", -1, []),
    ("一点都不好喝", -1, []),
    ("质量太差，要求退货", -1, []),
    ("没有想象中好", -1, []),
    ("还不错", 1, []),
    ("不是很满意", -1, []),
    ("非常失望", -1, []),
    ("没什么意思", -1, []),
    ("不会再买了", -1, []),
    ("会再买的", 1, []),
    ("不值这个价", -1, []),
    ("一点也不无聊", 1, []),
    ("没有让我失望", 1, []),
    ("味道好极了，就是有点贵", 1, []),
    ("太难用了", -1, []),
    ("声音很小，电池不耐用", -1, []),
    ("值得推荐", 1, []),
    ("不推荐购买", -1, []),
    ("用了两天就坏了", -1, []),
    ("我喜欢喝咖啡和茶叶，经常购买咖啡豆和茶叶包", 1, []),
    ("物流太慢", -1, []),
    ("好评", 1, []),
    ("差评", -1, []),
    ("不喜欢这个颜色", -1, []),
    ("太喜欢了", 1, []),
    ("I have never been so disappointed", -1, []),
    ("Doesn't work", -1, []),
    ("no complaints", 1, []),
    ("can't recommend it enough", 1, []),
    ("not as good as the old one", -1, []),
    ("my daughter loves it", 1, []),
    ("The cup leaked", -1, []),
    ("I'm not disappointed", 1, []),
    ("five stars", 1, []),
    ("meh", -1, []),
    ("不咋地", -1, []),
    ("买了不后悔", 1, []),
    ("不会让人失望", 1, []),
    ("好无聊", -1, []),
    ("音质不够好", -1, []),
    ("标题党", -1, []),
    ("性价比高", 1, []),
    ("跟描述的不一样", -1, []),
    ("希望出续集", 1, ["出续集"]),
]
RIGHT = 0.95  # the share of each table that has to be read right: rules of thumb, not understanding


def wish(text: str) -> tuple[list[str], list[str]]:
    """Return what a wish turns down and asks for, in small letters."""
    said = read(text, "wish").said
    return [s.text.lower() for s in said if s.sign < 0], [s.text.lower() for s in said if s.sign > 0]


def comment(text: str) -> tuple[int, list[str]]:
    """Return a comment's opinion and what it asks for."""
    reading = read(text, "comment")
    return reading.opinion, [s.text for s in reading.said if s.kind == "wish"]


def test_wishes() -> None:
    """Nineteen in twenty wishes are read right, subject and sign."""
    wrong = [(text, wish(text)) for text, against, wanted in WISHES if wish(text) != (against, wanted)]
    assert len(wrong) <= (1 - RIGHT) * len(WISHES), wrong


def test_comments() -> None:
    """Nineteen in twenty comments are read right, opinion and what is asked for besides."""
    wrong = [(text, comment(text)) for text, opinion, wanted in COMMENTS if comment(text) != (opinion, wanted)]
    assert len(wrong) <= (1 - RIGHT) * len(COMMENTS), wrong


def test_tables_are_large() -> None:
    """The tables hold enough phrasings, half of them Chinese, for their share to mean something."""
    for texts in ([text for text, *_ in WISHES], [text for text, *_ in COMMENTS]):
        chinese = sum(any("\u4e00" <= c <= "\u9fff" for c in text) for text in texts)
        assert len(texts) == len(set(texts)) >= 60
        assert 0.4 < chinese / len(texts) < 0.6


def test_good_comment_says_something() -> None:
    """What is left of a good comment counts as a statement in favour; a bad one says nothing but its opinion."""
    reading = read("great coffee, I want to try tea", "comment")
    assert reading == Reading(1, (Said("great coffee", "comment", 1), Said("tea", "wish", 1)))
    assert read("terrible coffee", "comment") == Reading(-1, ())


def test_search() -> None:
    """Search words are taken as they stand, whatever cues they hold."""
    assert read("  no sugar coffee ", "search") == Reading(1, (Said("no sugar coffee", "search", 1),))


@pytest.mark.parametrize("kind", ["wish", "search", "comment", "purchase"])
def test_nothing(kind: str) -> None:
    """Blank texts say nothing, and nothing bad."""
    assert read(" \n", kind) == read("", kind) == Reading(1, ())


@settings(deadline=None)
@given(st.text(max_size=80), st.sampled_from(["wish", "search", "comment", "click"]))
def test_any_text(text: str, kind: str) -> None:
    """Any text has a reading: subjects that are not blank, signs and opinions of one."""
    reading = read(text, kind)
    assert reading.opinion in (1, -1)
    assert all(said.text.strip() and said.sign in (1, -1) for said in reading.said)
    assert reading.said or not text.strip() or kind not in ("wish", "search")


@settings(deadline=None)
@given(st.text(alphabet="不要想少多一点体育 ,，andmoreless", max_size=2_000))
def test_long_text(text: str) -> None:
    """Texts made of cues alone are read as well, and in no long time."""
    assert read(text, "wish").opinion == 1
    assert read(text, "comment").opinion in (1, -1)
