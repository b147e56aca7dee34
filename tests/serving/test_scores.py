"""A served score is the model's score, in whatever company and by whatever engine it was computed."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import zmq

from narsil_client import Client
from narsil_graph.engine.exact import exact_scores
from narsil_graph.model.weights import Model
from narsil_transport.status import Status
from narsil_transport.wire import HealthReply, InferRequest, ScoresReply, decode_reply, encode_request
from tests.serving.peers import Peer, assert_right, multi_hot, one_hot
from tests.serving.processes import ServerProcess


@pytest.mark.parametrize("rows", [1, 2, 8, 9, 63, 64])
def test_one_hot_scores_are_the_models(peer: Peer, model: Model, rows: int) -> None:
    assert_right(peer.scores(one_hot(model, rows)), model, one_hot(model, rows))


@pytest.mark.parametrize("rows", [1, 7, 64])
def test_multi_hot_scores_are_the_models(peer: Peer, model: Model, rows: int) -> None:
    assert_right(peer.scores(multi_hot(model, rows)), model, multi_hot(model, rows))


def test_rows_without_any_id_are_scored(peer: Peer, model: Model) -> None:
    bags = multi_hot(model, 3)
    assert bags.lengths is not None and bags.values is not None
    empty = replace(bags, lengths=np.zeros_like(bags.lengths), values=bags.values[:0])
    assert_right(peer.scores(empty), model, empty)


def test_int64_ids_score_as_int32_ids_do(peer: Peer, model: Model) -> None:
    request = one_hot(model, 5)
    assert request.ids is not None
    wide = replace(request, ids=request.ids.astype(np.int64))
    assert peer.scores(wide).tobytes() == peer.scores(request).tobytes()


@pytest.mark.parametrize("rows", [65, 200, 1000, 4096])
@pytest.mark.parametrize("make", [one_hot, multi_hot])
def test_request_above_the_largest_bucket_is_split_and_joined(
    peer: Peer, model: Model, make: object, rows: int
) -> None:
    request = one_hot(model, rows) if make is one_hot else multi_hot(model, rows)
    assert_right(peer.scores(request), model, request)


def test_request_with_more_ids_than_a_bucket_holds_is_split_by_its_ids(peer: Peer, model: Model) -> None:
    """60 rows of 12 ids a feature: a bucket of 64 rows has room for four."""
    rng, features = np.random.default_rng(0), len(model.spec.sparse_features)
    ends = np.repeat(np.tile([table.rows for table in model.spec.feature_tables], 60), 12)
    request = replace(
        multi_hot(model, 60),
        lengths=np.full((60, features), 12, np.int32),
        values=rng.integers(0, ends, dtype=np.int32),
    )
    assert_right(peer.scores(request), model, request)


def test_requests_of_many_clients_in_flight_each_get_their_own_answer_once(server: ServerProcess, model: Model) -> None:
    requests = [one_hot(model, 1 + n % 70, n) if n % 3 else multi_hot(model, 1 + n % 70, n) for n in range(60)]
    peers = [Peer(server.endpoint) for _ in range(4)]
    sent = {(p, peer.send(request)): request for request in requests for p, peer in enumerate(peers)}
    for number, peer in enumerate(peers):
        for _ in requests:
            reply = peer.receive()
            assert isinstance(reply, ScoresReply)
            assert_right(reply.scores, model, sent.pop((number, reply.request_id)))
        assert peer.health().request_id == 999
        peer.close()
    assert not sent


def test_reply_says_where_it_was_computed_and_how_long_that_took(peer: Peer, model: Model) -> None:
    reply = peer.ask(replace(one_hot(model, 5), traceparent="00-trace-span-01"))
    assert isinstance(reply, ScoresReply)
    assert (reply.bucket_rows, reply.rows_filled, reply.version) == (8, 5, model.version)
    assert reply.traceparent == "00-trace-span-01"
    assert min(reply.times) >= 0 and reply.times.server_us >= reply.times.fill_us + reply.times.launch_us > 0


def test_request_that_names_the_model_or_has_a_budget_is_served(peer: Peer, model: Model) -> None:
    request = replace(one_hot(model, 2), model=model.spec.name, deadline_us=10_000_000)
    assert_right(peer.scores(request), model, request)


def test_req_socket_is_answered(server: ServerProcess, model: Model) -> None:
    request = one_hot(model, 2)
    with zmq.Context() as context, context.socket(zmq.REQ) as socket:
        socket.rcvtimeo = 20_000
        socket.connect(server.endpoint)
        socket.send_multipart(encode_request(request))
        reply = decode_reply(socket.recv_multipart())
    assert isinstance(reply, ScoresReply)
    assert_right(reply.scores, model, request)


def test_python_client_gets_the_same_scores(server: ServerProcess, model: Model) -> None:
    bags, request = multi_hot(model, 10), one_hot(model, 100)
    with Client(server.endpoint, timeout_s=20) as client:
        pending = [client.submit(dense=request.dense, ids=request.ids) for _ in range(5)]
        assert_right(client.predict(dense=bags.dense, lengths=bags.lengths, values=bags.values).scores, model, bags)
        for each in pending:
            assert_right(each.result().scores, model, request)


def test_health_is_ready(peer: Peer, model: Model) -> None:
    health = peer.health()
    assert (health.state.value, health.inflight, health.version) == ("ready", 0, model.version)
    assert health.uptime_s > 0


def test_metadata_describes_the_model_and_counts_replies(peer: Peer, model: Model) -> None:
    before = peer.metadata().meta
    peer.scores(one_hot(model, 3))
    peer.refusal(replace(one_hot(model, 3), model="none"))
    after = peer.metadata().meta
    assert after["spec"] == model.spec.to_dict()
    assert after["rows_max"] == 4096
    assert [rows for rows, _ in after["buckets"]] == [1, 8, 64]
    counted = [m["counters"]["replies"].get(Status.UNKNOWN_MODEL.name, 0) for m in (before, after)]
    assert counted[1] == counted[0] + 1
    rows = [m["counters"]["buckets"].get("8", {"rows": 0})["rows"] for m in (before, after)]
    assert rows[1] == rows[0] + 3


# A precision is a permission: each bucket takes the fastest kernels it allows, so only the bound can be checked.
VARIANTS = {
    "inline": (("--mode", "inline"), 1e-6),
    "worker, eager, over tcp": (("--mode", "worker", "--engine", "eager", "--bind", "tcp://127.0.0.1:*"), 1e-6),
    "bf16": (("--precision", "bf16"), 2e-2),
    "int8": (("--precision", "int8", "--mode", "batch"), 1e-1),
}


@pytest.fixture(scope="module", params=list(VARIANTS))
def variant(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ServerProcess, float]]:
    arguments, tolerance = VARIANTS[request.param]
    with ServerProcess(tmp_path_factory.mktemp("variant"), "--buckets", "1,16", *arguments) as running:
        yield running, tolerance
        assert running.stop() == 0, running.log


def test_every_mode_engine_and_precision_scores_within_its_tolerance(
    variant: tuple[ServerProcess, float], model: Model
) -> None:
    server, tolerance = variant
    requests: dict[int, InferRequest] = {}
    with Peer(server.endpoint) as peer:
        for request in (one_hot(model, 1), multi_hot(model, 16), one_hot(model, 50), multi_hot(model, 40)):
            requests[peer.send(request)] = request
        for _ in range(len(requests)):
            reply = peer.receive()
            assert isinstance(reply, ScoresReply)
            exact = exact_scores(model, requests.pop(reply.request_id))
            np.testing.assert_allclose(reply.scores, exact, rtol=0, atol=tolerance)
        assert isinstance(peer.health(), HealthReply)
