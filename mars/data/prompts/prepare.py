"""Turn the rows of files into the prompts of a run.

Training, evaluation, `mars data check`, `--dry-run` and the cold start all call `prepare_rows`, so that they agree on
prompts, problems and lengths.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from mars.data.convert.eval_json import read_json_rows
from mars.data.pixels.images import probe_size
from mars.data.prompts.budget import ImageBudget, limit_images
from mars.data.prompts.chat import MissingOpening, PromptEncoder
from mars.data.prompts.chat_template import TemplateFailure
from mars.data.prompts.lengths import longest_view
from mars.data.prompts.template_rows import TriedRow, ViewTrial, refuse_chat_template
from mars.data.prompts.templates import TemplateOf, has_instruction
from mars.data.prompts.views import ImageLayout, alone
from mars.data.rows.dataset import Probe, RowReading, TruthCheck, read_prompts, undecodable
from mars.data.rows.problems import OnBadSample, RowError, RowProblem, refuse_or_drop
from mars.errors import ConfigError, DataError
from mars.types import Message, Prompt, View, view_name

logger = logging.getLogger(__name__)

SPECIAL_TOKEN = "special_token"
NO_TEMPLATE = "none"


@dataclass(frozen=True)
class RowSettings:
    """What `prepare_rows` needs; mars/inputs.py makes it from a configuration.

    image_root, check_truth, needs_response: see `read_prompts`.
    images_per_row: the number of images that every row must have; None allows any number.
    decode_images: decode every image in full.
    source_budgets: source name -> its further pixel limits, see `limit_images`. budget: pixel limits of every image.
    image_layout: whether mono views show one image or repeat it (`anchor.image_layout`).
    max_prompt_tokens: the most tokens that the longest view of a prompt may have.
    shown_views: the views of a prompt that the job shows besides the multi view. The chat template is tried on them.
    own_wording: whether each of these views gets a wording of its own (`anchor.wording=per_view`).
    """

    image_root: str | None
    check_truth: TruthCheck
    needs_response: bool
    images_per_row: int | None
    decode_images: bool
    source_budgets: Mapping[str, ImageBudget]
    budget: ImageBudget
    template_of: TemplateOf
    encoder: PromptEncoder
    image_layout: ImageLayout
    max_prompt_tokens: int
    shown_views: Callable[[Prompt], Sequence[View]] = lambda prompt: ()
    own_wording: bool = False


@dataclass(frozen=True)
class PromptSet:
    """The prompts that a run uses, from one or several files.

    dropped: reason -> number of dropped rows. fingerprint: hash of the files' contents.
    lengths: row -> tokens of its longest view, images expanded.
    """

    prompts: tuple[Prompt, ...]
    dropped: Mapping[str, int]
    fingerprint: str
    lengths: Mapping[str, int]

    def counted(self, noun: str) -> str:
        """How many there are, and how many rows were dropped: "7 prompts, 1 dropped {'overlong': 1}"."""
        dropped = sum(self.dropped.values())
        return f"{len(self.prompts)} {noun}, {dropped} dropped{f' {dict(self.dropped)}' if dropped else ''}"


@dataclass(frozen=True)
class PreparedRows:
    """All rows of some files, prepared.

    rendered: the prompts in file order, with images limited and `data.template` applied. A row with problems is
        included if its question and images could be read and its template could be applied.
    problems: all problems of all rows, in file order.
    lengths: row -> tokens of its longest view, images expanded. Rows that cannot be measured are missing.
    tried: the rows that the chat template was tried on, for `refuse_chat_template`.
    num_instructing: the number of rows whose own text says how to answer.
    templates: template's name, or "none" -> number of rows. Counts the rows whose text does not say how to answer.
    num_decoded: the number of images that were decoded in full. seconds: time taken, without this decoding.
    """

    rendered: tuple[Prompt, ...]
    problems: tuple[RowProblem, ...]
    lengths: Mapping[str, int]
    num_rows: int
    fingerprint: str
    tried: tuple[TriedRow, ...]
    num_instructing: int
    templates: Mapping[str, int]
    num_decoded: int
    seconds: float

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """The prompts of the rows without problems."""
        bad = {problem.row for problem in self.problems}
        return tuple(prompt for prompt in self.rendered if prompt.row not in bad)

    def usable(self, on_bad_sample: OnBadSample) -> PromptSet:
        """Apply `data.on_bad_sample`. Raises DataError as `refuse_or_drop` does."""
        dropped, prompts = refuse_or_drop(self.problems, self.num_rows, on_bad_sample), self.prompts
        return PromptSet(prompts, dropped, self.fingerprint, {p.row: self.lengths[p.row] for p in prompts})


def prepare_files(sets: Mapping[str, tuple[Sequence[str], RowSettings]]) -> dict[str, PreparedRows]:
    """Call `prepare_rows` for each set that has files. sets: name, such as "train" -> the set's files and settings.

    Raises as `prepare_rows` does, and TemplateFailure if the chat template takes no row, or no row with images.
    """
    prepared = {name: prepare_rows(files, settings) for name, (files, settings) in sets.items() if files}
    refuse_chat_template(row for rows in prepared.values() for row in rows.tried)
    return prepared


def prepare_rows(files: Sequence[str], settings: RowSettings, probe: Probe = probe_size) -> PreparedRows:
    """Read, check, render and measure all rows of `files`, and limit the size of their images.

    A bad row does not raise; the result lists all problems of all rows. A check is skipped if an earlier problem makes
    it meaningless: a row with a missing image has no length, so it cannot be overlong.

    Raises DataError for files that cannot be read, and ConfigError for a `data.template` that cannot be rendered. A
    row that the model's chat template does not take is only a bad row here, even if all rows are bad for this reason;
    `refuse_chat_template` raises then.
    """
    start = time.perf_counter()
    reading = read_prompts(
        files,
        settings.image_root,
        settings.check_truth,
        probe,
        read_json=partial(read_json_rows, responses=settings.needs_response),
        needs_response=settings.needs_response,
    )
    views = ViewTrial(settings.shown_views, settings.image_layout, settings.encoder)
    prepared = [_prepare(row, settings, views) for row in reading.rows]
    seconds = time.perf_counter() - start
    damaged = undecodable(reading.rows) if settings.decode_images else []
    place = {row.label: i for i, row in enumerate(reading.rows)}
    # sorted() is stable, so a row's problems stay in the order of the checks. The first one is the reason that counts.
    stages = [*reading.problems, *_wrong_numbers(reading.rows, settings.images_per_row), *damaged]
    stages += [problem for row in prepared for problem in row.problems]
    asked = [row.prompt for row in reading.rows if row.prompt is not None]
    num_instructing = sum(map(has_instruction, asked))
    used = [settings.template_of(prompt) for prompt in asked if not has_instruction(prompt)]
    if num_instructing:
        count = len(reading.rows)
        logger.info("data: %d of %d rows say how to answer, so they get no template", num_instructing, count)
    return PreparedRows(
        rendered=tuple(row.prompt for row in prepared if row.prompt is not None),
        problems=tuple(sorted(stages, key=lambda problem: place[problem.row])),
        lengths={row.prompt.row: row.length for row in prepared if row.prompt is not None and row.length is not None},
        num_rows=len(reading.rows),
        fingerprint=reading.fingerprint,
        tried=tuple(row.tried for row in prepared if row.tried is not None),
        num_instructing=num_instructing,
        templates=Counter(NO_TEMPLATE if template is None else template.name for template in used),
        num_decoded=sum(len(row.sources) for row in reading.rows) if settings.decode_images else 0,
        seconds=seconds,
    )


def warn_of_silent_prompts(prepared: Sequence[PreparedRows]) -> None:
    """For `data.template=auto`: warn if rows get no template and no row says how to answer."""
    silent = sum(rows.templates.get(NO_TEMPLATE, 0) for rows in prepared)
    if silent and not any(rows.num_instructing for rows in prepared):
        logger.warning(
            "data.template: no prompt with a reward of your own says how to answer, in <think> and <answer> tags; got "
            "auto, which has no template for such a reward (%d rows); data.template=vqa adds how to answer, "
            "data.template=none leaves the prompts as they are",
            silent,
        )


@dataclass(frozen=True)
class _Prepared:
    """One row. prompt: None if it cannot be read or rendered. length: tokens of the longest view, None if unknown."""

    prompt: Prompt | None
    length: int | None
    problems: Sequence[RowProblem]
    tried: TriedRow | None = None


def _prepare(row: RowReading, settings: RowSettings, views: ViewTrial) -> _Prepared:
    """Limit the size of the row's images, apply data.template, and count the tokens of the row's longest view."""
    if row.prompt is None:
        return _Prepared(None, None, ())
    prompt, problems = limit_images(row.prompt, settings.source_budgets)
    rendered, refusal = _render(prompt, row, settings.template_of)
    if rendered is not None:
        worded, refusal = _view_messages(prompt, row, settings)
        rendered = None if worded is None else replace(rendered, view_messages=worded)
    measurable = rendered is not None and not problems
    if refusal is not None:
        problems.append(refusal)
    tried = None
    if refusal is None or refusal.reason != SPECIAL_TOKEN:
        try:
            refused = _refused_texts(row.label, prompt if rendered is None else rendered, settings.encoder, views)
            tried = None if refused else TriedRow(bool(prompt.sources), None)
        except TemplateFailure as error:
            refused, tried = [RowProblem(row.label, "chat_template", str(error))], TriedRow(bool(prompt.sources), error)
        problems += refused
        measurable = measurable and not refused
    if settings.needs_response:
        for response in filter(None, (prompt.response, *prompt.mono_responses.values())):
            problems += _special_tokens(row.label, settings.encoder.encode_response, response)
    if rendered is None or not measurable:
        return _Prepared(rendered, None, problems, tried)
    layout = settings.image_layout if settings.shown_views(rendered) else "single"
    length = longest_view(rendered, settings.encoder, settings.budget, layout)
    if length > settings.max_prompt_tokens:
        detail = f"{length} tokens, {settings.max_prompt_tokens} are allowed (data.max_prompt_tokens)"
        problems.append(RowProblem(row.label, "overlong", detail))
    return _Prepared(rendered, length, problems, tried)


def _refused_texts(row: str, prompt: Prompt, encoder: PromptEncoder, views: ViewTrial) -> list[RowProblem]:
    """The problems of the prompt's messages or, if there are none, of its first view with problems.

    Raises TemplateFailure if the model's chat template does not take the messages.
    """
    refused = _special_tokens(row, encoder.encode, prompt.messages, len(prompt.sources))
    for view, messages in prompt.view_messages.items():
        refused = refused or _special_tokens(row, encoder.encode, messages, len(view or ()))
    return refused or _special_tokens(row, views.check, prompt)


def _view_messages(
    prompt: Prompt, row: RowReading, settings: RowSettings
) -> tuple[Mapping[View, tuple[Message, ...]] | None, RowProblem | None]:
    """The messages of the views with a wording of their own: each view's question, rendered with its sources alone.

    Returns (messages, None), (None, problem) or (None, None), like `_render`.
    """
    found: dict[View, tuple[Message, ...]] = {}
    for view in settings.shown_views(prompt) if settings.own_wording else ():
        if view is None:
            continue
        rendered, refusal = _render(alone(prompt, view), row, settings.template_of)
        if rendered is None:
            return None, refusal and replace(refusal, detail=f"view {view_name(view)}: {refusal.detail}")
        found[view] = rendered.messages
    return found, None


def _render(prompt: Prompt, row: RowReading, template_of: TemplateOf) -> tuple[Prompt | None, RowProblem | None]:
    """Apply data.template. Returns (prompt, None), or (None, problem) if the rendered text cannot be used.

    If the template itself fails, raises ConfigError; for a row that has problems already, returns (None, None).
    """
    template = template_of(prompt)
    try:
        return prompt if template is None else template.apply(prompt), None
    except RowError as error:
        return None, RowProblem(row.label, error.reason, str(error))
    except ConfigError:
        if not row.problems:
            raise
        return None, None  # the template may be right and fail because the row is bad


def _special_tokens(row: str, encode: Callable[..., object], *text: object) -> list[RowProblem]:
    """A problem if the tokenizer turns text into special tokens, or if a response does not begin as the chat template
    begins every response."""
    try:
        encode(*text)
    except MissingOpening as error:
        return [RowProblem(row, "response", str(error))]
    except DataError as error:
        return [RowProblem(row, SPECIAL_TOKEN, str(error))]
    return []


def _wrong_numbers(rows: Sequence[RowReading], images_per_row: int | None) -> list[RowProblem]:
    counts = [(row.label, len(row.prompt.sources)) for row in rows if row.prompt is not None]
    return [
        RowProblem(label, "num_images", f"the row has {count} images; data.images_per_row is {images_per_row}")
        for label, count in counts
        if images_per_row is not None and count != images_per_row
    ]
