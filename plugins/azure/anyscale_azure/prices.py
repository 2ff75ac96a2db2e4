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
OTHERS = ("Windows", "Low Priority", "CloudServices", "Cloud Services", "Dedicated Host")


def main(words: list[str] | None = None) -> int:
    """Read the price list of a region and write the table; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m anyscale_azure.prices", description=__doc__)
    parser.add_argument("--region", default="eastus")
    parser.add_argument("--source", default=SOURCE, help="where the price list is")
    parser.add_argument("--table", type=Path, default=PRICES, help="the table to renew")
    chosen = parser.parse_args(words)
    try:
        sizes = table(_items(chosen.source, chosen.region), now=datetime.now(UTC))
    except (OSError, ValueError, KeyError) as error:
        sys.stderr.write(f"the price list cannot be read, and the table stays as it is: {error!r}\n")
        return 1
    if not sizes:
        sys.stderr.write(f"the price list names no size in {chosen.region}; the table stays as it is\n")
        return 1
    old = json.loads(chosen.table.read_text())
    new = old | {"date": datetime.now(UTC).date().isoformat(), "region": chosen.region, "sizes": sizes}
    chosen.table.write_text(json.dumps(new, indent=2) + "\n")
    sys.stdout.write(f"{len(sizes)} sizes of {chosen.region}\n")
    return 0


def table(items: Iterable[Mapping[str, Any]], *, now: datetime) -> dict[str, list[float]]:
    """Return on-demand and Spot prices by size; sizes without a Spot price have the on-demand one twice.

    What counts is Linux by the hour on virtual machines: not Windows, not the older Low Priority, not Cloud Services, which
    share names of sizes, and no price that is announced for later.
    """
    on_demand: dict[str, float] = {}
    spot: dict[str, float] = {}
    for item in items:
        product, sku, price = str(item["productName"]), str(item["skuName"]), float(item["retailPrice"])
        words = f"{product} {sku} {item['meterName']}"
        is_other = any(word in words for word in OTHERS) or item["type"] != "Consumption" or not price
        if is_other or item["unitOfMeasure"] != "1 Hour" or _instant(item["effectiveStartDate"]) > now:
            continue
        prices = spot if "Spot" in words else on_demand
        prices[str(item.get("armSkuName") or "")] = price
    return {name: [price, spot.get(name, price)] for name, price in sorted(on_demand.items()) if name}


def _items(source: str, region: str) -> Iterator[Mapping[str, Any]]:
    filter = f"serviceName eq 'Virtual Machines' and armRegionName eq '{region}' and priceType eq 'Consumption'"
    link: str | None = f"{source}?{urllib.parse.urlencode({'$filter': filter})}"
    seen: set[str] = set()
    while link:
        if link in seen:
            raise ValueError(f"the price list names {link} as the next page twice")
        seen.add(link)
        with urllib.request.urlopen(link, timeout=TIMEOUT_S) as answer:
            page = json.load(answer)
        yield from page["Items"]
        link = page.get("NextPageLink")


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


if __name__ == "__main__":
    sys.exit(main())
