import subprocess
import sys
from dataclasses import replace

import pytest

from infinitetalk.arithmetic import Arithmetic
from infinitetalk.contract.presets import Apg, load_mode, load_profile
from infinitetalk.contract.request import Request
from infinitetalk.planning.plan import draw_seed, make_plan
from infinitetalk.planning.windows import plan_windows

PROFILE = load_profile("infinitetalk-14b")
IMAGE = {"image_url": "https://example.com/face.png", "wav_url": "https://example.com/voice.wav"}
VIDEO = {"input_type": "video", "video_url": "https://example.com/a.mp4", "wav_url": IMAGE["wav_url"]}
MULTI = IMAGE | {"person_count": "multi", "wav_url_2": "https://example.com/voice2.wav"}


def plan_of(job, n_frames=200, seed=7):
    request = Request.parse(job)
    return make_plan(request, PROFILE, load_mode(request.speed_mode), n_frames, seed, source=(1600, 900))


# These change what is fetched, how long the clip is, how it is computed or handed over; the plan does not see them.
NOT_PLANNED = {"image_url", "video_url", "wav_url", "wav_url_2", "max_duration_s", "speaker_order", "speaker_boxes"}
NOT_PLANNED |= {"speakers", "split_voices", "output", "dry_run", "seed", "isolate_vocals", "lane", "preview"}
CHANGES = [
    ("speed_mode", IMAGE, "turbo", {"mode", "windows"}),
    ("input_type", IMAGE, VIDEO, {"input_type"}),
    ("person_count", IMAGE, MULTI, {"speakers"}),
    ("prompt", IMAGE, "A man sings.", {"prompt"}),
    ("aspect_ratio", IMAGE, "16:9", {"size"}),
    ("aspect_ratio", IMAGE, "source", {"size"}),
    ("fit", IMAGE, "whole", {"inner"}),
    ("resolution", IMAGE, "720p", {"size"}),
    ("negative_prompt", IMAGE | {"text_guidance": 2}, "blurred", {"negative_prompt"}),
    ("text_guidance", IMAGE, 2, {"text_guidance", "negative_prompt"}),
    ("audio_guidance", IMAGE, 2, {"audio_guidance"}),
    ("color_correction", IMAGE, 0.5, {"color_correction"}),
    ("video_strength", VIDEO, 0.5, {"video_strength"}),
    ("extend", VIDEO, "loop", {"extend"}),
    ("keep", VIDEO, "speakers", {"keep"}),
]


@pytest.mark.parametrize(("field", "job", "value", "changed"), CHANGES)
def test_each_field_changes_the_plan(field, job, value, changed):
    before = plan_of(job)
    after = plan_of(value if isinstance(value, dict) else job | {field: value})
    assert {name for name in vars(before) if getattr(before, name) != getattr(after, name)} == changed


def test_every_field_of_the_request_is_planned_or_known_not_to_be():
    assert {change[0] for change in CHANGES} | NOT_PLANNED == set(Request.model_fields)


def test_the_plan_knows_of_vocals_by_the_chunks_that_they_are_taken_out_of():
    off, on = plan_of(IMAGE), make_plan(Request.parse(IMAGE), PROFILE, load_mode("balanced"), 200, 7, 3)
    assert on == replace(off, separated_chunks=3)
    arithmetic = Arithmetic("native")
    assert not off.resolved(PROFILE, arithmetic).isolate_vocals
    assert on.resolved(PROFILE, arithmetic).isolate_vocals


def test_the_plan_has_the_presets_numbers():
    plan = plan_of(IMAGE | {"speed_mode": "fast", "resolution": "720p"}, n_frames=100)
    mode = plan.mode
    assert (mode.window_frames, mode.overlap_frames, mode.steps, mode.scheduler) == (65, 5, 4, "euler")
    assert mode.join_fade_frames == 8
    assert (*plan.size, plan.shift) == (720, 1280, 11.0)
    assert plan.windows == plan_windows(100, 65, 5)
    assert (plan.n_frames, plan.duration_s, plan.seed) == (100, 4.0, 7)
    assert mode.apg is None


def test_shift_fade_and_projected_guidance_come_from_the_mode():
    changes = {"shift": {"480p": 7.0, "720p": 11.0}, "join_fade_frames": 0, "apg": Apg()}
    plan = make_plan(Request.parse(IMAGE), PROFILE, load_mode("fast").model_copy(update=changes), 100, 7)
    assert (plan.shift, plan.mode.join_fade_frames, plan.mode.apg) == (7.0, 0, Apg())


def test_the_models_own_negative_prompt_is_used_only_with_text_guidance():
    assert plan_of(IMAGE).negative_prompt is None
    assert plan_of(IMAGE | {"text_guidance": 5}).negative_prompt == PROFILE.negative_prompt
    assert plan_of(IMAGE | {"text_guidance": 5, "negative_prompt": ""}).negative_prompt == ""


@pytest.mark.parametrize(("text", "audio", "forwards"), [(1, 1, 1), (1, 4, 2), (5, 1, 2), (5, 4, 3)])
def test_guidance_costs_forwards(text, audio, forwards):
    plan = plan_of(IMAGE | {"text_guidance": text, "audio_guidance": audio})
    assert plan.forwards_per_step == forwards
    assert plan.total_forwards == 3 * 5 * forwards  # three windows of five steps


def test_tokens_follow_the_windows_length_and_the_size():
    plan = plan_of(IMAGE | {"resolution": "720p"}, n_frames=90)
    first, last = plan.windows
    assert plan.tokens(first) == 21 * 45 * 80
    assert plan.tokens(last) == 5 * 45 * 80  # 5 + 9 frames need a window of 17


def test_the_report_repeats_the_plan():
    plan = plan_of(IMAGE)
    assert plan.resolved(PROFILE, Arithmetic("native"), n_gpus=2).to_json() == {
        "profile": "infinitetalk-14b",
        "loras": ["WanVideo_comfy/Lightx2v/lightx2v_I2V_14B_480p_cfg_step_distill_rank64_bf16.safetensors:1"],
        "window": 81,
        "overlap": 5,
        "windows": 3,
        "steps": 5,
        "forwards": 15,
        "scheduler": "dpm++_sde",
        "shift": 11.0,
        "width": 480,
        "height": 848,
        "fps": 25,
        "frames": 200,
        "duration_s": 8.0,
        "isolate_vocals": False,
        "lane": "exact",
        "precision": "bfloat16",
        "attention": "native",
        "gpus": 2,
    }
    longer = replace(plan, mode=plan.mode.model_copy(update={"steps": 9}))
    assert longer.resolved(PROFILE, Arithmetic("flash")).to_json()["steps"] == 9


def test_drawn_seeds_differ_and_survive_any_json_reader():
    seeds = {draw_seed() for _ in range(100)}
    assert len(seeds) > 90
    assert all(0 <= seed < 2**53 for seed in seeds)


def test_the_contract_and_the_plan_load_without_torch():
    modules = [f"contract.{name}" for name in ("request", "result", "settings", "presets")]
    modules += ["planning.plan", "planning.estimate"]
    code = f"import sys, {', '.join(f'infinitetalk.{module}' for module in modules)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
