"""Sweeps with a real PostgreSQL server: workers of one machine and of several, and killed ones."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from chaos_sweep import disturbed
from optuna.trial import TrialState
from worlds.postgresql_server import PASSWORD, programs, serving
from worlds.tiny_sweep import command, opened, process_id, repeats, swept

from blobex.core.errors import BlobexError
from blobex.sweeps.storage import VARIABLE, StudyFolder
from blobex.sweeps.trials import failure

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(programs() is None, reason="PostgreSQL is not installed (Debian's package postgresql)"),
]
GOAL = 12


@pytest.fixture(scope="module")
def server():
    pytest.importorskip("psycopg")
    with serving() as url:
        yield url


@pytest.fixture
def url(server):
    """URL of an empty database."""
    from sqlalchemy import create_engine, text

    engine = create_engine(server)
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()
    return server


def started(folder, url, workers=2, seconds=0.5):
    """A sweep in a process of its own, as at another machine: nothing but the database is shared."""
    with (folder.parent / f"{folder.name}.txt").open("w") as log:
        return subprocess.Popen(
            command(folder, GOAL, seconds, 0, "none", workers),
            env=os.environ | {VARIABLE: url},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def check_whole(study, goal):
    """Assert that every trial was run to its end, once; return the lost ones."""
    trials = study.trials()
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert len(done) == goal == study.counted()
    assert len({tuple(trial.params.values()) for trial in done}) == goal
    lost = [trial for trial in trials if trial.state == TrialState.FAIL]
    assert len(done) + len(lost) == len(trials)
    assert set(repeats(trials)) <= {trial.number for trial in lost}
    names = [trial.user_attrs["name"] for trial in done if "name" in trial.user_attrs]
    assert sorted(names) == ["present", "published"]
    return lost


def test_killed_worker_loses_nothing_and_no_password_is_shown(tmp_path, url):
    process = started(tmp_path / "here", url)
    study, killed, lines = None, None, []
    while process.poll() is None:
        time.sleep(0.2)
        lines += [line for line in command_lines() if PASSWORD in line]
        if study is None and (tmp_path / "here" / "workers").exists():
            study = opened(tmp_path / "here", url=url)
        running = study.study.get_trials(states=(TrialState.RUNNING,)) if study else []
        busy = [trial for trial in running if "settings" in trial.user_attrs and trial.number >= 3]
        if busy and killed is None:
            killed = busy[0]
            os.kill(process_id(killed), signal.SIGKILL)
    assert process.returncode == 0, (tmp_path / "here.txt").read_text()
    with closing(study):
        lost = check_whole(study, GOAL)
    assert [trial.number for trial in lost] == [killed.number] and "killed" in failure(lost[0])
    assert lines == []
    assert PASSWORD not in "".join(path.read_text() for path in tmp_path.rglob("*.txt"))


def command_lines():
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue


def test_machines_that_begin_together_share_the_trials(tmp_path, url):
    processes = [started(tmp_path / name, url) for name in ("one", "two")]
    for process in processes:
        assert process.wait(timeout=300) == 0, [path.read_text() for path in tmp_path.glob("*.txt")]
    with closing(opened(tmp_path / "one", url=url)) as study:
        assert check_whole(study, GOAL) == []
    folders = {path.name for path in tmp_path.iterdir() if (path / "best.yaml").is_file()}
    assert folders == {"one", "two"}


def test_killing_workers_and_the_sweep_loses_nothing(tmp_path, url):
    counts = disturbed(tmp_path, kills=8, seed=1, url=url)
    assert counts.faults() == [] and counts.kills == 8


def test_lock_of_a_killed_process_is_released(tmp_path, url):
    code = (
        "import os, signal, sys; from pathlib import Path; from blobex.sweeps.storage import StudyFolder\n"
        f"with StudyFolder(Path({str(tmp_path)!r}), {url!r}).exclusive(): os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    begun = time.monotonic()
    with StudyFolder(tmp_path / "elsewhere", url).exclusive():
        assert time.monotonic() - begun < 20


def test_wrong_password_is_told_without_it(tmp_path, url):
    wrong = url.replace(PASSWORD, "sweet-lemon")
    with pytest.raises(BlobexError, match="password authentication failed") as caught:
        swept(tmp_path, 2, url=wrong)
    assert "lemon" not in str(caught.value)
