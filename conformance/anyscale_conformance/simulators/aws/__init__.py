"""AWS on this machine: moto behind a layer of our own that adds what a fleet lives by and moto lacks.

Written from the vendor's documentation. One server serves any number of accounts, each with a clock of its own. What it adds:
signatures and policies that are looked at, an ExternalId that trust policies demand, client tokens, MinCount and MaxCount,
stockouts and quotas, states that take their time, pages of instances, things in use, spot interruptions, load balancers that
come up, bucket tags in the creating call, tagging and quota services; and machines that really run. ``docs/aws.md`` lists what
it does not do.
"""

from anyscale_conformance.simulators.aws.accounts import Account, Timing
from anyscale_conformance.simulators.aws.app import AwsSimulator
from anyscale_conformance.simulators.aws.paging import Spoilt
from anyscale_conformance.simulators.aws.signing import Key

__all__ = ["Account", "AwsSimulator", "Key", "Spoilt", "Timing"]
