from dataclasses import replace

import pytest

from infinitetalk.arithmetic import Arithmetic
from infinitetalk.contract.presets import PresetError, list_presets, load_mode, load_profile, read_preset
from infinitetalk.contract.request import Request
from infinitetalk.planning.estimate import (
    Hardware,
    Lane,
    Speedup,
    Work,
    basis_of,
    estimate,
    find_hardware,
    load_hardware,
)
from infinitetalk.planning.plan import make_plan

H100 = "NVIDIA H100 80GB HBM3"
PRICE = 3.96
HARDWARE = list_presets("hardware")
# An 80 s video, 720p, two people
JOB = {
    "image_url": "https://example.com/face.png",
    "wav_url": "https://example.com/voice.wav",
    "wav_url_2": "https://example.com/voice2.wav",
    "person_count": "multi",
    "resolution": "720p",
}
SINGLE = {name: value for name, value in JOB.items() if name not in ("wav_url_2", "person_count")}


def seconds_of(job, n_frames=2000, profile="infinitetalk-14b", gpu=H100):
    request = Request.parse(job)
    loaded = load_profile(profile)
    plan = make_plan(request, loaded, load_mode(request.speed_mode), n_frames, 7)
    return estimate(plan, find_hardware(loaded.timing, gpu), gpu, PRICE).seconds


@pytest.mark.parametrize("name", HARDWARE)
def test_every_hardware_file_belongs_to_a_profile(name):
    hardware = load_hardware(name)
    assert hardware.profile in list_presets("profiles")
    assert hardware.source.endswith(".")


@pytest.mark.parametrize("profile", list_presets("profiles"))
@pytest.mark.parametrize("gpu", [None, H100, "some other GPU"])
def test_every_profile_can_be_estimated_on_any_device(profile, gpu):
    assert seconds_of(JOB, 50, profile, gpu) > 0


@pytest.mark.parametrize(
    ("hardware", "lane", "attention", "tokens", "measured_s"),
    [
        ("nvidia-h100", "exact", "_native_cudnn", 32_760, 3.12),
        ("nvidia-h100", "exact", "_native_cudnn", 46_800, 5.59),
        ("nvidia-h100", "exact", "_native_cudnn", 61_200, 8.53),
        ("nvidia-h100", "exact", "_native_cudnn", 75_600, 12.15),
        ("nvidia-h100", "exact", "_native_cudnn", 111_600, 23.53),
        ("nvidia-h100", "exact", "_flash_3", 32_760, 2.86),
        ("nvidia-h100", "exact", "_flash_3", 75_600, 10.65),
        ("nvidia-h100", "exact", "_flash_3", 111_600, 20.29),
        ("nvidia-h100", "fp8", "_flash_3", 33_390, 2.20),
        ("nvidia-h200", "exact", "_native_cudnn", 32_760, 3.16),
        ("nvidia-h200", "exact", "_native_cudnn", 75_600, 12.26),
        ("nvidia-h200", "exact", "_native_cudnn", 111_600, 24.2),
        ("nvidia-h200", "exact", "_flash_3", 32_760, 2.86),
        ("nvidia-h200", "exact", "_flash_3", 75_600, 10.82),
        ("nvidia-h200", "exact", "_flash_3", 111_600, 20.6),
        ("nvidia-h200", "fp8", "_flash_3", 32_760, 2.04),
        ("nvidia-h200", "fp8", "_flash_3", 75_600, 7.81),
        ("nvidia-h200", "fp8", "_flash_3", 111_600, 15.3),
        ("nvidia-h200", "fp8", "_native_cudnn", 75_600, 10.9),
    ],
)
def test_one_pass_with_two_people_is_as_long_as_measured(hardware, lane, attention, tokens, measured_s):
    work = Work(tokens, tokens**2, tokens, to_video=0.0, to_latents=0.0, frames=0)
    found = load_hardware(hardware).lane(Arithmetic(attention, fp8=lane == "fp8"))
    assert found.attention == attention
    assert found.seconds(work) == pytest.approx(measured_s, rel=0.05)


# 80 s of two people, extrapolated from two windows of one step each by benchmarks/job.py (docs/performance.md).
@pytest.mark.parametrize("size", ["720p", "480p"])
@pytest.mark.parametrize(
    ("gpu", "attention", "measured_s"),
    [
        (H100, "_native_cudnn", {"720p": (2591, 1677, 1223, 860), "480p": (679, 486, 367, 278)}),
        (H100, "_flash_3", {"720p": (2231, 1470, 1080, 765), "480p": (598, 430, 327, 248)}),
        ("NVIDIA H200", "_native_cudnn", {"720p": (2551, 1632, 1192, 839), "480p": (656, 474, 360, 266)}),
    ],
)
def test_whole_jobs_are_estimated_within_six_percent_of_what_was_measured(gpu, attention, measured_s, size):
    modes = ("maximum_quality", "balanced", "fast", "turbo")
    for mode, seconds in zip(modes, measured_s[size], strict=True):
        request = Request.parse(JOB | {"speed_mode": mode, "resolution": size})
        plan = make_plan(request, load_profile("infinitetalk-14b"), load_mode(mode), 2000, 7)
        hardware = find_hardware("infinitetalk-14b", gpu)
        assert hardware.holds_for(gpu)
        assert estimate(plan, hardware, gpu, PRICE, Arithmetic(attention)).seconds == pytest.approx(seconds, rel=0.06)


def test_what_was_not_measured_says_that_it_is_computed():
    """The pass's length follows from the operations and the published rates."""
    name = "NVIDIA RTX PRO 6000 Blackwell Server Edition"
    hardware = find_hardware("infinitetalk-14b", name)
    assert hardware.holds_for(name)
    assert "not measured" in basis_of(hardware, name)
    assert not any(hardware.is_measured(hardware.lane(Arithmetic()), n) for n in (1, 2, 4, 8))
    tokens, blocks, dim = 75_600, 40, 5120
    pass_s = blocks * tokens * (2 * 351e6 / 460e12 + 4 * dim * (tokens + 512 + 257) / 362e12)
    work = Work(tokens, tokens**2, tokens, to_video=0.0, to_latents=0.0, frames=0)
    assert hardware.lane(Arithmetic()).seconds(work) == pytest.approx(pass_s, rel=0.001)
    assert pass_s == pytest.approx(17.5, abs=0.3)


def test_the_sum_over_a_plan_is_what_its_parts_take():
    h100 = load_hardware("nvidia-h100")
    request = Request.parse(SINGLE | {"audio_guidance": 2})
    plan = make_plan(request, load_profile("infinitetalk-14b"), load_mode("balanced"), 157, 7)
    assert [window.length for window in plan.windows] == [81, 81]
    lane = h100.lane(Arithmetic())
    forward_s = lane.s_per_token * 75_600 + lane.s_per_token_squared * 75_600**2
    megapixels = 720 * 1280 / 1e6
    decode_s = h100.to_video_s_per_megapixel * megapixels * 162
    encode_s = h100.to_latents_s_per_megapixel * megapixels * (81 + 5)
    expected = 2 * 5 * 2 * forward_s + decode_s + encode_s + 157 * h100.s_per_frame + h100.s_per_job
    got = estimate(plan, h100, H100, PRICE)
    assert got.seconds == pytest.approx(expected, abs=0.06)
    assert got.cost_usd == pytest.approx(expected / 3600 * PRICE, abs=1e-4)


def test_faster_modes_take_less():
    times = [seconds_of(JOB | {"speed_mode": mode}) for mode in ("maximum_quality", "balanced", "fast", "turbo")]
    assert times == sorted(times, reverse=True)


@pytest.mark.parametrize(
    "more",
    [
        {"resolution": "720p"},
        {"audio_guidance": 2},
        {"text_guidance": 2},
        {"person_count": "multi", "wav_url_2": "https://example.com/b.wav"},
        {"input_type": "video", "image_url": None, "video_url": "https://example.com/a.mp4"},
    ],
)
def test_what_is_more_work_takes_longer(more):
    plain = SINGLE | {"resolution": "480p"}
    assert seconds_of(plain | more) > seconds_of(plain)


def test_a_noised_source_video_is_encoded_too():
    video = SINGLE | {"image_url": None, "input_type": "video", "video_url": "https://example.com/a.mp4"}
    assert seconds_of(video | {"video_strength": 0.5}) > seconds_of(video)


def test_the_basis_says_when_this_device_was_not_measured():
    request = Request.parse(JOB)
    plan = make_plan(request, load_profile("infinitetalk-14b"), load_mode("turbo"), 100, 7)
    for gpu, said in [(H100, None), ("NVIDIA A100-SXM4-80GB", "NVIDIA A100-SXM4-80GB"), (None, "CPU")]:
        basis = estimate(plan, find_hardware("infinitetalk-14b", gpu), gpu, PRICE).basis
        assert "Measured on one NVIDIA H100" in basis
        assert ("was not measured" in basis) is (said is not None)
        assert said is None or said in basis


def test_a_profile_that_was_measured_nowhere_has_no_estimate_and_says_so():
    request = Request.parse(JOB)
    plan = make_plan(request, load_profile("infinitetalk-14b"), load_mode("turbo"), 100, 7)
    assert find_hardware("other", None) is None
    got = estimate(plan, None, None, PRICE).to_json()
    assert set(got) == {"basis"}
    assert "measured on no machine" in got["basis"]


FILE = """
description = "Made up"
profile = "infinitetalk-14b"
gpus = ["RTX PRO 6000"]
source = "Measured here."
to_video_s_per_megapixel = 0.0
to_latents_s_per_megapixel = 0.0
s_per_frame = 0.0
s_per_job = 1000.0

[[lanes.exact]]
attention = "native"
s_per_token = 0.0
s_per_token_squared = 0.0
shared_s_per_token = 0.0
"""


def test_a_file_of_this_gpu_goes_before_the_packages_own(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(FILE, "utf-8")
    gpu = "NVIDIA RTX PRO 6000 Blackwell Server Edition"
    assert find_hardware("infinitetalk-14b", gpu).name == "nvidia-rtx-pro-6000"
    mine = find_hardware("infinitetalk-14b", gpu, path)
    assert (mine.source, mine.s_per_job) == ("Measured here.", 1000)
    assert find_hardware("infinitetalk-14b", H100, path).name == "nvidia-h100"
    assert find_hardware("miniature", None, path).profile == "miniature"


def test_a_lane_has_its_own_times_and_one_that_was_not_measured_says_so():
    plan = make_plan(Request.parse(JOB), load_profile("infinitetalk-14b"), load_mode("turbo"), 100, 7)
    slow, fast = (
        Lane(attention="native", s_per_token=s, s_per_token_squared=0, shared_s_per_token=0) for s in (2e-4, 1e-4)
    )
    zeros = dict.fromkeys(("to_video_s_per_megapixel", "to_latents_s_per_megapixel", "s_per_frame", "s_per_job"), 0.0)
    named = {"name": "x", "description": "x", "profile": "infinitetalk-14b", "source": "Measured."}
    hardware = Hardware(**named, **zeros, gpus=("H100",), lanes={"exact": (slow,), "fp8": (fast,)})
    lanes = Arithmetic(), Arithmetic(fp8=True), Arithmetic(density=0.5)
    exact, fp8, other = (estimate(plan, hardware, H100, PRICE, lane) for lane in lanes)
    assert exact.seconds == pytest.approx(2 * fp8.seconds, rel=0.01)
    assert other.seconds == exact.seconds
    assert "The lane sparse_50 was not" in other.basis
    assert exact.basis == fp8.basis == "Measured."


def test_isolating_vocals_takes_its_time_for_each_chunk_or_is_said_to_be_left_out():
    off = make_plan(Request.parse(JOB), load_profile("infinitetalk-14b"), load_mode("turbo"), 100, 7)
    on = replace(off, separated_chunks=152)
    unmeasured = load_hardware("nvidia-h100").model_copy(update={"separate_s_per_chunk": None})
    measured = unmeasured.model_copy(update={"separate_s_per_chunk": 0.25})
    for hardware, more_s, said in ((measured, 38.0, ""), (unmeasured, 0.0, " Isolating the vocals was not measured")):
        without, with_it = (estimate(plan, hardware, H100, PRICE) for plan in (off, on))
        assert with_it.seconds - without.seconds == pytest.approx(more_s)
        assert with_it.cost_usd - without.cost_usd == pytest.approx(more_s / 3600 * PRICE, abs=2e-4)
        assert without.basis == hardware.source
        assert with_it.basis.startswith(hardware.source + said)


def test_an_attention_kernel_has_its_own_times_and_one_that_was_not_measured_says_so():
    plan = make_plan(Request.parse(JOB), load_profile("infinitetalk-14b"), load_mode("turbo"), 100, 7)
    h100 = load_hardware("nvidia-h100")
    cudnn, flash_3, other, auto = (
        estimate(plan, h100, H100, PRICE, Arithmetic(name)) for name in ("_native_cudnn", "_flash_3", "sage", "auto")
    )
    assert flash_3.seconds < 0.95 * cudnn.seconds
    assert other.seconds == auto.seconds == cudnn.seconds
    assert "The attention sage was not measured: these are the times of _native_cudnn." in other.basis
    assert cudnn.basis == flash_3.basis == auto.basis == h100.source


STUDY = Speedup(source="Studied.", passes={2: 1.92})
FULL = Speedup(source="Measured.", passes={2: 1.9, 4: 3.6}, to_video={2: 1.8})
EXACT_LANE = load_hardware("nvidia-h100").lanes["exact"][0]


def test_a_speed_up_that_was_measured_is_taken_and_another_is_computed_from_what_is_sent():
    assert STUDY.of_passes(2, EXACT_LANE) == 1.92
    # On 2 GPUs a rank sends half of its share, which takes 1/24 of the work. On 4 it sends 3/4, on 8 7/8.
    assert STUDY.of_passes(4, EXACT_LANE) == pytest.approx(4 / (1 + 1 / 12 * 3 / 4))
    assert STUDY.of_passes(8, EXACT_LANE) == pytest.approx(8 / (1 + 1 / 12 * 7 / 8))
    assert (FULL.of_passes(2, EXACT_LANE), FULL.of_passes(4, EXACT_LANE)) == (1.9, 3.6)
    of_four = (4 / 3.6 - 1) * 4 / 3  # the largest known number
    assert FULL.of_passes(5, EXACT_LANE) == pytest.approx(5 / (1 + of_four * 4 / 5))


def test_a_lane_may_gain_less():
    fp8 = EXACT_LANE.model_copy(update={"speedup": {2: 1.8}})
    assert [FULL.of_passes(2, lane) for lane in (EXACT_LANE, fp8)] == [1.9, 1.8]
    assert FULL.of_passes(4, fp8) == pytest.approx(4 / (1 + (2 / 1.8 - 1) * 2 * 3 / 4))
    assert FULL.basis(4, EXACT_LANE) == "4 GPUs: Measured."
    assert FULL.basis(4, fp8) == "4 GPUs: by arithmetic from 2. Measured."
    hardware = load_hardware("nvidia-h100").model_copy(update={"speedup": FULL, "lanes": {"fp8": (fp8,)}})
    work, arithmetic = Work(1e6, 1e10, 0, to_video=0.0, to_latents=0.0, frames=0), Arithmetic(fp8=True)
    passes_s = fp8.seconds(work)
    saved_s = hardware.seconds(work, arithmetic) - hardware.seconds(work, arithmetic, 2)
    assert saved_s == pytest.approx(passes_s * (1 - 1 / 1.8))
    assert [hardware.is_measured(lane, 4) for lane in (EXACT_LANE, fp8)] == [True, False]


def test_what_the_gpus_do_not_share_of_the_decoding_stays_as_long():
    assert STUDY.of_to_video(8) == FULL.of_to_video(1) == 1
    assert FULL.of_to_video(2) == 1.8
    assert 1 / FULL.of_to_video(8) == pytest.approx(1 / 8 + (1 / 1.8 - 1 / 2))


def test_several_gpus_share_passes_and_decoding_and_cost_their_number_times_the_price():
    plan = make_plan(Request.parse(JOB), load_profile("infinitetalk-14b"), load_mode("balanced"), 2000, 7)
    hardware = load_hardware("nvidia-h100").model_copy(update={"speedup": FULL})
    work = Work.of(plan)
    one, two = (estimate(plan, hardware, H100, PRICE, n_gpus=n) for n in (1, 2))
    passes_s, decode_s = hardware.lane(Arithmetic()).seconds(work), hardware.to_video_s_per_megapixel * work.to_video
    assert two.seconds == pytest.approx(one.seconds - passes_s * (1 - 1 / 1.9) - decode_s * (1 - 1 / 1.8), abs=0.11)
    assert two.cost_usd == pytest.approx(two.seconds * 2 / 3600 * PRICE, abs=1e-3)


def test_the_basis_says_how_many_gpus_were_measured():
    h100 = load_hardware("nvidia-h100")
    full = h100.model_copy(update={"speedup": FULL})
    assert basis_of(full, H100) == h100.source
    assert basis_of(full, H100, n_gpus=2) == f"{h100.source} 2 GPUs: Measured."
    assert basis_of(full, H100, n_gpus=8) == f"{h100.source} 8 GPUs: by arithmetic from 4. Measured."
    study = h100.model_copy(update={"speedup": STUDY})
    assert basis_of(study, H100, n_gpus=2).endswith(" 2 GPUs: Studied. The decoding counts as on one GPU.")
    assert "one NVIDIA H200 was timed at one GPU's part" in basis_of(h100, H100, n_gpus=2)
    assert [full.is_measured(EXACT_LANE, n) for n in (1, 2, 4, 8)] == [True, True, True, False]
    assert [h100.is_measured(EXACT_LANE, n) for n in (1, 2)] == [True, False]


def test_processes_on_a_cpu_gain_nothing():
    cpu = load_hardware("nvidia-h100").model_copy(update={"gpus": ()})
    work = Work(1e6, 1e10, 0, to_video=10.0, to_latents=0.0, frames=0)
    assert cpu.seconds(work, Arithmetic(), 2) == cpu.seconds(work, Arithmetic())
    assert basis_of(cpu, None, n_gpus=2) == f"{cpu.source} Several processes on one CPU count as one."


def test_a_speed_up_is_read_from_a_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        FILE + '\n[speedup]\nsource = "Here."\npasses = {2 = 1.9, 4 = 3.6}\nto_video = {2 = 1.8}\n', "utf-8"
    )
    assert read_preset(path, Hardware).speedup == FULL.model_copy(update={"source": "Here."})
    path.write_text(FILE + "speedup = {2 = 1.7}\n", "utf-8")  # of the file's last lane
    assert [lane.speedup for lanes in read_preset(path, Hardware).lanes.values() for lane in lanes][-1] == {2: 1.7}
    path.write_text(FILE + "speedup = {2 = 0.7}\n", "utf-8")
    with pytest.raises(PresetError, match="speedup"):
        read_preset(path, Hardware)
    for wrong in ("passes = {2 = 2.1}", "passes = {2 = 1.9}\nto_video = {4 = 4.5}"):
        path.write_text(FILE + f'\n[speedup]\nsource = "Here."\n{wrong}\n', "utf-8")
        with pytest.raises(PresetError, match=r"[24] GPUs cannot be [24]\.[15] times as fast as one"):
            read_preset(path, Hardware)
    for wrong in ("passes = {1 = 1.0}", "passes = {2 = 0.9}", "passes = {}", 'passes = {2 = "fast"}'):
        path.write_text(FILE + f'\n[speedup]\nsource = "Here."\n{wrong}\n', "utf-8")
        with pytest.raises(PresetError, match="passes"):
            read_preset(path, Hardware)
