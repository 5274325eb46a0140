"""The cue words of wishes and opinions, English and Chinese, as patterns: what `streams.words` reads plain words with.

Knows no reading: which of them speaks for what is decided there.
"""

from __future__ import annotations

import re

_ZH = r"\u4e00-\u9fff"


def _pattern(english: str, chinese: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{english})(?!\w)|(?:{chinese})", re.IGNORECASE)


SENTENCE = re.compile(r"[。;；!！?？\n]+|\.(?!\d)")
CLAUSE = re.compile(
    rf"[,，、]+|(?<!anything )(?<!everything )(?<!nothing )\bbut\b|(?<=[{_ZH}])\s+(?=[{_ZH}])|但是|但|可是|不过|然后"
    rf"|(?<=[{_ZH}])(?=我?更(?:喜欢|爱|想))"  # "比起咖啡我更喜欢茶"
    r"|\band\b(?=\s+(?:a (?:bit|little|lot) )?(?:i |more|less|no|not|fewer|don't|stop|some|show|hide)\b)",
    re.IGNORECASE,
)
AMOUNT_FIRST = re.compile(rf"(?<=[{_ZH}])(?=[多少](?:一点|一些|点|些|来|推))")  # "少一点体育多一点爵士乐"
PREFER = re.compile(
    r"\b(?P<one>prefer .{1,60}?) (?:to|over) |[用拿](?P<two>[^，。]{1,40}?)来?(?:代替|替代|取代)"
    r"|\b(?:swap|replace|trade) (?P<old>[^,.;]{1,60}?) (?:for|with) (?P<new>[^,.;]+)"
    r"|与其(?P<alt>[^，。]{1,40}?)[，,]?不如(?P<neu>[^，。]+)",
    re.IGNORECASE,
)
INSTEAD = re.compile(r"\b(?:instead of|rather than)\b|而不[是要]", re.IGNORECASE)
ASIDE = re.compile(  # a clause that gives the reason or leaves the rest open: "I already have some", "别的都行"
    r"(?:i|we)(?:'ve)? (?:(?:have|got|own|bought) (?:some|one|it|them|enough|plenty)(?: already| of (?:it|them))?"
    r"|already (?:have|got|own|bought) .+)"
    r"|换换?口味|(?:别的|其[他它]的?|什么|啥)都?(?:行|可以|好|无所谓)|我?(?:家里)?(?:已经|都)有了",
    re.IGNORECASE,
)

AGAINST = _pattern(
    r"less|fewer|no longer|no(?!-)|not|never|without|avoid|(?:stop|quit)(?: it)?(?: with)?|hate|dislike|loathe"
    r"|(?:(?:seen|had|heard|read|watched) )?(?:enough|plenty|too (?:much|many)|my fill)(?: of| with)?|had it with"
    r"|(?:tired|sick|weary|bored) (?:of|with)|(?:fed up|done|finished|through) with|gone off|(?<=i'm )over"
    r"|skip|ditch|drop|mute|block|ban|hide|remove|(?:leave|filter|cut) out|(?:go|take it) easy (?:on|with)|lay off|get rid of"
    r"|cut (?:down|back) on|spare (?:me|us)|keep (?:me|us) away from|nothing (?:with|about|like|from)|can't (?:stand|bear|take)"
    r"|(?!don't mind)\w+n't|cannot|(?:any|every)thing (?:but|except)",
    r"少(?:一点|一些|点|些|来点?|给|看|推荐?|放|播)|减少|不要|不想|不喜欢|不爱|不需要|不用|讨厌|不再|不太"
    r"|(?<![特分区个类性级])别(?![的人样致墅名称处])|[看听玩吃喝刷]腻了?|厌倦了?|受够了?|烦透了?|太多|屏蔽|比起|除了"
    r"|不(?:吃|喝|听|玩|看|追|碰)(?!力)|没有?什?么?兴趣|不(?:是|大|怎么)很?[想爱]|不关心|不在乎|拒绝|杜绝|远离|抵制|告别|去掉|过滤掉?|删[掉除]|关掉|取消|跳过|停止",
)
FOR = _pattern(
    r"can't get enough(?: of)?|nothing but|more|wants?|looking for|searching for|needs?|(?:would|'d) (?:like|love)"
    r"|wish(?: for)?|don't mind|into|bring on|interested in|try(?:ing)?|prefer|like|love"
    r"|enjoy|some|show(?:ing)?|give|play(?:ing)?|recommend(?:ing)?|send(?:ing)?"
    r"|(?:(?:have you )?got|(?:do you )?have|is there|are there) (?:any(?:thing)?|something|some)(?: on)?|(?:how|what) about"
    r"|could (?:use|do with)|in the mood for|fancy|craving|keen on|curious about|hooked on|crazy about|obsessed with"
    r"|(?:taken|taking) up"
    r"|a (?:big )?fan of|keep(?=.*\bcoming\b)",
    r"多(?:一点|一些|点|些|推荐|[来给看推放播听](?:一?[点些])?)|更多|想[看听买吃喝学找玩读]一?[点些](?!心)|想(?![象法念])|要(?![闻点素])|希望|需要|推荐"
    r"|更?喜欢|爱上了?|爱(?![情国心])|来(?:一?[点些])|有没有|有什么|给我|求(?![职生知婚])|换(?:一?[点些]|成)|只[想要听看吃喝爱玩]"
    r"|(?:[着沉痴]迷|热衷)于?|迷上了?",
)
AT_END_AGAINST = _pattern(
    r"no more|no thanks|less|(?:can|could) go|(?:is|are) not for me",
    r"我?(?:都|全部?|已经)?(?:少(?:一?[点些]|推荐?|来|放|给)|[看听吃喝玩刷]?够多?|[看听吃喝玩刷]得?腻|[看听吃喝玩刷]?得?太多|别推荐?"
    r"|不[要看听吃喝想爱]{1,2}|不喜欢|不感兴趣|没有?兴趣|不关心|不在乎|就?算|就?免|[看听]?[太好很]?(?:烦人?|无聊|没意思)|[去删关拿过滤]{1,2}掉|屏蔽|移除|(?:已经|都)(?:有|买))[了吧啊]?$",
)
AT_END_FOR = _pattern(
    r"instead|(?<!any )more|(?:is|are) what (?:i|we) (?:want|need|like|love|prefer)",
    r"(?:(?:可以|能|最好)?多(?:[来放给推]?一?[点些]|推荐?|来|放|给)|也?推荐一?[点些下]|[很更]?感兴趣|有兴趣|也行|也可以)[了吧啊]?$",
)
INSIDE_AGAINST = _pattern(
    r"too (?:much|many)|hate|tired of|sick of|stop|no more|don't (?:want|like|need)", r"讨厌|不想|不喜欢|不要"
)
INSIDE_FOR = _pattern(
    r"looking for|(?:would|'d) (?:like|love)|i (?:want|need|love|like)|recommend", r"想[要看听买学找]|喜欢|希望"
)

FILLER = re.compile(
    r"(?:a (?:bit|little|lot)(?= (?:more|less|fewer|of))|bother(?:ing)? (?:me|us) with|care (?:about|for)"
    r"|i'm|i've|i'd|i|we|do|did|rather|only|you|it|am|have|had|can|could|would|to|another|an?|the|any|of|me|us"
    r"|please|see|buy|get|find|watch|read|hear|listen to"
    r"|(?:new )?pair of|about|for|with|now|also|just|really|still|so many|so|very|what"
    r"|(?:something|anything|stuff) (?:about|on|to do with)"
    r"|(?<=n't )(?:drink|eat|play|use|wear))"
    r"(?:\s+|$)"
    r"|我们?(?!的)|请|麻烦|[能可]不[能可]以?|可以|能(?![量源力])|[给帮]我?|再|也|还|就(?!业)"
    r"|都(?!市)|[很最]|非常|特别(?!是)|比较|真的|近|现在|对"
    r"|以后|今后|老是|总[是在]?(?=[推给])|总是|一直|天天|在(?=[学看听玩读找])|了解|把(?![手握玩戏])|[看听试]{2}|看(?![点法])到?|听(?![力书说])|学(?![习校生术科院])|找|买(?![手家])|喝|吃|玩(?![具家偶])|尝试|推(?![理拿土])荐?|一下"
    r"|[一几]?[双个款副台本首部](?![人性])|一?些|一?点(?![心评击赞])|到|更多|有?关于?|来(?!自)|\s+",
    re.IGNORECASE,
)
TAIL = re.compile(
    r"(?:\s*\b(?:please|too|as well|anymore|any more|thanks|now|already|these days|lately|again|coming|(?:to|for) (?:me|us)"
    r"|(?:would be|is|are) (?:fine|ok|okay)|will do)|了|[吧呢啊呀吗嘛]|的内容|(?<=.)的)$",
    re.IGNORECASE,
)

TAIL_LENGTH = 20  # characters; the longest of them, "would be okay", has 13 and a few blanks before it

WANT = _pattern(
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
OPINION = re.compile(rf"(?P<plain>{_PLAIN})|{_PRAISE}|(?P<no>{_NOT})(?:(?P<good>{_GOOD})|(?P<bad>{_BAD}))", re.IGNORECASE)
