"""
The layers hold: imports go only downwards, without cycles; the door opens fast, without libvirt.

    cli -> the door -> testing, host -> plan -> parse -> model -> render -> errors, units
"""

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "fibackup"
DOOR = "fibackup"

BOTTOM = {"errors", "units", "codec"}
PURE = BOTTOM | {"model", "parse", "plan", "render"}
ALLOWED: Mapping[str, set[str]] = {
    "errors": set(),
    "units": set(),
    "codec": {"errors"},
    "render": BOTTOM,
    "model": BOTTOM | {"render"},
    "parse": BOTTOM | {"model"},
    "plan": BOTTOM | {"model", "parse", "render"},
    "host": PURE,
    "testing": PURE | {"host.api", "host.cancel", "host.events"},
    "cli": {DOOR},
    "__main__": {"cli"},
    DOOR: PURE | {"host", "testing"},
}


def modules(package: Path) -> dict[str, Path]:
    """Map dotted names, relative to the package, to files; the door itself is `fibackup`."""
    names = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        names[".".join(p for p in parts if p != "__init__") or DOOR] = path
    return names


def imports(name: str, known: Mapping[str, Path]) -> set[str]:
    """Name the modules of the package that module *name* imports anywhere, also lazily."""
    is_package = known[name].name == "__init__.py"
    here = [DOOR] if name == DOOR else [DOOR, *name.split(".")]
    found: set[str] = set()
    for node in ast.walk(ast.parse(known[name].read_text("utf-8"))):
        match node:
            case ast.Import():
                found.update(relative for a in node.names for relative in _inside(a.name))
            case ast.ImportFrom():
                up = here[: len(here) - node.level + is_package] if node.level else []
                source = ".".join([*up, *filter(None, [node.module])])
                for relative in _inside(source):
                    found.update(_from(relative, [a.name for a in node.names], name, known))
            case _:
                pass
    return found - {name}


def _inside(dotted: str) -> Iterator[str]:
    if dotted == DOOR or dotted.startswith(f"{DOOR}."):
        yield dotted.removeprefix(f"{DOOR}.")


def _from(source: str, names: list[str], importer: str, known: Mapping[str, Path]) -> Iterator[str]:
    """Resolve `from source import names`: a name may be a module of its own."""
    for name in names:
        module = name if source == DOOR else f"{source}.{name}"
        through_the_door = source == DOOR and _layer(importer) == "cli" and name != "cli"
        yield module if module in known and not through_the_door else source


def _layer(name: str) -> str:
    return name.split(".", maxsplit=1)[0]


def _under(name: str, prefixes: set[str]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def breaches(package: Path) -> list[str]:
    """List every import that goes up or sideways, every module without a layer, and a cycle."""
    known = modules(package)
    graph = {name: imports(name, known) for name in known}
    found = [f"{name}: no such layer" for name in known if _layer(name) not in ALLOWED]
    for name, targets in graph.items():
        allowed = ALLOWED.get(_layer(name), set()) | ({_layer(name)} - {DOOR})
        found += [f"{name} -> {t}" for t in sorted(targets) if not _under(t, allowed)]
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found.append("cycle: " + " -> ".join(error.args[1]))
    return found


def test_imports_go_only_downwards() -> None:
    """No module of fibackup imports from a layer above or beside its own, and there is no cycle."""
    assert breaches(PACKAGE) == []


@pytest.mark.parametrize(
    ("where", "code", "breach"),
    [
        ("plan/backup.py", "from fibackup.host.api import Host", "plan.backup -> host.api"),
        ("parse/ledger_xml.py", "from ..plan import steps", "parse.ledger_xml -> plan"),
        ("parse/ledger_xml.py", "import fibackup.plan.steps", "parse.ledger_xml -> plan.steps"),
        ("model/chain.py", "from fibackup import plan", "model.chain -> plan"),
        ("model/chain.py", "from fibackup import Plan", "model.chain -> fibackup"),
        ("model/chain.py", "def f():\n    import fibackup.plan", "model.chain -> plan"),
        ("errors.py", "from fibackup.units import GiB", "errors -> units"),
        ("render/svg.py", "from fibackup.model import Chain", "render.svg -> model"),
        ("testing/host.py", "from fibackup.host import lock", "testing.host -> host.lock"),
        ("cli/main.py", "from fibackup.model.chain import Chain", "cli.main -> model.chain"),
        ("cli/main.py", "import fibackup.host.api", "cli.main -> host.api"),
        ("__init__.py", "from fibackup.cli import main", "fibackup -> cli"),
        ("extra.py", "", "extra: no such layer"),
        ("model/domain.py", "from fibackup.model.chain import Chain", "cycle: "),
    ],
)
def test_a_breach_is_found(tmp_path: Path, where: str, code: str, breach: str) -> None:
    """The checker turns red on each kind of breach, whatever the form of the import."""
    _write_sound_tree(tmp_path)
    with (tmp_path / where).open("a") as file:
        file.write(code)
    assert breaches(tmp_path)[0].startswith(breach)  # an import upwards often closes a cycle too


def test_a_sound_tree_has_no_breach(tmp_path: Path) -> None:
    """A tree that follows the rules, with relative and lazy imports, passes."""
    _write_sound_tree(tmp_path)
    assert breaches(tmp_path) == []


def _write_sound_tree(package: Path) -> None:
    files = {
        "__init__.py": "from fibackup.plan import Plan\ndef f():\n    import fibackup.host.lock\n",
        "__main__.py": "from fibackup.cli.main import main\n",
        "errors.py": "",
        "units.py": "",
        "model/__init__.py": "from fibackup.model.chain import Chain\n",
        "model/chain.py": "import os\nfrom .domain import Domain\nfrom fibackup import errors\n",
        "model/domain.py": "from fibackup.render import svg\n",
        "parse/__init__.py": "",
        "parse/manifest.py": "from fibackup.model import Chain\n",
        "render/__init__.py": "",
        "render/svg.py": "from fibackup.units import GiB\n",
        "plan/__init__.py": "from .backup import Plan\n",
        "plan/backup.py": "from ..model.chain import Chain\n",
        "host/__init__.py": "",
        "host/api.py": "from fibackup.plan import Plan\n",
        "host/lock.py": "import libvirt\nfrom fibackup.host import api\n",
        "testing/host.py": "from fibackup.host.api import Host\n",
        "cli/__init__.py": "",
        "cli/args.py": "from fibackup import errors, Plan\n",
        "cli/main.py": "import fibackup as fb\nfrom fibackup.cli import args\n",
    }
    for name, code in files.items():
        (package / name).parent.mkdir(exist_ok=True)
        (package / name).write_text(code)


def test_the_door_opens_without_libvirt() -> None:
    """`import fibackup` leaves libvirt alone, so planning works where it is missing."""
    assert _run_python("import sys, fibackup; print('libvirt' in sys.modules)") == "False\n"


def test_the_door_opens_fast() -> None:
    """`import fibackup` imports the door and what `typing` needs, and nothing else."""
    code = (
        "import sys, __future__, typing; before = set(sys.modules); import fibackup;"
        "print(*sorted(set(sys.modules) - before))"
    )
    assert _run_python(code) == "fibackup\n"


def _run_python(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
