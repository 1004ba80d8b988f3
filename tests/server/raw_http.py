"""A socket client that sends exactly the bytes it is given."""
import json
import socket


class RawServer:
    def __init__(self, port):
        self.port = port

    def connect(self, timeout=20):
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=timeout)
        return RawConnection(connection)

    def exchange(self, data):
        """Sends bytes, reads until the server closes; returns the status of the first answer (0: none)."""
        with self.connect() as connection:
            connection.send(data)
            answer = connection.read_all()
        return int(answer[9:12]) if answer.startswith(b"HTTP/1.1 ") else 0


class RawConnection:
    def __init__(self, connection):
        self.socket = connection
        self.buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.socket.close()

    def send(self, data):
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused before all of it was sent

    def _more(self):
        data = self.socket.recv(65536)
        if not data:
            raise EOFError(self.buffer)
        self.buffer += data

    def read_all(self):
        try:
            while True:
                self._more()
        except (EOFError, ConnectionResetError):
            return self.buffer

    def _until(self, mark):
        while mark not in self.buffer:
            self._more()
        found, self.buffer = self.buffer.split(mark, 1)
        return found

    def _exactly(self, size):
        while len(self.buffer) < size:
            self._more()
        found, self.buffer = self.buffer[:size], self.buffer[size:]
        return found

    def response(self):
        """(status, headers, body) of the next answer on this connection."""
        head = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in head[1:])}
        body = b""
        if headers.get("transfer-encoding") == "chunked":
            while size := int(self._until(b"\r\n"), 16):
                body += self._exactly(size)
                assert self._exactly(2) == b"\r\n"
            assert self._exactly(2) == b"\r\n"
        else:
            body = self._exactly(int(headers.get("content-length", 0)))
        return int(head[0].split(" ")[1]), headers, body


def post(path, body, *headers):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: test", f"Content-Length: {len(data)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data
