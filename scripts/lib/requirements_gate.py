"""Requirements of docs/spec against their citations in code and tests.

A requirement is a line that starts with its code in bold: `**MIX-3** A relay drops …`. A citation is a code
anywhere in a source file, alone or as a range: `MIX-1 to MIX-6`.
"""

import re

# Areas whose citations count even when no requirement of theirs is written.
AREAS = ["PACKET", "LINK", "MIX", "RELAY", "COVER", "ENTRY", "CLIENT", "SESSION", "STREAM", "EXIT", "DOC", "DIR"]
_DEFINED = re.compile(r"^(?:[-*] )?\*\*([A-Z]+-\d+)\*\*", re.MULTILINE)


def defined(specs):
    """Where each requirement is written: code to list of files."""
    places = {}
    for name, text in specs.items():
        for match in _DEFINED.finditer(text):
            places.setdefault(match.group(1), []).append(name)
    return places


def cited(sources, areas=AREAS):
    """Where each requirement is cited: code to the first file that does so."""
    names = "|".join(areas)
    ranges = re.compile(rf"\b({names})-(\d+) (?:to|through) (?:\1-)?(\d+)\b")
    single = re.compile(rf"\b((?:{names})-\d+)\b")
    places = {}
    for name, text in sources.items():
        for match in ranges.finditer(text):
            area, first, last = match.group(1), int(match.group(2)), int(match.group(3))
            for number in range(first, last + 1):
                places.setdefault(f"{area}-{number}", name)
        for match in single.finditer(text):
            places.setdefault(match.group(1), name)
    return places


def problems(specs, sources):
    """What does not fit, as sentences."""
    written = defined(specs)
    areas = AREAS + sorted({code.split("-")[0] for code in written} - set(AREAS))
    used = cited(sources, areas)
    found = []
    if not written:
        found.append("docs/spec holds no requirements")
    for code, places in sorted(written.items()):
        if len(places) > 1:
            found.append(f"{code} is written twice: {', '.join(places)}")
        if code not in used:
            found.append(f"{code} ({places[0]}) is cited by no code and no test")
    for code, place in sorted(used.items()):
        if code not in written:
            found.append(f"{place} cites {code}, which docs/spec does not have")
    for area in areas:
        numbers = sorted(int(code.split("-")[1]) for code in written if code.startswith(area + "-"))
        if numbers != list(range(1, len(numbers) + 1)):
            found.append(f"the numbers of {area} have a gap: {numbers}")
    return found

