"""A client like the page's, without a browser: cookies, Origin, JSON."""

import http.client
import json
import uuid
from urllib.parse import urlsplit


class Client:
    """Talks to a served page as one annotator."""

    def __init__(self, address, token=None, timeout=20):
        self.address = address
        self.host = urlsplit(address).netloc
        self.timeout = timeout
        self.cookie = None
        if token is not None:
            status, headers, _ = self.post("/api/session", {"token": token})
            assert status == 200
            self.cookie = headers["set-cookie"].split(";")[0]

    def request(self, method, path, body=None, headers=None, *, raw=None):
        """(status, headers, body); `headers` with the value None are left out."""
        sent = {"host": self.host, "cookie": self.cookie}
        if method == "POST":
            sent |= {"origin": self.address, "content-type": "application/json"}
        sent |= headers or {}
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        connection = http.client.HTTPConnection(self.host, timeout=self.timeout)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            if data is not None and "content-length" not in sent:
                sent["content-length"] = str(len(data))
            for name, value in sent.items():
                if value is not None:
                    connection.putheader(name, value)
            connection.endheaders(data)
            response = connection.getresponse()
            return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
        finally:
            connection.close()

    def get(self, path, **options):
        return self.request("GET", path, **options)

    def post(self, path, body=None, **options):
        return self.request("POST", path, {} if body is None else body, **options)

    def claim(self):
        status, _, body = self.post("/api/claim")
        assert status == 200, body
        return json.loads(body)

    def send(self, *events):
        status, _, body = self.post("/api/events", {"events": list(events)})
        assert status == 200, body
        return json.loads(body)


def ranking_event(task, ranking=(1, 2, 3), **values):
    """A submission as the page makes it."""
    return {"uuid": str(uuid.uuid4()), "assignment": task["id"], "kind": "submit", "ranking": list(ranking)} | values
