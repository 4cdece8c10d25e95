"""
A W&B server on 127.0.0.1, as small as ``wandb sweep``, ``wandb agent`` and a tracked run allow.

It keeps a sweep, deals the runs of its grid out to whichever agent asks, and collects what the runs upload.
"""

import gzip
import itertools
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

ENTITY = {"id": "e", "name": "somebody"}
SWEEP = "sweep001"


class WandbServer:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.config: dict[str, Any] = {}
        self.waiting: list[dict[str, Any]] = []
        self.dealt: dict[str, dict[str, Any]] = {}
        self.agents = 0
        self.agent_of: dict[str, str] = {}
        self.buckets: dict[str, dict[str, Any]] = {}
        self.history: dict[str, list[dict[str, Any]]] = {}
        self.exit_codes: dict[str, int] = {}
        self.unknown: set[str] = set()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self) -> "WandbServer":
        self.thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any] | None:
        match = re.search(r"(?:query|mutation)\s+(\w+)", query)
        name = match.group(1) if match else ""
        with self.lock:
            answer = getattr(self, f"on_{name.lower()}", None)
            if answer is None:
                self.unknown.add(name)
                return None
            result: dict[str, Any] = answer(variables)
            return result

    def on_viewer(self, variables: dict[str, Any]) -> dict[str, Any]:
        viewer = {"id": "u", "username": "somebody", "entity": "somebody", "flags": "{}", "email": "", "admin": False}
        viewer["teams"] = {"edges": []}
        return {"viewer": viewer, "serverInfo": None}

    def on_upsertsweep(self, variables: dict[str, Any]) -> dict[str, Any]:
        self.config = yaml.safe_load(variables["config"])
        parameters = self.config["parameters"]
        choices = [entry.get("values", [entry.get("value")]) for entry in parameters.values()]
        self.waiting = [dict(zip(parameters, values, strict=True)) for values in itertools.product(*choices)]
        project = {"id": "p", "name": variables["projectName"], "entity": ENTITY}
        return {"upsertSweep": {"sweep": {"name": SWEEP, "project": project}, "configValidationWarnings": []}}

    def on_sweepwithruns(self, variables: dict[str, Any]) -> dict[str, Any]:
        sweep = {"id": "s", "name": SWEEP, "state": "RUNNING", "config": yaml.dump(self.config), "runs": {"edges": []}}
        return {"project": {"sweep": sweep}}

    def on_createagent(self, variables: dict[str, Any]) -> dict[str, Any]:
        self.agents += 1
        return {"createAgent": {"agent": {"id": f"agent{self.agents}"}}}

    def on_heartbeat(self, variables: dict[str, Any]) -> dict[str, Any]:
        commands: list[dict[str, Any]] = []
        busy = any(json.loads(variables.get("runState") or "{}").values())
        if not busy and self.waiting:
            run_id = f"run{len(self.dealt):05d}"
            self.dealt[run_id] = self.waiting.pop(0)
            self.agent_of[run_id] = variables["id"]
            args = {key: {"value": value} for key, value in self.dealt[run_id].items()}
            commands = [{"type": "run", "run_id": run_id, "program": self.config["program"], "args": args}]
        elif not busy:
            commands = [{"type": "exit"}]
        return {"agentHeartbeat": {"agent": {"id": variables["id"]}, "commands": json.dumps(commands)}}

    def on_upsertbucket(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables.get("name") or variables["id"]
        known = self.buckets.setdefault(name, {})
        known.update({key: value for key, value in variables.items() if value is not None})
        project = {"id": "p", "name": known.get("project", "project"), "entity": ENTITY}
        bucket = {"id": name, "name": name, "displayName": known.get("displayName"), "config": known.get("config"), "tags": []}
        bucket.update({"sweepName": known.get("sweep"), "project": project, "historyLineCount": 0})
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}

    def on_createrunfiles(self, variables: dict[str, Any]) -> dict[str, Any]:
        files = [{"name": file, "uploadUrl": f"{self.url}/upload/{file}"} for file in variables["files"]]
        result = {"runID": "r", "uploadHeaders": [], "files": files}
        return {"createRunFiles": result}

    def file_stream(self, run_id: str, content: dict[str, Any]) -> None:
        with self.lock:
            lines = content.get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
            self.history.setdefault(run_id, []).extend(map(json.loads, lines))
            if content.get("complete"):
                self.exit_codes[run_id] = content.get("exitcode", 0)

    def metrics(self, run_id: str) -> set[str]:
        return {key for row in self.history.get(run_id, []) for key in row}


def _handler(stub: WandbServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def body(self) -> bytes:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

        def answer(self, content: dict[str, Any], status: int = 200) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self.answer({})

        def do_PUT(self) -> None:
            self.body()
            self.answer({})

        def do_POST(self) -> None:
            content = json.loads(self.body() or b"{}")
            stream = re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path)
            if stream:
                stub.file_stream(stream.group(1), content)
                self.answer({"exitcode": None, "limits": {}})
            elif self.path.endswith("/graphql"):
                data = stub.graphql(content["query"], content.get("variables") or {})
                self.answer({"data": data} if data is not None else {"errors": [{"message": "unknown to the stub"}]})
            else:
                self.answer({}, 404)

        def log_message(self, *args: Any) -> None:
            pass

    return Handler
