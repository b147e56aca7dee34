"""One text to a server: attached to, started, adapted."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from narsil_graph.bench.agreement import scored
from narsil_graph.bench.requests import RequestPool
from narsil_graph.bench.variants import family, parse_variant
from narsil_graph.errors import Failure, UsageFailure
from tests.bench.instant_server import about, adapter
from tests.bench.spec_server import SPEC, SpecServer
from tests.client.fake_server import scored as answers
from tests.serving.processes import DEMO, ENVIRONMENT


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


def test_endpoint_is_attached_to_with_the_process_that_listens_and_outlives_it() -> None:
    with SpecServer(answers) as server:
        variant = parse_variant(server.endpoint, DEMO)
        for _ in range(2):
            with variant.start() as running:
                assert (running.spec, running.started.pids) == (SPEC, (os.getpid(),))


def test_served_one_answers_has_processes_and_is_gone_afterwards(environment: None) -> None:
    with parse_variant("serve: --buckets 1,8", DEMO).start() as running:
        subject = running.started.connect(2)
        found = scored(subject, RequestPool.constant(running.spec, 3, seed=0), 2, in_flight=2)
        subject.close()
        (pid,) = running.started.pids
    assert [len(scores) for scores in found.values()] == [3, 3]
    assert not Path(f"/proc/{pid}").exists()


def test_server_that_cannot_start_is_a_usage_failure_in_its_words(environment: None) -> None:
    with (
        pytest.raises(UsageFailure, match=r"ended with code 2: Error: No such option.*--bukkets"),
        parse_variant("serve: --bukkets 1", DEMO).start(),
    ):
        pass


def test_failure_of_whoever_asks_a_server_that_has_ended_says_that_it_has(environment: None) -> None:
    with (
        pytest.raises(Failure, match="a server that was started ended with code -9: it said nothing"),
        parse_variant("serve: --buckets 1", DEMO).start() as running,
    ):
        (pid,) = running.started.pids
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        raise Failure("A scored nothing")


def test_failure_of_whoever_asks_a_server_that_runs_stays_what_it_is(environment: None) -> None:
    with pytest.raises(Failure, match="A scored nothing"), parse_variant("serve: --buckets 1", DEMO).start():
        raise Failure("A scored nothing")


def test_toml_is_served_as_a_config(environment: None, tmp_path: Path) -> None:
    config = tmp_path / "a.toml"
    config.write_text("bukkets = 1\n")
    with (
        pytest.raises(UsageFailure, match=r"a\.toml has the unknown key 'bukkets'"),
        parse_variant(str(config), DEMO).start(),
    ):
        pass


def test_adapter_starts_its_own_model(monkeypatch: pytest.MonkeyPatch) -> None:
    with parse_variant(adapter(monkeypatch, "some_adapter", [about(5.0)]), DEMO).start() as running:
        subject = running.started.connect(1)
        pool = RequestPool.constant(running.spec, 3, seed=0)
        (scores,) = scored(subject, pool, 1, in_flight=1).values()
    assert np.array_equal(scores, pool[0].dense[:, 0])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("localhost:5555", "want tcp://HOST:PORT.* got 'localhost:5555'"),
        ("serve: --model 'a", "cannot be split into options: No closing quotation"),
        ("missing.toml", "there is no file missing.toml"),
        ("adapter:", "got 'adapter:'"),
        ("adapter:no_such_module_at_all", "no_such_module_at_all is no adapter: No module named"),
        ("adapter::model", "is no adapter: Empty module name"),
        ("adapter:.relative", "\\.relative is no adapter"),
        ("adapter:json", "json is no adapter: module 'json' has no attribute 'start'"),
    ],
)
def test_text_that_is_no_variant_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageFailure, match=said):
        parse_variant(text, DEMO)


def test_family_has_children_of_children() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = family(process.pid)
        process.communicate(b"\n")
    assert found[0] == process.pid and len(found) == 2
