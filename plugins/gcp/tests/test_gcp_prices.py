"""The command that makes the table of prices anew, against a server that answers as the Cloud Billing Catalog does."""

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from anyscale_gcp import prices
from google.auth.credentials import AnonymousCredentials


def sku(description: str, nanos: int, *, region: str = prices.HOME, units: str = "0") -> dict[str, Any]:
    """Return a SKU as cloud.google.com/billing/docs/reference/rest/v1/services.skus shows it."""
    price = {"units": units, "nanos": nanos, "currencyCode": "USD"}
    expression = {
        "usageUnit": "h",
        "baseUnit": "s",
        "tieredRates": [{"startUsageAmount": 0, "unitPrice": price}],
        "displayQuantity": 1,
    }
    is_spot = description.startswith("Spot")
    return {
        "name": f"{prices.SERVICE}/skus/{abs(hash(description)):X}", "description": description, "serviceRegions": [region],
        "category": {"resourceFamily": "Compute", "usageType": "Preemptible" if is_spot else "OnDemand"},
        "pricingInfo": [{"pricingExpression": expression, "currencyConversionRate": 1}],
    }  # fmt: skip


PAGES = (
    [
        sku("N2 Instance Core running in Americas", 31_000_000),
        sku("N2 Instance Ram running in Americas", 4_000_000),
        sku("N2 Custom Instance Core running in Americas", 33_000_000),
        sku("N2 Sole Tenancy Instance Core running in Americas", 99_000_000),
        sku("N2 Instance Core running in Frankfurt", 40_000_000, region="europe-west3"),
    ],
    [
        sku("Spot Preemptible N2 Instance Core running in Americas", 6_200_000),
        sku("Z9 AMD Instance Core running in Americas", 500_000_000, units="1"),
        sku("Z9 AMD Instance Ram running in Americas", 8_000_000),
        sku("Y9 Instance Ram running in Americas", 8_000_000),
        sku("Commitment v1: N2 Cpu in Americas for 1 Year", 19_000_000),
        {"description": "Z9 Instance Core running in Americas", "serviceRegions": [prices.HOME]},
    ],
)


class Catalogue(BaseHTTPRequestHandler):
    """Answers in two pages."""

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        page = int(parse_qs(parts.query).get("pageToken", ["0"])[0])
        is_known = parts.path == f"/v1/{prices.SERVICE}/skus"
        answer = {"skus": PAGES[page], "nextPageToken": "1" if page == 0 else ""} if is_known else {}
        body = json.dumps(answer).encode()
        self.send_response(200 if is_known else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def catalogue() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Catalogue)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()


def test_the_table_is_made_anew_from_every_page_of_the_catalogue(catalogue: str, tmp_path: Path) -> None:
    path = tmp_path / "prices.json"
    before = json.loads(prices.PATH.read_text())
    path.write_text(json.dumps(before))
    prices.main(path, endpoint=catalogue, credentials=AnonymousCredentials())
    after = json.loads(path.read_text())
    assert after["as_of"] == datetime.now(UTC).date().isoformat()
    assert after["families"]["n2"] == {"vcpu": 0.031, "gib": 0.004, "spot": 0.2}
    assert after["families"]["z9"] == {"vcpu": 1.5, "gib": 0.008, "spot": 0.4}
    assert "y9" not in after["families"]
    kept = {name: each for name, each in before["families"].items() if name != "n2"}
    assert {name: after["families"][name] for name in kept} == kept
    assert (after["regions"], after["accelerators"]) == (before["regions"], before["accelerators"])
