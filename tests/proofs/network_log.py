"""Runs commands where no network is, and writes down what they try: ``python network_log.py FILE COMMANDS``.

COMMANDS is JSON, a list of lists of words.  FILE becomes JSON: ``codes`` (exit code of each command), ``outputs``,
``lookups`` (host names asked of a resolver on loopback) and ``packets`` (addresses that packets were sent to, but for
loopback).
Started in a separate network and mount namespace by :func:`in_namespace`.
"""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

SETUP = """set -e
ip link set lo up
ip route add local default dev lo     # every address is this machine, so that each packet is seen, and goes nowhere
ip -6 route add local default dev lo
mount --bind "$0" /etc/resolv.conf
exec "$@"
"""


def in_namespace(commands: list[list[str]], folder: Path, env: dict[str, str], timeout: float) -> dict:
    """The log of ``commands``, run in ``folder`` with ``env`` in an isolated network."""
    with tempfile.TemporaryDirectory() as work:
        resolver, out = Path(work, "resolv.conf"), Path(work, "log.json")
        resolver.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
        script = [sys.executable, str(Path(__file__).resolve()), str(out), json.dumps(commands)]
        unshare = ["unshare", "--map-root-user", "--net", "--mount", "bash", "-c", SETUP, str(resolver), *script]
        subprocess.run(unshare, cwd=folder, env=env, check=True, timeout=timeout)
        return json.loads(out.read_text())


def answer_lookups(server: socket.socket, names: list[str]) -> None:
    """A resolver that knows no name and writes each down."""
    while True:
        query, address = server.recvfrom(4096)
        labels, at = [], 12
        while length := query[at]:
            labels.append(query[at + 1 : at + 1 + length].decode("latin-1"))
            at += 1 + length
        names.append(".".join(labels))
        server.sendto(query[:2] + b"\x81\x83" + query[4:6] + b"\0" * 6 + query[12 : at + 5], address)  # no such name


def log_packets(card: socket.socket, addresses: list[str]) -> None:
    """Write down the address of every packet that would have left the machine."""
    while True:
        frame = card.recv(65535)
        kind, body = frame[12:14], frame[14:]
        if kind == b"\x08\x00":
            address = ipaddress.ip_address(body[16:20])
        elif kind == b"\x86\xdd":
            address = ipaddress.ip_address(body[24:40])
        else:
            addresses.append(frame[:54].hex())
            continue
        if not address.is_loopback:
            addresses.append(str(address))


def main(out: Path, commands: list[list[str]]) -> None:
    names: list[str] = []
    packets: list[str] = []
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 53))
    card = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))  # 3: every protocol
    card.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 20)
    card.bind(("lo", 0))
    for target, log in ((answer_lookups, (server, names)), (log_packets, (card, packets))):
        threading.Thread(target=target, args=log, daemon=True).start()
    done = [subprocess.run(words, capture_output=True, text=True, env=os.environ) for words in commands]
    time.sleep(2)  # a queue that a library empties at its end
    log = {
        "codes": [one.returncode for one in done],
        "outputs": [one.stdout + one.stderr for one in done],
        "lookups": names,
        "packets": packets,
    }
    out.write_text(json.dumps(log))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
