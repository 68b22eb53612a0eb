"""The nginx of Debian before relays, with config/nginx.conf: only ports and certificate are others.

    with nginx(tmp_path, [relay.port, …], ca) as front:
        front.url           # https://127.0.0.1:PORT
        front.written()     # its logs, what it keeps on disk

Its main file, pid and temporary files are in the folder; the system's service is not touched.
"""

import os
import re
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import real
import service
from conftest import Authority

CONFIG = Path(service.__file__).parents[1] / "config/nginx.conf"
MAIN = """daemon off;
{user}
worker_processes 2;
pid nginx.pid;
error_log stderr info;
events {{ worker_connections 2048; }}
http {{
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
{config}
}}
"""
SERVER = re.compile(r"^    server 127\.0\.0\.1:808\d (.*)$\n", re.MULTILINE)


@dataclass
class Front:
    """An nginx that runs. `tls`: trusts it."""

    process: real.Process
    folder: Path
    tls: ssl.SSLContext

    @property
    def port(self) -> int:
        """Where it listens, for TLS."""
        return self.process.port

    @property
    def url(self) -> str:
        """Its address."""
        return f"https://127.0.0.1:{self.port}"

    def written(self) -> str:
        """Return all that it wrote: its logs, and what it keeps on disk."""
        files = [file for file in self.folder.rglob("*") if file.is_file()]
        return "\n".join(file.read_text(errors="replace") for file in files)


def derived(relays: Sequence[int], port: int, folder: Path) -> str:
    """Return config/nginx.conf with these ports, its certificate and log in the folder."""
    text = CONFIG.read_text()
    options = SERVER.findall(text)[0]
    place = SERVER.search(text).start()
    text = SERVER.sub("", text)
    lines = "".join(f"    server 127.0.0.1:{relay} {options}\n" for relay in relays)
    text = text[:place] + lines + text[place:]
    text = text.replace("listen 443 ", f"listen 127.0.0.1:{port} ")
    text = text.replace("/var/log/nginx/", f"{folder}/")
    return re.sub(r"(ssl_certificate(?:_key)?) \S+;", rf"\1 {folder}/server.pem;", text)


@contextmanager
def nginx(folder: Path, relays: Sequence[int], ca: Authority) -> Iterator[Front]:
    """Run nginx before the relays at these ports of 127.0.0.1."""
    home = folder / "nginx"
    home.mkdir()
    ca.write_server(home / "server.pem", "127.0.0.1", "localhost", "relay.example.com")
    user = "user root;" if os.geteuid() == 0 else ""  # its workers read and write in our folder

    def config(port: int) -> str:
        return MAIN.format(user=user, config=derived(relays, port, home))

    with real.nginx(home, config) as process:
        yield Front(process, home, ca.client)
