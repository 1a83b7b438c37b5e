"""A worker that is not written in Rust: it receives sockets from the master and answers plain HTTP.

What it does is described in docs/handoff.md; nothing but Python's standard library is used. The master
starts it:

    cargo run -p sticky-master --example master -- 127.0.0.1:3000 4 python3 examples/python-worker/worker.py
"""

import array
import fcntl
import http.server
import mmap
import os
import resource
import signal
import socket
import struct
import sys
import threading
import time

VERSION = 4
HELLO, WELCOME, RETIRE, HANDOFF, DRAIN, READY, PROGRESS, LOST, LEAVING = range(1, 10)
PACKET_MAX = 1024
SOCKETS_MAX = 16
# balanced, speaks, family of the peer, its address, its port, family and address that are counted, known since
SOCKET = struct.Struct(">BBB16sHB16sQ")

# Words of the scoreboard, each 8 bytes in the machine's order.
LAYOUT, WANTED, RECEIVED, LOST_WORD, SETTLED, UNDECIDED, CLIENTS, CONNECTIONS, FD_HEADROOM = range(9)
ENDED = 11
HEARTBEAT_MS = 16

ORPHAN_SECONDS = 60
HEARTBEAT_SECONDS = 0.5
# For standard streams, the channel, the page and whatever Python opens.
OWN_DESCRIPTORS = 64


class Scoreboard:
    """One page of counters that the master reads; see "The scoreboard" in docs/handoff.md."""

    def __init__(self):
        self.memory = os.memfd_create("scoreboard", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.memory, mmap.PAGESIZE)
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(self.memory, fcntl.F_ADD_SEALS, seals)
        # A word is stored at once, so the master never sees half of one.
        self.words = memoryview(mmap.mmap(self.memory, mmap.PAGESIZE)).cast("Q")
        self.words[LAYOUT] = int.from_bytes(b"ccboard4", "big")
        self.lock = threading.Lock()

    def add(self, word, count):
        with self.lock:
            self.words[word] += count

    def take_wake(self):
        """Whether the master asked to be told of a change; it is told once."""
        with self.lock:
            asked, self.words[WANTED] = self.words[WANTED], 0
            return asked != 0


class Answer(http.server.BaseHTTPRequestHandler):
    """What this worker serves."""

    protocol_version = "HTTP/1.1"
    timeout = 75

    def do_GET(self):
        body = f"served by Python process {os.getpid()}, client {self.client_address}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Worker:
    def __init__(self):
        environment = os.environ
        self.directory = environment["STICKY_RUNTIME_DIR"]
        self.id = int(environment["STICKY_WORKER_ID"])
        self.node = int(environment["STICKY_NODE_ID"])
        self.generation = int(environment["STICKY_GENERATION"])
        self.board = Scoreboard()
        self.balanced = 0
        self.leaving = threading.Event()
        self.channel = None
        # The id is this process's for as long as it holds the lock, whatever becomes of the master.
        self.lock = open(f"{self.directory}/worker-{self.id}.lock", "a+", encoding="ascii")
        fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.lock.truncate(0)
        self.lock.write(f"{os.getpid()}\n")
        self.lock.flush()
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.board.words[FD_HEADROOM] = max(limit - OWN_DESCRIPTORS, 0)

    def run(self):
        threading.Thread(target=self.beat, daemon=True).start()
        patience = time.monotonic() + ORPHAN_SECONDS
        while not self.leaving.is_set() and time.monotonic() < patience:
            try:
                self.channel = self.register()
            except OSError:
                # No master now: the next one comes to the same path.
                time.sleep(0.1)
                continue
            while self.take_packet():
                pass
            self.channel.close()
            patience = time.monotonic() + ORPHAN_SECONDS
        # What is being answered is answered.
        deadline = time.monotonic() + 5
        while self.board.words[CONNECTIONS] and time.monotonic() < deadline:
            time.sleep(0.05)

    def register(self):
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        channel.connect(f"{self.directory}/master.sock")
        received = self.board.words[RECEIVED]
        hello = struct.pack(
            ">BHBHQIBBQQ",
            *(HELLO, VERSION, self.id, self.node, self.generation, os.getpid()),
            *(1, 0, received, self.balanced),
        )
        page = array.array("i", [self.board.memory])
        channel.sendmsg([hello], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, page)])
        answer = channel.recv(PACKET_MAX)
        if answer[:1] != bytes([WELCOME]):
            self.leaving.set()
        return channel

    def take_packet(self):
        """Returns whether there may be another."""
        packet, descriptors, _, _ = socket.recv_fds(self.channel, PACKET_MAX, SOCKETS_MAX)
        if not packet:
            return False
        kind = packet[0]
        if kind == HANDOFF:
            self.take_sockets(packet, descriptors)
        elif kind in (DRAIN, RETIRE):
            self.leaving.set()
            return False
        # Others are about what this worker does not do: TLS, clients that can be asked to move.
        return True

    def take_sockets(self, packet, descriptors):
        first, count = struct.unpack_from(">QB", packet, 1)
        infos = list(SOCKET.iter_unpack(packet[10:]))
        assert len(infos) == count and first == self.board.words[RECEIVED]
        lost = count - len(descriptors)
        self.balanced += sum(info[0] for info in infos[: len(descriptors)])
        self.board.add(LOST_WORD, lost)
        self.board.add(ENDED, lost)
        # Before a byte of any is read: the master may forget its copies now.
        self.board.add(RECEIVED, count)
        self.tell_progress()
        if lost:
            self.channel.send(struct.pack(">BQB", LOST, first + len(descriptors), lost))
        for descriptor, info in zip(descriptors, infos):
            threading.Thread(target=self.serve, args=(descriptor, info), daemon=True).start()

    def serve(self, descriptor, info):
        balanced, speaks, family, address, port, *_ = info
        peer = None
        if family == 4:
            peer = (socket.inet_ntop(socket.AF_INET, address[12:]), port)
        elif family == 6:
            peer = (socket.inet_ntop(socket.AF_INET6, address), port)
        self.board.add(CONNECTIONS, 1)
        self.board.add(FD_HEADROOM, -1)
        try:
            with socket.socket(fileno=descriptor) as connection:
                connection.setblocking(True)
                if speaks == 0:
                    Answer(connection, peer, None)
        except OSError:
            pass
        finally:
            self.board.add(CONNECTIONS, -1)
            self.board.add(FD_HEADROOM, 1)
            self.board.add(ENDED, 1)
            if balanced:
                self.board.add(SETTLED, 1)
            self.tell_progress()

    def tell_progress(self):
        if self.board.take_wake():
            try:
                self.channel.send(bytes([PROGRESS]))
            except OSError:
                pass

    def beat(self):
        """A worker whose heart does not beat gets no clients, and is killed in the end."""
        while True:
            self.board.words[HEARTBEAT_MS] = time.monotonic_ns() // 1_000_000
            time.sleep(HEARTBEAT_SECONDS)


if __name__ == "__main__":
    # Ctrl-C is for the master, which tells its workers to drain.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(Worker().run())
