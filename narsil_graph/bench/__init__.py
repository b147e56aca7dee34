"""Load, A/B comparison and profiles of running servers, ours or others'."""
