"""A model hub on 127.0.0.1 as far as ATOM talks to one: file list, HEAD with ETag and size, GET with ranges,
large files through a second "storage" server, and every way a transfer can go wrong."""
import hashlib
import http.server
import json
import re
import struct
import threading

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def safetensors(tensors):
    """{name: (shape, bytes)} -> the file; BF16."""
    header, data = {}, b""
    for name, (shape, content) in tensors.items():
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tiny_model(sharded=False, hidden=256, vocab=4096):
    """File name -> content of a model that `atom inspect` opens; about 2 MB of weights."""
    noise = hashlib.shake_256(b"weights").digest(hidden * vocab * 2)
    embedding = {"model.embed_tokens.weight": ([vocab, hidden], noise)}
    norm = {"model.norm.weight": ([hidden], bytes(hidden * 2))}
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden, "intermediate_size": 64,
              "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": vocab, "tie_word_embeddings": True}
    files = {"config.json": json.dumps(config).encode(), "generation_config.json": b"{}", "tokenizer.json": b'{"a": 1}',
             "tokenizer_config.json": b"{}", "README.md": b"# model", "pytorch_model.bin": b"pickle",
             "onnx/model.onnx": b"x", ".gitattributes": b"*"}
    if sharded:
        shards = {"model-00001-of-00002.safetensors": embedding, "model-00002-of-00002.safetensors": norm}
        weight_map = {tensor: shard for shard, tensors in shards.items() for tensor in tensors}
        files["model.safetensors.index.json"] = json.dumps({"metadata": {}, "weight_map": weight_map}).encode()
        files |= {name: safetensors(tensors) for name, tensors in shards.items()}
        files["consolidated.safetensors"] = b"never asked for"
    else:
        files["model.safetensors"] = safetensors(embedding | norm)
    return files


class FakeHub:
    """Serves `files` as `repo`. The fields below break it; `requests` is what came in."""

    def __init__(self, repo="org/tiny", files=None):
        self.repo = repo
        self.files = files if files is not None else tiny_model()
        self.commit = COMMIT
        self.requests = []  # (server, method, path, headers)
        self.fail_first = {}  # file -> number of answers 503
        self.drop_after = {}  # file -> list of byte counts after which one transfer each is cut
        self.corrupt = set()  # files sent with one byte changed
        self.answer_range = True  # False: 200 with everything; 416; "wrong": another range
        self.announce = {}  # file -> size in HEAD instead of the true one
        self.send_length = {}  # file -> bytes sent by GET instead of all
        self.etag = {}  # file -> ETag instead of the true one
        self.siblings = None  # file list instead of the true one
        self.refuse = None  # (status, X-Error-Code) for everything
        self.refuse_first = None  # [count, status, headers] for the first requests
        self.token = None  # required bearer token
        self.renamed_from = None  # old name that redirects to `repo`
        self.api_body = None  # raw answer of the file list
        self.stall = None  # event: large files stop half way until it is set
        self.lock = threading.Lock()
        self.main = self._serve("hub")
        self.storage = self._serve("storage")
        self.url = f"http://127.0.0.1:{self.main.server_address[1]}"

    def _serve(self, name):
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub, Handler.server_name = hub, name
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return server

    def close(self):
        for server in (self.main, self.storage):
            server.shutdown()
            server.server_close()

    def is_large(self, name):
        return name.endswith((".safetensors", ".bin", ".gguf"))

    def true_etag(self, name):
        content = self.files[name]
        if self.is_large(name):
            return hashlib.sha256(content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    def gets(self, name):
        """Range headers (or "") of every GET that asked for the content of `name`."""
        server = "storage" if self.is_large(name) else "hub"
        return [headers.get("Range", "") for where, method, path, headers in self.requests
                if where == server and method == "GET" and path.endswith("/" + name)]

    def asked_files(self):
        return {path.rsplit("/", 1)[1] for _, _, path, _ in self.requests if "/resolve/" in path or "/blob/" in path}


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub = None
    server_name = ""

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        hub = self.hub
        with hub.lock:
            hub.requests.append((self.server_name, self.command, self.path, dict(self.headers)))
        if hub.refuse_first and hub.refuse_first[0] > 0:
            hub.refuse_first[0] -= 1
            return self.reply(hub.refuse_first[1], hub.refuse_first[2], b"later")
        if hub.refuse:
            return self.reply(hub.refuse[0], {"X-Error-Code": hub.refuse[1]} if hub.refuse[1] else {}, b"refused")
        if self.server_name == "storage":
            return self.send_file(self.path.rsplit("/", 1)[1])
        if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self.reply(401, {"X-Error-Code": "GatedRepo"}, b"gated")
        if hub.renamed_from and f"/{hub.renamed_from}/" in self.path:
            return self.reply(307, {"Location": self.path.replace(hub.renamed_from, hub.repo)})
        api = re.fullmatch(rf"/api/models/{hub.repo}/revision/([^/]+)", self.path)
        if api:
            return self.file_list(api.group(1))
        resolve = re.fullmatch(rf"/{hub.repo}/resolve/{hub.commit}/([^/]+)", self.path)
        if not resolve:
            return self.reply(404, {"X-Error-Code": "RepoNotFound"}, b"none")
        return self.resolve(resolve.group(1))

    def file_list(self, revision):
        hub = self.hub
        if revision not in ("main", hub.commit, "refs%2Fpr%2F1"):
            return self.reply(404, {"X-Error-Code": "RevisionNotFound"}, b"none")
        siblings = hub.siblings if hub.siblings is not None else list(hub.files)
        body = hub.api_body or json.dumps({"sha": hub.commit, "siblings": [{"rfilename": name} for name in siblings]}).encode()
        return self.reply(200, {"Content-Type": "application/json"}, body)

    def resolve(self, name):
        hub = self.hub
        if name not in hub.files:
            return self.reply(404, {"X-Error-Code": "EntryNotFound"}, b"none")
        etag = hub.etag.get(name, hub.true_etag(name))
        size = hub.announce.get(name, len(hub.files[name]))
        if hub.is_large(name):
            location = f"http://127.0.0.1:{hub.storage.server_address[1]}/blob/{name}"
            return self.reply(302, {"Location": location, "X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(size), "ETag": '"other"',
                                    "X-Repo-Commit": hub.commit}, b"elsewhere")
        if self.command == "HEAD":
            return self.reply(200, {"ETag": f'W/"{etag}"', "Content-Length": str(size), "X-Repo-Commit": hub.commit})
        return self.send_file(name)

    def send_file(self, name):
        hub = self.hub
        with hub.lock:
            if hub.fail_first.get(name, 0) > 0:
                hub.fail_first[name] -= 1
                return self.reply(503, {}, b"busy")
            cuts = hub.drop_after.get(name, [])
            cut = cuts.pop(0) if cuts else None
        content = hub.files[name]
        if name in hub.corrupt:
            middle = len(content) // 2
            content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1:]
        if name in hub.send_length:
            content = (content + bytes(4096))[:hub.send_length[name]]
        begin, headers, status = 0, {}, 200
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted and hub.answer_range == 416:
            return self.reply(416, {}, b"")
        if wanted and hub.answer_range:
            begin = int(wanted.group(1)) if hub.answer_range is True else 1
            status, headers = 206, {"Content-Range": f"bytes {begin}-{len(content) - 1}/{len(content)}"}
        part = content[begin:]
        return self.reply(status, headers, part, cut)

    def reply(self, status, headers, body=b"", cut=None):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if cut is not None:
            self.wfile.write(body[:cut])
            self.close_connection = True
            return
        if self.hub.stall and len(body) > 1_000_000:
            self.wfile.write(body[:1_000_000])
            self.wfile.flush()
            self.hub.stall.wait(60)
            body = body[1_000_000:]
        try:
            self.wfile.write(body)
        except OSError:
            self.close_connection = True
