"""Whether a server speaks the protocol: every kind of message, good and hostile, and what must come back for it."""

from narsil_client.conformance.examiner import Finding, examine

__all__ = ["Finding", "examine"]
