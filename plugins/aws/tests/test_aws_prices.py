"""The table of prices: how it is renewed from AWS's list, and which quota each type counts against."""

import json
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from anyscale_aws.offerings import PRICES, quota_code
from anyscale_aws.prices import main, rendered

from anyscale_core.models.cluster import MarketType

HEAD = """"FormatVersion","v1.0"
"Disclaimer","This pricing list is for informational purposes only."
"Publication Date","2026-11-01T00:00:00Z"
"Version","20261101000000"
"OfferCode","AmazonEC2"
"SKU","TermType","PriceDescription","Unit","PricePerUnit","Currency","Product Family","Instance Type","vCPU","Memory",\
"Tenancy","Operating System","CapacityStatus","Pre Installed S/W"
"""


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder without a word."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def row(type: str, price: str, **other: str) -> str:
    """Return a line of the list, of a plain instance but for what is given."""
    parts = {
        "sku": "ABC", "term": "OnDemand", "text": f"$ per On Demand Linux {type} Instance Hour", "unit": "Hrs",
        "price": price, "currency": "USD", "family": "Compute Instance", "type": type, "vcpu": "2", "memory": "8 GiB",
        "tenancy": "Shared", "system": "Linux", "status": "Used", "software": "NA", **other,
    }  # fmt: skip
    return ",".join(f'"{part}"' for part in parts.values()) + "\n"


def served(folder: Path, region: str, *rows: str) -> ThreadingHTTPServer:
    """Serve a price list of one region."""
    (folder / region).mkdir(parents=True)
    (folder / region / "index.csv").write_text(HEAD + "".join(rows))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return server


def test_renewing_takes_the_price_of_a_plain_instance_and_says_of_when_and_where_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "prices.json"
    old = json.loads(PRICES.read_text())
    few = {name: old["types"][name] for name in ("m5.large", "g5.xlarge", "p4d.24xlarge")}
    table.write_text(rendered({**old, "types": few}))
    server = served(
        tmp_path / "lists", "eu-central-1",
        row("m5.large", "0.0000000000", status="UnusedCapacityReservation"), row("m5.large", "0.1150000000"),
        row("m5.large", "0.2070000000", system="Windows"), row("m5.large", "0.1220000000", tenancy="Dedicated"),
        row("m5.large", "0.5950000000", software="SQL Std"), row("m5.large", "0.0690000000", term="Reserved"),
        row("m5.large", "40.000", unit="Quantity"), row("g5.xlarge", "1.2580000000"), row("m1.odd", "9.9"),
    )  # fmt: skip
    source = f"http://127.0.0.1:{server.server_port}"
    assert main(["--region", "eu-central-1", "--source", source, "--table", str(table)]) == 0
    server.shutdown()
    new = json.loads(table.read_text())
    assert {name: each["price"] for name, each in new["types"].items()} == {"m5.large": 0.115, "g5.xlarge": 1.258}
    assert new["types"]["g5.xlarge"] == {**few["g5.xlarge"], "price": 1.258}
    assert new["region"] == "eu-central-1"
    assert new["dated"] > old["dated"]
    assert "p4d.24xlarge" in capsys.readouterr().out


def test_a_list_without_any_type_of_the_table_leaves_the_table_as_it_is(tmp_path: Path) -> None:
    table = tmp_path / "prices.json"
    table.write_text(PRICES.read_text())
    server = served(tmp_path / "lists", "us-east-1", row("m1.odd", "1.0"))
    source = f"http://127.0.0.1:{server.server_port}"
    assert main(["--source", source, "--table", str(table)]) == 1
    server.shutdown()
    assert table.read_text() == PRICES.read_text()


def test_the_table_that_is_shipped_is_written_as_renewing_writes_it() -> None:
    assert rendered(json.loads(PRICES.read_text())) == PRICES.read_text()


@pytest.mark.parametrize(
    ("type", "on_demand", "spot"),
    [
        ("m7g.large", "L-1216C47A", "L-34B43A08"),
        ("c6i.xlarge", "L-1216C47A", "L-34B43A08"),
        ("g5.xlarge", "L-DB2E81BA", "L-3819A6DF"),
        ("gr6.4xlarge", "L-DB2E81BA", "L-3819A6DF"),
        ("p4d.24xlarge", "L-417A185B", "L-7212CCBC"),
        ("p5en.48xlarge", "L-417A185B", "L-C4BD4855"),
        ("trn1.2xlarge", "L-2C3B7624", "L-6B0D517C"),
        ("inf2.xlarge", "L-1945791B", "L-B5D1601B"),
        ("dl1.24xlarge", "L-6E869C2A", "L-85EED4F7"),
        ("x2gd.medium", "L-7295265B", "L-E3A00192"),
        ("f1.2xlarge", "L-74FC7D96", "L-88CF9481"),
        ("hpc7g.4xlarge", "L-F7808C92", "L-34B43A08"),
    ],
)
def test_a_type_counts_against_the_quota_of_its_class_as_service_quotas_names_it(
    type: str, on_demand: str, spot: str
) -> None:
    assert quota_code(type, MarketType.ON_DEMAND) == on_demand
    assert quota_code(type, MarketType.SPOT) == spot
