"""The demo's page, of gradio's components; only this file imports gradio.

A person's pictures are in a Session, which the server holds in a gr.State; what the page shows of
them are files of its folder. Uploads and previews are temporary files of gradio's, removed after
MOST_IDLE seconds.
"""

import html
import os
import pathlib
import random
from collections.abc import Iterator
from typing import Any

import gradio as gr
import numpy as np
from absl import logging
from PIL import Image

from launch.demonstration.queue import Cancelled, EditQueue
from launch.demonstration.session import HistoryEntry, Session
from step1x_jax.conditioning.images import decode_image, read_image_bytes
from step1x_jax.conditioning.prompt import check_instruction
from step1x_jax.editing.editor import Editor
from step1x_jax.editing.progress import Step
from step1x_jax.errors import UserError
from step1x_jax.sampling.plan import SPEEDS

PREVIEWS = 6  # of one edit, about
LARGEST_SEED = 2**32 - 1  # JavaScript's numbers end at 2^53
MOST_IDLE = 600
PAINTED = 32  # of 255: how opaque a stroke of the brush at least is
BRUSH = ("#ff2d78", 0.6)
CSS = """
.gradio-container { max-width: 1240px !important; margin: 0 auto !important; }
#title h1 { margin: 0; font-size: 1.5rem; }
#title p { margin: 0; opacity: .7; }
#progress { min-height: 2.6rem; }
#progress progress { width: 100%; height: .6rem; accent-color: var(--primary-500);
  border: 0; border-radius: .3rem; overflow: hidden; background: var(--neutral-200); }
#progress ::-webkit-progress-bar { background: var(--neutral-200); }
#progress ::-webkit-progress-value { background: var(--primary-500); }
#preview img { width: 100%; height: 100%; object-fit: contain; }
#progress p { margin: 0; }
[data-testid=block-info] { background: none; padding: 0; color: inherit; }
#dice { align-self: end; }
#history .grid-wrap { min-height: 0; height: auto; max-height: none; padding: 0; }
#history .grid-container { grid-template-columns: repeat(auto-fill, minmax(84px, 1fr)); }
#history .caption-label { display: none; }
"""


class Page:
    """Everything on the page, and what its buttons do; `blocks` is served by `serve`."""

    def __init__(self, editor: Editor, queue: EditQueue, folder: pathlib.Path) -> None:
        """Put the page together.

        Args:
          editor: makes the edits.
          queue: in which they wait.
          folder: for the pictures of all sessions; served to whoever knows the name of a file.
        """
        self._editor, self._queue, self._folder = editor, queue, folder
        gr.set_static_paths([folder])
        with gr.Blocks(
            title="Step1X-Edit", analytics_enabled=False, delete_cache=(60, MOST_IDLE)
        ) as self.blocks:
            gr.Markdown(f"# Step1X-Edit\n{self._about()}", elem_id="title")
            self._session = gr.State(None, delete_callback=_close)
            with gr.Row():
                with gr.Column(min_width=320):
                    self._add_request()
                with gr.Column(min_width=320):
                    self._add_results()
            self._connect()

    def _about(self) -> str:
        sampling = self._editor.sampling
        text = f"Edits at about {sampling.size} × {sampling.size} pixels"
        if self._editor.known_edits:
            text += (
                f"; this small model knows {len(self._editor.known_edits)} edits, any other"
                " instruction gives an arbitrary picture"
            )
        return text + "."

    def _add_request(self) -> None:
        sampling = self._editor.sampling
        self._picture = gr.Image(
            label="Picture", sources=["upload", "clipboard"], height=340, buttons=[],
            elem_id="picture",
        )  # fmt: skip
        self._instruction = gr.Textbox(
            "", label="Instruction", placeholder="What to change, such as: make it night",
            lines=1, max_lines=4, max_length=2000, elem_id="instruction",
        )  # fmt: skip
        if self._editor.known_edits:
            gr.Examples(
                [[texts[0]] for texts in self._editor.known_edits],
                self._instruction, label="Try one of these", examples_per_page=20,
                api_visibility="private", elem_id="suggestions",
            )  # fmt: skip
        with gr.Row():
            self._edit = gr.Button("Edit", variant="primary", elem_id="edit")
            self._cancel = gr.Button("Cancel", variant="stop", visible=False, elem_id="cancel")
        self._progress = gr.HTML(
            _note("Upload a picture, and say what to change."), elem_id="progress"
        )
        with gr.Accordion("Edit only a part", open=False, elem_id="part") as self._part:
            gr.Markdown("Paint over what may change; everything else stays as it is.")
            self._brush = gr.ImageEditor(
                type="numpy", image_mode="RGBA", format="png", sources=(), transforms=(),
                brush=gr.Brush(colors=[BRUSH], color_mode="fixed"), buttons=[], show_label=False,
                layers=gr.LayerOptions(allow_additional_layers=False, disabled=True),
                height=420, elem_id="brush",
            )  # fmt: skip
        self._keep = gr.Checkbox(
            label="Keep what hardly changed",
            info="Takes those pixels from your picture that the edit left about as they were.",
            elem_id="keep",
        )
        with gr.Accordion("More settings", open=False, elem_id="more"):
            self._negative = gr.Textbox(
                "", label="Negative", placeholder="What is not wanted", max_length=2000
            )
            with gr.Row():
                self._steps = gr.Slider(
                    1, max(100, sampling.num_steps), sampling.num_steps, step=1,
                    label="Steps", elem_id="steps",
                )  # fmt: skip
                self._guidance = gr.Slider(
                    0, max(15, sampling.guidance), sampling.guidance, step=0.1, label="Guidance"
                )
            self._speed = gr.Radio(
                list(SPEEDS), value=sampling.speed, label="Speed",
                info="exact computes every step; balanced and fast skip some, and differ a little.",
                elem_id="speed",
            )  # fmt: skip
            with gr.Row():
                self._size = gr.Slider(
                    32, max(64, sampling.size * 3 // 2), sampling.size, step=16,
                    label="Size", info="About size × size pixels are edited.",
                )  # fmt: skip
                with gr.Row():
                    self._seed = gr.Number(
                        0, minimum=0, maximum=LARGEST_SEED, precision=0, label="Seed",
                        info="Another seed, another result.", elem_id="seed",
                    )  # fmt: skip
                    self._dice = gr.Button("Random", elem_id="dice", size="sm", min_width=80)

    def _add_results(self) -> None:
        self._preview = gr.Image(
            label="Preview", visible=False, interactive=False, height=400, buttons=[],
            format="jpeg", elem_id="preview",
        )  # fmt: skip
        self._compare = gr.ImageSlider(
            label="Before and after", visible=False, interactive=False, max_height=480,
            buttons=["fullscreen"], elem_id="compare",
        )  # fmt: skip
        self._download = gr.DownloadButton("Download PNG", visible=False, elem_id="download")
        self._hint = gr.Markdown("Click a picture of this session to edit it next:", visible=False)
        self._history = gr.Gallery(
            show_label=False, container=False, visible=False, columns=5, fit_columns=False,
            height="auto", object_fit="cover", allow_preview=False, interactive=False, buttons=[],
            elem_id="history",
        )  # fmt: skip

    def _connect(self) -> None:
        """Say what happens on which click."""
        hidden: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "undocumented"}
        quick = {"queue": False, **hidden}
        # What may fail passes through gradio's queue: of anything else the page shows no error.
        failing = {"concurrency_limit": None, **hidden}
        source = [self._picture, self._brush, self._part]
        shown = [self._compare, self._download, self._progress]
        history = [self._hint, self._history]
        self._picture.upload(
            self._take, [self._session, self._picture],
            [self._session, *source, *shown, *history], api_name="upload", **failing,
        ).failure(
            self._restore, [self._session], [self._picture], api_name="restore", **quick
        )  # fmt: skip
        self._picture.clear(self._drop, [self._session], source[1:], api_name="clear", **quick)
        self._part.expand(
            self._show_brush, [self._session], [self._brush], api_name="brush", **quick
        )
        self._history.select(
            self._pick, [self._session], [*source, *shown], api_name="pick", **failing
        )
        gr.on(
            [self._edit.click, self._instruction.submit],
            self._run,
            [
                self._session, self._instruction, self._negative, self._brush, self._keep,
                self._steps, self._guidance, self._speed, self._size, self._seed,
            ],
            [self._session, self._edit, self._cancel, self._preview, *shown, *history],
            api_name="edit", concurrency_limit=None, **hidden,
        )  # fmt: skip
        self._cancel.click(self._stop, [self._session], None, api_name="cancel", **quick)
        self._dice.click(
            lambda: random.randint(0, LARGEST_SEED), None, self._seed, api_name="dice", **quick
        )

    def _take(self, session: Session | None, upload: tuple[str, str] | None) -> dict:
        """Read an upload; it is edited next."""
        if upload is None:
            raise gr.Error("give a picture as a file.", print_exception=False)
        path, name = upload
        try:
            picture = decode_image(read_image_bytes(path), name)
        except UserError as e:
            raise gr.Error(str(e), print_exception=False) from e
        session = session or Session(self._folder)
        entry = session.add(picture, name)
        return {
            **self._stored(session),
            **self._sourced(session, entry),
            **self._shown(session, entry),
        }

    def _restore(self, session: Session | None) -> Any:
        """The picture that was there, in the place of one that cannot be read."""
        if session is None or session.source is None:
            return None
        return str(session.source.view)

    def _drop(self, session: Session | None) -> dict:
        """Nothing is edited next."""
        if session:
            session.source = None
        return {self._brush: None, self._part: gr.update(open=False)}

    def _show_brush(self, session: Session | None) -> dict:
        """Put the source under the brush: it is not measured rightly while it cannot be seen."""
        return {self._brush: _canvas(session.source if session else None)}

    def _pick(self, session: Session | None, chosen: gr.SelectData) -> dict:
        """Take a picture of the history as the one that is edited next."""
        if session is None or not 0 <= chosen.index < len(session.entries):
            raise gr.Error("this picture is no longer stored.", print_exception=False)
        entry = session.entries[chosen.index]
        return {**self._sourced(session, entry), **self._shown(session, entry)}

    def _stop(self, session: Session | None) -> None:
        """End the session's edit."""
        if session and session.job:
            self._queue.cancel(session.job)

    def _run(
        self,
        session: Session | None,
        instruction: str,
        negative: str,
        painted: dict | None,
        keep: bool,
        steps: float,
        guidance_scale: float,
        speed: str,
        size: float,
        seed: float,
    ) -> Iterator[dict]:
        """Edit, and show how far that is."""
        try:
            yield from self._edited(
                session,
                painted,
                instruction=instruction.strip(),
                negative=negative,
                keep_unchanged=keep,
                steps=int(steps),
                guidance_scale=float(guidance_scale),
                speed=speed,
                size=int(size),
                seed=int(seed),
            )
        except Cancelled:
            yield {**self._idle(session), self._progress: _note("Cancelled.")}
        except UserError as e:
            yield {**self._idle(session), self._progress: _note("Not edited.")}
            raise gr.Error(str(e), print_exception=False) from e
        except Exception as e:
            logging.exception("an edit failed")
            yield {**self._idle(session), self._progress: _note("Not edited.")}
            raise gr.Error("the edit failed; the terminal says why.", print_exception=False) from e

    def _edited(
        self, session: Session | None, painted: dict | None, **settings: Any
    ) -> Iterator[dict]:
        if session is None or session.source is None:
            raise UserError("there is no picture; upload one.")
        if not settings["instruction"]:
            raise UserError("the instruction is empty; say what to do to the picture.")
        check_instruction(settings["instruction"])
        source = session.source
        picture = source.picture()
        mask = painted_mask(painted, picture.size)
        steps = settings["steps"]
        job = session.job = self._queue.submit(
            lambda on_step: self._editor.edit(
                picture,
                on_step=on_step,
                previews=max(1, steps // PREVIEWS),
                mask=mask,
                **settings,
            )
        )
        try:
            for news in job.news():
                if isinstance(news, list):
                    label = f"{settings['instruction']} · seed {settings['seed']}"
                    entry = session.add(news[0], label, source)
                    yield {
                        **self._stored(session),
                        **self._idle(session),
                        **self._shown(session, entry),
                    }
                else:
                    yield self._working(news)
        finally:  # if nobody looks any longer, too
            self._queue.cancel(job)

    def _working(self, news: int | Step) -> dict:
        """How far an edit is: edits before it, or its step."""
        working: dict = {
            self._edit: gr.update(visible=False),
            self._cancel: gr.update(visible=True),
        }
        if isinstance(news, int):
            ahead = f"Waiting: {news} edit{'s' * (news > 1)} before yours." if news else "Starting."
            return {**working, self._progress: _bar(ahead)}
        working[self._progress] = _bar(f"Step {news.number} of {news.total}", news)
        if news.previews:
            working[self._preview] = gr.update(value=news.previews[0], visible=True)
            working[self._compare] = working[self._download] = gr.update(visible=False)
        return working

    def _idle(self, session: Session | None) -> dict:
        """Ready for the next edit; the result that was shown before is there again."""
        shown = gr.update(visible=session is not None and session.shown is not None)
        return {
            self._compare: shown,
            self._download: shown,
            self._edit: gr.update(visible=True),
            self._cancel: gr.update(visible=False),
            self._preview: gr.update(value=None, visible=False),
        }

    def _sourced(self, session: Session, entry: HistoryEntry) -> dict:
        """Make an entry the source, and show it so."""
        session.source = entry
        return {
            self._picture: gr.update(value=str(entry.view), label=f"Picture: {entry.label:.60}"),
            self._brush: None,
            self._part: gr.update(open=False),
        }

    def _stored(self, session: Session) -> dict:
        """Keep the session, and show its pictures."""
        pictures = [(str(entry.thumbnail), entry.label) for entry in session.entries]
        return {
            self._session: session,
            self._hint: gr.update(visible=True),
            self._history: gr.update(value=pictures, visible=True, selected_index=None),
        }

    def _shown(self, session: Session, entry: HistoryEntry) -> dict:
        """Show an entry beside what it was made from, if it is a result."""
        made = entry.before is not None
        session.shown = entry if made else None
        return {
            self._progress: _note(entry.label if made else "Say what to change."),
            self._compare: gr.update(
                value=(str(entry.before), str(entry.view)) if made else None, visible=made
            ),
            self._download: gr.update(value=str(entry.path), visible=made),
        }


def serve(
    page: Page, *, host: str, port: int, share: bool, password: str | None, upload_limit: int
) -> list[str]:
    """Start the server, in threads of its own.

    Args:
      page: to serve.
      host: the network interface that is listened on.
      port: on it.
      share: also through gradio's tunnel, with an address that anybody can open.
      password: that is asked for; None: none.
      upload_limit: MB of one file.

    Returns:
      The addresses under which the page can be opened.

    Raises:
      UserError: the port is taken, or gradio cannot share.
    """
    try:
        _, local, shared = page.blocks.launch(
            server_name=host, server_port=port, share=share, max_file_size=f"{upload_limit}mb",
            auth=None if password is None else lambda name, given: given == password,
            auth_message="The password was printed where the demo was started; any name will do.",
            css=CSS, theme=_theme(), footer_links=[], quiet=True, prevent_thread_lock=True,
            show_error=False, run_history=False, ssr_mode=False, enable_monitoring=False,
        )  # fmt: skip
    except (OSError, ValueError, RuntimeError) as e:
        raise UserError(f"the page cannot be served at {host}:{port} ({e}).") from e
    return [local, shared] if shared else [local]


def painted_mask(painted: dict | None, size: tuple[int, int]) -> Image.Image | None:
    """Return what was painted as a black and white mask of `size`; None if nothing was.

    Args:
      painted: a gr.ImageEditor's value: "layers" is a list of arrays (H, W, 4) uint8.
      size: (width, height).
    """
    alphas = [layer[..., 3] for layer in (painted or {}).get("layers") or []]
    if not alphas:
        return None
    mask = np.max(np.stack(alphas), axis=0) >= PAINTED
    if not mask.any():
        return None
    grey = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR)
    return grey.point(lambda level: 255 * (level >= 128))


def _theme() -> gr.themes.Base:
    """Return a theme with fonts that every machine has: others would be downloaded."""
    return gr.themes.Soft(
        primary_hue="indigo", font=["system-ui", "sans-serif"], font_mono=["monospace"]
    )


def _unread(component: gr.Image, payload: Any) -> tuple[str, str] | None:
    """An upload as (path, name); None: there is none."""
    if payload is None or payload.path is None:
        return None
    return payload.path, payload.orig_name or os.path.basename(payload.path)


def _canvas(entry: HistoryEntry | None) -> dict | None:
    """Return the picture that the brush paints on."""
    if entry is None:
        return None
    return {"background": str(entry.view), "layers": [], "composite": None}


def _note(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"


def _bar(text: str, step: Step | None = None) -> str:
    """A progress bar; without a step, one that only moves."""
    part = f' value="{step.number}" max="{step.total}"' if step else ""
    return f"<progress{part}></progress>{_note(text)}"


def _close(session: Session | None) -> None:
    if session:
        session.close()


# Our reader is to open uploads: gradio's would decode formats that ours refuses. (Gradio writes a
# .pyi file beside a subclass, and makes instances anew when the page changes them.)
gr.Image.preprocess = _unread  # type: ignore[method-assign, assignment]
