"""Hands each gate a deliberate fault, and the same without the fault: the first must be found, the second not."""

import json
import tempfile
from pathlib import Path

import gates

_MANIFEST = """[workspace]
resolver = "3"
members = ["protocol"]
[workspace.lints.rust]
unsafe_code = "forbid"
[workspace.dependencies]
# Why it is here.
serde = "1"
"""
_MEMBER = """[package]
name = "mizzle-protocol"
version = "0.1.0"
edition = "2024"
[lints]
workspace = true
"""
_SOURCE = "//! A crate.\n\n/// One.\npub fn one() -> u32 {\n    1\n}\n"
_SPEC = "**MIX-1** A relay does one thing.\n"


def _tree(changes):
    """A small tree that passes every gate, with `changes` made to it; a value of None removes a file."""
    files = {
        "Cargo.toml": _MANIFEST,
        "protocol/Cargo.toml": _MEMBER,
        "protocol/src/lib.rs": _SOURCE + "// (spec: MIX-1)\n",
        "docs/spec/mixing.md": _SPEC,
        "README.md": "See [the specification](docs/spec/mixing.md).\n",
        "scripts/good": "#!/usr/bin/env bash\ntrue\n",
        "scripts/lib/good.py": "GOOD = True\n",
    }
    files.update(changes)
    folder = tempfile.TemporaryDirectory()
    for name, text in files.items():
        if text is None:
            continue
        path = Path(folder.name) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        if name.startswith("scripts/") and not path.suffix:
            path.chmod(0o755)
    return folder


def _on_tree(gate, **changes):
    def probe():
        with _tree({name: text for name, text in changes.get("files", {}).items()}) as folder:
            return gate(Path(folder))

    return probe


def _source(extra):
    return {"files": {"protocol/src/lib.rs": _SOURCE + "// (spec: MIX-1)\n" + extra}}


def _metadata(*licences):
    return json.dumps({"packages": [{"name": f"p{i}", "version": "1.0.0", "license": l} for i, l in enumerate(licences)]})


def _cases():
    """Name of the gate, what is put before it, the probe, and whether a problem is due."""
    tree = _on_tree
    yield "format", "a formatted file", tree(gates.gate_format, **_source("")), False
    yield "format", "a line out of form", tree(gates.gate_format, **_source("pub fn  two( )->u32{2}\n")), True
    clippy = lambda root: gates.gate_clippy(root, locked=False)
    yield "clippy", "clean code", tree(clippy, **_source("")), False
    yield "clippy", "a needless return", tree(clippy, **_source("\n/// Two.\npub fn two() -> u32 {\n    return 2;\n}\n")), True
    good = "0mizzle-relay v0.1.0\n1rustls v0.23.0\n1windows-sys v0.61.0\n"
    yield "no_c", "a tree free of C", lambda: gates.gate_no_c(good), False
    for name in ("cc", "cmake", "bindgen", "ring", "aws-lc-sys", "zstd-sys", "libz-sys"):
        yield "no_c", f"{name} below rustls", lambda name=name: gates.gate_no_c(good + f"1rustls v0.23.0\n2{name} v1.0.0\n"), True
    for licence in ("MIT", "MIT OR Apache-2.0", "MIT/Apache-2.0", "(MIT OR Apache-2.0) AND Unicode-3.0", "MIT OR GPL-3.0-only"):
        yield "licences", licence, lambda licence=licence: gates.gate_licences(_metadata("MIT", licence)), False
    for licence in ("GPL-3.0-only", "LGPL-2.1-or-later", "AGPL-3.0-only", "MIT AND GPL-2.0-only", None, "MIT OR", "SSPL-1.0"):
        yield "licences", str(licence), lambda licence=licence: gates.gate_licences(_metadata("MIT", licence)), True
    table = {"ceilings": {"mizzle-client": 2}, "forbidden": {"mizzle-client": ["clap"]}}
    ceiling = lambda packages, members=("mizzle-client",): lambda: gates.gate_ceilings(table, members, lambda _: packages)
    yield "ceilings", "two packages of two", ceiling({"mizzle-client v1", "serde v1"}), False
    yield "ceilings", "three packages of two", ceiling({"mizzle-client v1", "serde v1", "toml v1"}), True
    yield "ceilings", "a forbidden package", ceiling({"mizzle-client v1", "clap v4"}), True
    yield "ceilings", "a crate without a ceiling", ceiling({"other v1"}, ("other",)), True
    lock = lambda *versions: "".join(f'[[package]]\nname = "serde"\nversion = "{version}"\n' for version in versions)
    locks = lambda fuzz: {"Cargo.lock": lock("1.0.1"), "fuzz/Cargo.lock": fuzz + '[[package]]\nname = "cc"\nversion = "1.0.0"\n'}
    yield "fuzz_lock", "the same versions, and more packages", tree(gates.gate_fuzz_lock, files=locks(lock("1.0.1"))), False
    yield "fuzz_lock", "another version", tree(gates.gate_fuzz_lock, files=locks(lock("1.0.2"))), True
    yield "protocol_is_pure", "pure code", tree(gates.gate_protocol_is_pure), False
    yield "protocol_is_pure", "words in comments and texts", tree(
        gates.gate_protocol_is_pure, **_source('// tokio\n/// OsRng\npub const T: &str = "std::net";\n')
    ), False
    for line in (
        "use tokio::net::TcpStream;",
        "use std::net::IpAddr;",
        "fn f() { let _ = std::time::Instant::now(); }",
        "fn f() { let _ = SystemTime::now(); }",
        "fn f() { let _ = rand::thread_rng(); }",
        "fn f() { let _ = rand::rng(); }",
        "use rand_core::OsRng;",
        "fn f() { getrandom::fill(&mut []); }",
    ):
        yield "protocol_is_pure", line, tree(gates.gate_protocol_is_pure, **_source(line + "\n")), True
    yield "protocol_is_pure", "a dependency on getrandom", tree(
        gates.gate_protocol_is_pure, files={"protocol/Cargo.toml": _MEMBER + "[dependencies]\ngetrandom.workspace = true\n"}
    ), True
    yield "no_unsafe", "safe code", tree(gates.gate_no_unsafe, **_source("// unsafe\n")), False
    yield "no_unsafe", "an unsafe block", tree(gates.gate_no_unsafe, **_source("fn f() { unsafe { g() } }\n")), True
    yield "no_unsafe", "a crate without the lints", tree(
        gates.gate_no_unsafe, files={"protocol/Cargo.toml": _MEMBER.replace("workspace = true", "")}
    ), True
    yield "no_unsafe", "the lint taken out", tree(gates.gate_no_unsafe, files={"Cargo.toml": _MANIFEST.replace("forbid", "allow")}), True
    yield "finished", "finished code", tree(gates.gate_finished), False
    for line in ("fn f() { to" + "do!() }", "fn f() { unimple" + "mented!() }", "#[ig" + "nore]\nfn f() {}"):
        yield "finished", line, tree(gates.gate_finished, **_source(line + "\n")), True
    yield "bounded", "a bounded channel", tree(gates.gate_bounded, **_source("use tokio::sync::mpsc;\nfn f() { mpsc::channel(4); }\n")), False
    yield "bounded", "an unbounded one", tree(gates.gate_bounded, **_source("fn f() { mpsc::unbounded_" + "channel(); }\n")), True
    yield "bounded", "one of the standard library", tree(
        gates.gate_bounded, **_source("use std::sync::mpsc;\nfn f() { mpsc::channel(); }\n")
    ), True
    yield "no_machine", "a clean tree", tree(gates.gate_no_machine), False
    for text in ("/ho" + "me/someone/x", "/ro" + "ot/.cargo", "/wo" + "rk/main", "https://index.crates" + ".io/x"):
        yield "no_machine", text, tree(gates.gate_no_machine, files={"README.md": text}), True
    yield "no_machine", "a lock file with another source", tree(
        gates.gate_no_machine, files={"Cargo.lock": '[[package]]\nsource = "sparse+https://mirror.example/index/"\n'}
    ), True
    yield "dependencies_explained", "a reason for each", tree(gates.gate_dependencies_explained), False
    yield "dependencies_explained", "a dependency without a reason", tree(
        gates.gate_dependencies_explained, files={"Cargo.toml": _MANIFEST + '\nlibm = "0.2"\n'}
    ), True
    yield "dependencies_explained", "a version of its own", tree(
        gates.gate_dependencies_explained, files={"protocol/Cargo.toml": _MEMBER + '[dependencies]\nserde = "1"\n'}
    ), True
    yield "links", "a link that leads somewhere", tree(gates.gate_links), False
    yield "links", "a dead link", tree(gates.gate_links, files={"README.md": "[gone](docs/gone.md)\n"}), True
    yield "requirements", "cited and written", tree(gates.gate_requirements), False
    yield "requirements", "written, not cited", tree(
        gates.gate_requirements, files={"docs/spec/mixing.md": _SPEC + "**MIX-2** Another thing.\n"}
    ), True
    yield "requirements", "cited, not written", tree(gates.gate_requirements, **_source("// MIX-1 to MIX-2\n")), True
    yield "requirements", "written twice", tree(gates.gate_requirements, files={"docs/spec/link.md": _SPEC}), True
    yield "scripts", "good scripts", tree(gates.gate_scripts), False
    yield "scripts", "a Python file that does not parse", tree(gates.gate_scripts, files={"scripts/lib/bad.py": "def f(:\n"}), True
    yield "scripts", "a shell script that does not parse", tree(gates.gate_scripts, files={"scripts/bad": "#!/usr/bin/env bash\nif\n"}), True
    yield "scripts", "a test that fails", tree(
        gates.gate_scripts,
        files={
            "scripts/lib/tests/test_bad.py": "import unittest\nclass T(unittest.TestCase):\n    def test_x(self):\n        self.fail()\n"
        },
    ), True


def main():
    passed = failed = 0
    seen = {}
    for gate, what, probe, due in _cases():
        problems = probe()
        good = bool(problems) == due
        passed, failed = (passed + 1, failed) if good else (passed, failed + 1)
        seen.setdefault(gate, set()).add(due)
        if not good:
            print(f"FAIL  {gate}: {what!r} was {'not found' if due else 'found faulty: ' + problems[0]}")
    for gate in gates.GATES:
        name = gate.__name__.removeprefix("gate_")
        if seen.get(name) != {True, False}:
            failed += 1
            print(f"FAIL  {name}: the self-test does not show it both a fault and none")
    print(f"gates, self-test: {passed} passed, {failed} failed")
    return 1 if failed else 0
