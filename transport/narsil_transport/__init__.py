"""The wire and the scheduler of narsil-graph, free of torch.

`router` holds the socket; everything else is a pure function or a state machine that is given the time, so every rule
is tested without a socket or a sleep. Modules, in the order a request meets them: `router`, `wire` (on `header`),
`admission`, `batcher` (on `buckets`), and `status` for what a reply can say. The frames are specified byte by byte
in PROTOCOL.md beside this package.
"""
