"""Renews the table of prices from Azure's public price list: ``python -m anyscale_azure.prices --region eastus``."""

import argparse
import json
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from anyscale_azure.offerings import PRICES

SOURCE = "https://prices.azure.com/api/retail/prices"
TIMEOUT_S = 60


def main(words: list[str] | None = None) -> int:
    """Read the price list of a region and write the table; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m anyscale_azure.prices", description=__doc__)
    parser.add_argument("--region", default="eastus")
    parser.add_argument("--source", default=SOURCE, help="where the price list is")
    parser.add_argument("--table", type=Path, default=PRICES, help="the table to renew")
    chosen = parser.parse_args(words)
    sizes = table(_items(chosen.source, chosen.region))
    if not sizes:
        sys.stderr.write(f"the price list names no size in {chosen.region}; the table stays as it is\n")
        return 1
    old = json.loads(chosen.table.read_text())
    new = old | {"date": datetime.now(UTC).date().isoformat(), "region": chosen.region, "sizes": sizes}
    chosen.table.write_text(json.dumps(new, indent=2) + "\n")
    sys.stdout.write(f"{len(sizes)} sizes of {chosen.region}\n")
    return 0


def table(items: Iterable[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Return on-demand and Spot prices by size; sizes without a Spot price have the on-demand one twice. Linux alone counts."""
    on_demand: dict[str, float] = {}
    spot: dict[str, float] = {}
    for item in items:
        product, meter = str(item.get("productName", "")), str(item.get("skuName", ""))
        if "Windows" in product or "Low Priority" in meter or item.get("type") != "Consumption":
            continue
        prices = spot if "Spot" in meter else on_demand
        prices[str(item["armSkuName"])] = float(item["retailPrice"])
    return {name: [price, spot.get(name, price)] for name, price in sorted(on_demand.items()) if name}


def _items(source: str, region: str) -> Iterator[Mapping[str, Any]]:
    filter = f"serviceName eq 'Virtual Machines' and armRegionName eq '{region}' and priceType eq 'Consumption'"
    link: str | None = f"{source}?{urllib.parse.urlencode({'$filter': filter})}"
    while link:
        with urllib.request.urlopen(link, timeout=TIMEOUT_S) as answer:
            page = json.load(answer)
        yield from page.get("Items", ())
        link = page.get("NextPageLink")


if __name__ == "__main__":
    sys.exit(main())
