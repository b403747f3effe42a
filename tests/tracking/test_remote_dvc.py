"""Weights pushed by DVC to a bucket return byte for byte, even after interrupted pushes."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from worlds.profiles import params_text
from worlds.s3_server import BUCKET, Line, serving

from blobex.tracking.remote import bucket, use_bucket

pytestmark = pytest.mark.slow

CONFIG = "[core]\n    analytics = false\n    check_update = false\n    no_scm = true\n    remote = store\n"
STORE = "['remote \"store\"']\n    url = ../models/store\n"
SIZES = {"weights/generator": 900_000, "weights/encoder": 700_000, "weights/config": 300, "weights/empty": 0}
SIZES |= {f"weights/part_{index}": 250_000 for index in range(6)}
DVC = [sys.executable, "-m", "dvc"]


@pytest.fixture
def server():
    with serving() as running:
        yield running


@pytest.fixture
def line(server):
    with Line(server.port).open() as opened:
        yield opened


@pytest.fixture(autouse=True)
def contents(server, tmp_path, monkeypatch):
    """Create a project with one folder versioned by DVC, and the owner's credentials; return its bytes by file name."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in server.owner.items():
        monkeypatch.setenv(name, value)
    for name, value in {"AWS_EC2_METADATA_DISABLED": "true", "AWS_MAX_ATTEMPTS": "1", "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    random = np.random.default_rng(0)
    contents = {name: random.bytes(size) for name, size in SIZES.items()}
    project = tmp_path / "project"
    for name, content in contents.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_bytes(content)
    (project / ".dvc").mkdir()
    (project / ".dvc" / "config").write_text(CONFIG + STORE)
    (project / "params.yaml").write_text(params_text("smoke"))
    monkeypatch.chdir(project)
    assert dvc("add", "--quiet", "weights")[0] == 0
    return contents


def dvc(*arguments):
    """Return the exit code and the output of `dvc ARGUMENTS`."""
    done = subprocess.run([*DVC, *arguments], capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


def pushed(server):
    """Return the objects of the bucket, after a check of their MD5, by which DVC names them."""
    objects = server.objects()
    for key, content in objects.items():
        folder, digest = key.removesuffix(".dir").split("/")[-2:]
        assert key.startswith("blobex/dvc/files/md5/") and hashlib.md5(content).hexdigest() == folder + digest, key
    return objects


def forget():
    """Remove the weights except for the file that git versions."""
    shutil.rmtree("weights")
    shutil.rmtree(".dvc/cache")


def check_pulled(contents):
    forget()
    code, output = dvc("pull")
    assert code == 0, output
    assert {str(path): path.read_bytes() for path in Path("weights").iterdir()} == contents


def test_pushed_weights_come_back(server, contents):
    use_bucket(bucket(BUCKET, "blobex", server.url))
    assert dvc("remote", "default") == (0, "s3\n")
    assert dvc("push")[0] == 0
    assert len(pushed(server)) == len(contents) + 1
    check_pulled(contents)
    assert dvc("remote", "default", "store")[0] == 0
    assert dvc("push")[0] == 0
    assert len(list(Path("models/store").rglob("*"))) > len(contents)


def test_push_that_is_killed_goes_on(server, line, contents):
    use_bucket(bucket(BUCKET, "blobex", line.url))
    line.left, line.hangs = 1_500_000, True
    process = subprocess.Popen([*DVC, "push", "--jobs", "1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert line.cut.wait(60)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    line.left, line.hangs = float("inf"), False
    line.ended.set()
    there = pushed(server)
    assert 0 < len(there) < len(contents) + 1 and not any(key.endswith(".dir") for key in there)
    assert dvc("push")[0] == 0
    assert len(pushed(server)) == len(contents) + 1
    check_pulled(contents)


def test_push_whose_line_breaks_fails_and_goes_on(server, line, contents):
    use_bucket(bucket(BUCKET, "blobex", line.url))
    line.left = 1_500_000
    code, output = dvc("push")
    assert code != 0 and "failed to" in output
    assert len(pushed(server)) < len(contents) + 1
    line.left = float("inf")
    assert dvc("push")[0] == 0
    check_pulled(contents)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (None, "Unable to locate credentials"),
        ({"AWS_SECRET_ACCESS_KEY": "x"}, "Forbidden"),
        ({"AWS_ACCESS_KEY_ID": "AKIAUNKNOWN"}, "Forbidden"),
    ],
)
def test_pull_without_the_right_credentials(server, contents, monkeypatch, keys, words):
    """The message of DVC is the one that the documentation quotes."""
    use_bucket(bucket(BUCKET, "blobex", server.url))
    forget()
    for name, value in (keys or dict.fromkeys(server.owner, "")).items():
        monkeypatch.setenv(name, value)
    code, output = dvc("pull")
    assert code == 1 and words in output and "failed to connect to s3" in output and "Traceback" not in output
    assert not Path("weights").exists()
