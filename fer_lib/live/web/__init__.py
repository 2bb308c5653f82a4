"""The live page: one session, controlled from a browser on this machine."""
