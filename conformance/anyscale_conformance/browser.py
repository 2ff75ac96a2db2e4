"""What a browser does with a signed URL, for kits whose cloud answers plain HTTP (``Hand.USE_URL``)."""

import http.client
from urllib.parse import urlsplit

TIMEOUT_S = 10


def use_url(url: str, method: str, body: bytes = b"") -> tuple[int, bytes]:
    """Return the HTTP status and the body of the answer; the URL is sent as it is written. Raises OSError when there is none."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=TIMEOUT_S)
    try:
        connection.request(method, f"{parts.path}?{parts.query}", body=body if method == "PUT" else None)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
