"""Decide whether the rows that the model's chat template does not take are bad, or the template itself is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from mars.data.prompts.chat import PromptEncoder
from mars.data.prompts.chat_template import TemplateFailure
from mars.data.prompts.views import ImageLayout, render_view
from mars.types import IMAGE_MARKER, Prompt, View


@dataclass(frozen=True)
class TriedRow:
    """A row that the chat template was tried on. failure: why the template does not take it, or None."""

    has_images: bool
    failure: TemplateFailure | None


def refuse_chat_template(tried: Iterable[TriedRow]) -> None:
    """Raises the first failure of the model's chat template if it takes no row, or no row with images.

    tried: the rows of all files of a job.
    """
    rows = list(tried)
    for some in (rows, [row for row in rows if row.has_images]):
        failures = [row.failure for row in some if row.failure is not None]
        if failures and len(failures) == len(some):
            raise failures[0]


class ViewTrial:
    """Tries the chat template on the views of prompts besides the multi view.

    Whether a template takes a view depends only on the view's form: of each message, the role, the number of images,
    and whether there is text. So only one view of each form is tried.
    Views with a wording of their own are skipped: mars/data/prompts/prepare.py tries them.
    """

    def __init__(
        self, views: Callable[[Prompt], Sequence[View]], image_layout: ImageLayout, encoder: PromptEncoder
    ) -> None:
        self._views, self._layout, self._encoder = views, image_layout, encoder
        self._failures: dict[tuple[tuple[str, int, bool], ...], TemplateFailure | None] = {}

    def check(self, prompt: Prompt) -> None:
        """Raises TemplateFailure if the template refuses the form of a view of the prompt, DataError if the encoder
        refuses the text of a view that is tried."""
        for view in self._views(prompt):
            if view is None or view in prompt.view_messages:
                continue
            messages, images = render_view(prompt, view, self._layout)
            form = tuple(
                (message.role, message.text.count(IMAGE_MARKER), bool(message.text.replace(IMAGE_MARKER, "").strip()))
                for message in messages
            )
            if form not in self._failures:
                self._failures[form] = None
                try:
                    self._encoder.encode(messages, len(images))
                except TemplateFailure as failure:
                    self._failures[form] = failure
            failure = self._failures[form]
            if failure is not None:
                raise failure
