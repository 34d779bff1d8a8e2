"""Google Cloud Storage as far as its XML API is used: moto's S3 server, and what it lacks.

    gcs.py PORT TOKEN

Each content of an object has a generation, which answers name and writers can insist on
(https://cloud.google.com/storage/docs/xml-api/reference-headers: x-goog-generation, x-goog-if-generation-match); and who
does not show the token is refused.
"""

import sys
import threading

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
from werkzeug.test import Client


class Generations:
    def __init__(self, app, token):
        self.app, self.token = app, token
        self.generations, self.last = {}, 0
        # A condition and what it guards are one step.
        self.lock = threading.Lock()

    def __call__(self, environ, start_response):
        if environ.get("HTTP_AUTHORIZATION") != f"Bearer {self.token}":
            start_response("401 Unauthorized", [("Content-Type", "application/xml"), ("Content-Length", "0")])
            return [b""]
        # moto takes whatever is not Amazon's for nothing.
        environ["HTTP_AUTHORIZATION"] = ("AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/s3/aws4_request, "
                                         "SignedHeaders=host, Signature=x")
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        query = environ.get("QUERY_STRING", "")
        # A part of an upload is no content yet; its completion is.
        writes = (method == "PUT" and "uploadId" not in query) or (method == "POST" and "uploadId" in query)
        with self.lock:
            wanted = environ.get("HTTP_X_GOOG_IF_GENERATION_MATCH")
            if wanted is not None and int(wanted) != self.generations.get(path, 0):
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                start_response("412 Precondition Failed", [("Content-Length", "0")])
                return [b""]
            answer = {}

            def remember(status, headers, exc_info=None):
                answer.update(status=status, headers=headers)
                return lambda _: None

            body = list(self.app(environ, remember))
            if answer["status"].startswith("2"):
                if writes:
                    self.last += 1
                    self.generations[path] = self.last
                elif method == "DELETE" and "uploadId" not in query:
                    self.generations.pop(path, None)
            if path in self.generations:
                answer["headers"].append(("x-goog-generation", str(self.generations[path])))
        start_response(answer["status"], answer["headers"])
        return body


def main():
    port, token = int(sys.argv[1]), sys.argv[2]
    app = Generations(DomainDispatcherApplication(create_backend_app), token)
    made = Client(app).put("/bucket", headers={"Authorization": f"Bearer {token}", "Host": f"127.0.0.1:{port}"})
    assert made.status_code == 200, made.data
    server = make_server("127.0.0.1", port, app, threaded=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
