"""A comparison in several places has the same bits: here, in processes, and on a dask cluster whose workers die."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import grownas
from grownas.errors import RunError
from grownas.runs import cluster as launcher
from grownas.runs import launchers, trial_cluster, trial_processes, trials
from grownas.runs.progress import Progress
from grownas.runs.trial_cluster import DaskWorkers

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")  # dask's own sockets

TINY = (
    *("checkpoint_seconds=0", "retrain.grown=false", "baselines.use=[zero]", "baselines.compare=[]"),
    *("strategies=growing", "strategy.max_nodes=1", "strategy.max_epochs=3", "strategy.fine_tune_epochs=1"),
    "strategy.l2_sp=[0]",
)


@pytest.fixture(scope="module")
def workers():
    """A scheduler and two worker processes of one thread each."""
    distributed = pytest.importorskip("distributed", reason="needs the extra `distributed`")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
    ) as made:
        yield made


@pytest.fixture
def one_worker():
    """A scheduler and a worker in threads of this process, so that tests can replace what the worker calls."""
    distributed = pytest.importorskip("distributed", reason="needs the extra `distributed`")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None, silence_logs=50
    ) as made:
        yield made


@pytest.fixture(scope="module")
def compare(runs, call):
    """Return a function that compares two seeds; it returns the folder."""

    def run(name, *options):
        ended = call("compare", *runs.options(f"name={name}", *TINY, *options))
        assert ended.code == 0, ended.err
        return runs.folder / name

    return run


@pytest.fixture(scope="module")
def here(compare) -> Path:
    """The comparison on this machine, one run after another in this process; do not write to it."""
    return compare("here", "seeds=[1,2]", "cluster=in_process")


@pytest.fixture
def assert_same(here, assert_same_run, read_json, without_times):
    def check(folder: Path) -> None:
        for seed in ("seed-1", "seed-2"):
            assert_same_run(here / seed, folder / seed)
        one, other = (without_times(read_json(path / "comparison.json")) for path in (here, folder))
        assert one == other

    return check


def in_thread(work, *args):
    """Return a function that waits for the work's end and returns its result."""
    results = []
    thread = threading.Thread(target=lambda: results.append(work(*args)))
    thread.start()

    def result():
        thread.join(120)
        (one,) = results
        return one

    return result


def pids(workers) -> list[int]:
    return [nanny.pid for nanny in workers.workers.values()]


@pytest.mark.slow  # `test_compare` has two processes, and the other tests here two workers
@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_number_of_processes_changes_nothing(forked_seeds, compare, assert_same, count):
    assert_same(compare(f"processes-{count}", "seeds=[1,2]", f"workers={count}"))


def kill_worker_of(run, workers) -> None:
    from distributed import Client

    with Client(workers.scheduler_address, set_as_default=False) as client:
        (address,) = [
            worker for worker, keys in client.processing().items() if any(key.startswith(run) for key in keys)
        ]
    (nanny,) = [nanny for nanny in workers.workers.values() if nanny.worker_address == address]
    os.kill(nanny.pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_killed_workers_run_goes_on_elsewhere_to_the_same_bits(
    workers, compare, here, runs, wait_for, assert_same, read_lines
):
    folder = runs.folder / "there"
    result = in_thread(compare, "there", "seeds=[1,2]", f"cluster={workers.scheduler_address}")
    wait_for(lambda: list(folder.glob("seed-1/checkpoint/*.part")))
    kill_worker_of("seed-1", workers)
    assert not (folder / "seed-1" / "summary.json").exists()
    assert result() == folder
    assert_same(folder)
    events = [line["event"] for line in read_lines(folder / "runs.jsonl")]
    assert sorted(events) == ["finished", "finished", "started", "started"]  # dask gave the run to a worker again


# ---- what a worker does, called here


@pytest.fixture
def folder(tmp_path):
    """A folder that looks like that of a run."""
    path = tmp_path / "run"
    path.mkdir()
    (path / "config.yaml").write_text("seed: 1\n")
    return path


@pytest.fixture
def attend(folder, monkeypatch):
    """Return a function that does a worker's work on the folder, with this code as the run."""

    def run(code="", *, version=launcher.__version__, config="seed: 1\n", timeout_s=60.0):
        def begin(path, threads, *, command, **options):
            return subprocess.Popen([sys.executable, "-c", code, str(path)], **options)

        monkeypatch.setattr(launcher, "start", begin)
        return launcher.run_folder(version, str(folder), config, os.getcwd(), 1, timeout_s)

    return run


def test_a_worker_refuses_another_version(attend):
    status, words = attend(version="0.0.9")
    assert status == 2
    assert f"has grownas {launcher.__version__}, the client 0.0.9: install the same" in words


def test_a_worker_that_does_not_share_the_folder_says_so(attend, folder):
    for config in ("seed: 2\n", "seed: 1\n"):
        status, words = attend(config=config)
        assert (status, "runs= must be a folder that all share" in words) == (2, True)
        (folder / "config.yaml").unlink(missing_ok=True)


@pytest.mark.parametrize("status", [0, 1, 2])
def test_a_worker_returns_the_exit_status(attend, status):
    assert attend(f"raise SystemExit({status})")[0] == status


def test_a_worker_kills_a_run_without_a_sign_of_life(attend):
    status, words = attend("import time; time.sleep(60)", timeout_s=0.3)
    assert (status, words) == (-signal.SIGKILL, "killed: no sign of life in its folder for worker_timeout=0.3 s")


def test_a_worker_stops_a_run_on_request(attend, folder):
    (folder / launcher.STOP).touch()
    assert attend("import time; time.sleep(60)")[0] == -signal.SIGKILL  # it has not begun: it holds no lock


def test_a_worker_waits_for_the_process_that_holds_the_folder(attend, folder):
    with launcher.RunDir(folder).lock():
        result = in_thread(attend, "open(__import__('sys').argv[1] + '/begun', 'w')")
        time.sleep(0.5)
        assert not (folder / "begun").exists()
    assert result()[0] == 0
    assert (folder / "begun").exists()


def test_a_worker_gives_up_a_folder_that_a_silent_process_holds(attend, folder):
    with launcher.RunDir(folder).lock():
        status, words = attend(timeout_s=0.3)
    assert (status, "another process holds this folder" in words) == (1, True)


def test_a_run_ends_with_its_worker(folder):
    process = launchers.start(folder, 1, command="grownas.runs.attended", stdin=subprocess.PIPE)
    process.stdin.close()
    assert process.wait(60) == 1


@pytest.fixture
def stand_in(monkeypatch):
    """Return a function that has workers run this code as the run of a folder."""

    def use(code):
        def begin(path, threads, *, command, **options):
            return subprocess.Popen([sys.executable, "-c", code, str(path)], **options)

        monkeypatch.setattr(launcher, "start", begin)

    return use


def test_runs_go_to_the_cluster_and_their_ends_come_back(one_worker, folder, stand_in):
    stand_in("import sys; sys.exit(int(open(sys.argv[1] + '/status').read()))")
    lines, ended = [], []
    with launcher.Dask(one_worker.scheduler_address, None, threads=1, timeout_s=9, say=lines.append) as made:
        for status in (0, 3):
            assert made.has_room()
            (folder / "status").write_text(str(status))
            made.submit(folder)
            while not (found := made.poll()):
                time.sleep(0.01)
            ended += [(one.folder, one.status) for one in found]
    assert ended == [(folder, 0), (folder, 3)]
    (line,) = lines
    assert line.startswith(f"cluster={one_worker.scheduler_address}: 1 workers")


# ---- trials of one search


ECHO = """
import json, sys
def say(line): print(json.dumps(line), flush=True)
say({"versions": {"torch": "2"}, "host": "h"})
for line in sys.stdin:
    order = json.loads(line)
    open(sys.argv[1] + "/" + order["key"], "w")
    if order["key"] == "dies": raise SystemExit(3)
    while order["key"] == "sleeps": pass
    say({"ended": order["error"]})
"""


@pytest.fixture
def trial_workers(one_worker, folder, monkeypatch):
    """Workers of trials on the cluster, with a program that only answers; and a function that submits a trial."""
    monkeypatch.setattr(trial_processes, "COMMAND", (sys.executable, "-c", ECHO))
    (folder / "checkpoint").mkdir()
    options, say = trial_processes.WorkerOptions({"torch": "2"}, 1, 30.0), Progress(quiet=True).say

    def submit(made, name, error=None):
        (folder / "checkpoint" / f"{name}{trials.REQUEST}").touch()
        made.submit(name, json.dumps({"key": name, "error": error}))

    with DaskWorkers(folder, None, options, address=one_worker.scheduler_address, say=say) as made:
        yield made, submit
    for kept in trial_cluster._kept.pop(str(folder), []):
        kept[0].end()


def answers_of(made, count):
    found = []
    while len(found) < count:
        found += made.wait(1.0)
    return sorted(found)


def test_trials_go_to_the_cluster_and_their_answers_come_back(trial_workers, folder):
    made, submit = trial_workers
    assert made.count == 2  # threads
    submit(made, "one")
    submit(made, "two", {"message": "nan"})
    assert answers_of(made, 2) == [trials.Answer("one"), trials.Answer("two", {"message": "nan"})]
    submit(made, "dies")
    assert answers_of(made, 1) == [trials.Answer("dies", lost=f"ended with status 3; see {folder / 'log.txt'}")]


@pytest.mark.parametrize("command", [["/no/such/program"], [sys.executable, "-c", "print('no JSON')"]])
def test_an_error_that_nobody_expects_loses_the_trial_alone(trial_workers, folder, monkeypatch, command):
    made, submit = trial_workers
    with monkeypatch.context() as patch:
        patch.setattr(trial_processes, "COMMAND", command)
        submit(made, "one")
        ((name, error, lost),) = answers_of(made, 1)
    assert (name, error) == ("one", None)
    assert lost.startswith(("raised FileNotFoundError: ", "raised JSONDecodeError: "))
    ((worker, _),) = trial_cluster._kept[str(folder)]
    assert worker.process is None
    submit(made, "one")
    assert answers_of(made, 1) == [trials.Answer("one")]


def test_a_trial_that_is_dropped_is_left_by_its_worker(trial_workers, folder, wait_for):
    made, submit = trial_workers
    submit(made, "sleeps")
    wait_for(lambda: (folder / "sleeps").exists())
    made.drop(["sleeps"])
    wait_for(lambda: trial_cluster._kept.get(str(folder)))
    ((worker, _),) = trial_cluster._kept[str(folder)]
    assert worker.process is None
    submit(made, "one")
    assert answers_of(made, 1) == [trials.Answer("one")]


def test_a_worker_of_trials_that_does_not_share_the_folder_ends_the_search_in_words(trial_workers, folder):
    made, submit = trial_workers
    (folder / "config.yaml").write_text("seed: 2\n")
    submit(made, "one")
    with pytest.raises(RunError, match="runs= must be a folder that all share"):
        answers_of(made, 1)


@pytest.mark.slow
def test_a_search_on_the_cluster_has_the_same_bits_though_a_worker_is_killed(
    workers, runs, runner, call, wait_for, assert_same_run
):
    strategy = "strategy={use: random, max_nodes: 2, max_epochs: 3, patience: 3, guard: false, rates: [0.01]}"
    options = (strategy, "budget.genotypes=12", "baselines.use=[zero]", "retrain.grown=false")
    alone, folder = runs.search("alone", *options), runner.folder / "there"
    there = (f"cluster={workers.scheduler_address}", "trial_workers=null", "name=there")
    result = in_thread(call, "search", *runner.options(*options, *there))
    wait_for(lambda: list(folder.glob("checkpoint/random-2.done")))
    os.kill(pids(workers)[0], signal.SIGKILL)
    ended = result()
    assert ended.code == 0, ended.err
    assert_same_run(alone, folder)


# ---- what a user meets


def test_a_scheduler_that_does_not_answer_is_told(runner, call):
    dask = pytest.importorskip("dask", reason="needs the extra `distributed`")
    pytest.importorskip("distributed", reason="needs the extra `distributed`")
    with dask.config.set({"distributed.comm.timeouts.connect": "300ms"}):
        ended = call("compare", *runner.options("name=lost", "seeds=[1]", *TINY, "cluster=tcp://127.0.0.1:9"))
    assert ended.code == 2
    assert "cluster=tcp://127.0.0.1:9: cannot connect" in ended.err
    assert "Traceback" not in ended.err


def test_a_cluster_object_is_taken_by_its_address(data, tmp_path):
    dask = pytest.importorskip("dask", reason="needs the extra `distributed`")
    pytest.importorskip("distributed", reason="needs the extra `distributed`")
    made = SimpleNamespace(scheduler_address="tcp://127.0.0.1:9")
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "300ms"}),
        pytest.raises(launcher.ConfigError, match=r"cluster=tcp://127\.0\.0\.1:9: cannot connect"),
    ):
        grownas.compare(data=str(data), seeds=[1], cluster=made, folder=tmp_path / "c", quiet=True)


def test_tls_without_its_options_is_told():
    pytest.importorskip("distributed", reason="needs the extra `distributed`")
    made = launcher.Dask("tls://127.0.0.1:9", 1, threads=1, timeout_s=9, say=Progress(quiet=True).say)
    with pytest.raises(launcher.ConfigError, match="cannot connect"):
        made.__enter__()


def test_tls_with_the_certificates_of_dasks_config(tmp_path, folder, stand_in):
    dask = pytest.importorskip("dask", reason="needs the extra `distributed`")
    distributed = pytest.importorskip("distributed", reason="needs the extra `distributed`")
    if shutil.which("openssl") is None:
        pytest.skip("needs the program openssl")
    key, cert = str(tmp_path / "key.pem"), str(tmp_path / "cert.pem")
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    subprocess.run([*make, "-keyout", key, "-out", cert], check=True, capture_output=True)
    options = {"require-encryption": True, "tls.ca-file": cert}
    for role in ("scheduler", "worker", "client"):
        options |= {f"tls.{role}.cert": cert, f"tls.{role}.key": key}
    stand_in("raise SystemExit(3)")
    with (
        dask.config.set({f"distributed.comm.{name}": value for name, value in options.items()}),
        distributed.LocalCluster(
            n_workers=1, processes=False, dashboard_address=None, protocol="tls", security=distributed.Security()
        ) as cluster,
        launcher.Dask(cluster.scheduler_address, 1, threads=1, timeout_s=9, say=Progress(quiet=True).say) as made,
    ):
        assert cluster.scheduler_address.startswith("tls://")
        made.submit(folder)
        while not (found := made.poll()):
            time.sleep(0.01)
        assert [one.status for one in found] == [3]


def test_without_dask_a_cluster_is_refused_in_words(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    made = launcher.Dask("tcp://127.0.0.1:9", 1, threads=1, timeout_s=9, say=Progress(quiet=True).say)
    with pytest.raises(launcher.ConfigError, match=r"needs dask.distributed; install it with `pip install 'grownas\["):
        made.__enter__()


# ---- long: many deaths


@pytest.mark.slow
def test_a_killed_client_goes_on_from_the_folder(workers, compare, runner, fork, wait_for, call, assert_same):
    options = ("seeds=[1,2]", f"cluster={workers.scheduler_address}")
    process = fork("compare", *runner.options("name=killed", *TINY, *options))
    folder = runner.folder / "killed"
    wait_for(lambda: list(folder.glob("seed-*/checkpoint/*.part")))
    process.kill()
    process.join()
    assert not (folder / "comparison.json").exists()
    ended = call("resume", folder)
    assert ended.code == 0, ended.err
    assert_same(folder)


@pytest.mark.slow
def test_ctrl_c_stops_the_runs_on_the_cluster(workers, runner, finish, wait_for, call, assert_same):
    options = ("seeds=[1,2]", f"cluster={workers.scheduler_address}", "quiet=false")
    process = runner.start("compare", "name=stopped", *TINY, *options)
    folder = runner.folder / "stopped"
    wait_for(lambda: list(folder.glob("seed-*/checkpoint/*.part")), process)
    process.send_signal(signal.SIGINT)
    ended = finish(process)
    assert ended.code == 130, ended.err
    assert f"`grownas resume {folder}` continues the run" in ended.err
    assert f"cluster={workers.scheduler_address}: 2 workers" in ended.err
    ended = call("resume", folder, "cluster=processes", "quiet=true")  # another place, the same bits
    assert ended.code == 0, ended.err
    assert_same(folder)


@pytest.mark.slow
def test_a_killed_scheduler_ends_the_comparison_in_words_and_it_goes_on(
    tmp_path, runner, finish, wait_for, call, assert_same
):
    pytest.importorskip("distributed", reason="needs the extra `distributed`")
    code = "from distributed import LocalCluster as C; c = C(2, threads_per_worker=1, dashboard_address=None); "
    code += "print(c.scheduler_address, flush=True); input()"
    main = f"if __name__ == '__main__':\n {code}\n"
    script = tmp_path / "cluster.py"
    script.write_text(main)
    scheduler = subprocess.Popen(
        [sys.executable, str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    address = scheduler.stdout.readline().strip()
    process = runner.start("compare", "name=lost", *TINY, "seeds=[1,2]", f"cluster={address}")
    folder = runner.folder / "lost"
    wait_for(lambda: list(folder.glob("seed-*/checkpoint/*.part")), process)
    scheduler.kill()
    scheduler.communicate()
    ended = finish(process)
    assert ended.code == 2
    assert "the connection to the scheduler is lost" in ended.err
    ended = call("resume", folder, "cluster=processes")
    assert ended.code == 0, ended.err
    assert_same(folder)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_workers_killed_again_and_again_lose_nothing(workers, runs, compare, assert_same):
    folder, kills = runs.folder / "shot", 0
    result = in_thread(compare, "shot", "seeds=[1,2]", f"cluster={workers.scheduler_address}")
    while kills < 10 and not (folder / "comparison.json").exists():
        time.sleep(3)
        os.kill(pids(workers)[kills % 2], signal.SIGKILL)
        kills += 1
    result()
    assert_same(folder)
