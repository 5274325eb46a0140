"""Ninety wishes with a sign, written before the reader was run on them: what they turn down and what they ask for."""

from __future__ import annotations

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
# Written when all above were read right, to see what that is worth of others: 9 of 30 were, 21 by sign alone.
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
