"""Jobs: they outlive who started them, are found again, exclude each other, and undo what they must when they are ended."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

import servers
from ansible_collections.njoy.untangle.plugins.module_utils import engine
from ansible_collections.njoy.untangle.plugins.module_utils.engine import compare, jobs, marks
from ansible_collections.njoy.untangle.plugins.module_utils.engine.server import Server
from ansible_collections.njoy.untangle.plugins.module_utils.errors import UntangleError

ROOT = pathlib.Path(__file__).resolve().parents[2]


def fill(client, keys=30000):
    for start in range(0, keys, 5000):
        with client.pipeline(transaction=False) as work:
            for i in range(start, start + 5000):
                work.set("k%d" % i, os.urandom(40), px=3_600_000 + i if i % 3 == 0 else None)
            work.execute()


each_version = pytest.mark.parametrize("version", servers.MAIN)


@pytest.fixture
def version():
    """What does not depend on the server is tested with one; a test that names `version` itself chooses."""
    return servers.MAIN[0]


@pytest.fixture
def pair(server, tmp_path, version):
    source, target = server(version), server(version)
    options = {
        "source": source.connection(),
        "routes": [{"purpose": "pipeline", "database": 5, "target": target.connection(), "target_database": 0}],
        "state_dir": str(tmp_path / "state"),
        "max_latency_ms": 5.0,
    }
    return source, target, options


def equal(source, target):
    return compare.Comparer(Server(source.connection(), 5), Server(target.connection())).run()


def rules(server):
    """The default user's rules; `sanitize-payload` is what no word at all means as well."""
    return [
        line.replace(" sanitize-payload", "") for line in server.client().acl_list() if line.startswith("user default ")
    ]


def start(options, kind="copied"):
    return jobs.start(options["state_dir"], kind, options, "tester", None)


def finish(options, job):
    return jobs.call({"job": job}, "", options, None)


def test_package_imports_every_file_that_must_travel():
    there = {p.stem for p in pathlib.Path(engine.__file__).parent.glob("*.py")} - {"__init__", "cli"}
    assert there == set(engine.__all__)


def test_a_second_call_joins_the_job_that_runs(pair):
    source, _target, options = pair
    fill(source.client(5), 60000)
    job = start(options)
    assert jobs.find(options["state_dir"], "copied", options) == job
    with pytest.raises(UntangleError, match="being worked on: copied by tester since"):
        jobs.find(options["state_dir"], "compare", options)
    result = jobs.call({}, "copied", options, None)
    assert result["purposes"]["pipeline"]["keys_copied"] == 60000
    assert jobs.running(options["state_dir"]) is None
    assert jobs.call({}, "copied", options, None)["changed"] is False


def test_a_job_tells_how_far_it_is_and_how_long_it_will_take(pair):
    source, _target, options = pair
    keys = 1_000_000
    # it tells twice a second, and the fastest machines copy half a million keys in one
    source.client(5).eval("for i = 1, tonumber(ARGV[1]) do redis.call('SET', 'k' .. i, ('x'):rep(40)) end", 0, keys)
    job, seen = start(dict(options, max_latency_ms=0.1)), []
    while (answer := jobs.poll(options["state_dir"], job)).get("running"):
        seen.append(answer["progress"])
        time.sleep(0.05)
    assert answer["purposes"]["pipeline"]["keys_copied"] == keys
    midway = [one for one in seen if 0 < one.get("keys", 0) < keys]
    assert midway and {one["keys_total"] for one in midway} == {keys}
    # the first line knows of a single page
    assert any(one["seconds_left"] > 0.2 for one in midway)
    assert all(one["rate"] > 0 and one["bytes"] > 0 for one in midway)


def test_a_job_whose_caller_was_killed_at_once_is_found(pair, monkeypatch):
    source, _target, options = pair
    fill(source.client(5), 60000)
    # as if the caller had been killed before it could write down whom it started
    monkeypatch.setattr(jobs, "register", lambda *arguments: None)
    job = start(options)
    end = time.monotonic() + 20
    while jobs.find(options["state_dir"], "copied", options) is None and time.monotonic() < end:
        time.sleep(0.01)
    assert jobs.find(options["state_dir"], "copied", options) == job
    assert finish(options, job)["purposes"]["pipeline"]["keys_copied"] == 60000


@pytest.mark.parametrize(("after_keys", "version"), list(zip([1, 9000, 20000], servers.MAIN)))
def test_killed_in_mid_copy_a_second_run_finishes(pair, after_keys):
    source, target, options = pair
    # (so many that one who waits on a busy machine sees the copy before its end)
    fill(source.client(5), 100_000)
    target.client().config_set("maxmemory", 900_000_000)
    target.client().config_set("maxmemory-policy", "allkeys-lru")
    job = start(dict(options, max_latency_ms=0.4))
    facts = json.loads((pathlib.Path(options["state_dir"]) / "jobs" / job / "job.json").read_text())
    while target.client().dbsize() < after_keys:
        time.sleep(0.001)
    os.kill(facts["pid"], signal.SIGKILL)
    os.waitpid(facts["pid"], 0)
    with pytest.raises(UntangleError, match="ended without a result"):
        finish(options, job)
    # What goes away at the source meanwhile must not stay at the target.
    source.client(5).delete("k0", "k1", "k2")
    again = jobs.call({}, "copied", options, None)
    assert not again.get("failed"), again["msg"]
    assert again["purposes"]["pipeline"]["state"] == "copied"
    assert equal(source, target).summary()["kinds"] == {}
    assert target.client().dbsize() == source.client(5).dbsize() == 99_997
    assert target.client().config_get("maxmemory")["maxmemory"] == "900000000"
    assert target.client().config_get("maxmemory-policy")["maxmemory-policy"] == "allkeys-lru"


def test_the_controller_is_lost_and_the_job_goes_on(pair):
    source, target, options = pair
    fill(source.client(5), 40000)
    script = (
        "import json, sys; from ansible_collections.njoy.untangle.plugins.module_utils.engine import jobs; "
        "options = json.load(sys.stdin); jobs.call({}, 'copied', options, None)"
    )
    environment = dict(os.environ, PYTHONPATH=str(ROOT / ".venv/collections"))
    controller = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, env=environment, text=True)
    controller.stdin.write(json.dumps(options))
    controller.stdin.close()
    while not target.client().dbsize():
        time.sleep(0.001)
    controller.kill()
    controller.wait()
    while jobs.running(options["state_dir"]):
        time.sleep(0.05)
    assert equal(source, target).differences == 0
    assert jobs.call({}, "copied", options, None)["changed"] is False


def test_ended_politely_a_cutover_lets_go_of_its_fence(pair):
    source, target, options = pair
    fill(source.client(5), 60000)
    jobs.call({}, "copied", options, None)
    before = rules(source)
    job = start(dict(options, max_latency_ms=0.4), "cut_over")
    # the fence ends this test's own connections as well
    while True:
        with contextlib.suppress(UntangleError):
            admin = Server(source.connection())
            if marks.fenced(admin):
                break
    assert jobs.stop(options["state_dir"])
    assert "stopped" in finish(options, job)["msg"]
    assert marks.fenced(admin) == []
    assert rules(source) == before
    source.client(5).set("k0", "still written here")
    assert jobs.call({}, "cut_over", options, None)["purposes"]["pipeline"]["state"] == "cut_over"
    assert target.client().get("k0") == b"still written here"


def test_no_password_stays_in_the_state_directory_or_on_a_command_line(pair):
    source, _target, options = pair
    fill(source.client(5), 20000)
    source.client().acl_setuser(
        "admin", enabled=True, passwords=["+s3cret-of-the-source"], keys=["*"], channels=["*"], commands=["+@all"]
    )
    options = dict(options, source=dict(options["source"], username="admin", password="s3cret-of-the-source"))
    start(dict(options, max_latency_ms=0.4))
    seen = 0
    while jobs.running(options["state_dir"]):
        for line in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
            try:
                assert b"s3cret-of-the-source" not in line.read_bytes(), line
            except (FileNotFoundError, ProcessLookupError):
                continue
        seen += 1
    assert seen
    for path in pathlib.Path(options["state_dir"]).rglob("*"):
        if path.is_file() and path.parent.name != "secrets":
            assert b"s3cret-of-the-source" not in path.read_bytes(), path
    assert oct(pathlib.Path(options["state_dir"], "split.json").stat().st_mode)[-3:] == "600"


@each_version
def test_retire_refuses_then_backs_up_empties_and_restores(pair, version):
    source, target, options = pair
    client = source.client(5)
    fill(client, 5000)
    client.xadd("stream", {"a": "1"})
    client.set("big", os.urandom(700_000))
    quick = dict(options, watch_seconds=0, quiet_seconds=0.2, server_command=list(servers.command(version)))
    jobs.call({}, "copied", options, None)
    assert "not cut over" in jobs.call({}, "retired", quick, None)["msg"]
    jobs.call({}, "cut_over", options, None)
    assert "is watched for" in jobs.call({}, "retired", dict(quick, watch_seconds=3600), None)["msg"]
    client.get("k1")
    assert "still have database 5" in jobs.call({}, "retired", quick, None)["msg"]
    client.connection_pool.disconnect()
    assert source.client().dbsize() == 0
    source.client().connection_pool.disconnect()
    result = jobs.call({}, "retired", quick, None)
    assert result["server_empty"] is True, result
    assert result["purposes"]["pipeline"]["backup_keys"] == 5002
    assert source.client(5).dbsize() == 0
    source.client(5).connection_pool.disconnect()
    assert jobs.call({}, "retired", quick, None)["changed"] is False
    assert jobs.call({}, "restored", options, None)["purposes"]["pipeline"]["restored_keys"] == 5002
    assert equal(source, target).differences == 0


@each_version
def test_retire_refuses_while_a_key_changes(pair):
    source, _target, options = pair
    fill(source.client(5), 5000)
    jobs.call({}, "copied", options, None)
    jobs.call({}, "cut_over", options, None)
    for connected in list(source._clients):
        connected.connection_pool.disconnect()
    job = start(dict(options, watch_seconds=0, quiet_seconds=2.0), "retired")
    time.sleep(1.2)
    # By somebody whom the fence does not hold, from another database, so that nobody has this one selected.
    password = pathlib.Path(options["state_dir"], "secrets", "source.engine").read_text()
    admin = source.client(0, username="untangle", password=password)
    admin.set("straggler", "1")
    admin.move("straggler", 5)
    answer = finish(options, job)
    assert "changed within" in answer["msg"], answer
    assert source.client(5).dbsize() == 5001
