"""The cues of wishes and opinions, English and Chinese, as patterns: what plain words are read with.

Knows no reading: how cues make the sign of a clause is in `streams.wishes`, what an opinion is in `streams.words`. The cues of
wishes come in classes; a new word belongs into the class that says what it does:

    NOT      turns the others round, alone it turns down: "not", "never", 别, 不
    DOWN     turns a subject down: "less", "hate", "stop", 少, 讨厌; with a NOT it asks for it: "don't stop", 别停
    EXCESS   there is too much of it: "too many", "it's always", 全是
    LACK     there is too little of it: "too few", "I miss", 太少, 没看够
    UP       asks for it: "more", "love", 多, 想
    CARRY    what a feed or a shop does: "show", "recommend", 推; asks for it where nothing else is said
    PRAISE   asks for what stands before it: "is my new hobby", 挺好的
    BLAME    turns down what stands before it: "bores me", 看得我头疼
    FILLER   says nothing: "I", "please", "is there a way to", 我, 麻烦
"""

from __future__ import annotations

import re

_ZH = r"\u4e00-\u9fff"


def _pattern(english: str, chinese: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w-])(?:{english})(?![\w-]|'[a-z])|(?:{chinese})", re.IGNORECASE)


# Where a text is cut.
SENTENCE = re.compile(r"[。;；!！?？\n]+|\.(?!\d)")
_CUED = (  # how a clause begins that has a sign of its own
    r"(?:a (?:bit|little|lot) |a lot |much |maybe |please |just )?(?:i|i'd|i'm|we|we'd|more|less|no|not|fewer|don't|stop|some"
    r"|show|hide|give|hate|love|skip|add|bring|focus|recommend|suggest|put|try|keep)\b"
)
CLAUSE = re.compile(
    rf"[,，:：()（）…—–]+|\s-\s|(?<!anything )(?<!everything )(?<!nothing )\bbut\b|(?<=[{_ZH}])\s+(?=[{_ZH}])|但是|但|可是"
    rf"|不过|然后|所以|而且|(?<=[{_ZH}])(?=我?(?:更(?:喜欢|爱|想)|宁[愿可]))"  # "比起咖啡我更喜欢茶"
    rf"|(?<=[{_ZH}])(?=也(?:不|别|没)|只[看听想吃喝玩])|\band\b(?=\s+{_CUED})|\bso\b(?=\s+{_CUED})"
    r"|\b(?=(?:because|since (?:i|we|it|my))\b)",
    re.IGNORECASE,
)
AMOUNT = re.compile(  # "less lipstick more skincare", "少一点体育多一点爵士乐", "只看文字不看视频"
    r"(?<=\w)\s+(?=(?:more|less|fewer)\s+\w)"
    rf"|(?<=[{_ZH}])(?=[多少](?:一点|一些|点|些|来|推)|不[看听](?!到)|不(?:想|爱)[看听吃喝买玩]|不喜欢|不要(?!钱|紧)"
    r"|别[再推给看])",
    re.IGNORECASE,
)

# One subject in place of another.
_OLD = r"(?:(?:the|my|all|these|those|this) )*"
PREFER = re.compile(
    r"\b(?P<one>prefer .{1,60}?) (?:to|over) |\brather (?:have|see|watch|read|get|hear"
    r"|listen to) (?P<rather>[^,.;]{1,60}?) than "
    r"|\b(?:take|have|choose|pick|watch|read|want) (?P<pick>[^,.;]{1,60}?) over "
    rf"|\b(?:swap|replace|trade|switch|exchange|substitute|change)(?: out)? {_OLD}(?!from\b)(?P<old>[^,.;]{{1,60}}?) (?:for"
    r"|with|to|into) (?P<new>[^,.;?!]+)|\b(?:switch|change|move"
    rf"|go) from {_OLD}(?P<past>[^,.;]{{1,60}}?) to (?P<next>[^,.;?!]+)"
    r"|\b(?:rather than|instead of) (?P<not>[^,.;]{1,60}?),\s*(?P<but>[^.;?!]+)"
    r"|[用拿](?P<two>[^，。]{1,40}?)来?(?:代替|替代|取代|替换|换)掉?"
    r"|(?:[把将]|^)(?P<had>[^，。把将]{1,40}?)[都全]?(?:替?换成|改成|换作|变成)(?P<get>[^，。]+)"
    r"|(?:^|(?<=[，,]))(?P<than>[^，。比]{1,20}?)比(?P<worse>[^，。]{1,20}?)(?:更?好[看听吃喝玩用]?|有意思|强"
    r"|更?合我?的?(?:胃口|口味)|更吸引我)多?了?|从(?P<left>[^，。]{1,20}?)(?:换|改|转|切换)[到成为](?P<came>[^，。]+)"
    r"|与其(?P<alt>[^，。]{1,40}?)[，,]?不如(?P<neu>[^，。]+)",
    re.IGNORECASE,
)
INSTEAD = re.compile(
    r"\b(?:instead of|rather than|(?<!anything )(?<!everything )(?<!something )(?<=\w )except(?: for)?)\b|而不[是要]",
    re.IGNORECASE,
)

WANTED = ("one", "pick", "new", "next", "but", "two", "get", "neu", "rather", "than", "came")
UNWANTED = ("old", "past", "not", "alt", "had", "worse", "left")
KIND_OF_PERSON = re.compile(  # "I'm more of a blues person", "not really a football guy"
    r"\b(?:an? )(?P<kind>[\w' -]{1,30}?) (?:person|guy|girl|gal|type|household|family)(?= *(?:$|[,.;!?]))", re.IGNORECASE
)
CONDITION = re.compile(  # "能不推鬼片就不推", "再推盲盒我就卸载了"
    r"能[不少](?P<can>[^，。]+?)就[不少别][^，。]*|(?:要是|如果)?再(?P<again>(?:给我)?推[^，。]+?)[，,]?我?就[^，。]+"
)

# Clauses that say nothing of what is wished for.
ASIDE = re.compile(
    r"(?:i|we)(?:'ve)? (?:(?:have|got|own|bought) (?:some|one|it|them|enough|plenty)(?: already| of (?:it|them))?"
    r"|already (?:have|got|own|bought) .+|bought .+ already)|don't get me wrong|(?:it's )?not that .+|while .+ at it"
    r"|no offen[cs]e.*|for .{1,20} sake|for the love of .+|if .+|because .+|since .+"
    r"|(?:i'm |i am |we're )?(?:trying|going|want|need) to (?:quit|stop|give up|cut|lose|save)\b.*|thank(?:s| you).*|to be .+"
    r"|想?换换?个?口味.*|口味.*变.*|give me a break|why|what gives|seriously|omg|really|as usual"
    r"|(?:麻烦|请)?(?:能不能|能|给我)?(?:换一[批换]|换[点些个]?别的.*|刷新)"
    r"|(?:别的|其[他它]的?|什么|啥)(?:我?都|也)?(?:行|可以|好|无所谓|[看听吃])|我?(?:家里)?(?:已经|都)有了"
    r"|我?(?:想|要|在|正在|准备|打算)?戒.{1,4}"
    r"|我?(?:想|要|在|正在|准备|打算|最近)+(?:减肥|减重|瘦|备孕|搬家|考试|装修|结婚|出差|省钱|存钱|静).{0,3}"
    r"|我?也?不是(?:完全)?(?:不|讨厌|反感).+|(?:给|送).{1,6}[看用吃穿玩喝听]的|因为.+"
    r"|.{0,4}(?:心情|压力|天气|身体|膝盖|肠胃|胃|眼睛|腰|睡眠).{0,2}(?:不[好行适佳]|差|大|乱|疼|痛|紧张|累)了?",
    re.IGNORECASE,
)
STATEMENT = re.compile(  # a clause without a cue that tells of the writer, and not a subject
    r"(?:i|we|my|our|he|she|it|they|you|this|that|these|those|there|nobody|everyone|someone|got|bought|moved|just|being"
    r"|having|trying|spent|after|before|now|today|last|when|while|who)(?![\w-]).*"
    r"|.* (?:here|already|am|is|are|was|were|has|have|had)(?: .*)?|.*'s (?:over|gone|back|here)"
    r"|(?:我|俺|咱|本人|小孩|小朋友|老人|娃|孩子|宝宝|老[婆公]|女[儿朋]|儿子|家里|最近|刚|已经|今[天年]|明[天年]"
    r"|[上下]个?[月周]|马上|快要|心情|这).*|晚上|每天|.*[了过着]",
    re.IGNORECASE,
)
TOLD = re.compile(  # the same, with what elsewhere is a cue: "I play with two cats", 孩子要上小学了
    r"我?(?:孩子|宝宝|老[婆公]|女[儿朋]|儿子|家里|刚|已经).*了|(?:i|we) (?:play|give|send|put|bring|feed|serve|offer)\b.*",
    re.IGNORECASE,
)
NO_LONGER = re.compile(r"\b(?:anymore|any more|no longer|not now)\b|现在不|不再", re.IGNORECASE)

# The classes.
_SEE = r"(?:see|seeing|get|getting|find|finding|hear|hearing|shown|being shown|be shown)"
_PAGE = r"(?:(?:home|front) ?page|page|feed|timeline|wall|lists?|recommendations?|recs|suggestions|screen|home)"
_FEED = rf"(?:my|the|this|our|your) {_PAGE}"
_ADVERB = (
    r"(?:(?:also|really|so|very|pretty|quite|always|just|a bit|a little|way|all|simply|definitely|kind of|more|much|even) )*"
)
_BE = r"(?:is|are|was|were|be|been|'s|sounds?|looks?|seems?|feels?|gets?|getting|i find|i like|i think)"
_BE_NOT = rf"(?:{_BE} (?:not|never|no)|(?:is|are|was|were|do|does|ai)n't(?: (?:sound|look|seem|feel|really))?)"
_FINE = (
    r"(?:great|good|fine|ok|okay|nice|lovely|cool|awesome|welcome|perfect|brilliant|wonderful|fun|interesting|amazing"
    r"|excellent|appreciated|fantastic|neat|useful"
    r"|(?:right )?(?:up )?my (?:new |latest |favou?rite |cup of )?(?:thing|hobby|passion|jam|favou?rite|tea|style|taste|alley"
    r"|life|obsession)|for (?:me|us)|what (?:i|we) (?:want|need|like|love|prefer|enjoy)(?: to see)?"
    r"|all (?:i|we) (?:care about|want|need))"
)
_FOUL = (
    r"(?:boring|dull|awful|terrible|horrible|annoying|irritating|depressing|disgusting|gross|stupid|silly|tedious|overrated"
    r"|pointless|useless|scary|rubbish|garbage|trash|lame|cringe|tiresome|unbearable|exhausting|ridiculous|getting old"
    r"|old news|too \w+(?: for (?:me|us))?|a waste of (?:time|space)|driving (?:me|us) \w+|the worst|enough)"
)

NOT = _pattern(
    r"no longer|no|not|never|cannot|neither|nor|none of|\w+n't|nothing(?! but)(?: (?:with|about|like|from))?"
    r"|(?:any|every|some)thing (?:but|except|(?:other|else|different) (?:than|from|but)|apart from)|zero|no thanks to"
    r"|^who(?= (?:needs|wants|cares|asked) )|nope|nah|(?:nobody|no one)(?= (?:asked|wants?|needs?|likes?|cares?) )"
    r"|(?:except|other than|apart from|aside from)(?: for)?",
    r"不(?:要(?!紧)|(?=想(?!象)|爱[看听吃喝玩好]?|喜欢|需要|用(?!品)|再|太[想爱喜感关需能]|大[想爱喜感关需能]"
    r"|怎么[想爱喜感关需看听吃]|是(?:很|太|特别|那么)?[想爱喜不没]|会再|必|准|许|给|推|看|听|(?:吃|喝|玩|追|碰)(?!力)|买|刷"
    r"|关[心注]|在乎|感兴趣|了谢|来|考虑|希望|愿意?|乐意|打算|准备|稀罕|喜爱|能[没少缺再]|反感|讨厌))|^而?不是"
    r"|别(?:老是?|总是?|一直|天天)|(?<![特分区个类性级差识辨])别(?![的人样致墅名称处针])"
    r"|(?:毫|没)(?:有|无)?(?=[看听吃玩喝读刷追聊]?(?:够|腻|过瘾)"
    r"|(?:什么|啥|多大|多少|太大|任何|半点|一点)*(?:兴趣|感觉|需要|需求))|没有?人(?=[想爱看喜要关])"
    r"|谁[还会要想爱]+(?=[看听买玩要])|[勿莫甭](?=再|要|推|给|发|看|来)|表(?=[推给再要发])|请勿|无需",
)
DOWN = _pattern(
    r"less|fewer|(?:stop|quit|cease)(?: it)?(?: with)?|avoid|hat(?:e|es|ed|ing)|dislik(?:e|es|ed|ing)|loathe|despise|detest"
    r"|resent|(?:(?:seen|had|heard|read|watched) )?(?:enough|plenty|my fill)(?: already)?(?: of| with)?|had it with"
    r"|over and done with|(?:tired|sick|weary|bored|sick and tired|fed up|done|finished|through)(?: of| with| hearing| seeing"
    r"| getting| being shown)+|more than enough|want out of|free (?:of|from)|discontinue|demote|bury|deprioriti[sz]e|gone off"
    r"|outgrown|grown out of|(?<=i'm )over|(?<=honestly )over|(?<=so )over|skip|ditch|drop|mute|block|ban|hide|remove|delete"
    r"|kill|axe|scrap|pause|banish|exclude|omit|limit|reduce|lower|minimi[sz]e|cut|(?:leave|filter|cut|weed|kick|throw) out"
    r"|ease up(?: on)?|(?:cut|tone|dial|turn|scale|wind|crank|knock|slow|calm|ease|hold|back|lay|shut|switch|go"
    r"|take) (?:it )?(?:down|back|off|easy)(?: on| with)?"
    r"|(?:cool|chill|knock|pack|rein|tone|give|let) it (?:(?:out|off|down|in|up|a rest) ?)?(?:with|on)?|lighten up(?: on)?"
    r"|forget(?: about)?|get rid of|refrain from|steer clear of|shy away from|(?:phase|rule|clear|clean|opt|trim) out(?: of)?"
    r"|unfollow|unsubscribe(?: me)?(?: from)?|(?:take|get|keep) me (?:off|away from|out of)|nix|bin|dump|purge|trim|curb"
    r"|restrict|decrease|hold the|save (?:me|us) from|do away with|do without|live without|^without|resist|say no to"
    r"|spare (?:me|us)(?: from)?|keep (?:me|us) away from|keep away|stay away from|can't (?:stand|bear|take|handle|deal with)"
    r"|(?:used to|once) (?:be (?:into|a fan of)|love|like|enjoy|watch)|can't be (?:bothered|arsed)(?: with)?"
    r"|could(?:n't| not)? care less(?: about)?|(?:lost|losing|lose) interest in|gr[eo]wn? out of|burn(?:ed|t) out on"
    r"|turned off by|put off by|creeped out by|overdosed on|had it up to here with|allergic to|(?:scared|afraid|terrified) of"
    r"|^why(?= (?:do|does|am|are|is|must|have|has|so|the|all|no|not|can't|don't|always|keep))",
    r"少(?=一?[点些]|[来给看推放播发刷整听吃]|推荐|推送)|减少|降低|讨厌|厌恶|反感|嫌弃|[看听吃玩喝刷读追]?腻了?"
    r"|[看听吃玩喝刷读追]得?(?:多|烦|吐|厌|累|怕)了|厌倦了?|[看听]?烦透?了|烦死了?|(?<=[最很真超好])烦|审美疲劳|放过|饶了"
    r"|砍掉|忌口?|受够了?|(?<![能])够(?![味用格])多?了?|屏蔽掉?|拉黑|过滤掉?|删[掉除]|去[掉除]|移除|关[掉闭]|取消|跳过|略过"
    r"|忽略|避免|避开|远离|拒绝|谢绝|杜绝|抵制|告别|停止|暂停|停(?:一停|掉|一下)?(?=推|给|了|$)|清[理除]?掉|换掉|撤[掉下]"
    r"|踢[掉出]|干掉|隐藏|禁止|受不[了住]|忍不了|看不下去|接受不了|吃不消|顶不住|相比(?:于|起)?|除了|除去|害怕|恐惧|提不起"
    r"|欣赏不来|怕(?=[看见])|比起|过敏",
)
EXCESS = _pattern(
    r"(?:a |an )?(?:bit |way |far |little )*too (?:much|many)|so (?:much|many)"
    r"|(?:keep|kept|been) (?:seeing|getting|being shown)(?: (?:loads|lots|tons|plenty) of)?|overload(?:ed)?(?: with| of)?"
    rf"|^(?:ugh |oh )*(?:not |yet )*another|(?:all|the only thing)(?: that)? (?:i|we)(?: ever)? {_SEE}(?: (?:is|are))?"
    rf"|(?:i|we)(?: only| always| keep| just)+ {_SEE}"
    r"|(?:it's|it is|there's|they're) (?:all|always|only|just|nothing but|constantly)"
    rf"|{_FEED}(?:'s| is| are)(?: just| all| always)* (?:nothing but|all|only|full of|always|flooded with|stuffed with"
    r"|packed with)|(?:you|they) (?:always|constantly|only|just )*keep",
    r"太多|过多|[那这]么多|全都?是|净是|总是?(?=在?[推给看])|老是?(?=在?[推给看])|一直(?=在?[推给])"
    r"|(?:天天|整天|每天)(?:都是|(?=在?[推给看]))|满屏(?:都?是)?|(?:推荐|推送|推|给我看)的(?:全|都|净|全都)?是|到处都?是|又是"
    r"|又来|没完没了的?|刷屏了?|霸屏|泛滥了?|铺天盖地|扎堆|太频繁|一大堆|轰炸"
    r"|(?:怎么|为什么|为啥|咋|干嘛)(?:老|总|又|还|净|全|都|一直|天天)(?:是|在)?",
)
LACK = _pattern(
    r"too (?:few|little)|so (?:few|little)|(?:can't|cannot|can never|never)(?: have| get)? too (?:much|many)"
    r"|can't believe (?:there's|there is|there are) no|no such thing as too (?:much|many)"
    r"|(?:barely|hardly|rarely|seldom)(?: ever)?(?: any| see| get)+"
    r"|(?:you|they) (?:never|don't|rarely|hardly|didn't)(?: ever)? (?:show|recommend|suggest|give|send|play|have)"
    r"|(?:running|run|ran) (?:low on|out of)|short (?:of|on)"
    r"|(?:can't|couldn't|cannot|can never)(?: seem to| ever)? find(?: any)?|can't wait (?:for|to)"
    r"|(?:i |we )?miss(?:ing|ed)?(?: out on)?|lack(?:s|ing)?(?: of)?"
    r"|(?:haven't|hasn't)(?: \w+)? (?:seen|had|heard)(?! enough)|^where (?:are|is|did|have|has)(?: all)?"
    r"|what(?:ever)? happened to|bring back|not (?:only|just)",
    r"太少|不够(?!格)|(?:怎么|为什么|为啥|咋)(?:都|也|还|就|一直|从来|最近)*(?:没有?|不见|看不到|不推荐?|不给)(?:看[到见]"
    r"|见到|刷到|推荐?)?|(?:好|很|已经)*久没?有?[看刷推听](?:[到过见])?|[看听吃玩喝刷]不[腻够厌]|百[看听]不[厌腻]|离不开"
    r"|少不了|不能[没少缺]有?|缺(?:少|乏|点)|想念|怀念|(?:不想|别|不要|不能)?错过|(?:别|不要|不能?)停"
    r"|没[看听吃玩]?(?:够|腻|过瘾)|还[想要](?=[看听])",
)
UP = _pattern(
    r"can't get enough(?: of)?|nothing but|(?:a few |any |some )?more(?: of| like)?|think(?: of)?|^rather|wants?|wanted"
    r"|looking for|searching for|hunting for|needs?|wish(?: for)?|(?:don't|wouldn't|doesn't|not) mind|into|bring on"
    r"|interested in|tr(?:y|ies|ying)(?: out)?|prefer(?:s|red|ably)?|lik(?:e|es|ed|ing)|lov(?:e|es|ed|ing)|ador(?:e|es|ing)"
    r"|enjoy(?:s|ed|ing)?|some|(?:(?:have you )?got|(?:do you )?have|is there|are there) (?:any(?:thing)?|something"
    r"|some)(?: on)?|(?:how|what) about|go for|could (?:use|do with)|in the mood for|(?:up|down|ready|time) for|fancy"
    r"|crav(?:e|ing)|keen on|curious (?:about|to)|hooked on|(?:dying|longing|hungry|thirsty|game|a sucker) for|open to"
    r"|partial to|all (?:about|for)|here for|asked for|prioriti[sz]e|(?:focus|concentrate) on|stick (?:to|with)"
    r"|(?:throw|mix|sprinkle) in|hook me up with|on the lookout for|in (?:search|need) of|back into|exploring|dabbling in"
    r"|(?:it )?(?:would|'d) be (?:great|nice|lovely|cool|good|fun|awesome) (?:to (?:have|see|get|read|hear|watch)"
    r"|if (?:you|there|i|we)(?: could| can)?(?: had| have| was| were| showed| show| got| get)?)"
    r"|(?:crazy|mad|passionate|nuts|excited) about|(?:obsessed|in love|fallen in love) with|addicted to"
    r"|(?:taken|taking|took) up|learn(?:ing)?(?: about)?|(?:a |an )?(?:big |huge )?fan of|big on|more of an?"
    r"|planning(?: on| for)?|thinking (?:about|of)|considering|shopping for|in the market for|saving (?:up )?for|appreciate"
    r"|welcome|add|include|keep(?=.*\bcoming\b)|(?:just|only|strictly|mostly"
    r"|nothing else than)(?! (?:bought|got|had|moved|started|finished|became|saw))|maybe|perhaps|hit me with|surprise me with"
    r"|feed me|yes to|(?:turn|dial|crank|ramp|amp|step) up|(?:help (?:me )?)?(?:choosing|choose|pick)"
    r"|keep(?= (?:showing|recommending|suggesting|sending|giving))|feel(?:ing)? like|after(?= (?:a|an|some|something))"
    r"|to have",
    r"不介意|不排斥|(?:要是|如果|最好)(?:能|有|是|多)?|再?来(?=[一两几三])|看看|听听|多(?:讲讲|说说|聊聊|分享|介绍|安排)"
    r"|多(?:一点|一些|点|些|多|推荐|[来给看推放播听整发](?:一?[点些])?)|更多|想要?(?![象法念点])|要(?![闻点素么])|希望|需要"
    r"|推荐(?!系统|算法)|安利|种草|蹲|更?喜欢上?|爱上了?|爱(?![情国心好])|[来整上](?:一?[点些])|有没有|有木有|有(?:什么|啥)"
    r"|给我|求(?![职生知婚求])|[换改](?:一?[点些]|成|推)|只[想要听看吃喝爱玩对]?|(?:[着沉痴]迷|热衷|沉醉)于?|迷上了?"
    r"|入了?(?=.+坑)|入坑了?|宁[愿可]|打算买?|准备买?|对(?=.*(?:抵抗力|兴趣|感觉))|继续|增[加多]|加[大多]|关[心注]|在乎"
    r"|[超好]想|巴不得|[热酷偏喜最独超钟]爱|偏好|沉迷|向往|好奇|(?:考虑|计划|开始|想着|想要?)(?:入手|入|换|学|试试|研究)|研究"
    r"|试试|囤|急?需|[搞弄添补塞放](?:一?[点些])|安排|分享|介绍|哪[里儿]?有|有无|跪求|馋|加(?=一?[点些])|以.{1,4}为主|上瘾了?"
    r"|过瘾|兴趣|感兴趣|感觉|^换(?![季行届位个掉了一货购点些成])",
)
CARRY = _pattern(
    r"show(?:ing|n|s|ed)?|(?:teach|tell|introduce|point|lead|take|educate) (?:me|us)(?: (?:about|to|towards|on))?"
    r"|giv(?:e|ing)|play(?:ing)?|recommend(?:ing)?|recommendations? (?:for|of)|suggest(?:ing)?|suggestions? for|send(?:ing)?"
    r"|push(?:ing)?|feed(?:ing)?|serv(?:e|ing)|offer(?:ing)?|put(?:ting)? (?:on|in)|bring(?:ing)?|promot(?:e|ing)"
    r"|advertis(?:e|ing)|fill .{1,12} with",
    r"推(?![理拿土]|荐(?:系统|算法))(?:荐|送|广(?!告))?|(?:看|刷|见|碰|遇)[到见]|出现|弹出?|冒出来?|展示|显示|发(?=给)"
    r"|放(?=了|$|点|些)|播放|给(?![力])我?",
)
FILLER = re.compile(
    r"(?:^(?:can|could|wo|would|should|do|is|are)n't (?:we|i|you|they|there)"
    r"|^(?:after|since|when|while|at|in|during|before|every"
    r"|with) [^,]{1,40}?(?=\b(?:i|we|i'd|please|can you|stop|no more|show)\b)"
    r"|a (?:bit|little|lot)(?= (?:more|less|fewer|of|too))|bother(?:ing)?(?: (?:me|us))?(?: with)?|ok|okay|alright|yeah"
    r"|if (?:you|there|i|we)(?:'d| could| can| would| were| was)?|(?:any )?chance (?:of|for)"
    r"|(?:the )?(?:number|amount|volume|flood|stream|frequency|selection|range) of|what's new (?:in|on)"
    r"|the latest (?:on|in|about)|care (?:about|for|much for)|(?:i|we|you|they|it|there)'(?:m|ve|d|ll|re|s)|i|we|they|do|did"
    r"|does|rather|only|you|it|am|have|had|has|can|could|will|would|should|shall|may|might|to|got|gotten|become|became|bought"
    r"|own|another|an?|the|any|all|of|me|us|let's|let|is|are|was|were|been|being|be|there|that|this|these|those|what|which"
    r"|(?:a )?(?:lots?|loads|tons?|heaps|bunch|bits?) of|(?:the )?same (?:old )?|nearly"
    r"|(?:where|how) (?:can|do|could) (?:i|we)|(?:interest|need|desire|appetite|patience|time|room|use|point) (?:in|for|of"
    r"|to)|(?:is|are)n't|please|kindly|hey|hi|hello|sorry|ugh|oh|well|honestly|actually|personally|scrolling (?:past|through)"
    r"|feeling|absolutely|definitely|seriously|possible|much|many|ever|even|hearing|getting|seeing|watching|reading"
    r"|(?:is|are) there (?:a|any) way to|keep|keeps|see|buy|buying|get|find|(?<=\w )(?:watch|read)|and|hear|listen to|cook"
    r"|suddenly|recently|lately|currently|(?:my|our) \w+(?= (?:can|could|will|would|does|do|really|just|also|loves?|likes?"
    r"|wants?|needs?|hates?|enjoys?|prefers?|is|are|was|were|got|has|have|can't|doesn't|don't|never)\b)|(?:new )?pair of"
    r"|about|for|with|on|now|also|just|really|still|always|so many|so|very|completely|totally|quite|super"
    r"|(?:something|anything|everything|stuff|things) (?:about|like|on|to do with|with|containing|involving|featuring"
    r"|related to)|containing|(?:anymore|any more)|(?<=n't )(?:drink|eat|play|use|wear|own)|drink|eat|know|think|believe"
    r"|guess|say|when you|that you|how you)(?:\s+|$)"
    r"|(?:我家?|家里)?(?:孩子|宝宝|娃|老[婆公]|女儿|儿子|爸爸?|妈妈?|爷爷|奶奶|朋友|对象)(?=[想要爱喜不也都很特最超讨迷在开])"
    r"|快?被(?=.+[烦吵腻吐])|以(?=.+为主)|别(?=光|只|净)|(?<=别)[光只净]|(?<=不要)[光只净]|其实|说实话|老实说|说真的|讲真"
    r"|真心|确实|主要|平时|经常|可能|应该|话说|什么时候|啥时候|是(?![否非])|我们?(?!的)|俺|您|你们?|请问?|麻烦|劳驾|拜托了?"
    r"|(?:求求|球球)(?:你|您)?了?|给(?:爸爸?|妈妈?|孩子|朋友|老[婆公]|女儿|儿子|家人|自己|我[妈爸])(?=[买找送挑选])"
    r"|[看听吃喝买学玩读要]一?[点些](?!心)|刚(?=买|入)|已经|买了|入手了?|[能可]不[能可]以?|能否|可否|是否|可以|能(?![量源力])"
    r"|[给帮]我?|再|也|还|就(?!业)|让我?(?=看|听|见)|首页|主页|(?:推荐|首页|列表|页面|歌单|购物车)(?:内容)?里面?|这[些种]"
    r"|那[些种]|所有的?|一切|任何|建议|尽量|稍微|有点|千万|务必|绝对|坚决|永远(?!的)|本人|不知道(?=有|能)|觉得|一律|一概"
    r"|[通统]{2}|全都?|完全|根本|都(?!市)|[很最挺]|非常|特别(?!是)|比较|更(?![多年衣新])|的(?![士确])|真的|那么|怎么"
    r"|家里(?!人)|你们?[推给]的|近|现在|对|什么|啥|太大?(?=[想爱喜感关需兴])|是很?(?=[想爱喜])|感(?=兴趣)|含有?|又|还是"
    r"|用(?=再|推|给|看)|了(?=谢)|以后|今后|今天|今晚|总?[是在]?(?=[推给])|在(?=[学看听玩读找])|了解|把(?![手握玩戏])"
    r"|[看听试]{2}|看(?![点法])[到见]?|刷(?=到)到|听(?![力书说])|学(?![习校生术科院])|找|买(?![手家])|送(?=.{1,2}个)|喝"
    r"|吃(?![播货鸡])|玩(?![具家偶])|尝试|追(?![星风])|一下"
    r"|[一几两三]?[双个款副台本首部条张把件份盆](?![人性灯栽景湾地土子科])|一?些|一?点(?![心评击赞])|到|有?关于?|来(?!自)"
    r"|见(?!面)|\s+",
    re.IGNORECASE,
)
PLAIN_OPINION = re.compile(rf"{_ADVERB}(?:(?P<fine>{_FINE})|{_FOUL})", re.IGNORECASE)
SPOKEN = re.compile(
    r"(?:i|i'd|i'm|we|we'd|you|they|it|it's|who|how|why|what|when|can|could|would|is|are|do|my|our)(?![\w'-])|i'",
    re.IGNORECASE,
)
INSIDE = re.compile(  # a cue behind words that are none
    r"\b(?:you (?:never|always|keep|only|don't)|too (?:much|many)|hates?|tired of|sick of|stop|no more"
    r"|don't (?:want|like|need)|looking for|(?:would|'d) (?:like|love)|i (?:want|need|love|like)|recommend)\b|讨厌|不想"
    r"|不喜欢|不要|别再?推|想[要看听买学找]|喜欢|希望|需要",
    re.IGNORECASE,
)
PRAISE = _pattern(
    rf"(?:would |will |could |can )?{_BE} {_ADVERB}{_FINE}|{_BE_NOT} {_ADVERB}{_FOUL}|instead|(?<!any )more|yes(?: please)?"
    r"|(?:is|are) (?:life|everything|bliss|king|the best)|rocks|rules|ftw|forever|never gets? old|hits the spot"
    r"|(?:interests?|excites?|appeals? to|relaxes|inspires?) (?:me|us)|(?:does|do)n't (?:bother|bore|annoy|scare) (?:me|us)"
    r"|will do|works? (?:for me|too)|coming|the better|(?:is|are) what (?:gets|got|keeps) me \w+|keep (?:it|them) up"
    r"|makes? (?:me|us) (?:happy|laugh|smile)|(?:would )?makes? my (?:day|week)|(?:cheers|calms) (?:me|us) (?:up|down)"
    r"|are what (?:i|we) (?:want|need|like|love|prefer)|(?:i|we) (?:like|love|want|need|enjoy|prefer)",
    r"(?:都|也|还|倒|倒是|就)行|(?:都|也|还|倒|倒是|挺|很|真|太|非常|更)*(?:可以|不错|喜欢|爱[看听吃喝玩]?|有意思"
    r"|好[看听吃喝玩]|感兴趣|有兴趣)的?|[挺很真太非最更好超]常?(?:[好棒香赞]|可爱|有趣|精彩|治愈|解压|有用|实用)的?"
    r"|(?:我是|是我).{0,2}(?:菜|最爱|爱好)|爱好者|发烧友|yyds|上头|无法抗拒|毫无抵抗力"
    r"|(?:快|都|已经|刚)*(?:没|[用吃喝看]完|见底)了|越多越好|多多益善|随便推|尽管推|不[嫌怕]多|走起|为主|优先"
    r"|就(?:更|最)?(?:好|完美|棒)了?|就(?:行|够了|可以)|停不下来|永远的?神|(?:再|可以|能|最好)*多(?:一?[点些]|推荐?|来|放|给)"
    r"|安利|推荐|求",
)
BLAME = _pattern(
    rf"(?:would |will )?{_BE} {_ADVERB}{_FOUL}|{_BE_NOT} {_ADVERB}{_FINE}"
    r"|(?:bores?|annoys?|irritates?|scares?|depress(?:es)?|upsets?|stress(?:es)?|disgusts?|exhausts?|tires?|frustrates?"
    r"|worr(?:y|ies)) (?:me|us)(?: (?:to tears|to death|stiff|out))?"
    r"|makes (?:me|us) (?:sick|sad|angry|anxious|ill|nervous|uncomfortable|cringe|cry)"
    r"|drives (?:me|us) (?:crazy|mad|nuts|insane|up the wall)|gives? (?:me|us) (?:a headache|the creeps|anxiety|nightmares)"
    r"|leaves (?:me|us) cold|(?:does|do|did)(?:n't| not)(?: really)? (?:interest|excite|appeal to|suit"
    r"|do (?:it|anything) for|work for) (?:me|us)|does nothing for (?:me|us)|hard pass|a (?:rest|break|miss)"
    r"|(?:is|are) all (?:i|we)(?: ever)? (?:see|get)|make it (?:stop|end)|(?:is|are)(?:n't| not)|no way|everywhere|nonstop"
    r"|non-stop|get(?:s|ting)? on my nerves|(?:turns?|puts?|grosses|freaks?|creeps?|stresses|wears?) (?:me|us) (?:off|out)"
    r"|can wait|(?:has|have) (?:got )?to go|no thanks|no thank you|nope|nah|sucks?|less|fewer|not|never|no(?: more)?|enough"
    r"|too (?:much|many)|(?:can|could|should|must|have to|has to|needs? to|got to) (?:go|stop|end|disappear|leave)"
    r"|(?:is|are) (?:off (?:the table|limits)|out of the question|a no-?go|over|out|done|dead(?: to (?:me|us))?)"
    rf"|(?:puts?|sends?) (?:me|us) to sleep|(?:off|out|away)(?: (?:of|from))?(?: (?:{_FEED}|me|us|here|(?:my|our) \w+))?"
    r"|(?:is|are) the last thing (?:i|we) (?:need|want)|(?:i|we) (?:hate|dislike|can't stand)|not my \w+",
    r"(?:都|就|还|真|真的|太|好|很|最|实在|有点|已经|早就|我)*(?:无聊|没意思|没劲|烦死?人?|难[看听吃喝熬]|恶心|吵|闹心|无语"
    r"|讨厌|辣眼睛?|算了|免了|(?:也|就)*(?:就?那样|一般般?|凑合|不怎么样)|有(?:很多|好多|不少|一堆)|不[行用了]|用不[着上]"
    r"|没用|不必|戒了|戒掉了?|拉倒|无感|就算|就免|过敏|吐了|够够的)了?|太(?![好棒爱喜香赞美可精有妙酷绝少]).{1,3}了"
    r"|就?(?:想吐|害怕|头[疼大]|反胃|恶心|来气|犯困|难受|烦|生气)"
    r"|[看听刷推吃](?:得|到|的)我?都?(?:头[疼大]|想吐|恶心|反胃|烦|累|困|吐)了?|滚[粗开蛋远]+|(?<!摇)滚$|退退+|达咩|拜拜了?"
    r"|一边去|(?:已经|都|早|我)*(?:有|买|入手|备|囤)[好到齐够]?了|不感冒|不考虑|(?:不合|不对)(?:我?的?)(?:胃口|口味)"
    r"|(?:不|没)?[跟和与]我没?(?:无关|关系)|[看听吃喝用玩]不(?:懂|惯|来|下去?|进去?)|太[贵吵长短慢差难假丑油甜咸辣暗俗乱]"
    r"|[看听吃](?:着|起来)(?:就|都)?(?:难受|恶心|累|烦)|走开|不[好香行]的?|不怎么样",
)
_TAIL = (
    r"(?:please|too|as well|anymore|any more|any longer|thanks|now|already|these days|nowadays|lately|recently|again"
    r"|(?:to|for|on) (?:me|us)|lol|haha|tbh|rn|right now|at the moment|for (?:now|once|a (?:while|change|bit|moment))"
    r"|a (?:bit|little|lot)|at all|(?:in|for) (?:\w+ )?(?:days|weeks|months|years|ages)|any day|all day"
    r"|(?:last|next) (?:week|month|year|summer|winter)|for (?:one|this) (?:year|lifetime|day|week)|my way|in my life"
    r"|whatsoever|for my (?:liking|taste)|either|period|if possible|if you can|or something|in here|in (?:it|them)"
    r"|(?:will|would|can|could) you|ok|okay|all the time|ever|today|tonight|this week|though|really"
    rf"|(?:in|on|from|off) {_FEED})(?![\w-])|了|[吧呢啊呀吗嘛呗哈哦么咯啦]|(?:[行好成]|可以)(?:吗|么|不|不[行好成])"
    r"|(?:引诱|打扰|骚扰|诱惑|折磨|刺激|烦|坑|吓)我|推得|的人(?:飘过|路过)|谢谢|谢啦|什么的|之类的?"
    r"|的(?:内容|推荐|推送|东西)|的坑|坑"
)
TAIL_WORD = re.compile(_TAIL, re.IGNORECASE)
TAIL = re.compile(rf"(?:\s*(?<![\w-])(?:{_TAIL})|(?<=[{_ZH}])(?:{_TAIL})|(?<=.)的)$", re.IGNORECASE)
TAIL_LENGTH = 36  # characters; the longest has fewer, with a few blanks before it
PREDICATE_LENGTH = 48  # characters from a clause's end in which what is said of its subject begins

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
    r"|hilarious|beautiful|happy|glad|recommend(?:ed)?|worth|fantastic|comfortable|delicious|works (?:fine|well|great)"
    r"|buy (?:it )?again)\b|好(?![像几多久难贵慢差吵无想])|棒|赞|喜欢|不错|漂亮|有趣|精彩|满意|深度|完美|香|值得|推荐|会再买"
    r"|舒服|惊喜|耐用|划算"
)
_BAD = (
    r"\b(?:bad|terrible|awful|disappoint\w*|boring|bored|waste|worst|worse|poor(?:ly)?|broken?|broke|horrible|refund|useless"
    r"|hate[ds]?|shallow|damaged|defective|fake|faults?|problems?|issues|fell (?:off|apart)|stop(?:s|ped) working|returned"
    r"|clickbait|too (?:slow|small|big|large|loud|expensive|heavy|hard|short|long|thin|tight|sweet|salty|complicated)"
    r"|leak(?:s|ed)?|one star)\b|失望|难[喝吃看用听]|[太很]差|差[评劲]|太[慢贵小大重吵薄硬软咸淡]|无聊|浪费|垃圾|后悔"
    r"|退[货款]|肤浅|没(?:什么)?意思|不值|不行|不耐用|坏[了掉]|假货|破损|声音很?小|很[慢卡]|上当"
)
_PLAIN = (  # what a "not" in it or before it does not turn round
    r"\b(?:(?:do not|don't|never) buy|(?:not|\w+n't) (?:really |much )?(?:like|work)|never been (?:so|more) disappointed)\b"
    r"|不值(?!得)|不耐用|不行|不咋[地样]|看不懂|标题党|骗人|空洞|很怪"
)
_PRAISE = (
    r"\b(?:can(?:no|')t recommend (?:it |this )?enough|can't (?:fault|complain)|could(?:n't| not) be (?:happier|better))\b"
)
OPINION = re.compile(rf"(?P<plain>{_PLAIN})|{_PRAISE}|(?P<no>{_NOT})(?:(?P<good>{_GOOD})|(?P<bad>{_BAD}))", re.IGNORECASE)
