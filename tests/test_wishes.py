"""Wishes with a sign: what they turn down and what they ask for, in the words of many; and the rules that they are read by."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

import examples
from streams.spelling import spell
from streams.words import read

# A wish, what it turns down, what it asks for.
WISHES: list[tuple[str, list[str], list[str]]] = [
    ("no more true crime podcasts", ["true crime podcasts"], []),
    ("Enough with the diet tips already", ["diet tips"], []),
    ("Quit showing me car ads", ["car ads"], []),
    ("Could we have a bit less football and a bit more cycling?", ["football"], ["cycling"]),
    ("I've seen enough phone reviews", ["phone reviews"], []),
    ("Please spare me the royal family", ["royal family"], []),
    ("Don't bother me with horoscopes", ["horoscopes"], []),
    ("I'd rather not see gambling", ["gambling"], []),
    ("More documentaries about the sea, please", [], ["documentaries about the sea"]),
    ("Nothing with peanuts, please", ["peanuts"], []),
    ("I could use some ideas for a birthday cake", [], ["ideas for a birthday cake"]),
    ("Got anything on beekeeping?", [], ["beekeeping"]),
    ("What about some Italian cinema?", [], ["italian cinema"]),
    ("I'm done with superhero movies", ["superhero movies"], []),
    ("Keep the gardening coming", [], ["gardening"]),
    ("I no longer care about celebrity weddings", ["celebrity weddings"], []),
    ("Leave out anything about politics", ["politics"], []),
    ("Can you go easy on the sports news?", ["sports news"], []),
    ("Less of the crypto stuff, more of the woodworking", ["crypto stuff"], ["woodworking"]),
    ("I'm really into pottery these days", [], ["pottery"]),
    ("Show me fewer reality shows and more science", ["reality shows"], ["science"]),
    ("Stop it with the earphones, I already have some", ["earphones"], []),
    ("I don't need another mouse, I need a keyboard", ["mouse"], ["keyboard"]),
    ("Please, not another vampire novel", ["vampire novel"], []),
    ("How about jazz from the seventies?", [], ["jazz from the seventies"]),
    ("I can't stand heavy metal", ["heavy metal"], []),
    ("Never recommend whisky to me", ["whisky"], []),
    ("Anything except golf would be fine", ["golf"], []),
    ("Give me tea, not coffee", ["coffee"], ["tea"]),
    ("I've gone off podcasts; audiobooks are what I want", ["podcasts"], ["audiobooks"]),
    ("别再推荐恐怖片了", ["恐怖片"], []),
    ("以后少给我推娱乐八卦", ["娱乐八卦"], []),
    ("能不能别老是推手机广告", ["手机广告"], []),
    ("咖啡就算了，给我看看茶", ["咖啡"], ["茶"]),
    ("不想再看减肥的内容了", ["减肥"], []),
    ("求推荐几部悬疑剧", [], ["悬疑剧"]),
    ("健身视频已经够多了", ["健身视频"], []),
    ("麻烦把美妆类的都去掉", ["美妆类"], []),
    ("我对理财没有兴趣", ["理财"], []),
    ("想了解一下露营装备", [], ["露营装备"]),
    ("多推一些猫咪视频吧", [], ["猫咪视频"]),
    ("股票的新闻我不关心", ["股票的新闻"], []),
    ("球赛看太多了，换点纪录片", ["球赛"], ["纪录片"]),
    ("不吃辣，有没有清淡的菜谱", ["辣"], ["清淡的菜谱"]),
    ("有没有好听的民谣", [], ["好听的民谣"]),
    ("请不要给我看蛇", ["蛇"], []),
    ("再来几首粤语歌", [], ["粤语歌"]),
    ("鼠标我已经有了，别推了", ["鼠标"], []),
    ("给我来点烘焙教程", [], ["烘焙教程"]),
    ("不再需要婴儿用品", ["婴儿用品"], []),
    ("我更想看国产动画，不要日漫", ["日漫"], ["国产动画"]),
    ("听腻了流行歌", ["流行歌"], []),
    ("明星绯闻少推，科学新闻多推", ["明星绯闻"], ["科学新闻"]),
    ("杜绝标题党文章", ["标题党文章"], []),
    ("最近迷上了陶艺", [], ["陶艺"]),
    ("除了足球，别的都行", ["足球"], []),
    ("想看点轻松的综艺", [], ["轻松的综艺"]),
    ("拒绝游戏直播", ["游戏直播"], []),
    ("用绿茶代替红茶", ["红茶"], ["绿茶"]),
    ("我不听摇滚，只听古典", ["摇滚"], ["古典"]),
]
# Written when an earlier reader read all above: 9 of 30 were read right by it, 21 by sign alone.
AFTER: list[tuple[str, list[str], list[str]]] = [
    ("No celebrity news any more, thanks", ["celebrity news"], []),
    ("Please drop the football", ["football"], []),
    ("I'm over zombies", ["zombies"], []),
    ("Could you recommend something quieter?", [], ["something quieter"]),
    ("Mute anything to do with elections", ["elections"], []),
    ("I fancy a good detective story", [], ["good detective story"]),
    ("Please keep me away from sweets", ["sweets"], []),
    ("It's all cooking shows lately, show me travel", ["cooking shows"], ["travel"]),
    ("Not so many recipes, more gardens", ["recipes"], ["gardens"]),
    ("I already own a kettle, so stop showing kettles", ["kettles"], []),
    ("Swap the pop for some soul", ["pop"], ["soul"]),
    ("I don't drink coffee any more", ["coffee"], []),
    ("I've taken up climbing", [], ["climbing"]),
    ("We're expecting a baby, show us prams", [], ["prams"]),
    ("Fewer ads for insurance", ["ads for insurance"], []),
    ("别给我推汽车", ["汽车"], []),
    ("我不玩游戏", ["游戏"], []),
    ("能多放点老歌吗", [], ["老歌"]),
    ("带货直播太烦了", ["带货直播"], []),
    ("不要总推减肥茶", ["减肥茶"], []),
    ("最近在学吉他", [], ["吉他"]),
    ("有关旅行的多来点", [], ["旅行"]),
    ("求别再推彩票", ["彩票"], []),
    ("换换口味，来点摇滚", [], ["摇滚"]),
    ("我戒烟了，别推打火机", ["打火机"], []),
    ("宠物的视频可以多一些", [], ["宠物的视频"]),
    ("没兴趣看选秀", ["选秀"], []),
    ("少点鸡汤文，多点干货", ["鸡汤文"], ["干货"]),
    ("不是很想看战争片", ["战争片"], []),
    ("与其推咖啡不如推茶", ["咖啡"], ["茶"]),
]
RIGHT = 0.95  # the share that has to be read right: rules of thumb, not understanding


def _reading(text: str) -> tuple[list[str], list[str]]:
    """Return what a wish turns down and asks for, in small letters."""
    said = read(text, "wish").said
    return [s.text.lower() for s in said if s.sign < 0], [s.text.lower() for s in said if s.sign > 0]


def test_wishes_with_a_sign() -> None:
    """Nineteen in twenty are read right, subject and sign, in each language; the misses are printed."""
    for own in (WISHES[:30] + AFTER[:15], WISHES[30:] + AFTER[15:]):
        wrong = [(text, _reading(text)) for text, against, wanted in own if _reading(text) != (against, wanted)]
        for text, reading in wrong:
            print(f"{text}: turns down {reading[0]}, asks for {reading[1]}")
        assert len(wrong) <= (1 - RIGHT) * len(own), wrong


# Shares of each part of `wishes.csv` that are read right in full and by sign alone (as many turned down, as many asked for), in
# each language, a little under what is reached. `develop` and `held out` were written before the reader, `in between` while
# it was made, `afterwards` when it was done, and then it was made to read those too: docs/log.md has what it read at first.
FLOORS = {"develop": (0.95, 0.97), "held out": (0.85, 0.9), "in between": (0.83, 0.9), "afterwards": (0.88, 0.91)}


def _table() -> list[tuple[str, list[str], list[str], str]]:
    with Path(__file__).with_name("wishes.csv").open(encoding="utf-8", newline="") as file:
        return [
            (row["wish"], _subjects(row["turned down"]), _subjects(row["asked for"]), row["part"])
            for row in csv.DictReader(file)
        ]


def _subjects(cell: str) -> list[str]:
    return [subject.strip() for subject in cell.split("|")] if cell else []


def _is_chinese(text: str) -> bool:
    return any("\u4e00" <= letter <= "\u9fff" for letter in text)


def test_the_table_holds_what_its_figures_are_of() -> None:
    """Two hundred wishes were written first, half of them in each language, 80 of them held out; none is there twice."""
    table = [(wish, part) for wish, _, _, part in _table() if part in ("develop", "held out")]
    assert len({wish for wish, _ in table}) == len(table) == 200
    assert [_is_chinese(wish) for wish, _ in table].count(True) == 100
    assert [part for _, part in table].count("held out") == 80


@pytest.mark.parametrize("part", FLOORS)
@pytest.mark.parametrize("chinese", [False, True], ids=["english", "chinese"])
def test_other_wishes(part: str, chinese: bool) -> None:
    """Of wishes in other words no smaller shares are read right than once reached, in each language; misses are printed."""
    own = [(wish, (against, wanted)) for wish, against, wanted, of in _table() if of == part and _is_chinese(wish) is chinese]
    read_right = [(_reading(wish), right) for wish, right in own]
    for (wish, right), (reading, _) in zip(own, read_right, strict=True):
        if reading != right:
            print(f"{wish}: turns down {reading[0]}, asks for {reading[1]}")
    full = sum(reading == right for reading, right in read_right) / len(own)
    by_sign = sum([len(subjects) for subjects in reading] == [len(s) for s in right] for reading, right in read_right) / len(
        own
    )
    assert (full >= FLOORS[part][0], by_sign >= FLOORS[part][1]) == (True, True), (full, by_sign)


@pytest.mark.parametrize(
    ("front", "sign"),
    [
        ("show me", 1),
        ("don't show me", -1),
        ("stop showing me", -1),
        ("don't stop showing me", 1),
        ("I hate", -1),
        ("I don't hate", 1),
        ("I don't want too much", -1),
        ("there is not enough", 1),
        ("why do I keep getting", -1),
        ("why don't I get", 1),
        ("推", 1),
        ("别推", -1),
        ("讨厌", -1),
        ("不讨厌", 1),
        ("别再推那么多", -1),
        ("没看够", 1),
        ("看够了", -1),
    ],
)
def test_cues_make_a_sign_together(front: str, sign: int) -> None:
    """A "not" turns what turns down round, but not "too much"; too little of something asks for it."""
    (said,) = read(f"{front} zither", "wish").said
    assert (said.text, said.sign) == ("zither", sign)


@pytest.mark.parametrize(
    ("behind", "sign"),
    [
        (" bores me", -1),
        (" isn't for me", -1),
        (" is my new hobby", 1),
        (" isn't boring", 1),
        ("不感兴趣", -1),
        ("太少了", 1),
        ("太无聊了", -1),
        ("少推", -1),
    ],
)
def test_what_is_said_behind_a_subject_counts(behind: str, sign: int) -> None:
    """What stands behind a subject makes its sign as what stands before it does."""
    (said,) = read(f"zither{behind}", "wish").said
    assert (said.text, said.sign) == ("zither", sign)


def test_what_tells_of_the_writer_is_no_subject() -> None:
    """A clause about the writer is left out beside one that wishes, and is a wish where it is all there is."""
    assert _reading("I play with two cats, so no zither") == (["zither"], [])
    assert _reading("家里养了两只猫，别推zither") == (["zither"], [])
    assert _reading("planning a trip") == ([], ["trip"])


def test_a_clause_without_a_subject_speaks_of_the_one_before() -> None:
    """ "No thanks" and 不了 turn down what was named, "I used to, not anymore" what was liked; other wishes keep their sign."""
    assert _reading("Zither? No thanks.") == (["zither"], [])
    assert _reading("I like the zither, but not anymore") == (["zither"], [])
    assert _reading("more zither, keep it coming") == ([], ["zither"])


def test_subjects_alone_are_asked_for_as_they_stand() -> None:
    """Each tag of the example catalogue is a subject, whole, however much it looks like a cue (推荐系统)."""
    tags = {tag for item in examples.load_catalogue() for tag in item.tags}
    assert len(tags) > 400
    assert {tag: _reading(tag) for tag in tags if _reading(tag) != ([], [tag.lower()])} == {}


def test_cues_are_read_as_people_type_them() -> None:
    """Cue words are spelt out, other words are left as they are."""
    assert spell("pls dont shwo me sohws w/ stpo recomending") == "please don't show me sohws with stop recommending"
    assert spell("sowing shoes, wart snacks, D&W") == "sowing shoes, wart snacks, D&W"
