"""Prints the licences of all crates that are linked into one of ours: `third_party.py CRATE`."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("license", "licence", "copying", "copyright", "notice", "unlicense")


def linked(crate):
    """Name and version of every package below a crate, for this machine."""
    tree = ("tree", "--locked", "-p", crate, "-e", "normal", "--prefix", "none", "--format", "{p}")
    return {tuple(line.split()[:2]) for line in _cargo(*tree).splitlines() if line}


def licence_files(folder):
    return sorted(path for path in folder.iterdir() if path.is_file() and path.name.lower().startswith(NAMES))


def main(crate):
    wanted = linked(crate)
    packages = json.loads(_cargo("metadata", "--locked", "--format-version", "1"))["packages"]
    found = [p for p in packages if p["source"] and (p["name"], f"v{p['version']}") in wanted]
    texts = {}
    print(f"{crate} contains the following works of others. The texts of their licences follow the list.\n")
    for package in sorted(found, key=lambda p: (p["name"], p["version"])):
        marks = []
        for path in licence_files(Path(package["manifest_path"]).parent):
            text = path.read_text(errors="replace").replace("\r\n", "\n").strip()
            number = texts.setdefault(hashlib.sha256(text.encode()).hexdigest(), (len(texts) + 1, text))[0]
            marks.append(f"[{number}]")
        print(f"{package['name']} {package['version']}: {package['license']} {' '.join(marks)}".rstrip())
    for number, text in sorted(texts.values()):
        print(f"\n{'-' * 100}\n[{number}]\n\n{text}")


def _cargo(*words):
    return subprocess.run(["cargo", *words], cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE).stdout


if __name__ == "__main__":
    main(sys.argv[1])
