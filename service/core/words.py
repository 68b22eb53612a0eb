r"""Where a text may be cut: behind a word, and where words have no spaces, behind a grapheme.

Rule 1: never inside an extended grapheme cluster (Unicode UAX #29, `\X`): families of emoji, flags,
        combining marks and CR LF stay whole.
Rule 2: white space goes with the word behind it, as the tokens of language models have it.
Rule 3: what is written without spaces (Chinese, Japanese, Thai, emoji) may be cut behind each
        grapheme, with the punctuation that closes it.
Rule 4: a run without spaces, a URL or base64, has a cut after 64 graphemes at the latest.
"""

import re
from typing import Final

import regex

_UNSPACED: Final = (
    r"\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
    r"\p{Extended_Pictographic}\p{Regional_Indicator}"
)
_CLOSING: Final = r"\p{Pe}\p{Pf}\p{Po}"
_WORD: Final = regex.compile(
    rf"\s*+(?:(?=[{_UNSPACED}])\X(?:(?=[{_CLOSING}])\X)*+|(?:(?![\s{_UNSPACED}])\X){{1,64}}+)|\s++"
)
_ASCII_WORD: Final = re.compile(r"\s*\S{1,64}|\s+")  # each character is a grapheme, but CR LF


def word_end(text: str, start: int, least: int) -> int:
    """Return the first place to cut at or behind `least`; the text's end if there is none.

    `start`: a place where the text was cut, or 0; counted, like all, in code points. Cut after cut,
    each from the one before it, reads the text once.
    """
    match = (_ASCII_WORD if text.isascii() else _WORD).match
    end = start
    while end < least and (found := match(text, end)) is not None:
        end = found.end()
    return end
