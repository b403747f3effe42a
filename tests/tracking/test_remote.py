"""`blobex remote s3`: what it writes, and that it writes nothing unless the bucket answers."""

import os
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml
from typer.testing import CliRunner
from worlds.s3_server import BUCKET, serving

from blobex.cli import main as cli
from blobex.config.read import load_params
from blobex.core.errors import BlobexError
from blobex.tracking.remote import bucket as named_bucket

ROOT = Path(__file__).parents[2]
CONFIG = "[core]\n    analytics = false\n    remote = store\n['remote \"store\"']\n    url = ../models/store\n"


@pytest.fixture(scope="module")
def server():
    with serving() as running:
        yield running


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """A project whose default remote is a folder; nobody's credentials but the test's are found."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text(CONFIG)
    (tmp_path / "params.yaml").write_bytes((ROOT / "profiles" / "synthetic.yaml").read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def use(monkeypatch, keys):
    for name, value in keys.items():
        monkeypatch.setenv(name, value)


def error_line(monkeypatch, capsys, *arguments):
    """Return the one line with which `blobex remote s3 ARGUMENTS` fails."""
    monkeypatch.setattr(sys, "argv", ["blobex", "remote", "s3", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    printed = capsys.readouterr()
    assert end.value.code == 1 and printed.out == ""
    assert printed.err.startswith("blobex: ") and printed.err.count("\n") == 1
    return printed.err


def unchanged(project):
    same = (project / "params.yaml").read_bytes() == (ROOT / "profiles" / "synthetic.yaml").read_bytes()
    return same and (project / ".dvc" / "config").read_text() == CONFIG


def test_remote_and_artifacts_are_switched(server, project, monkeypatch):
    use(monkeypatch, server.owner)
    result = CliRunner().invoke(cli.app, ["remote", "s3", BUCKET, "--prefix", "/team/road/", "--endpoint", server.url])
    assert result.exit_code == 0, result.output
    assert "run.artifacts: null -> s3://weights/team/road/mlruns" in result.stdout
    remote = f"['remote \"s3\"']\n    url = s3://weights/team/road/dvc\n    endpointurl = {server.url}\n"
    assert (project / ".dvc" / "config").read_text() == CONFIG.replace("remote = store", "remote = s3") + remote
    before = (ROOT / "profiles" / "synthetic.yaml").read_text().splitlines()
    after = (project / "params.yaml").read_text().splitlines()
    changed = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    assert len(changed) == 2 and all(a.partition("#")[1:] == b.partition("#")[1:] for a, b in changed)
    run = load_params("params.yaml").run
    assert (run.artifacts, run.s3_endpoint) == ("s3://weights/team/road/mlruns", server.url)
    assert server.objects() == {}


def test_amazon_needs_no_endpoint(server, project, monkeypatch):
    """Another call takes away what an earlier one said; Amazon is the test's server here."""
    use(monkeypatch, server.owner)
    call = ["remote", "s3", BUCKET]
    assert CliRunner().invoke(cli.app, [*call, "--endpoint", server.url]).exit_code == 0
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.url)
    assert CliRunner().invoke(cli.app, [*call, "--prefix", ""]).exit_code == 0
    text = (project / ".dvc" / "config").read_text()
    assert text.endswith("['remote \"s3\"']\n    url = s3://weights/dvc\n")
    run = load_params("params.yaml").run
    assert (run.artifacts, run.s3_endpoint) == ("s3://weights/mlruns", None)


@pytest.mark.parametrize(
    ("who", "changes", "bucket", "words"),
    [
        (None, {}, BUCKET, "there are no credentials: set AWS_ACCESS_KEY_ID"),
        ("owner", {"AWS_SECRET_ACCESS_KEY": ""}, BUCKET, "AWS_SECRET_ACCESS_KEY"),
        ("owner", {"AWS_SECRET_ACCESS_KEY": "x"}, BUCKET, "the secret key does not fit the access key: check"),
        ("owner", {"AWS_ACCESS_KEY_ID": "AKIAUNKNOWN"}, BUCKET, "the access key is unknown there: check"),
        ("owner", {"AWS_PROFILE": "nobody"}, BUCKET, "nobody"),
        ("stranger", {}, BUCKET, "the credentials may not list it: ask its owner"),
        ("owner", {}, "nowhere", "there is no such bucket: create it"),
    ],
)
def test_bucket_that_does_not_answer(server, project, monkeypatch, capsys, who, changes, bucket, words):
    use(monkeypatch, (getattr(server, who) if who else {}) | changes)
    line = error_line(monkeypatch, capsys, bucket, "--endpoint", server.url)
    assert line.startswith(f"blobex: the bucket {bucket} at {server.url} cannot be used: ") and words in line
    assert unchanged(project)


def test_endpoint_where_nobody_listens(server, project, monkeypatch, capsys):
    use(monkeypatch, server.owner)
    line = error_line(monkeypatch, capsys, BUCKET, "--endpoint", "http://127.0.0.1:9")  # the port "discard"
    assert "nobody answers there" in line and unchanged(project)


@pytest.mark.parametrize(
    ("status", "page", "words"),
    [
        (200, b"<html><p>Hello</p></html>", "what answers there is no S3 server; check the endpoint"),
        (404, b"<html><p>Hello</html>", "it answers '404"),
    ],
)
def test_endpoint_of_something_else(server, project, monkeypatch, capsys, status, page, words):
    class Website(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_):
            pass

    use(monkeypatch, server.owner)
    with HTTPServer(("127.0.0.1", 0), Website) as website:
        Thread(target=website.serve_forever, args=(0.01,), daemon=True).start()
        line = error_line(monkeypatch, capsys, BUCKET, "--endpoint", f"http://127.0.0.1:{website.server_port}")
        website.shutdown()
    assert words in line and unchanged(project)


@pytest.mark.parametrize(
    ("bucket", "options", "words"),
    [
        ("s3://weights", [], "'s3://weights' is no bucket: give its bare name"),
        ("weights/folder", [], "is no bucket"),
        ("", [], "is no bucket"),
        (BUCKET, ["--prefix", "a b"], "the prefix 'a b' is no folder"),
        (BUCKET, ["--prefix", "../other"], "is no folder"),
        (BUCKET, ["--endpoint", "127.0.0.1:9000"], "is no address of a server: give http://host:port"),
        (BUCKET, ["--endpoint", "http://user:secret@host"], "is no address of a server"),
        (BUCKET, ["--endpoint", "http://host # x"], "is no address of a server"),
    ],
)
def test_names_that_cannot_be(project, monkeypatch, capsys, bucket, options, words):
    assert words in error_line(monkeypatch, capsys, bucket, *options)
    assert unchanged(project)


def test_folders_of_a_bucket():
    assert named_bucket("abc", "", None).url("dvc") == "s3://abc/dvc"
    assert named_bucket("abc", "x/y", "").url("mlruns") == "s3://abc/x/y/mlruns"
    with pytest.raises(BlobexError):
        named_bucket("ab", "", None)


def test_outside_of_a_project(server, project, monkeypatch, capsys):
    use(monkeypatch, server.owner)
    options = [BUCKET, "--endpoint", server.url]
    (project / ".dvc" / "config").unlink()
    (project / ".dvc").rmdir()
    assert "run this where .dvc/config and params.yaml are" in error_line(monkeypatch, capsys, *options)
    (project / ".dvc").mkdir()
    (project / ".dvc" / "config").write_text(CONFIG)
    assert unchanged(project)
    (project / "params.yaml").unlink()
    assert "cannot read params.yaml" in error_line(monkeypatch, capsys, *options)
    lines = (ROOT / "profiles" / "synthetic.yaml").read_text().splitlines(keepends=True)
    old = "".join(line for line in lines if not line.startswith("  artifacts:"))
    (project / "params.yaml").write_text(old)
    assert "missing key run.artifacts" in error_line(monkeypatch, capsys, *options)
    assert (project / "params.yaml").read_text() == old and (project / ".dvc" / "config").read_text() == CONFIG


def test_no_stage_runs_again_because_of_the_remote():
    """Locations of files are no parameters of a stage."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    used = {name for stage in stages.values() for name in stage.get("params", []) if name.partition(".")[0] == "run"}
    assert used == {"run.seed", "run.device", "run.devices", "run.precision", "run.batches"}
