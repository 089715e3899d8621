"""German, Chinese, Arabic and emoji in all that text passes: rows, prompts, rewards, answers, pages, terminals."""

from __future__ import annotations

import html
import json
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image
from rich.cells import cell_len
from rich.table import Table

from mars.answers.files import read_answers
from mars.config.load import load_config
from mars.data.rows.choices import choices_in_text
from mars.evaluation.tables import print_table
from mars.output.text import aligned, visible
from mars.report.data_page import write_sheet
from mars.report.run_page import write_report
from mars.rewards.grounding import score_grounding
from mars.rewards.vqa import score_vqa
from mars.tracking.rollouts import RolloutFiles
from mars.types import RewardResult
from tests.builders import load_prompts, make_item, make_prompt, make_rollouts


@dataclass(frozen=True)
class Language:
    """A question with its right answer, in the form in which keyboards give it (NFC), and a wrong answer."""

    question: str
    answer: str
    wrong: str


LANGUAGES = {
    "german": Language("Welche Farbe hat die Tür der Bäckerei?", "grün", "grau"),
    "chinese": Language("图中的门是什么颜色？（红色、绿色）", "绿色", "红色"),
    "arabic": Language("ما لون الباب في الصورة؟", "أخضر", "أحمر"),
    "persian": Language("رنگ در چیست؟ می\u200cخواهم بدانم", "سبز", "سرخ"),
    "emoji": Language("Which one is it, 👨\u200d👩\u200d👧 or 👍🏽?", "👨\u200d👩\u200d👧", "👩\u200d👧"),
}
FORMS = ("NFC", "NFD")


@pytest.fixture(params=[(name, form) for name in LANGUAGES for form in FORMS], ids="-".join)
def language(request) -> Language:
    name, form = request.param
    chosen = LANGUAGES[name]
    return Language(*(unicodedata.normalize(form, text) for text in (chosen.question, chosen.answer, chosen.wrong)))


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Image.new("RGB", (56, 56), "green").save(tmp_path / "door.png")
    return tmp_path


def rows_of(folder: Path, language: Language, kind: str) -> Path:
    row = {
        "prompt": [{"role": "user", "content": f"<image>{language.question}"}],
        "images": ["door.png"],
        "data_source": "doors",
        "reward_model": {"ground_truth": language.answer},
    }
    file = folder / f"rows.{kind}"
    if kind == "parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), file)
    else:
        file.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    return file


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_rows_keep_every_character(language, folder, kind):
    (prompt,) = load_prompts([str(rows_of(folder, language, kind))], str(folder), "error", lambda prompt: None).prompts
    assert prompt.messages[0].text == f"<image>{language.question}"
    assert prompt.truth == language.answer


def test_prompts_are_what_the_tokenizer_reads(language, folder, tiny):
    """The tokens of a prompt are those of its text: decoded, the question is there, character by character."""
    from mars.data.prompts.tokenizer import load_tokenizer
    from mars.inputs import load_inputs

    given = [
        "reward=vqa",
        "anchor=none",
        f"model.path='{tiny}'",
        f"data.train_files=['{rows_of(folder, language, 'jsonl')}']",
    ]
    inputs = load_inputs(load_config("train", [*given, "data.max_image_pixels=12544"], []), with_training_set=True)
    (prompt,) = inputs.train.prompts
    assert language.question in prompt.messages[-1].text
    ids, _ = inputs.encode(prompt, None)
    assert unicodedata.normalize("NFC", language.question) in unicodedata.normalize(
        "NFC", load_tokenizer(str(tiny), False).decode(ids)
    )


def vqa(answer: str, truth: str, **extra_info) -> float:
    return score_vqa(make_item(f"<think>t</think><answer>{answer}</answer>", truth, **extra_info)).accuracy


@pytest.mark.parametrize("hidden", ["", "\u200b", "\u200f", "\u2067", "\u202b", "\ufeff", "\u00ad"])
@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_the_right_answer_is_right_in_every_form_of_unicode(language, form, hidden):
    given = unicodedata.normalize(form, language.answer)
    assert vqa(f"{hidden}{given}{hidden}。", language.answer) == 1
    assert vqa(unicodedata.normalize(form, language.wrong), language.answer) == 0


@pytest.mark.parametrize(
    ("answer", "truth", "right"),
    [
        ("٣", "3", 1),  # Arabic-Indic
        ("3", "٣", 1),
        ("۱۲", "12", 1),  # Persian
        ("३", "3", 1),  # Devanagari
        ("１２", "12", 1),
        ("٣٫٥", "3.5", 1),
        ("١٬٢٠٠", "1200", 1),
        ("٥٠٪", "50%", 1),
        ("٤", "3", 0),
        ("٣١", "13", 0),  # digits are in the order of reading
        ("三", "3", 0),
        ("3,5", "3.5", 1),
        ("3.5", "3,5", 1),
        ("Die Antwort ist 3,5 m.", "3.5 m", 1),
        ("-0,25", "-0.25", 1),
        ("0,125", "0.125", 1),
        ("1.200,5", "1200.5", 1),
        ("1.234.567", "1234567", 1),
        ("1,200", "1200", 1),
        ("1,200", "1.2", 0),
        ("1.200", "1200", 0),
        ("3,5", "35", 0),
        ("3, 5", "3.5", 0),
        ("1,2,3", "1.23", 0),
        ("答案是红色。", "红色", 1),
        ("答案不是红色。", "红色", 0),
        ("Die Antwort lautet: rot", "rot", 1),
        ("Die Antwort ist nicht rot", "rot", 0),
        ("الإجابة هي أحمر", "أحمر", 1),
        ("الإجابة ليست أحمر", "أحمر", 0),
        ("❤️", "❤", 1),
        ("是的", "是", 0),
        ("\u200fYes", "yes", 1),
    ],
)
def test_numbers_and_phrases_of_other_scripts(answer, truth, right):
    assert vqa(answer, truth) == right


@pytest.mark.parametrize(
    "answer",
    ["Ａ", "（A）", "（Ａ）。", "A。", "【A】", "「A」", "A、猫", "A．猫", "A：猫", "猫。",
     "选A", "选项A", "答案：A", "正确答案是（A）。",
     "Die Antwort ist A.", "الجواب: A", "\u200fA", "\u2067(A)\u2069", "A.\u200b 猫"],
)  # fmt: skip
def test_choices_with_marks_of_other_scripts(answer):
    assert vqa(answer, "A", choices=["猫", "狗"]) == 1
    assert vqa(answer, "B", choices=["猫", "狗"]) == 0


@pytest.mark.parametrize(
    "answer", ["A或B", "不是A", "答案不是A", "选A还是B", "A、狗", "Die Antwort ist nicht A.", "ليس A"]
)
def test_two_letters_and_negations_name_no_option(answer):
    for truth in "AB":
        assert vqa(answer, truth, choices=["猫", "狗"]) == 0


def test_options_that_are_decimal_numbers_are_found_by_point_and_comma():
    for answer in ("3,5 m", "3.5 m", "(A) 3.5 m", "٣٫٥ m"):
        assert vqa(answer, "A", choices=["3,5 m", "4,5 m"]) == 1
        assert vqa(answer, "B", choices=["3,5 m", "4,5 m"]) == 0
    assert vqa("1.2", "B", choices=["1,2", "1.2"]) == 1, "an option as it is written comes first"


@pytest.mark.parametrize(
    "text",
    [
        "哪一个？选项：（A）猫 （B）狗",
        "哪一个？A、猫；B、狗",
        "哪一个？\nA．猫\nB．狗",
        "Welches? Optionen: A) 猫, B) 狗",
    ],
)
def test_options_in_a_question_are_found(text):
    assert choices_in_text(text, "A").options == ["猫", "狗"]


def test_letters_of_a_sentence_are_no_options():
    for text in ("图中，A、B、C三点在一条线上吗？", "Punkt A: links"):
        assert choices_in_text(text, "A") is None


@pytest.mark.parametrize("label", ["人", "شخص", "Fußgänger", "🚶"])
def test_boxes_with_labels_and_words_of_any_language_are_read(label):
    boxes = json.dumps([{"bbox_2d": [0, 0, 9, 9], "label": label}], ensure_ascii=False)
    for answer in (f"```json\n{boxes}\n```", f"{label}：{boxes}。", f"\u200f{boxes}"):
        result = score_grounding(make_item(f"<think>{label}</think><answer>{answer}</answer>", "[[0, 0, 9, 9]]"))
        assert result.accuracy == 1, answer


def test_answers_and_pages_show_every_character(language, folder):
    text = f"<think>{language.question}</think><answer>{language.answer}</answer>"
    run = folder / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text('{"step": 1, "critic/score/mean": 1.0}\n')
    prompt = make_prompt(text=language.question, truth=language.answer, data_source="doors")
    item = make_rollouts(prompt, [RewardResult(1.5, 1.0, {"accuracy": 1.0})], text=text)
    RolloutFiles(run / "rollouts", lambda prompt, view: (None, None), lambda request: 9).log_rollouts([item], 1)
    (answer,) = read_answers(run / "rollouts" / "step_000001.jsonl").checked()
    assert answer.text == text
    page = write_report(run, None, lambda ref: None).read_text(encoding="utf-8")
    assert f'<pre dir="auto">{html.escape(text)}</pre>' in page, "the direction follows the text"
    write_sheet(rows_of(folder, language, "jsonl"), folder / "sheet.html", folder, 1)
    sheet = (folder / "sheet.html").read_text(encoding="utf-8")
    assert f'<pre dir="auto">{html.escape(language.answer)}</pre>' in sheet
    assert language.question in sheet


def test_columns_of_a_terminal_line_up(language, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    rows = [(language.answer, "right"), (language.wrong, "wrong"), ("x" * 30, "wrong")]
    lines = aligned(rows)
    assert {cell_len(line.removesuffix("right").removesuffix("wrong")) for line in lines} == {32}
    table = Table("answer", "score")
    for row in rows:
        table.add_row(*row)
    print_table(table)
    shown = capsys.readouterr().out
    assert language.answer in shown
    assert len({cell_len(line) for line in shown.splitlines()}) == 1


def test_directions_are_escaped_and_joiners_stay_where_they_join():
    assert visible("a\u202eb\u2067ج\u200f") == "a\\u202eb\\u2067ج\\u200f"
    for text in ("👨\u200d👩\u200d👧", "می\u200cخواهم", "क्\u200dष"):
        assert visible(text) == text
    assert visible("\u200d👩") == "\\u200d👩"
    assert visible("pass\u200cword") == "pass\\u200cword"
