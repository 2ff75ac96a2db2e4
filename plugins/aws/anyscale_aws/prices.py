"""Renews the table of prices from AWS's public price list: ``python -m anyscale_aws.prices --region us-east-1``.

The list of a region has some hundreds of megabytes, so its CSV form is read line by line (AWS Billing User Guide, "Reading the
price list files").
"""

import argparse
import csv
import io
import json
import sys
import urllib.request
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from anyscale_aws.offerings import PRICES

SOURCE = "https://pricing.us-east-1.amazonaws.com/offers/v1.0/aws/AmazonEC2/current"
TIMEOUT_S = 60
COLUMNS = frozenset({"Instance Type", "PricePerUnit"})
"""What the line that names the columns has among them; some lines about the list itself come before it."""
PLAIN = {
    "TermType": "OnDemand", "Operating System": "Linux", "Tenancy": "Shared", "Pre Installed S/W": "NA",
    "CapacityStatus": "Used", "Unit": "Hrs", "Currency": "USD",
}  # fmt: skip
"""What the rows say that are prices of plain instances: each type has many more."""


def main(words: list[str] | None = None) -> int:
    """Read the price list of a region and write the table; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m anyscale_aws.prices", description=__doc__)
    parser.add_argument("--region", default="us-east-1")
    parser.add_argument("--source", default=SOURCE, help="where the price lists of the regions are")
    parser.add_argument("--table", type=Path, default=PRICES, help="the table to renew")
    chosen = parser.parse_args(words)
    with urllib.request.urlopen(f"{chosen.source}/{chosen.region}/index.csv", timeout=TIMEOUT_S) as answer:
        prices = read(io.TextIOWrapper(answer, encoding="utf-8", newline=""))
    old = json.loads(chosen.table.read_text())
    new, missing = renewed(old, prices, region=chosen.region, now=datetime.now(UTC))
    if not new["types"]:
        sys.stderr.write(f"the price list of {chosen.region} has none of the table's types; the table stays as it is\n")
        return 1
    chosen.table.write_text(rendered(new))
    gone = f"; {chosen.region} does not sell {', '.join(missing)}, which are left out" if missing else ""
    sys.stdout.write(f"{len(new['types'])} types of {chosen.region}{gone}\n")
    return 0


def read(lines: Iterable[str]) -> dict[str, float]:
    """Return dollars per hour by type: of Linux on demand, on shared hardware, with nothing installed."""
    rows = csv.reader(lines)
    columns = next((row for row in rows if set(row) >= COLUMNS), [])
    found: dict[str, float] = {}
    for row in rows:
        named = dict(zip(columns, row, strict=False))
        price = float(named.get("PricePerUnit") or 0)
        if price > 0 and all(named.get(name) == value for name, value in PLAIN.items()):
            found[named["Instance Type"]] = price
    return found


def renewed(
    table: Mapping[str, Any], prices: Mapping[str, float], *, region: str, now: datetime
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the table with these prices, and which of its types have none."""
    types = {name: {**each, "price": prices[name]} for name, each in table["types"].items() if name in prices}
    missing = tuple(name for name in table["types"] if name not in prices)
    return {**table, "dated": now.astimezone(UTC).date().isoformat(), "region": region, "types": types}, missing


def rendered(table: Mapping[str, Any]) -> str:
    """Return the table with a type on each line."""
    head = [f" {json.dumps(key)}: {json.dumps(value)}," for key, value in table.items() if key != "types"]
    types = ",\n".join(f"  {json.dumps(name)}: {json.dumps(each)}" for name, each in table["types"].items())
    return "\n".join(("{", *head, ' "types": {', types, " }", "}", ""))


if __name__ == "__main__":
    sys.exit(main())
