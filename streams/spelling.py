"""Spell English cue words as a dictionary has them: "dont", "pls", "stpo recomending".

Knows no subjects: other words are left alone.
"""

from __future__ import annotations

import re

_SHORT = {
    "pls": "please", "plz": "please", "thx": "thanks", "ty": "thanks", "w": "with", "u": "you", "ur": "your", "moar": "more",
    "gimme": "give me", "wanna": "want to", "gonna": "going to", "lemme": "let me", "cuz": "because", "cos": "because",
    "coz": "because", "im": "i'm", "ive": "i've", "id": "i'd", "its": "it's", "theres": "there's", "youd": "you'd",
    "whats": "what's", "thats": "that's",
}  # fmt: skip
_CUES = (
    "stop", "more", "less", "show", "want", "need", "hate", "enough", "please", "fewer", "never", "showing", "recommend",
    "recommending", "suggest", "suggesting", "pushing", "instead", "without",
)  # fmt: skip
_WORDS_TOO = {"sowing"}
_LONG = 7  # letters, from which on a letter may be missing or doubled; of shorter ones, that makes other words


def _slips(word: str) -> set[str]:
    """Return what a word is typed as when two neighbours change places or, of a long one, a letter is missing or doubled."""
    places = range(len(word) - 1)
    slips = {word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in places}
    if len(word) >= _LONG:
        slips |= {word[:i] + word[i + 1 :] for i in places} | {word[:i] + word[i] + word[i:] for i in places}
    return slips - set(_CUES) - _WORDS_TOO


_SPELT = {slip: word for word in _CUES for slip in _slips(word)} | _SHORT
_NEGATED = re.compile(r"(do|does|did|is|are|was|were|ca|could|wo|would|should|have|has|had)nt")
_WORD = re.compile(r"(?<![\w'&-])([a-z]+)(?![\w'&-])(?:/(?!\w))?", re.IGNORECASE)  # also the "w/" of "done w/ zombies"


def spell(text: str) -> str:
    """Return a text with its cue words spelt out."""
    return _WORD.sub(_spelt, text)


def _spelt(match: re.Match[str]) -> str:
    word = match[1].lower()
    negated = _NEGATED.fullmatch(word)
    return f"{negated[1]}n't" if negated else _SPELT.get(word, match.group())
