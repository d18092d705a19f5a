"""Reads every import under imgateway/ and holds it against the plan of the house.

Imports count wherever they stand, in functions and under TYPE_CHECKING too: a hidden dependency is still one.
Only of what installs the reactor it matters where: in a function it may be imported, elsewhere not.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

BASE = frozenset({"frames", "errors", "interfaces", "config"})
# Who may import whom. Everybody may import itself and the version. The ground floor: errors imports nothing,
# frames and config import errors; a room takes its section of the settings as a value, only tap and cli load
# files.
MAY_IMPORT: dict[str, frozenset[str]] = {
    "errors": frozenset(),
    "frames": frozenset({"errors"}),
    "config": frozenset({"errors"}),
    "interfaces": frozenset({"frames"}),
    "wire": frozenset({"frames", "errors"}),
    "core": frozenset({"frames", "errors"}),
    "protocols": frozenset({"frames", "errors", "interfaces", "core", "wire"}),
    "transports": frozenset({"interfaces", "errors", "core"}),
    "brokers": BASE | {"core", "wire"},
    "registries": frozenset({"interfaces", "errors", "config"}),
    "cluster": frozenset({"frames", "errors", "interfaces", "core"}),
    "auth": BASE | {"core"},
    "ops": BASE,
    "node": BASE | {"core", "cluster"},
    "router": BASE | {"core", "cluster"},
    "client": BASE | {"core", "protocols", "transports", "wire"},
    "testing": BASE | {"core", "protocols", "transports", "wire", "brokers"},
}
MAY_IMPORT["tap"] = frozenset(MAY_IMPORT)
MAY_IMPORT["cli"] = frozenset(MAY_IMPORT) - {"node"}

# The core is pure: of the standard library it takes what neither waits, looks at the world, nor throws dice.
PURE = frozenset(
    """
    __future__ abc array base64 binascii bisect collections contextlib copy dataclasses enum fnmatch functools
    hashlib heapq hmac itertools json math msgspec operator re string struct types typing unicodedata
    zlib
    """.split()
)
IMPURE_BUILTINS = frozenset({"open", "print", "input", "exec", "eval"})

# Importing these installs the reactor.
REACTOR_MAKERS = ("twisted.internet.reactor", "txredisapi", "prometheus_client.twisted")
TXREDISAPI_HOMES = frozenset({"imgateway/registries/redis_line.py"})


@dataclass(frozen=True)
class Import:
    """One imported name: ``from a.b import c`` is a.b.c, which may be a module or something in a.b."""

    target: str
    line: int
    lazy: bool  # inside a function, so not run when the module is


@dataclass(frozen=True)
class Module:
    name: str
    path: str
    tree: ast.Module
    is_package: bool

    @property
    def room(self) -> str:
        return room_of(self.name)


def room_of(name: str) -> str:
    return name.split(".")[1] if name.startswith("imgateway.") else ""


def modules(root: Path) -> dict[str, Module]:
    found = {}
    for path in sorted((root / "imgateway").rglob("*.py")) + sorted(
        (root / "twisted" / "plugins").glob("*.py")
    ):
        relative = path.relative_to(root)
        parts = relative.with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        found[name] = Module(name, relative.as_posix(), ast.parse(path.read_text(), str(path)), is_package)
    return found


def imports(module: Module) -> Iterator[Import]:
    package = module.name if module.is_package else module.name.rpartition(".")[0]

    def walk(node: ast.AST, lazy: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                parts = package.split(".")
                source = ".".join(parts[: len(parts) - node.level + 1] + ([source] if source else []))
            yield from (Import(f"{source}.{alias.name}", node.lineno, lazy) for alias in node.names)
        lazy = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, lazy)

    return walk(module.tree, False)


def is_under(name: str, top: str) -> bool:
    return name == top or name.startswith(top + ".")


def violations(root: Path) -> list[str]:
    found = modules(root)
    complaints = []
    for module in found.values():
        complaints += foreign_complaints(module)
        if is_under(module.name, "imgateway"):
            complaints += room_complaints(module)
        if module.room == "core":
            complaints += purity_complaints(module)
        if module.is_package:
            complaints += init_complaints(module)
    return [*complaints, *cycle_complaints(found)]


def foreign_complaints(module: Module) -> Iterator[str]:
    for one in imports(module):
        where = f"{module.path}:{one.line}"
        if not one.lazy and any(is_under(one.target, maker) for maker in REACTOR_MAKERS):
            yield f"{where}: imports {one.target} at module level, which installs the reactor"
        if is_under(one.target, "txredisapi") and module.path not in TXREDISAPI_HOMES:
            yield f"{where}: only {' and '.join(sorted(TXREDISAPI_HOMES))} know txredisapi"
        if module.path.startswith("twisted/") and is_under(one.target, "imgateway") and not one.lazy:
            yield f"{where}: every twistd reads this file: name our modules as strings"


def room_complaints(module: Module) -> Iterator[str]:
    if module.room and module.room not in MAY_IMPORT:
        yield f"{module.path}: the plan knows no room {module.room}"
        return
    allowed = MAY_IMPORT.get(module.room, frozenset())
    for one in imports(module):
        if not is_under(one.target, "imgateway") or one.target == "imgateway.__version__":
            continue
        room = room_of(one.target)
        if room != module.room and room not in allowed:
            who, whom = module.room or "imgateway", room or one.target
            yield f"{module.path}:{one.line}: {who} must not import {whom}"


def purity_complaints(module: Module) -> Iterator[str]:
    for one in imports(module):
        if one.target.split(".")[0] not in PURE | {"imgateway"}:
            yield f"{module.path}:{one.line}: the core is pure and must not import {one.target}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IMPURE_BUILTINS:
            yield f"{module.path}:{node.lineno}: the core is pure and must not call {node.func.id}"


def init_complaints(module: Module) -> Iterator[str]:
    body = module.tree.body
    if ast.get_docstring(module.tree) is None:
        yield f"{module.path}: has no docstring"
    names = set()
    for node in body[1:]:
        if isinstance(node, ast.Import | ast.ImportFrom):
            continue
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        name = target.id if isinstance(target, ast.Name) else ""
        names.add(name)
        if name not in {"__all__", "__version__"}:
            yield f"{module.path}:{node.lineno}: an __init__ is docstring, re-exports and __all__, no more"
    if "__all__" not in names:
        yield f"{module.path}: has no __all__"
    for one in imports(module):
        if is_under(one.target, "imgateway") and not is_under(one.target, module.name):
            yield f"{module.path}:{one.line}: re-exports {one.target}, which is not its own"


def cycle_complaints(found: dict[str, Module]) -> Iterator[str]:
    """Cycles between modules, across rooms too. Each is told once, from its first module in the alphabet."""
    graph = {
        name: sorted({_module(one.target, found) for one in imports(module)} - {"", name})
        for name, module in found.items()
    }
    done: set[str] = set()
    path: list[str] = []

    def visit(name: str) -> Iterator[str]:
        if name in path:
            yield "cycle: " + " -> ".join([*path[path.index(name) :], name])
            return
        if name in done:
            return
        path.append(name)
        for target in graph[name]:
            yield from visit(target)
        path.pop()
        done.add(name)

    for name in sorted(graph):
        yield from visit(name)


def _module(target: str, found: dict[str, Module]) -> str:
    """The longest known module that the target names, or ""."""
    while target and target not in found:
        target = target.rpartition(".")[0]
    return target


def test_the_house_is_built_to_plan() -> None:
    assert violations(ROOT) == []


def test_no_module_installs_the_reactor_when_imported() -> None:
    names = [name for name in modules(ROOT) if not name.endswith(".__main__")]
    program = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    assert 'twisted.internet.reactor' not in sys.modules, name + ' installs the reactor'\n"
    )
    run = subprocess.run([sys.executable, "-c", program, *names], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_the_plugin_is_light() -> None:
    program = (
        "import sys, twisted.plugins.imgateway_tap\n"
        "heavy = {'imgateway', 'autobahn', 'google', 'OpenSSL', 'msgspec'}\n"
        "sys.exit(' '.join(heavy & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert run.stderr.strip() == ""


# The checker itself: a small house, and one fault at a time.

SOUND = {
    "imgateway/__init__.py": '"""Doc."""\n__all__ = ("__version__",)\n__version__ = "1"\n',
    "imgateway/errors.py": "",
    "imgateway/frames.py": "import msgspec\n",
    "imgateway/interfaces.py": "from imgateway.frames import Frame\n",
    "imgateway/config.py": "",
    "imgateway/core/__init__.py": '"""Doc."""\nfrom .session import Session\n__all__ = ("Session",)\n',
    "imgateway/core/session.py": "import struct\nfrom imgateway import frames\nfrom . import cursor\n",
    "imgateway/core/cursor.py": "from ..errors import Gap\nfrom collections.abc import Sequence\n",
    "imgateway/brokers/__init__.py": '"""Doc."""\n__all__ = ()\n',
    "imgateway/registries/redis_line.py": "def connect():\n    import txredisapi\n",
    "imgateway/node/__init__.py": '"""Doc."""\n__all__ = ()\n',
    "imgateway/node/hub.py": "from imgateway import __version__\nfrom imgateway.core import Session\n",
    "imgateway/tap/__init__.py": '"""Doc."""\n__all__: tuple[str, ...] = ()\n',
    "imgateway/tap/service.py": (
        "import imgateway.config\nfrom imgateway.node.hub import Hub\n"
        "def run():\n    from twisted.internet import reactor\n"
    ),
    "twisted/plugins/imgateway_tap.py": "from twisted.application.service import ServiceMaker\n",
}
CURSOR, HUB, TAP = "imgateway/core/cursor.py", "imgateway/node/hub.py", "imgateway/tap/service.py"
PLUGIN, REDIS = "twisted/plugins/imgateway_tap.py", "imgateway/registries/redis_line.py"
FAULTS = {
    "core imports twisted": (CURSOR, "import twisted.python", "must not import twisted.python"),
    "core asks the time": (CURSOR, "def f():\n    import time", "must not import time"),
    "core throws dice": (CURSOR, "from random import random", "must not import random.random"),
    "core opens a file": (CURSOR, "open('x')", "must not call open"),
    "core knows interfaces": (CURSOR, "from .. import interfaces", "core must not import interfaces"),
    "node knows brokers": (HUB, "import imgateway.brokers.redis", "node must not import brokers"),
    "node knows ops, typing only": (
        HUB,
        "if TYPE_CHECKING:\n    from imgateway.ops import Health",
        "node must not import ops",
    ),
    "errors import frames": ("imgateway/errors.py", "from . import frames", "errors must not import frames"),
    "an unknown room": ("imgateway/utils/text.py", "", "the plan knows no room utils"),
    "the top imports a room": (
        "imgateway/__init__.py",
        "from imgateway.core import Session",
        "must not import core",
    ),
    "module-level reactor": (HUB, "from twisted.internet import reactor", "installs the reactor"),
    "reactor in a try": (
        TAP,
        "try:\n    import twisted.internet.reactor\nexcept ImportError:\n    pass",
        "installs the reactor",
    ),
    "reactor in a class body": (
        TAP,
        "class A:\n    from twisted.internet import reactor",
        "installs the reactor",
    ),
    "reactor in the plugin": (PLUGIN, "from twisted.internet import reactor as r", "installs the reactor"),
    "heavy plugin": (PLUGIN, "from imgateway.tap import service", "every twistd reads"),
    "txredisapi elsewhere": (HUB, "def f():\n    import txredisapi", "know txredisapi"),
    "txredisapi at once": (REDIS, "import txredisapi", "installs the reactor"),
    "a cycle": (CURSOR, "def f():\n    from .session import Session", "cycle: "),
    "a cycle over the own room's front door": (CURSOR, "from . import Session", "cycle: "),
    "code in an __init__": ("imgateway/brokers/__init__.py", "def f(): pass", "no more"),
    "a call in an __init__": ("imgateway/brokers/__init__.py", "print()", "no more"),
    "another room's name re-exported": (
        "imgateway/node/__init__.py",
        "from imgateway.core import Session",
        "which is not its own",
    ),
    "an __init__ without __all__": ("imgateway/wire/__init__.py", '"""Doc."""', "has no __all__"),
    "an __init__ without docstring": ("imgateway/wire/__init__.py", "__all__ = ()", "has no docstring"),
}


def build(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_sound_house_has_no_complaints(tmp_path: Path) -> None:
    assert violations(build(tmp_path, SOUND)) == []


@pytest.mark.parametrize(("path", "fault", "complaint"), FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_is_found(path: str, fault: str, complaint: str, tmp_path: Path) -> None:
    files = {**SOUND, path: SOUND.get(path, "") + fault + "\n"}
    found = violations(build(tmp_path, files))
    assert any(complaint in one and (path in one or "cycle" in one) for one in found), found
