"""Prompt templates add to a question how to answer it. Training and evaluation use the same templates.

Templates are applied when prompts are loaded, so the same rows work for all models, in whichever frame a model writes
boxes (`model.box_space`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mars.data.rows.problems import RowError
from mars.data.rows.texts import checked_text
from mars.errors import ConfigError
from mars.types import IMAGE_MARKER, Message, Prompt

if TYPE_CHECKING:
    from jinja2 import Template

OWN_INSTRUCTION = ("<think>", "<answer>")


class PromptTemplate:
    """A jinja template for the last message of a prompt.

    Its variables:
        question: that message's text, with one "<image>" per image in place. The template must keep these markers.
        choices: list of texts, may be empty.
        box_space: the frame of the model's boxes, "resized_pixels" or "norm_1000".
        model_type: the model_type of config.json.
        data_source: the row's data_source. sources: the names of the row's sources.
    Jinja code in a row's text is not run.
    """

    def __init__(self, file: Path, include_folder: Path, *, box_space: str, model_type: str) -> None:
        """include_folder: the folder of mars' own templates, in which {% include %} looks too. The attribute `name` is
        the file's name: without ending ("vqa") if the file is in `include_folder`, else with ending ("mine.jinja").
        Raises ConfigError for a file that is no template."""
        from jinja2 import FileSystemLoader, StrictUndefined, TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(
            loader=FileSystemLoader([file.parent, include_folder]),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            autoescape=False,  # the text is for a tokenizer, not for a browser
        )
        try:
            self._template: Template = environment.from_string(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, TemplateError) as error:
            raise ConfigError(f"data.template: {file} is no jinja template: {error}; fix it") from error
        self.name = file.stem if file.parent == include_folder else file.name
        self._file, self._values = file, {"box_space": box_space, "model_type": model_type}

    def apply(self, prompt: Prompt) -> Prompt:
        """The prompt with its last message rendered; unchanged if the prompt already says how to answer.

        Raises RowError ("template") if the rendered message has more or fewer `<image>` markers than the original,
        and ConfigError for a template that cannot be rendered.
        """
        if has_instruction(prompt):
            return prompt
        *before, last = prompt.messages
        text = checked_text(self._render(prompt, last.text))
        if text.count(IMAGE_MARKER) != last.text.count(IMAGE_MARKER):
            made, given = text.count(IMAGE_MARKER), last.text.count(IMAGE_MARKER)
            raise RowError("template", f"{self._file} renders a text with {made} markers; the row has {given}")
        return replace(prompt, messages=(*before, Message(last.role, text)))

    def _render(self, prompt: Prompt, question: str) -> str:
        from jinja2 import TemplateError

        values: dict[str, Any] = {
            **self._values,
            "question": question,
            "choices": list(prompt.extra_info.get("choices") or ()),
            "data_source": prompt.data_source,
            "sources": [source.name for source in prompt.sources],
        }
        try:
            return self._template.render(values)
        except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as error:
            raise ConfigError(
                f"data.template: {self._file} cannot be rendered for {prompt.row}: {error}; fix the template"
            ) from error


def has_instruction(prompt: Prompt) -> bool:
    """Whether the row already says how to answer: one of its user or system messages names think and answer tags."""
    return any(
        all(tag in message.text for tag in OWN_INSTRUCTION)
        for message in prompt.messages
        if message.role != "assistant"
    )


TemplateOf = Callable[[Prompt], PromptTemplate | None]
"""The template of a prompt; None leaves it as it is."""
