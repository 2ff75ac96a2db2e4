"""V4 signed URLs (cloud.google.com/storage/docs/access-control/signed-urls), signed by IAM: no key is at hand, so none leaks."""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, urlsplit

from anyscale_core.errors import InvalidRequest
from anyscale_core.models.secret import Secret

ALGORITHM = "GOOG4-RSA-SHA256"
LONGEST = timedelta(days=7)


def signed_url(
    base: str, bucket: str, key: str, *, method: str, expires_in: timedelta, now: datetime, signer: str,
    sign: Callable[[bytes], bytes],
) -> Secret[str]:  # fmt: skip
    """Return a URL for one method on one object. ``sign`` returns the RSA signature of ``signer``. Raises InvalidRequest."""
    if not timedelta(seconds=1) <= expires_in <= LONGEST:
        raise InvalidRequest(
            f"a URL cannot be good for {expires_in}", reason="FIELD", hint="ask for one second to seven days"
        )
    stamp = now.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    scope = f"{stamp[:8]}/auto/storage/goog4_request"
    base = base.rstrip("/")
    path = f"{urlsplit(base).path}/{quote(bucket, safe='')}/{quote(key, safe='/~')}"
    query = "&".join(
        f"{name}={quote(value, safe='')}"
        for name, value in (
            ("X-Goog-Algorithm", ALGORITHM),
            ("X-Goog-Credential", f"{signer}/{scope}"),
            ("X-Goog-Date", stamp),
            ("X-Goog-Expires", str(int(expires_in.total_seconds()))),
            ("X-Goog-SignedHeaders", "host"),
        )
    )
    host = urlsplit(base).netloc
    request = "\n".join((method, path, query, f"host:{host}\n", "host", "UNSIGNED-PAYLOAD"))
    digest = hashlib.sha256(request.encode()).hexdigest()
    signature = sign("\n".join((ALGORITHM, stamp, scope, digest)).encode()).hex()
    return Secret(f"{urlsplit(base).scheme}://{host}{path}?{query}&X-Goog-Signature={signature}")
