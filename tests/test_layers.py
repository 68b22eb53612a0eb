"""The architecture holds: who may import whom, and which module is the only door to what.

    core decides and never waits · adapters wait and never decide · imports point downwards

A new module fails here until it has its layer, and an import beside it until it is allowed.
"""

import ast
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

import service

ROOT = Path(service.__file__).parent

LAYERS = {
    8: "__main__",
    7: "server",
    6: "app doctor.command",
    5: """
        answers boundary demo greeting responses resuming status status_page web
        doctor.examination doctor.inquiry doctor.shown
    """,
    4: "gateway",
    3: "catalogue gate listening relay streams verdict",
    2: """
        settings draft sources
        adapters.clock adapters.egress adapters.logs adapters.metrics adapters.outlet adapters.push
        adapters.rates adapters.redis_client adapters.systemd adapters.tracing adapters.upload
        adapters.upstream
        adapters.dial.connector adapters.dial.diagnosis adapters.dial.hops adapters.dial.line
        adapters.dial.look adapters.dial.probe adapters.dial.trust
        adapters.doctor.errand adapters.doctor.holding adapters.doctor.names adapters.doctor.ports
        adapters.replay.feed adapters.replay.log adapters.replay.memory adapters.replay.outbox
        adapters.replay.redis adapters.replay.shared adapters.replay.unkept
    """,
    1: """
        core.access core.certificate core.chat core.circuit core.cutting core.faults core.fields
        core.fronts core.health core.history core.ids core.keeping core.mask core.pacing core.pool
        core.records core.rejoin core.retry core.routes core.sse core.tables core.tickets core.view
        core.words
        core.dialect.__init__ core.dialect.base core.dialect.chat core.dialect.mould
        core.dialect.typed
        core.doctor.advice core.doctor.findings core.doctor.listing core.doctor.lumps
    """,
    0: """
        __init__ errors core.events core.proxy core.secret
        adapters.__init__ adapters.dial.__init__ adapters.doctor.__init__ adapters.replay.__init__
        core.__init__ core.doctor.__init__ doctor.__init__
    """,
}
LAYER = {module: layer for layer, modules in LAYERS.items() for module in modules.split()}

BESIDE = {
    "adapters.dial.connector": {
        "adapters.clock",
        "adapters.dial.diagnosis",
        "adapters.dial.hops",
        "adapters.dial.look",
        "adapters.dial.trust",
    },
    "adapters.egress": {
        "adapters.clock",
        "adapters.dial.connector",
        "adapters.logs",
        "adapters.dial.probe",
        "adapters.dial.trust",
        "adapters.upstream",
    },
    "adapters.doctor.errand": {
        "adapters.clock",
        "adapters.dial.connector",
        "adapters.dial.trust",
        "adapters.upstream",
    },
    "adapters.doctor.holding": {
        "adapters.clock",
        "adapters.dial.hops",
        "adapters.dial.line",
        "adapters.dial.trust",
    },
    "adapters.dial.hops": {"adapters.dial.line", "adapters.dial.trust"},
    "adapters.dial.look": {"adapters.clock", "adapters.dial.hops", "adapters.dial.trust"},
    "adapters.doctor.names": {"adapters.clock"},
    "adapters.outlet": {"adapters.clock", "adapters.push", "adapters.replay.unkept"},
    "adapters.doctor.ports": {"adapters.clock", "adapters.dial.line"},
    "adapters.dial.probe": {
        "adapters.clock",
        "adapters.dial.connector",
        "adapters.dial.hops",
        "adapters.dial.trust",
    },
    "adapters.rates": {"adapters.logs", "adapters.redis_client"},
    "adapters.replay.feed": {"adapters.replay.shared"},
    "adapters.replay.log": {"adapters.replay.unkept"},
    "adapters.replay.memory": {"adapters.clock", "adapters.replay.log"},
    "adapters.replay.outbox": {"adapters.replay.shared"},
    "adapters.replay.redis": {
        "adapters.clock",
        "adapters.logs",
        "adapters.redis_client",
        "adapters.replay.feed",
        "adapters.replay.log",
        "adapters.replay.memory",
        "adapters.replay.outbox",
        "adapters.replay.shared",
    },
    "adapters.replay.shared": {"adapters.replay.log"},
    "adapters.tracing": {"adapters.metrics"},
    "adapters.upload": {"adapters.clock"},
    "adapters.upstream": {
        "adapters.clock",
        "adapters.dial.diagnosis",
        "adapters.dial.connector",
        "adapters.push",
        "adapters.upload",
    },
    "core.cutting": {"core.dialect.__init__", "core.sse"},
    "core.dialect.__init__": {"core.dialect.base", "core.dialect.chat", "core.dialect.typed"},
    "core.dialect.base": {"core.sse"},
    "core.dialect.chat": {"core.dialect.base", "core.dialect.mould", "core.sse"},
    "core.dialect.typed": {"core.dialect.base", "core.sse"},
    "core.events": {"errors"},
    "core.faults": {"core.tables"},
    "core.health": {"core.circuit"},
    "core.doctor.listing": {"core.doctor.findings"},
    "core.doctor.lumps": {"core.doctor.findings"},
    "core.pacing": {"core.view", "core.words"},
    "core.rejoin": {"core.cutting", "core.dialect.__init__"},
    "core.retry": {"core.circuit"},
    "core.proxy": {"core.secret"},
    "core.records": {"core.dialect.__init__"},
    "core.tables": {"core.fields"},
    "core.tickets": {"core.access"},
    "core.view": {"core.cutting", "core.dialect.__init__", "core.sse"},
    "answers": {"boundary", "responses"},
    "catalogue": {"relay", "verdict"},
    "doctor.examination": {"doctor.inquiry"},
    "relay": {"gate", "verdict"},
    "responses": {"boundary"},
    "resuming": {"boundary", "responses"},
    "streams": {"relay"},
    "settings": {"adapters.dial.trust", "draft", "sources"},
    "status_page": {"boundary", "status"},
    "web": {"answers", "boundary", "responses", "resuming", "status_page"},
}
"""Imports within a layer: what a module builds on."""

DOORS = {
    "aiohttp_socks": "adapters.dial.connector",
    "python_socks": "adapters.dial.diagnosis adapters.dial.hops",
    "aiohttp_sse": "responses status_page",
    "dotenv": "sources",
    "limits": "adapters.rates",
    "opentelemetry": "adapters.tracing",
    "logging": "adapters.logs",
    "prometheus_client": "adapters.metrics",
    "redis": "adapters.redis_client",
    "regex": "core.words",
    "rich": "doctor.shown",
    "shtab": "__main__",
    "signal": "server",
    "structlog": "adapters.logs",
    "time": "adapters.rates adapters.tracing demo",
    "uvloop": "server",
}
"""The only modules that import these. diagnosis: only to know its errors; `time`: the demo's dates,
and a store that several processes share."""

ENVIRONMENT = {"settings", "adapters.systemd"}
"""The only modules that look at os.environ."""

IMPURE = {
    "asyncio", "concurrent", "http", "logging", "multiprocessing", "os", "pathlib", "queue",
    "random", "secrets", "select", "selectors", "signal", "socket", "socketserver", "ssl",
    "subprocess", "tempfile", "threading", "time", "uuid",
}  # fmt: skip
"""What core must not know: it waits, touches the world, or is different each time."""


def name_of(file):
    """Return a module's name below `service`."""
    return ".".join(file.relative_to(ROOT).with_suffix("").parts)


SOURCES = {name_of(file): file for file in sorted(ROOT.rglob("*.py"))}


@cache
def tree(module):
    """Return what a module's text says; every worker loads this file, and one runs its tests."""
    return ast.parse(SOURCES[module].read_text())


class Imports(NamedTuple):
    """What a module imports, anywhere in its text: modules of `service`, and others in full."""

    own: set[str]
    foreign: set[str]


def named_in(node):
    """Return the dotted names that an import statement may mean; none if it is another node."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def resolved(name):
    """Return the module of `service` that a dotted name means or is in; None if it is foreign."""
    first, *rest = name.split(".")
    if first != "service":
        return None
    for end in range(len(rest), 0, -1):
        for module in (".".join(rest[:end]), ".".join([*rest[:end], "__init__"])):
            if module in SOURCES:
                return module
    return "__init__"


@cache
def imports(module):
    """Return what a module imports."""
    names = [name for node in ast.walk(tree(module)) for name in named_in(node)]
    own = {found for name in names if (found := resolved(name)) is not None}
    return Imports(own, {name for name in names if resolved(name) is None})


def importers(package):
    """Return the modules that import this package or a part of it."""
    return {
        module
        for module in SOURCES
        if any(name.split(".")[0] == package for name in imports(module).foreign)
    }


def uses(module, *names):
    """Tell whether a module has one of these as an attribute of `os`, or imports it from there."""
    attributes = [node for node in ast.walk(tree(module)) if isinstance(node, ast.Attribute)]
    owned = {node.attr for node in attributes if getattr(node.value, "id", "") == "os"}
    imported = {name.removeprefix("os.") for name in imports(module).foreign}
    return bool((owned | imported) & set(names))


def test_every_module_has_a_layer():
    """A module that is new, or gone, changes the table above."""
    assert SOURCES.keys() - LAYER.keys() == set()
    assert LAYER.keys() - SOURCES.keys() == set()


@pytest.mark.parametrize("module", sorted(SOURCES.keys() & LAYER.keys()))
def test_imports_point_downwards(module):
    """A module imports from lower layers, and in its own from what it builds on."""
    layer = LAYER[module]
    not_lower = {other for other in imports(module).own if LAYER.get(other, 0) >= layer}
    assert not_lower - BESIDE.get(module, set()) == set()


def test_what_is_allowed_beside_is_used():
    """An import within a layer that is no longer there is no longer allowed."""
    unused = {(one, other) for one, row in BESIDE.items() for other in row - imports(one).own}
    assert unused == set()


def test_no_cycles():
    """Taking away what imports nothing that is left, nothing is left."""
    left = {module: imports(module).own - {module} for module in SOURCES}
    while free := {module for module, needs in left.items() if not needs & left.keys()}:
        left = {module: needs for module, needs in left.items() if module not in free}
    assert left == {}


@pytest.mark.parametrize("module", [module for module in SOURCES if module.startswith("core.")])
def test_core_is_pure(module):
    """It imports core, errors, msgspec, regex, and of the rest what neither waits nor acts."""
    own, foreign = imports(module)
    assert {name for name in own if name != "errors" and not name.startswith("core.")} == set()
    packages = {name.split(".")[0] for name in foreign}
    assert packages - sys.stdlib_module_names <= {"msgspec", "regex"}
    assert packages & IMPURE == set()


@pytest.mark.parametrize("module", [module for module in SOURCES if module.startswith("adapters.")])
def test_adapters_do_not_know_their_users(module):
    """They import core, errors and each other, and never what decides or the settings."""
    above = {name for name in imports(module).own if name.split(".")[0] not in {"core", "adapters"}}
    assert above <= {"errors"}


@pytest.mark.parametrize(("package", "doors"), DOORS.items())
def test_doors(package, doors):
    """What is outside has one door, which the rest of the program goes through."""
    assert importers(package) == set(doors.split())


def test_the_environment_is_read_in_one_place():
    """The settings come from os.environ through one module; systemd's words through another."""
    names = ("environ", "environb", "getenv", "getenvb", "putenv")
    assert {module for module in SOURCES if uses(module, *names)} == ENVIRONMENT


def test_nothing_is_imported_by_a_made_up_name():
    """All imports can be seen, so that these tests see all."""
    called = {
        module
        for module in SOURCES
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Name | ast.Attribute)
        and getattr(node, "id", getattr(node, "attr", "")) in {"import_module", "__import__"}
    }
    assert called == set()
