"""The wire and the scheduler of narsil-graph, free of torch.

`router` holds the socket; everything else is a pure function or a state machine that is given the time, so every rule
is tested without a socket or a sleep. In the order a request meets them: `router`, `wire` (`header` is its msgpack,
`messages` its values), `admission`, `batcher` (with `buckets`); `status` is what a reply can say. PROTOCOL.md, in the
folder above, specifies the frames byte by byte.
"""
