"""Reading Rust sources for the gates: code without its comments and strings, with line numbers kept."""

import re

# Order matters: what starts first in the text wins. Raw strings carry their number of hashes.
_TOKEN = re.compile(
    r"""
    (?P<line>//[^\n]*)
  | (?P<block>/\*.*?\*/)
  | (?P<raw>\bb?r(?P<hashes>\#*)".*?"(?P=hashes))
  | (?P<text>\bb?"(?:\\.|[^"\\])*"|"(?:\\.|[^"\\])*")
  | (?P<char>b?'(?:\\.[^']*|[^'\\])')
    """,
    re.VERBOSE | re.DOTALL,
)


def code_only(text):
    """The text with comments and the insides of literals blanked; every line keeps its number."""

    def blank(match):
        found = match.group(0)
        return re.sub(r"[^\n]", " ", found)

    return _TOKEN.sub(blank, text)


def comments_only(text):
    """The reverse: comments, with all else blanked."""

    def keep(match):
        found = match.group(0)
        if match.lastgroup in ("line", "block") or found.startswith(("//", "/*")):
            return found
        return re.sub(r"[^\n]", " ", found)

    out, end = [], 0
    for match in _TOKEN.finditer(text):
        out.append(re.sub(r"[^\n]", " ", text[end : match.start()]))
        out.append(keep(match))
        end = match.end()
    out.append(re.sub(r"[^\n]", " ", text[end:]))
    return "".join(out)


def find(text, pattern):
    """Line numbers and matches of `pattern` in `text`."""
    for number, line in enumerate(text.splitlines(), 1):
        for match in re.finditer(pattern, line):
            yield number, match.group(0)
