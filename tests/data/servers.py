"""Servers of files on this machine, with the faults that others have."""

import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@contextmanager
def web_server(folder: Path) -> Iterator[tuple[str, Counter[str]]]:
    """A server of a folder's files; its address, and how often each path was asked for (GET).

    The first part of a path says what befalls who reads it: `ok`; `stall` (nothing comes after the
    first half); `cut` (the connection ends there); `short` (it states half of the length); `error`
    (500); `busy` (503 twice, then the file); `whole` (without parts of files).
    """
    asked: Counter[str] = Counter()
    done = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            _, fate, name = self.path.split("/", 2)
            asked[self.path] += body
            if fate == "error" or (fate == "busy" and asked[self.path] < 3 and body):
                self.send_response(500 if fate == "error" else 503)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if not (folder / name).is_file():
                self.send_error(404)
                return
            content = (folder / name).read_bytes()
            part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if part and fate != "whole":
                first, last = int(part[1]), int(part[2] or len(content) - 1)
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
                content = content[first : last + 1]
            else:
                self.send_response(200)
            half = len(content) // 2
            stated = half if fate == "short" and body else len(content)
            self.send_header("Content-Length", str(stated))
            self.send_header("Accept-Ranges", "none" if fate == "whole" else "bytes")
            self.end_headers()
            if not body:
                return
            self.wfile.write(content if fate in ("ok", "busy", "whole") else content[:half])
            self.wfile.flush()
            if fate == "stall":
                done.wait(60)
            if fate in ("stall", "cut"):
                self.close_connection = True

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        done.set()
        server.shutdown()
        server.server_close()


def age(folder: Path, seconds: float) -> None:
    """Make all files below a folder older."""
    import os

    for path in folder.rglob("*"):
        if path.is_file():
            then = time.time() - seconds
            os.utime(path, (then, then))
