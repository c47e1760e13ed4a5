"""The rules of the house that no linter knows: CONTRIBUTING.md tells them."""

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from ml_collections import ConfigDict
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "skinjax"
MODULES = sorted(PACKAGE.rglob("*.py"))
CONFIGS = sorted((ROOT / "configs").glob("*.py"))

# The ground that every room stands on; it imports nothing of skinjax.
GROUND = {"errors", "process", "progress"}
# Who may import whom besides, by room or by module of a room.
ARROWS = {
    "__init__": {"modes"},  # when a function is called, not when the package is imported
    "main": {"modes"},
    "modes": {"tasks", "engine", "data", "report"},
    "tasks": {"models", "data.augment", "data.mixing"},
    "engine": set(),
    "models": set(),
    "data": set(),
    "data.records": {"engine.parallel"},
    "data.pipeline": {"engine.parallel"},
    "report": set(),
}

# In pieces, so that this file does not name what it forbids.
FORBIDDEN = {
    "a package registry's address": r"py(?:pi)\.(?:org|io)|python(?:hosted)\.org|ana(?:conda)\.org",
    "a folder of somebody's machine": r"(?<![\w./])/(?:home|root|Users|work)/[\w.-]",
    "a folder beside the repository": r"\.\./sha(?:red)",
    "the number of an issue": r"(?i)\bissues? ?#? ?\d",
}
# .ci/run alone looks beside the repository: for the real images that tests may use.
EXEMPT = {(".ci/run", "a folder beside the repository")}


def name_of(path: Path) -> str:
    """skinjax/data/sources/ham10000.py is data.sources.ham10000."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> Iterator[str]:
    """The dotted names that a file imports, wherever in it: `from a import b` gives a.b."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import hides its room"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def may_import(importer: str, imported: str) -> bool:
    """Whether a module of skinjax may import another; both names lack the leading 'skinjax.'."""
    room = importer.split(".")[0]
    if room in GROUND:
        return False
    allowed = GROUND | {"__version__", room} | ARROWS[room] | ARROWS.get(importer, set())
    return any(imported == name or imported.startswith(f"{name}.") for name in allowed)


def repository_files() -> list[Path]:
    """The files that git has or would take."""
    if not (ROOT / ".git").exists():
        pytest.skip("only git knows which files are the repository's, and this is no clone")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [ROOT / name for name in sorted(listed.split("\0")) if name and (ROOT / name).is_file()]


def text_of(path: Path) -> str | None:
    """A file's text, or None where it is a picture or other bytes."""
    data = path.read_bytes()
    return None if b"\0" in data else data.decode("utf-8")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_down(path):
    importer = name_of(path)
    inside = [name.split(".", 1)[1] for name in imports(path) if name.startswith("skinjax.")]
    wrong = [name for name in inside if not may_import(importer, name)]
    assert not wrong, f"skinjax.{importer} may not import {wrong}: arrows go down only"


def test_every_room_has_its_arrows():
    rooms = {name for name in ARROWS if "." not in name}
    assert {name_of(path).split(".")[0] for path in MODULES} == rooms | GROUND


def test_tensorflow_is_imported_nowhere():
    files = [path for path in repository_files() if path.suffix == ".py"]
    assert len(files) > len(MODULES)
    wrong = [path for path in files for name in imports(path) if name.split(".")[0] == "tensorflow"]
    assert not wrong


def test_a_training_starts_without_what_only_a_report_needs():
    # A second each; PyTorch, which tensorboardX takes where it is there, brings CUDA libraries that
    # must not come ahead of jax's.
    program = "import sys, skinjax.modes.train; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    heavy = {"sklearn", "matplotlib", "torch", "tensorboardX", "pandas", "tensorflow"}
    assert not heavy & set(done.stdout.split())


def test_configs_are_seen_by_main_and_modes_alone():
    rooms = {
        name_of(path).split(".")[0]
        for path in MODULES
        for name in imports(path)
        if name.split(".")[0] == "ml_collections"
    }
    assert rooms == {"main", "modes"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_are_short(path):
    num_lines = len(path.read_text(encoding="utf-8").splitlines())
    assert num_lines <= 400, f"{path} has {num_lines} lines: divide it"


@pytest.mark.parametrize("rule", FORBIDDEN)
def test_files_name_nothing_private(rule):
    found = []
    for path in repository_files():
        name = str(path.relative_to(ROOT))
        for number, line in enumerate((text_of(path) or "").splitlines(), start=1):
            if (name, rule) not in EXEMPT and re.search(FORBIDDEN[rule], line):
                found.append(f"{name}:{number}: {line.strip()[:80]}")
    assert not found, f"{rule}: {found}"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_fields_are_read(path):
    spec = importlib.util.spec_from_file_location(f"configs_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    read = config_reads()
    unread = [
        ".".join(keys)
        for keys in leaves(module.get_config())
        # Handed on whole as keyword arguments, a group is read by the one it is handed to.
        if keys[-1] not in read and not {f"**{key}" for key in keys[:-1]} & read
    ]
    assert not unread, f"{path.name}: nothing in skinjax/modes reads {unread}"


def leaves(config: ConfigDict, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The dotted keys of a config's values, each as a tuple."""
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from leaves(value, (*above, key))
        else:
            yield (*above, key)


def config_reads() -> set[str]:
    """The attributes that skinjax/modes reads, and `**name` for each that it hands on whole.

    modes/config.py, which defines and checks the fields, does not count: a field that is only
    checked is one that nobody needs.
    """
    names = set()
    for path in sorted((PACKAGE / "modes").rglob("*.py")):
        if path.name == "config.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), path)):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                names.add(node.attr)
            elif isinstance(node, ast.keyword):
                whole = node.arg is None and isinstance(node.value, ast.Attribute)
                names |= {f"**{node.value.attr}"} if whole else set()
    return names


def project() -> dict:
    """The [project] table of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def constraints() -> dict[str, str]:
    """Version by normalised name, as constraints.txt has them."""
    pins = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            match = re.fullmatch(r"([A-Za-z0-9._-]+)==([0-9][0-9A-Za-z.+!]*)", line)
            assert match, f"constraints.txt: {line!r} is not name==version"
            pins[canonicalize_name(match[1])] = match[2]
    return pins


def test_constraints_cover_all_that_is_installed():
    pins = constraints()
    extras = project()["optional-dependencies"]
    accelerators = [Requirement(text) for name in ("cuda", "tpu") for text in extras[name]]
    # An accelerator's libraries are not here to be asked for what they need in turn.
    assert {"jax-cuda12-plugin", "jax-cuda12-pjrt", "nvidia-cudnn-cu12", "libtpu"} <= set(pins)

    waiting = [Requirement(text) for text in project()["dependencies"] + extras["test"]]
    seen = set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        assert name in pins, f"constraints.txt lacks {name}"
        assert requirement.specifier.contains(pins[name]), f"{name} {pins[name]}: {requirement}"
        if (name, *sorted(requirement.extras)) in seen:
            continue
        seen.add((name, *sorted(requirement.extras)))
        for text in metadata.requires(name) or ():
            below = Requirement(text)
            contexts = [{"extra": extra} for extra in ("", *requirement.extras)]
            if below.marker is None or any(below.marker.evaluate(each) for each in contexts):
                waiting.append(below)
    assert all(requirement.specifier.contains(pins["jax"]) for requirement in accelerators)


def test_version_is_told_once():
    version = re.search(r'__version__ = "(.+)"', (PACKAGE / "__init__.py").read_text())[1]
    assert "version" in project()["dynamic"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == version
    assert {"cff-version", "message", "title", "authors", "type"} <= citation.keys()
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_documents_point_at_what_exists(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    links = [
        link.partition("#")[0]
        for link in re.findall(r"\]\(([^)\s]+)\)", text)
        if "://" not in link and not link.startswith("#")
    ]
    rooms = "configs|launch|skinjax|tests|notebooks|benchmarks|docs"
    paths = re.findall(rf"(?<![\w./-])(?:{rooms})/[\w./-]*[\w/]", text)
    missing = sorted({path for path in links + paths if not (ROOT / path).exists()})
    assert not missing, f"{name} points at {missing}"
