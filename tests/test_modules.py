"""Each module of the service has the test file that is its own.

test_NAME.py for NAME.py, or what OWN says: the file is named after what users see of the module.
"""

from pathlib import Path

import pytest

import service

ROOT = Path(service.__file__).parent
MODULES = [
    str(path.relative_to(ROOT).with_suffix("")).replace("/", ".")
    for path in sorted(ROOT.rglob("*.py"))
    if path.name != "__init__.py"
]
OWN = {
    "__main__": "check",
    "app": "connections",
    "boundary": "browsers",
    "catalogue": "models",
    "draft": "settings",
    "gateway": "v1",
    "listening": "bounds",
    "relay": "truth",
    "responses": "leaving",
    "resuming": "resume",
    "server": "drain",
    "sources": "settings",
    "verdict": "truth",
    "web": "v1",
    "doctor.command": "doctor_command",
    "doctor.examination": "doctor",
    "doctor.inquiry": "doctor",
    "doctor.shown": "doctor_command",
    "adapters.egress": "proxy_pool",
    "adapters.outlet": "heartbeat",
    "adapters.redis_client": "replay_redis",
    "adapters.upload": "bounds",
    "adapters.upstream": "failures",
    "adapters.dial.connector": "proxies",
    "adapters.dial.diagnosis": "proxies_answers",
    "adapters.dial.hops": "chains",
    "adapters.dial.line": "chains",
    "adapters.dial.look": "upstream_tls",
    "adapters.dial.trust": "upstream_tls",
    "adapters.doctor.errand": "doctor",
    "adapters.doctor.holding": "doctor",
    "adapters.doctor.names": "doctor",
    "adapters.doctor.ports": "doctor",
    "adapters.replay.feed": "replay_redis",
    "adapters.replay.log": "replay",
    "adapters.replay.memory": "replay",
    "adapters.replay.outbox": "replay_redis",
    "adapters.replay.redis": "replay_redis",
    "adapters.replay.shared": "replay_redis",
    "adapters.replay.unkept": "replay",
    "core.events": "view",
    "core.faults": "settings",
    "core.fields": "settings",
    "core.health": "status_health",
    "core.history": "status_history",
    "core.keeping": "replay",
    "core.records": "replay_redis",
    "core.tables": "settings",
    "core.dialect.base": "dialect",
    "core.dialect.chat": "dialect",
    "core.dialect.typed": "dialect",
    "core.doctor.advice": "doctor",
    "core.doctor.findings": "doctor",
    "core.doctor.listing": "doctor",
    "core.doctor.lumps": "doctor",
}


@pytest.mark.parametrize("module", MODULES)
def test_each_module_has_its_own_test_file(module):
    """A new one fails here until it has."""
    name = OWN.get(module, module.rpartition(".")[2])
    assert Path(__file__).with_name(f"test_{name}.py").is_file()


def test_the_table_names_what_there_is():
    """No module that is gone."""
    assert set(OWN) <= set(MODULES)
