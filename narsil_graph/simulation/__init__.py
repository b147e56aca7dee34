"""The scheduler on virtual time: arrivals in, the server's own decisions, latencies out. Needs no torch."""
