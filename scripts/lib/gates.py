"""The gates: what must hold for the tree before any test is run.

Each gate is a function from a source (files, or the text of a cargo command) to a list of problems, so that
`scripts/gates --self-test` can hand each one a deliberate fault and see that it is found.
"""

import ast
import json
import re
import subprocess
import tomllib
from pathlib import Path

import requirements_gate
from rust_source import code_only, find

ROOT = Path(__file__).resolve().parents[2]

# Build tools that mean "C, or an assembler outside rustc, is compiled here", and crates that always do so.
C_BUILDERS = {"cc", "cmake", "bindgen", "nasm-rs", "autocfg-c", "pkg-config", "vcpkg"}
C_CRATES = {"ring", "aws-lc-rs", "aws-lc-sys", "aws-lc-fips-sys", "openssl-sys", "zstd-sys", "jemalloc-sys", "tikv-jemalloc-sys"}
# Crates whose name ends in -sys and which are declarations only: no C is compiled.
SYS_WITHOUT_C = {"windows-sys", "linux-raw-sys", "js-sys", "web-sys", "core-foundation-sys", "mach-sys"}

LICENCES = {
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "MIT",
    "MIT-0",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "0BSD",
    "CC0-1.0",
    "Unlicense",
    "Unicode-3.0",
    "BlueOak-1.0.0",
}

# What would tie the protocol to a clock, a socket or the machine's randomness.
IMPURE = (
    r"\btokio\b|\bstd::net\b|\bstd::os\b|\bstd::fs\b|\bstd::thread\b|\bstd::env\b|\bstd::process\b|\bmio\b|\bsocket2\b"
    r"|\bstd::time::Instant\b|\bInstant::now\b|\bSystemTime\b|\bthread_rng\b|\brand::rng\b|\brand::random\b"
    r"|\bOsRng\b|\bSysRng\b|\bThreadRng\b|\bgetrandom\b|\bfrom_os_rng\b|\bfrom_entropy\b"
)
IMPURE_DEPENDENCIES = {"tokio", "mio", "socket2", "getrandom", "rand", "tracing", "chrono", "time"}

# Written so that this file does not match its own rules.
UNFINISHED = "|".join([r"\bto" + r"do!", r"\bunimple" + r"mented!", r"\bd" + r"bg!", r"#\[ig" + r"nore\b"])
UNBOUNDED = "|".join([r"\bunbounded_" + r"channel\b", r"\bUnbounded(?:Sender|Receiver)\b", r"\bstd::sync::mpsc::channel\b", r"\bmpsc::chan" + r"nel(?:::<[^()]*>)?\(\)"])
MACHINE = "|".join(
    [
        r"/ho" + r"me/\w+",
        r"/ro" + r"ot/",
        r"/Us" + r"ers/\w+",
        r"(?<![\w.])/wo" + r"rk/",
        r"\bindex\.crates" + r"\.io\b",
        r"\bstatic\.crates" + r"\.io\b",
        r"\bregistry\.npm" + r"js\.org\b",
        r"\bfiles\.python" + r"hosted\.org\b",
    ]
)
LOCK_SOURCES = {"registry+https://github.com/rust-lang/crates.io-index"}


# ---------------------------------------------------------------------------------------------- sources


def run(*command, cwd=ROOT):
    """Exit code and output of a command."""
    done = subprocess.run(command, cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return done.returncode, done.stdout, done.stderr


def tracked(root):
    """Files that are, or are about to be, part of the tree."""
    code, listing, _ = run("git", "ls-files", "-co", "--exclude-standard", cwd=root)
    if code == 0 and listing:
        names = listing.split("\n")
    else:
        names = [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()]
    return [Path(name) for name in names if name and (root / name).is_file()]


def texts(root, *suffixes):
    """Paths and contents of the tree's text files, of these suffixes if any are given."""
    for name in tracked(root):
        if suffixes and name.suffix not in suffixes:
            continue
        try:
            yield name, (root / name).read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError):
            continue


def cargo_text(*arguments):
    code, out, err = run("cargo", *arguments)
    if code != 0:
        raise RuntimeError(f"cargo {' '.join(arguments)}: {err.strip()[-400:]}")
    return out


# ------------------------------------------------------------------------------------------ gates: cargo


def gate_format(root=ROOT):
    """cargo fmt leaves every file as it is"""
    code, out, err = run("cargo", "fmt", "--all", "--check", cwd=root)
    if code == 0:
        return []
    files = sorted({line.split(":")[0].removeprefix("Diff in ") for line in out.splitlines() if line.startswith("Diff in ")})
    return [f"not formatted: {Path(name).name} (run: cargo fmt --all)" for name in files] or [err.strip() or "cargo fmt failed"]


def gate_clippy(root=ROOT, locked=True):
    """clippy is silent, warnings count as errors"""
    command = ["cargo", "clippy", "--workspace", "--all-targets", *(["--locked"] if locked else []), "--quiet", "--", "-D", "warnings"]
    code, _, err = run(*command, cwd=root)
    if code == 0:
        return []
    lines = err.splitlines()
    problems = []
    for index, line in enumerate(lines):
        if re.match(r"error(\[\w+\])?: ", line) and not line.startswith("error: could not compile"):
            place = next((later.strip() for later in lines[index + 1 : index + 3] if "-->" in later), "")
            problems.append(f"{line} {place}")
    return problems or [err.strip()[-400:]]


def tree_paths(text):
    """From `cargo tree --prefix depth`: every package with the way down to it."""
    stack = []
    for line in text.splitlines():
        match = re.match(r"(\d+)(\S+) (v\S+)", line)
        if match:
            depth = int(match.group(1))
            del stack[depth:]
            stack.append(match.group(2))
            yield list(stack)


def gate_no_c(tree=None):
    """no C is compiled in the default dependency tree"""
    tree = tree if tree is not None else cargo_text(
        "tree", "--workspace", "--locked", "--target", "all", "-e", "normal,build", "--prefix", "depth"
    )
    problems, seen = [], set()
    for way in tree_paths(tree):
        name = way[-1]
        is_sys = name.endswith("-sys") and name not in SYS_WITHOUT_C
        if (name in C_BUILDERS or name in C_CRATES or is_sys) and name not in seen:
            seen.add(name)
            problems.append(f"{name} compiles or links C, by the path {' > '.join(way)}")
    return problems


def licence_allowed(expression):
    """True if an SPDX expression can be met with the licences of the allow list."""
    tokens = re.findall(r"\(|\)|[^\s()/]+|/", expression)

    def either():
        result = both()
        while tokens and tokens[0] in ("OR", "/"):
            tokens.pop(0)
            other = both()
            result = result or other
        return result

    def both():
        result = one()
        while tokens and tokens[0] == "AND":
            tokens.pop(0)
            other = one()
            result = result and other
        return result

    def one():
        token = tokens.pop(0)  # an expression that ends too early is not allowed, see below
        if token == "(":
            result = either()
            if tokens:
                tokens.pop(0)
            return result
        while tokens and tokens[0] == "WITH":
            tokens.pop(0)
            token += " WITH " + (tokens.pop(0) if tokens else "")
        return token in LICENCES

    try:
        return either() and not tokens
    except IndexError:
        return False


def gate_licences(metadata=None):
    """every dependency can be used under a permissive licence"""
    text = metadata if metadata is not None else cargo_text("metadata", "--locked", "--format-version", "1", "--all-features")
    problems = []
    for package in json.loads(text)["packages"]:
        licence = package.get("license")
        if not licence:
            problems.append(f"{package['name']} {package['version']} states no licence")
        elif not licence_allowed(licence):
            problems.append(f"{package['name']} {package['version']} is under {licence}")
    return problems


def packages_of(crate):
    listing = cargo_text("tree", "--locked", "-p", crate, "-e", "normal", "--prefix", "none")
    return {line.split(" (")[0] for line in listing.splitlines() if line.strip()}


def gate_ceilings(table=None, members=None, packages=packages_of):
    """no crate draws in more packages than its ceiling, nor one that it must not"""
    table = table if table is not None else tomllib.loads((ROOT / "scripts/ceilings.toml").read_text())
    if members is None:
        metadata = json.loads(cargo_text("metadata", "--locked", "--no-deps", "--format-version", "1"))
        members = [package["name"] for package in metadata["packages"]]
    problems = []
    for crate in members:
        found = packages(crate)
        ceiling = table["ceilings"].get(crate)
        if ceiling is None:
            problems.append(f"{crate} has no ceiling in scripts/ceilings.toml (it draws in {len(found)})")
        elif len(found) > ceiling:
            problems.append(f"{crate} draws in {len(found)} packages, its ceiling is {ceiling}")
        names = {package.split()[0] for package in found}
        for forbidden in table.get("forbidden", {}).get(crate, []):
            if forbidden in names:
                problems.append(f"{crate} must not depend on {forbidden} (see: cargo tree -p {crate} -i {forbidden})")
    return problems


def gate_fuzz_lock(root=ROOT):
    """fuzz/, a workspace of its own, is locked to the versions of this one"""
    locks = [tomllib.loads((root / folder / "Cargo.lock").read_text())["package"] for folder in (".", "fuzz")]
    ours, theirs = ({(package["name"], package["version"]) for package in lock} for lock in locks)
    names = {name for name, _ in ours}
    return [
        f"fuzz/Cargo.lock has {name} {version}, Cargo.lock another (run: cargo update --manifest-path fuzz/Cargo.toml -p {name} --precise VERSION)"
        for name, version in sorted(theirs - ours)
        if name in names
    ]


# ---------------------------------------------------------------------------------------- gates: sources


def gate_protocol_is_pure(root=ROOT):
    """no clock, socket or global randomness in protocol/"""
    problems = []
    for name, text in texts(root, ".rs"):
        if name.parts[:2] == ("protocol", "src"):
            problems += [f"{name}:{line}: {word}" for line, word in find(code_only(text), IMPURE)]
    manifest = root / "protocol/Cargo.toml"
    if manifest.exists():
        direct = tomllib.loads(manifest.read_text()).get("dependencies", {})
        problems += [f"protocol/Cargo.toml: depends on {name}" for name in sorted(IMPURE_DEPENDENCIES & set(direct))]
    else:
        problems.append("protocol/Cargo.toml is missing")
    return problems


def gate_no_unsafe(root=ROOT):
    """unsafe code appears nowhere, and every crate takes the workspace's lints"""
    problems = []
    for name, text in texts(root, ".rs"):
        problems += [f"{name}:{line}: {word}" for line, word in find(code_only(text), r"\bunsafe\b(?!_)")]
    manifest = tomllib.loads((root / "Cargo.toml").read_text())
    if manifest["workspace"].get("lints", {}).get("rust", {}).get("unsafe_code") != "forbid":
        problems.append("Cargo.toml: [workspace.lints.rust] unsafe_code is not forbid")
    for member in manifest["workspace"]["members"]:
        lints = tomllib.loads((root / member / "Cargo.toml").read_text()).get("lints", {})
        if lints.get("workspace") is not True:
            problems.append(f"{member}/Cargo.toml: [lints] workspace = true is missing")
    return problems


def gate_finished(root=ROOT):
    """nothing unfinished: no placeholders, no tests that are passed over"""
    problems = []
    for name, text in texts(root, ".rs"):
        problems += [f"{name}:{line}: {word}" for line, word in find(code_only(text), UNFINISHED)]
    return problems


def gate_bounded(root=ROOT):
    """every channel has a bound"""
    problems = []
    for name, text in texts(root, ".rs"):
        code = code_only(text)
        problems += [f"{name}:{line}: {word}" for line, word in find(code, UNBOUNDED)]
        if re.search(r"use std::sync::mpsc", code):
            problems += [f"{name}:{line}: {word}" for line, word in find(code, r"(?<![\w:])channel(?:::<[^()]*>)?\(\)")]
    return problems


def gate_no_machine(root=ROOT):
    """no paths of a machine, no hosts of a package registry"""
    problems = []
    for name, text in texts(root):
        if name.name == "Cargo.lock":
            for line, source in find(text, r'(?<=^source = ")[^"]+'):
                if source not in LOCK_SOURCES:
                    problems.append(f"{name}:{line}: {source}")
        else:
            problems += [f"{name}:{line}: {found}" for line, found in find(text, MACHINE)]
    return problems


def gate_dependencies_explained(root=ROOT):
    """each dependency of the workspace stands under a reason, and no crate names a version of its own"""
    problems, reason, inside = [], False, False
    for number, line in enumerate((root / "Cargo.toml").read_text().splitlines(), 1):
        if line.startswith("["):
            inside, reason = line.strip() == "[workspace.dependencies]", False
        elif not line.strip():
            reason = False
        elif line.startswith("#"):
            reason = True
        elif inside and not reason:
            problems.append(f"Cargo.toml:{number}: {line.split('=')[0].strip()} has no comment that says why")
    for member in tomllib.loads((root / "Cargo.toml").read_text())["workspace"]["members"]:
        manifest = tomllib.loads((root / member / "Cargo.toml").read_text())
        for table in ("dependencies", "dev-dependencies", "build-dependencies"):
            for name, value in manifest.get(table, {}).items():
                if not (isinstance(value, dict) and value.get("workspace") is True):
                    problems.append(f"{member}/Cargo.toml: {name} does not come from the workspace's table")
    return problems


def gate_requirements(root=ROOT):
    """every requirement of docs/spec is cited by code or a test, and every citation exists"""
    sources = {
        str(name): text
        for name, text in texts(root, ".rs", ".py")
        if name.name not in ("requirements_gate.py", "gates.py", "gates_self_test.py")
    }
    specs = {str(name): text for name, text in texts(root, ".md") if name.parts[:2] == ("docs", "spec")}
    return requirements_gate.problems(specs, sources)


def gate_links(root=ROOT):
    """links inside the documents lead somewhere"""
    problems = []
    for name, text in texts(root, ".md"):
        prose = re.sub(r"```.*?```", lambda block: re.sub(r"[^\n]", " ", block.group(0)), text, flags=re.DOTALL)
        for line, target in find(prose, r"(?<=\]\()[^)\s]+(?=\))"):
            if re.match(r"[a-z]+:", target) or target.startswith("#"):
                continue
            if not (root / name.parent / target.split("#")[0]).exists():
                problems.append(f"{name}:{line}: {target} does not exist")
    return problems


def gate_scripts(root=ROOT):
    """the scripts parse, can be run, and their own tests pass"""
    problems = []
    for name in tracked(root):
        if name.parts[0] not in ("scripts", ".ci"):
            continue
        path = root / name
        if name.suffix == ".py":
            try:
                ast.parse(path.read_text())
            except SyntaxError as error:
                problems.append(f"{name}:{error.lineno}: {error.msg}")
        elif not name.suffix:
            if not path.stat().st_mode & 0o100:
                problems.append(f"{name} is not executable")
            head = path.read_text().split("\n", 1)[0]
            if "bash" in head or head.endswith("/sh"):
                code, _, err = run("bash", "-n", str(path))
                if code != 0:
                    problems.append(f"{name}: {err.strip()}")
    tests = root / "scripts/lib/tests"
    if tests.is_dir():
        code, _, err = run("python3", "-m", "unittest", "discover", "-s", str(tests), "-t", str(tests), cwd=root)
        if code != 0:
            problems.append("the tests of scripts/lib fail: " + err.strip()[-600:])
    return problems


GATES = [
    gate_format,
    gate_scripts,
    gate_no_machine,
    gate_finished,
    gate_no_unsafe,
    gate_bounded,
    gate_protocol_is_pure,
    gate_dependencies_explained,
    gate_links,
    gate_requirements,
    gate_no_c,
    gate_licences,
    gate_ceilings,
    gate_fuzz_lock,
    gate_clippy,
]
