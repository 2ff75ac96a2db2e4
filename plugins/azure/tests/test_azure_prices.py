import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from anyscale_azure.prices import main

FILTER = "serviceName eq 'Virtual Machines' and armRegionName eq 'westeurope' and priceType eq 'Consumption'"


def item(size: str, price: float, **fields: Any) -> dict[str, Any]:
    """Return one item in the shape of the Retail Prices API."""
    return {
        "currencyCode": "USD", "tierMinimumUnits": 0.0, "retailPrice": price, "unitPrice": price,
        "armRegionName": "westeurope", "location": "EU West", "effectiveStartDate": "2024-01-01T00:00:00Z",
        "meterId": "000a794b-bdb0-58be-a0cd-0c3a0f222923", "meterName": size.removeprefix("Standard_"),
        "productId": "DZH318Z0BQPS", "skuId": "DZH318Z0BQPS/00TG", "productName": "Virtual Machines Dsv5 Series",
        "skuName": size.removeprefix("Standard_"), "serviceName": "Virtual Machines", "serviceId": "DZH313Z7MMC8",
        "serviceFamily": "Compute", "unitOfMeasure": "1 Hour", "type": "Consumption", "isPrimaryMeterRegion": True,
        "armSkuName": size, **fields,
    }  # fmt: skip


FIRST, SECOND = (
    [
        item("Standard_D2s_v5", 0.115),
        item("Standard_D2s_v5", 0.02, skuName="D2s v5 Spot", meterName="D2s v5 Spot"),
        item("Standard_D2s_v5", 0.023, skuName="D2s v5 Low Priority", meterName="D2s v5 Low Priority"),
        item("Standard_D2s_v5", 0.207, productName="Virtual Machines Dsv5 Series Windows"),
    ],
    [
        item("Standard_D2s_v5", 0.9, productName="Dsv5 Series CloudServices"),
        item("Standard_D2s_v5", 0.12, effectiveStartDate="2099-01-01T00:00:00Z"),
        item("Standard_D2s_v5", 900, type="Reservation", unitOfMeasure="1 Year"),
        item("Standard_D4s_v5", 0.23),
        item("", 1.0),
    ],
)


class PriceList(ThreadingHTTPServer):
    """A price list of two pages. ``again``: the second names itself as the next. ``is_down``: there is none."""

    again = is_down = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Page)
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/api/retail/prices"


class Page(BaseHTTPRequestHandler):
    server: PriceList

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        self.server.asked.append(query["$filter"][0])
        is_second = "$skip" in query
        link = f"{self.server.url}?{urlsplit(self.path).query}" + ("" if is_second else "&$skip=1000")
        body = {
            "BillingCurrency": "USD", "CustomerEntityId": "Default", "CustomerEntityType": "Retail",
            "Items": SECOND if is_second else FIRST, "NextPageLink": link if self.server.again or not is_second else None,
            "Count": 4,
        }  # fmt: skip
        self.send_response(429 if self.server.is_down else 200)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())


@pytest.fixture
def prices() -> Iterator[PriceList]:
    with PriceList() as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.05,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "prices.json"
    path.write_text(json.dumps({"date": "2025-06-01", "region": "eastus", "estimate": {"core": 0.048}, "sizes": {}}))
    return path


def renew(prices: PriceList, table: Path) -> int:
    return main(["--region", "westeurope", "--source", prices.url, "--table", str(table)])


def test_the_table_is_renewed_from_every_page_with_linux_prices_by_the_hour_alone(
    prices: PriceList, table: Path
) -> None:
    assert renew(prices, table) == 0
    assert prices.asked == [FILTER, FILTER]
    found = json.loads(table.read_text())
    assert found["sizes"] == {"Standard_D2s_v5": [0.115, 0.02], "Standard_D4s_v5": [0.23, 0.23]}
    assert (found["region"], found["estimate"]) == ("westeurope", {"core": 0.048})
    assert found["date"] > "2025-06-01"


@pytest.mark.parametrize("fault", ["again", "is_down"])
def test_a_price_list_that_cannot_be_read_to_its_end_leaves_the_table_as_it_is(
    fault: str, prices: PriceList, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    setattr(prices, fault, True)
    before = table.read_text()
    assert renew(prices, table) == 1
    assert "the table stays as it is" in capsys.readouterr().err
    assert table.read_text() == before
