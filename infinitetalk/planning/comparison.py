"""GPUs side by side: what a plan takes and costs on those of RunPod's list whose times are known, on one or several."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from infinitetalk.arithmetic import Arithmetic
from infinitetalk.contract.gpus import Gpu, runpod_gpus
from infinitetalk.contract.result import Alternative
from infinitetalk.planning.estimate import Hardware, Lane, Work, cost_usd, find_hardware
from infinitetalk.planning.plan import Plan

COUNTS = (1, 2, 4, 8)  # GPUs of a worker; the model's 40 heads allow them


@dataclass(frozen=True)
class Offer:
    """A number of GPUs of one type that a worker may have, and RunPod's documented price of one of them."""

    gpu: Gpu
    usd_per_hour: float
    hardware: Hardware
    n_gpus: int

    def alternative(self, lane: Lane, work: Work) -> Alternative:
        """What the work takes and costs there in a lane."""
        seconds = self.hardware.seconds_in(lane, work, self.n_gpus)
        return Alternative(
            gpu=self.gpu.name,
            gpus=self.n_gpus,
            seconds=round(seconds, 1),
            cost_usd=round(cost_usd(seconds, self.usd_per_hour, self.n_gpus), 2),
            is_measured=self.hardware.is_measured(lane, self.n_gpus),
        )


def _offers(profile_name: str) -> Iterator[Offer]:
    """The GPUs with a documented price whose times are known for the profile; of several editions the first."""
    names = set()
    for gpu in runpod_gpus().gpus:
        hardware = find_hardware(profile_name, gpu.id)
        price = gpu.usd_per_hour
        if price is None or hardware is None or not hardware.holds_for(gpu.id) or gpu.name in names:
            continue
        names.add(gpu.name)
        for n_gpus in COUNTS:
            yield Offer(gpu, price, hardware, n_gpus)


def alternatives(plan: Plan, profile_name: str, arithmetic: Arithmetic) -> list[Alternative]:
    """A plan on all GPUs whose times are known in that lane.

    Args:
        profile_name: the profile that the times were measured for (`Profile.timing`).
    """
    work = Work.of(plan)
    return [
        offer.alternative(offer.hardware.lane(arithmetic), work)
        for offer in _offers(profile_name)
        if arithmetic.lane in offer.hardware.lanes
    ]


def comparison(plans: Mapping[str, Plan], profile_name: str) -> str:
    """Markdown: seconds and dollars of each plan on each GPU, for all lanes and attention kernels with known times.

    Below the table stand the prices.

    Args:
        plans: by the heads of their columns.
        profile_name: the profile that the times were measured for (`Profile.timing`).
    """
    rows = [["GPU", "GPUs", "lane, attention", *plans, "from"]]
    rows.append(["---"] * len(rows[0]))
    works = [Work.of(plan) for plan in plans.values()]
    prices = {}
    for offer in _offers(profile_name):
        prices[offer.gpu.name] = f"{offer.gpu.name} ${offer.usd_per_hour:.2f}"
        for name, lanes in offer.hardware.lanes.items():
            rows += [_row(offer, name, lane, works) for lane in lanes]
    if not prices:
        return "There is no comparison: this profile's times are known on no GPU of RunPod's list."
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    known = runpod_gpus()
    return (
        f"{table}\n\nPrices of one GPU for an hour of a flex worker: {', '.join(prices.values())} "
        f"({known.prices_from}, {known.priced_on})."
    )


def _row(offer: Offer, name: str, lane: Lane, works: Sequence[Work]) -> list[str]:
    found = [offer.alternative(lane, work) for work in works]
    cells = [f"{one.seconds:.0f} s, ${one.cost_usd:.2f}" for one in found]
    origin = "measurements" if offer.hardware.is_measured(lane, offer.n_gpus) else "arithmetic"
    return [offer.gpu.name, str(offer.n_gpus), f"{name}, {lane.attention}", *cells, origin]
