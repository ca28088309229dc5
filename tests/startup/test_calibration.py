"""The estimates' coefficients: found again from made-up times, written and read, measured on the miniature."""

from dataclasses import replace

import pytest

from infinitetalk.arithmetic import Arithmetic
from infinitetalk.cli import main
from infinitetalk.contract.presets import load_mode, load_profile, read_preset
from infinitetalk.contract.request import Request
from infinitetalk.contract.settings import Settings
from infinitetalk.planning.estimate import Hardware, Lane, Work, estimate, find_hardware
from infinitetalk.planning.plan import make_plan
from infinitetalk.startup import calibration
from infinitetalk.startup.calibration import Sample, Trial, calibrated, fit, measure, to_toml

H100 = "NVIDIA H100 80GB HBM3"
PROFILE = load_profile("infinitetalk-14b")
A = Arithmetic("a")
TRUE = Hardware(
    name="true",
    description="Made-up times",
    profile=PROFILE.name,
    gpus=(H100,),
    source='Made up, "all" of it.',
    to_video_s_per_megapixel=0.05,
    to_latents_s_per_megapixel=0.03,
    s_per_frame=0.002,
    s_per_job=2.5,
    lanes={
        "exact": (
            Lane(attention="a", s_per_token=4e-5, s_per_token_squared=1.4e-9, shared_s_per_token=5e-6),
            Lane(attention="b", s_per_token=4e-5, s_per_token_squared=1.2e-9, shared_s_per_token=4e-6),
        ),
        "fp8": (Lane(attention="a", s_per_token=2e-5, s_per_token_squared=1e-9, shared_s_per_token=5e-6),),
    },
)


def plan_of(resolution="720p", people=1, windows=2, mode="turbo", **changes):
    job = {"image_url": "https://a.b/c.png", "wav_url": "https://a.b/c.wav", "resolution": resolution}
    if people == 2:
        job |= {"person_count": "multi", "wav_url_2": "https://a.b/d.wav"}
    preset = load_mode(mode).model_copy(update=changes)
    n_frames = preset.window_frames + (windows - 1) * (preset.window_frames - preset.overlap_frames)
    return make_plan(Request.parse(job), PROFILE, preset, n_frames, 1)


def sample_of(plan, arithmetic=A, noise=1.0):
    """What TRUE says that a job takes, by stage. noise: a factor on every time."""
    work = Work.of(plan)
    seconds = {
        "read_media": TRUE.s_per_job / 2 + TRUE.s_per_frame * work.frames,
        "text": TRUE.s_per_job / 2,
        "image": TRUE.to_latents_s_per_megapixel * work.to_latents / 3,
        "overlap": TRUE.to_latents_s_per_megapixel * work.to_latents * 2 / 3,
        "denoise": TRUE.lane(arithmetic).seconds(work),
        "decode": TRUE.to_video_s_per_megapixel * work.to_video * 0.9,
        "bytes": TRUE.to_video_s_per_megapixel * work.to_video * 0.1,
    }
    return Sample(work, arithmetic, {stage: noise * spent for stage, spent in seconds.items()}, other=0.0)


def trial_plans():
    return [
        plan_of(t.resolution, t.speakers, t.windows, window_frames=t.window_frames, steps=1) for t in calibration.TRIALS
    ]


def test_the_fit_finds_the_coefficients_that_made_the_times():
    measured = [Arithmetic(lane.attention, name == "fp8") for name, lanes in TRUE.lanes.items() for lane in lanes]
    samples = [sample_of(plan, arithmetic) for plan in trial_plans() for arithmetic in measured]
    found = fit(samples)
    for name in ("to_video_s_per_megapixel", "to_latents_s_per_megapixel", "s_per_frame", "s_per_job"):
        assert found[name] == pytest.approx(getattr(TRUE, name), rel=1e-6)
    assert list(found["lanes"]) == ["exact", "fp8"]
    for name, lanes in TRUE.lanes.items():
        for got, lane in zip(found["lanes"][name], lanes, strict=True):
            assert got.attention == lane.attention
            assert got.model_dump(exclude={"attention", "speedup"}) == pytest.approx(
                lane.model_dump(exclude={"attention", "speedup"}), rel=1e-6
            )


def test_jobs_of_two_people_alone_do_not_tell_the_second_ones_share():
    (lane,) = fit([sample_of(plan_of(size, 2, mode=mode)) for size in ("480p", "720p") for mode in ("fast", "turbo")])[
        "lanes"
    ]["exact"]
    assert lane.shared_s_per_token == 0
    assert lane.s_per_token == pytest.approx(4.5e-5, rel=1e-6)


def test_times_that_vary_by_three_percent_still_estimate_every_mode_within_six():
    noise = (1.03, 0.97, 1.02, 0.98, 1.03)
    found = fit([sample_of(plan, noise=factor) for plan, factor in zip(trial_plans(), noise, strict=True)])
    fitted = TRUE.model_copy(update=found)
    for mode in ("maximum_quality", "balanced", "fast", "turbo"):
        for resolution in ("480p", "720p"):
            work = Work.of(plan_of(resolution, 2, windows=10, mode=mode))
            assert fitted.seconds(work, A) == pytest.approx(TRUE.seconds(work, A), rel=0.06)


def test_no_coefficient_is_negative():
    samples = [sample_of(plan) for plan in trial_plans()]
    # Linear times, and shorter for two people than for one.
    odd = [
        replace(s, seconds=s.seconds | {"denoise": 1e-4 * s.work.tokens - 1e-5 * s.work.shared_tokens}) for s in samples
    ]
    (lane,) = fit(odd)["lanes"]["exact"]
    assert lane.shared_s_per_token == 0
    assert lane.s_per_token == pytest.approx(1e-4, rel=0.15)


def test_the_separators_time_is_told_by_the_chunks_where_jobs_had_any():
    samples = [sample_of(plan) for plan in trial_plans()]
    assert fit(samples)["separate_s_per_chunk"] is None
    separated = [
        replace(s, work=replace(s.work, separated_chunks=n), seconds=s.seconds | {"separate": 0.2 * n})
        for n, s in enumerate(samples, 2)
    ]
    found = fit(separated)
    assert found["separate_s_per_chunk"] == pytest.approx(0.2)
    assert found["s_per_job"] == pytest.approx(TRUE.s_per_job, rel=1e-6)


@pytest.mark.parametrize("hardware", [TRUE, TRUE.model_copy(update={"separate_s_per_chunk": 0.125})])
def test_a_file_holds_what_was_written(hardware, tmp_path):
    path = tmp_path / "true.toml"
    path.write_text(to_toml(hardware), "utf-8")
    assert read_preset(path, Hardware) == hardware


def test_short_jobs_are_measured_and_say_where(models, monkeypatch):
    settings = Settings.from_env({})
    monkeypatch.setattr(calibration, "WARM_UP", ())
    trials = (Trial("480p", 9, 1), Trial("480p", 9, 2, windows=2))
    measured = list(measure(models, settings, trials))
    assert [trial for trial, _ in measured] == list(trials)
    for trial, sample in measured:
        assert sample.arithmetic == Arithmetic("native")
        assert sample.work.tokens == trial.windows * 3 * 60
        assert bool(sample.work.shared_tokens) is (trial.speakers == 2)
        assert {"read_media", "denoise", "decode"} <= set(sample.seconds)
    hardware = calibrated(
        "here", [sample for _, sample in measured], load_profile("miniature"), None, "today", "a test"
    )
    assert (hardware.profile, hardware.gpus) == ("miniature", ())
    assert hardware.source == "Measured on one CPU, today, by a test."
    assert hardware.to_video_s_per_megapixel > 0


def test_several_gpus_are_not_taken_for_one(models):
    with pytest.raises(ValueError, match="GPUS is 2, and calibrate measures one GPU"):
        next(measure(replace(models, n_gpus=2), Settings()))


def test_the_command_writes_the_file_that_estimates_then_stand_on(tmp_path, monkeypatch, capsys):
    trials = [(Trial("480p", 49, 1), sample_of(plan)) for plan in trial_plans()]
    monkeypatch.setattr("infinitetalk.cli_machine.measure_trials", lambda *_: iter(trials))
    path = tmp_path / "here.toml"
    main(["calibrate", "-o", str(path)])
    assert "480p, one person, 1 x 49 frames" in capsys.readouterr().out
    hardware = find_hardware("miniature", None, path)
    assert hardware.name == "here"
    basis = estimate(plan_of(), hardware, None, 3.96).basis
    assert "by infinitetalk calibrate" in basis
