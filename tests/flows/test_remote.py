"""What docs/operations.md says of remote storage, on a folder and on S3 (moto's server)."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows.server import free_port

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text()
STAGES = {"stages": {"one": {"cmd": "echo made > one.txt", "outs": ["one.txt"]}}}


@pytest.fixture
def bucket():
    pytest.importorskip("dvc_s3")
    moto = pytest.importorskip("moto.server")
    import boto3

    server = moto.ThreadedMotoServer("127.0.0.1", free_port(), verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"aws_access_key_id": "anybody", "aws_secret_access_key": "anything"}
    endpoint = f"http://{host}:{port}"
    boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **keys).create_bucket(
        Bucket="bucket"
    )
    yield endpoint
    server.stop()


def section(title):
    """The shell lines of the page's section `title`, one list a block."""
    text = PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]
    return [block.strip().splitlines() for block in re.findall(r"```sh\n(.*?)```", text, re.S)]


def sh(place, line, env=None):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        line, shell=True, cwd=place, env=os.environ | {"PATH": path} | (env or {}),
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    return done.stdout


def there_and_back(tmp_path, lines, env=None):
    """Push with the page's lines; a clone without a cache pulls and has nothing to do."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    (here / "dvc.yaml").write_text(yaml.safe_dump(STAGES))
    for line in ("git init -q", "dvc init -q", "git add -A", "dvc repro -q"):
        sh(here, line)
    for line in lines:
        sh(here, line, env)
    identity = "git -c user.name=Somebody -c user.email=somebody@example.com"
    sh(here, f"git add -A && {identity} commit -qm made")
    sh(tmp_path, f"git clone -q {here} {there}")
    if (here / ".dvc/config.local").exists():  # credentials and endpoints are not in git
        shutil.copy(here / ".dvc/config.local", there / ".dvc/config.local")
    sh(there, "dvc pull -q", env)
    assert (there / "one.txt").read_text() == "made\n"
    assert "up to date" in sh(there, "dvc repro", env)


def test_a_folder(tmp_path):
    folder, _ = section("Remote storage")
    store = tmp_path / "store"
    there_and_back(tmp_path, [line.replace("/mnt/shared/lop", str(store)) for line in folder])
    assert any(store.rglob("*"))


def test_s3(tmp_path, bucket):
    _, s3 = section("Remote storage")
    lines = [line.replace("https://s3.example.com", bucket) for line in s3]
    keys = {"AWS_ACCESS_KEY_ID": "anybody", "AWS_SECRET_ACCESS_KEY": "anything"}
    there_and_back(tmp_path, lines, keys)
