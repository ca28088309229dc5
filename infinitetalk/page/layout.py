"""The page's parts and how they look; nothing here does anything."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import gradio as gr

from infinitetalk.contract.presets import load_mode
from infinitetalk.contract.request import Request, SpeedModeName
from infinitetalk.page.pointing import VOICES
from infinitetalk.page.words import mode_name

# Fields of a job behind "More", with their names on the page. Their kinds, choices and defaults are the job's own.
MORE = {
    "aspect_ratio": "Shape, width to height",
    "resolution": "Size",
    "fit": "An input of another shape",
    "prompt": "What the video should show",
    "text_guidance": "Guidance by the text",
    "negative_prompt": "What it should not show",
    "audio_guidance": "Guidance by the voice",
    "keep": "What the model makes",
    "max_duration_s": "Longest duration, in seconds",
    "seed": "Seed",
    "isolate_vocals": "Take the vocals out of a song",
    "extend": "When the video is shorter than the sound",
    "video_strength": "How far the video is made anew",
    "color_correction": "Colour correction",
}
DEFAULTS = {"aspect_ratio": "source"}  # where the page begins with another value than a job: it knows the picture
_PAIRS = (("aspect_ratio", "resolution"), ("text_guidance", "audio_guidance"), ("seed", "max_duration_s"))

CSS = """
.gradio-container { max-width: 1280px !important; width: 100% !important; margin: 0 auto !important; }
#it-title h1 { margin: 0; font-size: 1.5rem; } #it-title p { margin: .2rem 0 0; opacity: .75; }
.it-problem, .it-note, .it-ok, .it-look { border-radius: 8px; padding: 10px 14px; margin: 6px 0; line-height: 1.45; }
.it-problem { background: #fee2e2; color: #7f1d1d; border-left: 4px solid #dc2626; }
.it-note { background: #f1f5f9; color: #334155; font-size: .9rem; padding: 6px 12px; }
.it-ok { background: #dcfce7; color: #14532d; border-left: 4px solid #16a34a; }
.it-look { background: #fef9c3; color: #713f12; border-left: 4px solid #ca8a04; }
.it-look ul { margin: 4px 0 0 18px; list-style: disc; }
.it-facts { opacity: .8; font-size: .9rem; margin: 4px 2px; overflow-wrap: anywhere; }
.it-progress { margin: 6px 0; font-variant-numeric: tabular-nums; }
.it-bar { height: 10px; border-radius: 5px; background: #e2e8f0; overflow: hidden; margin-bottom: 6px; }
.it-bar div { height: 100%; background: linear-gradient(90deg, #0ea5e9, #6366f1); transition: width .3s; }
.it-sheet { width: 100%; border-radius: 8px; }
.it-plan table { width: 100%; border: 0 !important; border-collapse: collapse; margin: 6px 0;
  font-variant-numeric: tabular-nums; }
.it-plan thead, .it-plan tbody, .it-plan tr { border: 0 !important; }
.it-plan th, .it-plan td { padding: 5px 8px; text-align: right; font-size: .92rem; white-space: nowrap;
  border: 0 !important; border-bottom: 1px solid #e2e8f0 !important; }
.it-plan tbody th, .it-plan thead th:first-child { text-align: left; font-weight: 500; }
.it-plan .it-chosen { background: #e0f2fe; color: #0c4a6e; } .it-plan small { opacity: .7; }
#it-voice-1 .upload-container, #it-voice-2 .upload-container,
#it-voice-1 .upload-container .wrap, #it-voice-2 .upload-container .wrap { min-height: 140px; height: 140px; }
.block:has(> .html-container > .prose:empty) { display: none; }
footer { display: none !important; }
"""


@dataclass(frozen=True)
class Parts:
    """The page's components, by what they are for."""

    pointing: gr.State
    source: gr.File
    voices: tuple[gr.Audio, gr.Audio]
    source_trouble: gr.HTML
    voice_trouble: gr.HTML
    second_start: gr.Number
    split: gr.Checkbox
    mode: gr.Radio
    more: Mapping[str, Any]
    plan: gr.Button
    start: gr.Button
    cancel: gr.Button
    place: gr.Column
    picture: gr.Image
    pointed: gr.Radio
    clear: gr.Button
    plans: gr.HTML
    status: gr.HTML
    video: gr.Video
    result: gr.HTML
    elsewhere: gr.Accordion
    json: gr.Code
    curl: gr.Code


def theme() -> gr.themes.Base:
    """The page's colours; fonts are the machine's own, so that nothing is fetched."""
    fonts = ["system-ui", "sans-serif"]
    return gr.themes.Soft(primary_hue="sky", neutral_hue="slate", font=fonts, font_mono=["ui-monospace", "monospace"])


def lay_out(about: str) -> Parts:
    """Put the parts into the open `gr.Blocks`.

    Args:
        about: where videos are made.
    """
    pointing = gr.State(None)
    gr.Markdown(f"# InfiniteTalk\n{about}", elem_id="it-title")
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=380):
            source = gr.File(label="Picture or video", file_types=["image", "video"], height=130, elem_id="it-source")
            source_trouble = gr.HTML(elem_id="it-source-trouble")
            sound: dict[str, Any] = {"type": "filepath", "editable": False, "buttons": []}
            first = gr.Audio(label="Voice", elem_id="it-voice-1", **sound)
            second = gr.Audio(label="Second voice, if there is one", elem_id="it-voice-2", **sound)
            voice_trouble = gr.HTML(elem_id="it-voice-trouble")
            second_start = gr.Number(
                value=0, minimum=0, step=0.1, visible=False, label="The second voice begins after so many seconds"
            )
            mode = gr.Radio(
                [(mode_name(mode), mode) for mode in get_args(SpeedModeName)],
                value=Request.model_fields["speed_mode"].default,
                label="Speed mode",
                info=" ".join(f"{mode_name(mode)}: {load_mode(mode).description}" for mode in get_args(SpeedModeName)),
                elem_id="it-mode",
            )
            with gr.Row():
                plan = gr.Button("Plan and price", elem_id="it-plan")
                start = gr.Button("Make the video", variant="primary", elem_id="it-start")
                cancel = gr.Button("Cancel", variant="stop", visible=False, elem_id="it-cancel")
            with gr.Accordion("More: size, guidance, text, seed", open=False, elem_id="it-more"):
                more = _more()
                split = gr.Checkbox(label="The first voice is one recording of two people who speak in turn")
        with gr.Column(scale=6, min_width=420):
            with gr.Column(visible=False) as place:
                gr.Markdown(
                    "**Who speaks?** Click a face, or two corners of a box. Without a click the worker chooses."
                )
                picture = gr.Image(
                    show_label=False,
                    interactive=False,
                    format="jpeg",
                    height=300,
                    buttons=[],
                    elem_id="it-picture",
                )
                with gr.Row():
                    pointed = gr.Radio(
                        [(f"Voice {number + 1}", number) for number in range(VOICES)],
                        value=0,
                        visible=False,
                        label="The next click is for",
                        elem_id="it-pointed",
                    )
                    clear = gr.Button("Let the worker choose", size="sm", elem_id="it-clear")
            plans = gr.HTML(elem_id="it-plans")
            status = gr.HTML(elem_id="it-status")
            video = gr.Video(
                label="Video", visible=False, interactive=False, height=330, buttons=["download"], elem_id="it-video"
            )
            result = gr.HTML(elem_id="it-result")
            with gr.Accordion("This job as JSON and curl", open=False, elem_id="it-elsewhere") as elsewhere:
                curl = gr.Code(label="From the folder of your files", language="shell", interactive=False)
                json = gr.Code(
                    label="With addresses instead of files: put your own in", language="json", interactive=False
                )
    return Parts(
        pointing=pointing,
        source=source,
        voices=(first, second),
        source_trouble=source_trouble,
        voice_trouble=voice_trouble,
        second_start=second_start,
        split=split,
        mode=mode,
        more=more,
        plan=plan,
        start=start,
        cancel=cancel,
        place=place,
        picture=picture,
        pointed=pointed,
        clear=clear,
        plans=plans,
        status=status,
        video=video,
        result=result,
        elsewhere=elsewhere,
        json=json,
        curl=curl,
    )


def _more() -> dict[str, Any]:
    """The fields behind "More", pairs side by side."""
    made: dict[str, Any] = {}
    paired = {second: first for first, second in _PAIRS}
    for name in MORE:
        if name in paired:
            continue
        pair = next((pair for pair in _PAIRS if pair[0] == name), (name,))
        with gr.Row():
            made |= {member: _field(member) for member in pair}
    return {name: made[name] for name in MORE}


def _field(name: str) -> Any:  # noqa: ANN401
    """A component for a job's field, by its schema."""
    schema = Request.json_schema()["properties"][name]
    default = DEFAULTS.get(name, Request.model_fields[name].default)
    schema |= next((part for part in schema.get("anyOf", ()) if part["type"] != "null"), {})
    common = {"label": MORE[name], "info": schema["description"], "value": default, "elem_id": f"it-{name}"}
    if "enum" in schema:
        return gr.Radio(schema["enum"], **common)
    kind = schema["type"]
    if kind == "boolean" and default is None:
        return gr.Radio([("The worker decides", ""), ("Yes", "true"), ("No", "false")], **(common | {"value": ""}))
    if kind == "boolean":
        return gr.Checkbox(**common)
    if kind == "string" or default is None:  # Gradio's field for numbers makes 0 of nothing
        return gr.Textbox(lines=2 if kind == "string" else 1, **common)
    low, high = schema.get("minimum", schema.get("exclusiveMinimum")), schema.get("maximum")
    return gr.Slider(low if "minimum" in schema else 0.05, high, step=0.05 if high <= 1 else 0.5, **common)
