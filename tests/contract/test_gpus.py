"""RunPod's list of GPUs, and which of them fit."""

from infinitetalk.contract.gpus import Gpu, fitting_gpus, runpod_gpus

H100 = Gpu(
    id="NVIDIA H100 80GB HBM3", name="H100", pool="ADA_80_PRO", memory_gb=80, capability=(9, 0), usd_per_s=0.00116
)


def test_the_list_names_each_gpu_once_and_says_where_its_prices_are_from() -> None:
    known = runpod_gpus()
    ids = [gpu.id for gpu in known.gpus]
    assert len(set(ids)) == len(ids)
    assert H100 in known.gpus
    assert known.priced_on.count("-") == 2
    assert "runpod.io" in known.prices_from


def test_gpus_of_one_name_have_one_price_and_one_size() -> None:
    facts: dict[str, set[tuple[object, ...]]] = {}
    for gpu in runpod_gpus().gpus:
        facts.setdefault(gpu.name, set()).add((gpu.pool, gpu.memory_gb, gpu.capability, gpu.usd_per_s))
    assert {len(found) for found in facts.values()} == {1}


def test_an_hour_costs_3600_seconds() -> None:
    assert H100.usd_per_hour == 4.176
    assert H100.model_copy(update={"usd_per_s": None}).usd_per_hour is None


def test_a_card_shows_a_little_less_memory_than_its_name_says() -> None:
    assert H100.has_memory(78)
    assert not H100.has_memory(79.9)


def test_each_name_has_one_verdict() -> None:
    found = fitting_gpus(75, (8, 9))
    assert found["fits"] == ["RTX PRO 6000", "H100", "H200", "B200"]
    assert found["too old"] == ["A100"]
    assert {name for names in found.values() for name in names} == {gpu.name for gpu in runpod_gpus().gpus}
    assert list(fitting_gpus(0)) == ["fits"]
