"""Requirements of docs/spec against their citations in code and tests.

A requirement is a line that starts with its code in bold: `**MIX-3** A relay drops …`. A citation is a code
anywhere in a source file, alone or as a range: `MIX-1 to MIX-6`.
"""

import re

AREAS = "PACKET|LINK|MIX|RELAY|COVER|SESSION|STREAM|ENTRY|CLIENT|DOC|DIR"
_DEFINED = re.compile(rf"^(?:[-*] )?\*\*((?:{AREAS})-\d+)\*\*", re.MULTILINE)
_RANGE = re.compile(rf"\b({AREAS})-(\d+) (?:to|through) (?:\1-)?(\d+)\b")
_ONE = re.compile(rf"\b((?:{AREAS})-\d+)\b")


def defined(specs):
    """Where each requirement is written: code to list of files."""
    places = {}
    for name, text in specs.items():
        for match in _DEFINED.finditer(text):
            places.setdefault(match.group(1), []).append(name)
    return places


def cited(sources):
    """Where each requirement is cited: code to the first file that does so."""
    places = {}
    for name, text in sources.items():
        for match in _RANGE.finditer(text):
            area, first, last = match.group(1), int(match.group(2)), int(match.group(3))
            for number in range(first, last + 1):
                places.setdefault(f"{area}-{number}", name)
        for match in _ONE.finditer(text):
            places.setdefault(match.group(1), name)
    return places


def problems(specs, sources):
    """What does not fit, as sentences."""
    written, used = defined(specs), cited(sources)
    found = []
    if not written:
        found.append("docs/spec holds no requirements")
    for code, places in sorted(written.items(), key=_order):
        if len(places) > 1:
            found.append(f"{code} is written twice: {', '.join(places)}")
        if code not in used:
            found.append(f"{code} ({places[0]}) is cited by no code and no test")
    for code, place in sorted(used.items(), key=_order):
        if code not in written:
            found.append(f"{place} cites {code}, which docs/spec does not have")
    for area in AREAS.split("|"):
        numbers = sorted(int(code.split("-")[1]) for code in written if code.startswith(area + "-"))
        if numbers != list(range(1, len(numbers) + 1)):
            found.append(f"the numbers of {area} have a gap: {numbers}")
    return found


def _order(item):
    area, number = item[0].split("-")
    return AREAS.split("|").index(area), int(number)
