"""The live session as a page on this machine: one session, controlled from a browser."""
