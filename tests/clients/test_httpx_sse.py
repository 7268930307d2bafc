"""Python's httpx-sse follows a stream over connections that break, and misses nothing."""

import json
import os
import re
import socket
import struct
import threading
import time
import unittest
import uuid
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from httpx_sse import connect_sse

API = os.environ["RILL_URL"]
SAMPLE = json.loads(Path(__file__).with_name("sample.json").read_text())
TERMINAL = {"done", "failed", "cancelled"}


class CuttingProxy:
    """Breaks a connection after each of `limits` bytes of answer; then lets everything through."""

    def __init__(self, limits):
        self.limits = list(limits)
        self.cuts = 0
        self.resumed = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = "http://127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self.listener.close()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            left = self.limits.pop(0) if self.limits else None
            threading.Thread(target=self._serve, args=(client, left), daemon=True).start()

    def _serve(self, client, left):
        target = urlsplit(API)
        with client, socket.create_connection((target.hostname, target.port)) as upstream:
            head = b""
            while b"\r\n\r\n" not in head:
                data = client.recv(65536)
                if not data:
                    return
                head += data
            found = re.search(rb"(?i)last-event-id: *(\S+)", head)
            self.resumed.append(found and found.group(1).decode())
            upstream.sendall(head)
            while data := upstream.recv(65536):
                # The cut may fall inside a character, a field or a chunk's length.
                client.sendall(data if left is None else data[:left])
                if left is None:
                    continue
                left -= len(data)
                if left <= 0:
                    self.cuts += 1
                    # No polite end: a reset.
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return


def follow(client, url, deadline=60):
    """Yields the events up to the last one, over as many connections as it takes."""
    last, wait, end = None, 0.5, time.monotonic() + deadline
    while time.monotonic() < end:
        try:
            headers = {"Last-Event-ID": last} if last else {}
            with connect_sse(client, "GET", url, headers=headers) as source:
                if source.response.status_code == 204:
                    return
                source.response.raise_for_status()
                for event in source.iter_sse():
                    if event.retry is not None:
                        wait = event.retry / 1000
                    if not event.data:
                        continue
                    last = event.id
                    yield event
                    if event.event in TERMINAL:
                        return
        except httpx.TransportError:
            pass
        time.sleep(wait)
    raise TimeoutError(f"no end within {deadline} s; last event {last}")


class HttpxSse(unittest.TestCase):
    maxDiff = 2000

    def test_httpx_sse_reads_the_exact_answer_across_cuts(self):
        with httpx.Client(base_url=API, timeout=30) as api, httpx.Client(timeout=30) as client:
            conversation = api.post("/v1/conversations", json={"title": "httpx-sse"}).raise_for_status().json()
            content = f"{SAMPLE['directives']} {SAMPLE['paragraph'] * SAMPLE['repeat']}"
            messages = f"/v1/conversations/{conversation['id']}/messages"
            key = {"Idempotency-Key": str(uuid.uuid4())}
            sent = api.post(messages, json={"content": content}, headers=key).raise_for_status().json()

            proxy = CuttingProxy([700, 2501, 900, 4003, 1777, 3333])
            self.addCleanup(proxy.close)
            text, ids, end = "", [], None
            for event in follow(client, proxy.url + sent["stream_url"]):
                data = event.json()
                ids.append(event.id)
                if event.event == "started":
                    text = ""
                elif event.event == "snapshot":
                    text = data["text"]
                elif event.event == "delta":
                    text += data["text"]
                elif event.event in TERMINAL:
                    end = event.event

            self.assertEqual(end, "done")
            items = api.get(messages).raise_for_status().json()["items"]
            stored = next(item for item in items if item["id"] == sent["message_id"])
            self.assertGreater(len(stored["content"]), 2000, "the answer is too short to be cut")
            self.assertEqual(text, stored["content"])
            # A busy machine merges events: fewer bytes, fewer cuts.
            self.assertGreaterEqual(proxy.cuts, 4)
            self.assertEqual(len(set(ids)), len(ids), "an event came twice")
            resumed = [cursor for cursor in proxy.resumed if cursor]
            self.assertGreaterEqual(len(resumed), 4, proxy.resumed)
            for cursor in resumed:
                self.assertIn(cursor, ids)


if __name__ == "__main__":
    unittest.main()
