"""Defaults of OpenMP's variables."""

import os

import pytest

from blobex.core.threads import container_limit, set_thread_defaults


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(4)))
    return os.environ  # in which pytest names the test


def openmp(environment):
    return {name: value for name, value in environment.items() if name.startswith("OMP_")}


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("max 100000", 0),
        ("50000 100000", 1),
        ("250000 100000", 2),
        ("400000 100000", 0),  # as many as there are
        ("1600000 100000", 0),
        ("damaged", 0),
        ("a b", 0),
    ],
)
def test_quota_of_a_container(quota, cores, tmp_path):
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert container_limit(tmp_path) == cores


def test_waiting_threads_sleep_and_a_container_has_fewer(environment, tmp_path):
    set_thread_defaults(tmp_path)
    assert openmp(environment) == {"OMP_WAIT_POLICY": "passive"}
    (tmp_path / "cpu.max").write_text("200000 100000\n")
    set_thread_defaults(tmp_path)
    assert openmp(environment) == {"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "2"}


def test_variables_that_are_set_stay(environment, tmp_path):
    (tmp_path / "cpu.max").write_text("200000 100000\n")
    given = {"OMP_WAIT_POLICY": "active", "OMP_NUM_THREADS": "3"}
    environment.update(given)
    set_thread_defaults(tmp_path)
    assert openmp(environment) == given
