"""A Cloud Storage server on loopback: as much of its JSON API as the clients of a run use.

Those are google-cloud-storage (the small files and the lock), gcsfs (Orbax's folders and notes) and
tensorstore (Orbax's arrays). Generations and their preconditions are kept as the real one keeps
them: the lock stands on them, and tensorstore's writes too.
"""

import base64
import dataclasses
import hashlib
import itertools
import json
import re
import sys
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import google_crc32c


@dataclasses.dataclass
class Object:
    """What is stored under a name."""

    content: bytes
    generation: int
    updated: str


class Failure(Exception):
    """An answer that is not 200."""

    def __init__(self, status: int):
        super().__init__(status)
        self.status = status


class FakeGCS(ThreadingHTTPServer):
    """The server; `objects` are those of its one bucket, by name."""

    daemon_threads = True

    def __init__(self, bucket: str = "bucket"):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bucket = bucket
        self.objects: dict[str, Object] = {}
        self.uploads: dict[str, tuple[str, dict[str, str], bytearray]] = {}
        self.lock = threading.Lock()
        self.generations = itertools.count(1000)
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request: object, client_address: object) -> None:
        """Says nothing of clients that do not wait for their answer."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def environment(self) -> dict[str, str]:
        """What leads each of the clients here."""
        return {
            "STORAGE_EMULATOR_HOST": self.url,
            "TENSORSTORE_GCS_HTTP_URL": self.url,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "anyone",
            "GOOGLE_CLOUD_PROJECT": "none",
            # gcsfs would ask for the kind of the bucket by gRPC, which this is not.
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        }

    def put(self, name: str, content: bytes, query: dict[str, str]) -> dict:
        """Stores an object, where its preconditions hold; returns what is told of it."""
        with self.lock:
            self.check(name, query)
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            self.objects[name] = Object(content, next(self.generations), now)
            return self.describe(name)

    def check(self, name: str, query: dict[str, str]) -> None:
        """Refuses where an object is not of the generation asked for; 0 is that of none."""
        there = self.objects[name].generation if name in self.objects else 0
        if "ifGenerationMatch" in query and int(query["ifGenerationMatch"]) != there:
            raise Failure(412)
        if query.get("ifGenerationNotMatch") == str(there):
            raise Failure(304)

    def describe(self, name: str) -> dict:
        """What the API tells of an object."""
        if name not in self.objects:
            raise Failure(404)
        stored = self.objects[name]
        md5 = hashlib.md5(stored.content, usedforsecurity=False).digest()
        crc = google_crc32c.Checksum(stored.content).digest()
        return {
            "kind": "storage#object",
            "id": f"{self.bucket}/{name}/{stored.generation}",
            "name": name,
            "bucket": self.bucket,
            "generation": str(stored.generation),
            "metageneration": "1",
            "size": str(len(stored.content)),
            "contentType": "application/octet-stream",
            "timeCreated": stored.updated,
            "updated": stored.updated,
            "md5Hash": base64.b64encode(md5).decode(),
            "crc32c": base64.b64encode(crc).decode(),
            "etag": str(stored.generation),
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for the last one's receipt
    server: FakeGCS

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.answer("GET")

    def do_POST(self) -> None:
        self.answer("POST")

    def do_PUT(self) -> None:
        self.answer("PUT")

    def do_DELETE(self) -> None:
        self.answer("DELETE")

    def answer(self, method: str) -> None:
        url = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        body = self.body()
        # Object names come as one part, their slashes encoded.
        path = re.fullmatch(
            r"/(?:(upload|download)/)?storage/v1/b/([^/]+)(?:/o(?:/([^/]+)(/rewriteTo/.*)?)?)?",
            url.path,
        )
        try:
            if path is None or unquote(path[2]) != self.server.bucket:
                raise Failure(404)
            name = unquote(path[3]) if path[3] else ""
            if path[1] == "upload":
                self.upload(query, body)
            elif not name and not url.path.endswith("/o"):
                self.send({"kind": "storage#bucket", "id": path[2], "name": path[2]})
            elif not name:
                self.list(query)
            elif path[4]:
                target = unquote(path[4].rpartition("/")[2])
                content = self.stored(name, {}).content
                resource = self.server.put(target, content, query)
                self.send({"kind": "storage#rewriteResponse", "done": True, "resource": resource})
            elif method == "DELETE":
                with self.server.lock:
                    self.server.check(name, query)
                    if self.server.objects.pop(name, None) is None:
                        raise Failure(404)
                self.send(status=204)
            elif query.get("alt") == "media":
                self.media(self.stored(name, query))
            else:
                self.stored(name, query)
                self.send(self.server.describe(name))
        except Failure as failure:
            self.send({"error": {"code": failure.status, "message": "no"}}, failure.status)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def stored(self, name: str, query: dict[str, str]) -> Object:
        with self.server.lock:
            self.server.check(name, query)
            if name not in self.server.objects:
                raise Failure(404)
            return self.server.objects[name]

    def media(self, stored: Object) -> None:
        content, status, headers = stored.content, 200, {}
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if asked:
            size = len(content)
            start = int(asked[1]) if asked[1] else max(size - int(asked[2]), 0)
            end = min(int(asked[2]) + 1, size) if asked[1] and asked[2] else size
            if start >= size:
                raise Failure(416)
            content, status = content[start:end], 206
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        headers["X-Goog-Generation"] = str(stored.generation)
        headers["X-Goog-Metageneration"] = "1"
        self.send(content, status, headers)

    def list(self, query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        start = max(query.get("startOffset", ""), query.get("pageToken", ""))
        end, most = query.get("endOffset"), int(query.get("maxResults", 1000))
        items, prefixes, more = [], [], None
        with self.server.lock:
            for name in sorted(self.server.objects):
                if not name.startswith(prefix) or name < start or (end and name >= end):
                    continue
                rest = name.removeprefix(prefix)
                if delimiter and delimiter in rest:
                    folder = prefix + rest.partition(delimiter)[0] + delimiter
                    prefixes += [] if folder in prefixes else [folder]
                elif len(items) == most:
                    more = name
                    break
                else:
                    items.append(self.server.describe(name))
        answer = {"kind": "storage#objects", "items": items, "prefixes": prefixes}
        self.send(answer | ({"nextPageToken": more} if more else {}))

    def upload(self, query: dict[str, str], body: bytes) -> None:
        if "upload_id" in query:
            self.part(query["upload_id"], body)
        elif query["uploadType"] == "media":
            self.send(self.server.put(query["name"], body, query))
        elif query["uploadType"] == "multipart":
            metadata, content = self.divide(body)
            self.send(self.server.put(query.get("name") or metadata["name"], content, query))
        else:
            name = query.get("name") or json.loads(body)["name"]
            upload_id = str(next(self.server.generations))
            self.server.uploads[upload_id] = (name, query, bytearray())
            location = f"{self.server.url}{urlsplit(self.path).path}?upload_id={upload_id}"
            self.send({}, headers={"Location": location})

    def divide(self, body: bytes) -> tuple[dict, bytes]:
        """The two parts of a multipart body; gcsfs ends its lines without a carriage return."""
        boundary = re.search(r'boundary="?([^";]+)', self.headers["Content-Type"])[1].encode()
        newline = b"\r\n" if b"\r\n--" + boundary in body else b"\n"
        _, metadata, content, _ = re.split(
            rb"(?:^|" + newline + rb")--" + re.escape(boundary), body
        )
        (_, _, metadata), (_, _, content) = (
            part.partition(2 * newline) for part in (metadata, content)
        )
        return json.loads(metadata), content

    def part(self, upload_id: str, body: bytes) -> None:
        name, query, received = self.server.uploads[upload_id]
        received += body
        total = self.headers.get("Content-Range", f"/{len(received)}").rpartition("/")[2]
        if total == str(len(received)):
            self.send(self.server.put(name, bytes(received), query))
        else:
            self.send(status=308, headers={"Range": f"bytes=0-{len(received) - 1}"})

    def send(
        self, answer: dict | bytes = b"", status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        if status in (204, 304):
            content = b""
        self.send_response(status)
        kind = "application/octet-stream" if isinstance(answer, bytes) else "application/json"
        for key, value in {"Content-Type": kind, **(headers or {})}.items():
            self.send_header(key, value)
        if status not in (204, 304):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
