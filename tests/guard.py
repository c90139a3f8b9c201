"""A guard before a broker that has none: TLS, client certificates and SASL on a port of its own.

It speaks as much of Kafka's protocol as it takes to be logged in to, passes everything else on, and changes the
broker's address in the answers to its own, so that clients stay on this side. SCRAM is RFC 5802, the server in it.
"""

import base64
import hashlib
import hmac
import secrets
import socket
import struct
import threading
from contextlib import suppress

HANDSHAKE, AUTHENTICATE, VERSIONS = 17, 36, 18
UNSUPPORTED_MECHANISM, NOT_AUTHENTICATED = 33, 58
ITERATIONS = 4096


class Guard:
    """Listens from `__enter__` to `__exit__`; `mechanisms` maps each mechanism to its secret, none lets anybody in."""

    def __init__(self, broker, *, tls=None, user="u", mechanisms=None):
        host, _, port = broker.rpartition(":")
        self.broker, self.tls, self.user, self.mechanisms = (host, int(port)), tls, user, mechanisms or {}
        self.logins, self.refusals = [], []

    def __enter__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.bootstrap = f"127.0.0.1:{self.port}"
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.listener.close()

    def _serve(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._meet, args=(client,), daemon=True).start()

    def _meet(self, client):
        try:
            with self.tls.wrap_socket(client, server_side=True) if self.tls else client as inside:
                if not self.mechanisms or self._logged_in(inside):
                    self._pass_on(inside)
        except (OSError, EOFError):
            return  # whoever it was has gone, or did not get in

    def _logged_in(self, client):
        """Answer requests until the client has proved who it is; only versions may be asked for before."""
        exchange = None
        while True:
            frame = _frame(client)
            key, version, correlation = struct.unpack(">hhi", frame[:8])
            body = frame[10 + max(0, struct.unpack(">h", frame[8:10])[0]) :]
            if key == VERSIONS:
                with socket.create_connection(self.broker) as broker:
                    _send(broker, frame)
                    _send(client, _frame(broker))
            elif key == HANDSHAKE:
                wanted = body[2:].decode()
                known = wanted in self.mechanisms
                names = b"".join(struct.pack(">h", len(name)) + name.encode() for name in self.mechanisms)
                error = 0 if known else UNSUPPORTED_MECHANISM
                _send(client, struct.pack(">ihi", correlation, error, len(self.mechanisms)) + names)
                exchange = self._exchange(wanted) if known else None
                if exchange:
                    next(exchange)
            elif key == AUTHENTICATE and exchange is not None:
                done, reply = exchange.send(_bytes(body[1:] if version == 2 else body, compact=version == 2))
                _send(client, _authenticated(correlation, version, reply))
                if done:
                    return reply is not None
            else:
                return False

    def _exchange(self, mechanism):
        """A conversation: sent what the client says, it yields whether that was the last word, and the reply."""
        said = yield
        secret = self.mechanisms[mechanism]
        if mechanism == "PLAIN":
            good = said.split(b"\0")[1:] == [self.user.encode(), secret.encode()]
        elif mechanism == "OAUTHBEARER":
            good = f"auth=Bearer {secret}\x01" in said.decode()
        else:
            kind = {"SCRAM-SHA-256": hashlib.sha256, "SCRAM-SHA-512": hashlib.sha512}[mechanism]
            first = said.decode().split(",", 2)[2]
            nonce = dict(part.split("=", 1) for part in first.split(","))["r"] + secrets.token_hex(8)
            salt = secrets.token_bytes(16)
            challenge = f"r={nonce},s={base64.b64encode(salt).decode()},i={ITERATIONS}"
            final = (yield False, challenge.encode()).decode()
            without, _, proof = final.rpartition(",p=")
            salted = hashlib.pbkdf2_hmac(kind().name, secret.encode(), salt, ITERATIONS)
            talk = f"{first},{challenge},{without}".encode()
            mine = hmac.digest(salted, b"Client Key", kind().name)
            signature = hmac.digest(kind(mine).digest(), talk, kind().name)
            wanted = bytes(a ^ b for a, b in zip(mine, signature, strict=True))
            good = base64.b64decode(proof) == wanted and without == f"c=biws,r={nonce}" and f"n={self.user}," in first
            verdict = hmac.digest(hmac.digest(salted, b"Server Key", kind().name), talk, kind().name)
            yield True, self._judged(mechanism, b"v=" + base64.b64encode(verdict), good=good)
        yield True, self._judged(mechanism, b"", good=good)

    def _judged(self, mechanism, reply, *, good):
        (self.logins if good else self.refusals).append(mechanism)
        return reply if good else None

    def _pass_on(self, client):
        """Requests there, answers back with our address in them."""
        host = self.broker[0].encode()
        theirs, ours = (host + struct.pack(">i", port) for port in (self.broker[1], self.port))
        with socket.create_connection(self.broker) as broker:

            def back():
                with suppress(OSError, EOFError):
                    while True:
                        _send(client, _frame(broker).replace(theirs, ours))

            threading.Thread(target=back, daemon=True).start()
            while True:
                _send(broker, _frame(client))


def _authenticated(correlation, version, reply):
    error = 0 if reply is not None else NOT_AUTHENTICATED
    reply = reply or b""
    if version == 2:
        return struct.pack(">ibhb", correlation, 0, error, 0) + bytes([len(reply) + 1]) + reply + bytes(9)
    return struct.pack(">ihhi", correlation, error, -1, len(reply)) + reply + bytes(8 * version)


def _bytes(body, *, compact):
    """The bytes that a body begins with."""
    if not compact:
        return body[4 : 4 + struct.unpack(">i", body[:4])[0]]
    length, shift, at = 0, 0, 0
    while True:
        length |= (body[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if body[at - 1] < 0x80:
            return body[at : at + length - 1]


def _frame(sock):
    return _exactly(sock, struct.unpack(">i", _exactly(sock, 4))[0])


def _send(sock, frame):
    sock.sendall(struct.pack(">i", len(frame)) + frame)


def _exactly(sock, count):
    got = b""
    while len(got) < count:
        if not (more := sock.recv(count - len(got))):
            raise EOFError
        got += more
    return got
