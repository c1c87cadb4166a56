"""What docs/operations.md says of PostgreSQL, on a cluster of its own; skipped where there is none.

Debian's package has the programs; they refuse to run as root, so root lends them to its user.
"""

import os
import re
import shlex
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from flows.server import free_port, started
from lop import tracking

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text().split("## PostgreSQL")[1]
(BLOCK,) = re.findall(r"```sh\n(.*?)```", PAGE, re.S)
FOUND = [*sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")), shutil.which("initdb")]
AS_USER = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []

pytestmark = pytest.mark.skipif(not FOUND[0], reason="PostgreSQL is not installed")


def run(*command, **env):
    command = [*AS_USER, "env", *(f"{k}={v}" for k, v in env.items()), *map(str, command)]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr


@pytest.fixture
def cluster(tmp_path_factory):
    """The port of a cluster that trusts everybody on this machine."""
    root = tmp_path_factory.mktemp("postgres")
    if AS_USER:
        shutil.chown(root, "postgres")
        for folder in root.parents:
            if folder.stat().st_mode & 0o077 == 0:  # private to root
                folder.chmod(0o711)
    programs, port, data = Path(FOUND[0]).parent, free_port(), root / "data"
    run(programs / "initdb", "--pgdata", data, "--auth", "trust", "--username", "user")
    options = f"-p {port} -k {root} -c listen_addresses=127.0.0.1 -c fsync=off"
    run(programs / "pg_ctl", "-D", data, "-l", root / "log", "-o", options, "-w", "start")
    yield port
    run(programs / "pg_ctl", "-D", data, "-m", "immediate", "stop")


@contextmanager
def server(line, port, health):
    """The page's server of that name, on a free port of this machine."""
    words = shlex.split(line.replace("@host/", f"@127.0.0.1:{port}/"))
    words[words.index("0.0.0.0")] = "127.0.0.1"
    url = f"http://127.0.0.1:{(own := free_port())}"
    with started([*words, "--port", str(own)], f"{url}{health}"):
        yield url


def test_both_servers_keep_their_data_there(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    lines = BLOCK.strip().splitlines()
    prefect, mlflow = (next(x for x in lines if x.startswith(n)) for n in ("prefect", "mlflow"))
    for line in lines:
        if line.startswith("createdb"):
            run(*shlex.split(line), PGHOST="127.0.0.1", PGPORT=cluster, PGUSER="user")
        if line.startswith("export"):
            name, value = line.removeprefix("export ").split("=", 1)
            monkeypatch.setenv(name, value.replace("@host/", f"@127.0.0.1:{cluster}/"))
    with server(prefect, cluster, "/api/health") as url:
        httpx.post(f"{url}/api/flows/", json={"name": "prune"}, timeout=60).raise_for_status()
    with server(mlflow, cluster, "/health") as url:
        monkeypatch.setenv(tracking.URI, url)
        with tracking.run("train", {"lr": 0.1}, {}) as one:
            one.metrics({"mse": 0.5})
    assert kept(cluster, "prefect", "select name from flow") == [("prune",)]
    assert kept(cluster, "mlflow", "select run_uuid, value from metrics") == [(one.id, 0.5)]


def kept(port, database, query):
    """What a query finds in the cluster itself."""
    import psycopg2

    with psycopg2.connect(f"postgresql://user@127.0.0.1:{port}/{database}") as connection:
        cursor = connection.cursor()
        cursor.execute(query)
        return cursor.fetchall()
