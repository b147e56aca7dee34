"""A ROUTER that answers by a function, and tells which model it serves."""

from narsil_client import MetadataReply
from narsil_graph.model.spec import ModelSpec
from narsil_transport.messages import CancelRequest, ControlRequest, InferRequest, Operation
from narsil_transport.wire import encode_metadata
from tests.client.fake_server import Answer, FakeServer, Replies
from tests.engine.tiny import Shape

SPEC = Shape().spec()


class SpecServer(FakeServer):
    """Serves for a `with` block, as FakeServer does."""

    def __init__(self, answer: Answer, spec: ModelSpec = SPEC) -> None:
        super().__init__(answer)
        self._spec = spec

    def _replies(self, request: InferRequest | ControlRequest | CancelRequest) -> Replies:
        if isinstance(request, ControlRequest) and request.operation == Operation.METADATA:
            return [[encode_metadata(MetadataReply(request.request_id, "v7", {"spec": self._spec.to_dict()}))]]
        return super()._replies(request)
