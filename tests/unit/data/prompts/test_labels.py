"""anchor.wording=per_view: a view's text without markers and labels of other images; and words about such images."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.data.prompts.labels import without_labels
from mars.data.prompts.views import alone, anchor_views, render_view
from mars.data.prompts.wording import unshown_images
from mars.types import IMAGE_MARKER, ImageRef, Message
from tests.builders import make_prompt
from tests.examples import examples

IMAGE = ImageRef("a.png", (28, 28))
TWO = ("visible", "infrared")


def prompt_of(*texts, names=TWO):
    return make_prompt("p", [IMAGE] * len(names), names, messages=tuple(Message("user", text) for text in texts))


def texts_of(prompt, *view):
    return [message.text for message in alone(prompt, view).messages]


# text -> the text of the visible view, of the infrared view. The question after the images is "Q?".
LABELLED = {
    "Visible: <image>\nInfrared: <image>\nQ?": ("Visible: <image>\nQ?", "Infrared: <image>\nQ?"),
    "Visible:\n<image>\nInfrared:\n<image>\nQ?": ("Visible:\n<image>\nQ?", "Infrared:\n<image>\nQ?"),
    "**Visible:** <image>\n**Infrared:** <image>\nQ?": ("**Visible:** <image>\nQ?", "**Infrared:** <image>\nQ?"),
    "- Visible: <image>\n- Infrared: <image>\nQ?": ("- Visible: <image>\nQ?", "- Infrared: <image>\nQ?"),
    "1. Visible: <image>\n2. Infrared: <image>\nQ?": ("1. Visible: <image>\nQ?", "2. Infrared: <image>\nQ?"),
    "### Visible\n<image>\n### Infrared\n<image>\nQ?": ("### Visible\n<image>\nQ?", "### Infrared\n<image>\nQ?"),
    "Visible:<image>Infrared:<image>Q?": ("Visible:<image>Q?", "Infrared:<image>Q?"),
    "Visible = <image>; Infrared = <image>; Q?": ("Visible = <image>; Q?", "Infrared = <image>; Q?"),
    "VISIBLE IMAGE - <image>\nINFRARED IMAGE - <image>\nQ?": (
        "VISIBLE IMAGE - <image>\nQ?",
        "INFRARED IMAGE - <image>\nQ?",
    ),
    "Image 1: <image>\nImage 2: <image>\nQ?": ("Image 1: <image>\nQ?", "Image 2: <image>\nQ?"),
    "Left: <image> right: <image>. Q?": ("Left: <image>. Q?", "right: <image>. Q?"),
    "可见光：<image>\n红外：<image>\nQ?": ("可见光：<image>\nQ?", "红外：<image>\nQ?"),
    "(a) <image> (b) <image> Q?": ("(a) <image> Q?", "(b) <image> Q?"),
    "<image> (a) <image> (b) Q?": ("<image> (a) Q?", "<image> (b) Q?"),
    "<image> (visible)\n<image> (infrared)\nQ?": ("<image> (visible)\nQ?", "<image> (infrared)\nQ?"),
    "<image>: visible image\n<image>: infrared\nQ?": ("<image>: visible image\nQ?", "<image>: infrared\nQ?"),
    "<visible><image></visible><infrared><image></infrared>\nQ?": (
        "<visible><image></visible>\nQ?",
        "<infrared><image></infrared>\nQ?",
    ),
    "Visible image (<image>) and infrared image (<image>). Q?": (
        "Visible image (<image>). Q?",
        "infrared image (<image>). Q?",
    ),
    "The visible image <image> and the infrared image <image>. Q?": (
        "The visible image <image>. Q?",
        "the infrared image <image>. Q?",
    ),
    "This is the visible image: <image>. This is the infrared image: <image>. Q?": (
        "This is the visible image: <image>. Q?",
        "This is the infrared image: <image>. Q?",
    ),
    "How many, visible: <image>, infrared: <image>?": ("How many, visible: <image>?", "How many, infrared: <image>?"),
    "Q?\nVisible: <image>\nInfrared: <image>\nA:": ("Q?\nVisible: <image>\nA:", "Q?\nInfrared: <image>\nA:"),
    "The visible image <image> and its infrared image <image>. Q?": (
        "The visible image <image>. Q?",
        "its infrared image <image>. Q?",
    ),
    # Without names: the place tells, in any language.
    "📷 <image>\n🌡️ <image>\nQ?": ("📷 <image>\nQ?", "🌡️ <image>\nQ?"),
    "A) <image>\nB) <image>\nQ?": ("A) <image>\nQ?", "B) <image>\nQ?"),
    "①<image>\n②<image>\nQ?": ("①<image>\nQ?", "②<image>\nQ?"),
    "day -> <image>\nheat -> <image>\nQ?": ("day -> <image>\nQ?", "heat -> <image>\nQ?"),
    "Step 1. Visible <image>\nStep 2. Infrared <image>\nQ?": (
        "Step 1. Visible <image>\nQ?",
        "Step 2. Infrared <image>\nQ?",
    ),
    "Look.\nView 1: day\n<image>\nView 2: heat\n<image>\nQ?": (
        "Look.\nView 1: day\n<image>\nQ?",
        "Look.\nView 2: heat\n<image>\nQ?",
    ),
    "<image>\nFigure 1: day\n<image>\nFigure 2: heat\nQ?": (
        "<image>\nFigure 1: day\nQ?",
        "<image>\nFigure 2: heat\nQ?",
    ),
    "第一张图片：<image>，第二张图片：<image>。Q？": ("第一张图片：<image>。Q？", "第二张图片：<image>。Q？"),
    "可见光图像<image>和红外图像<image>中有人吗？": ("可见光图像<image>中有人吗？", "红外图像<image>中有人吗？"),
    # The label is a part of what surrounds an image, and goes without breaking what surrounds all of them.
    "<img1><image></img1>\n<img2><image></img2>\nQ?": ("<img1><image></img1>\nQ?", "<img2><image></img2>\nQ?"),
    '<i id="1"><image></i><i id="2"><image></i> Q?': ('<i id="1"><image></i> Q?', '<i id="2"><image></i> Q?'),
    "[visible: <image>] [infrared: <image>] Q?": ("[visible: <image>] Q?", "[infrared: <image>] Q?"),
    "![visible](<image>) ![infrared](<image>) Q?": ("![visible](<image>) Q?", "![infrared](<image>) Q?"),
    '{"visible": <image>, "infrared": <image>}\nQ?': ('{"visible": <image> }\nQ?', '{ "infrared": <image>}\nQ?'),
    '{"images": {"visible": <image>, "infrared": <image>}}\nQ?': (
        '{"images": {"visible": <image> }}\nQ?',
        '{"images": { "infrared": <image>}}\nQ?',
    ),
    "(visible: <image>, infrared: <image>) Q?": ("(visible: <image>) Q?", "( infrared: <image>) Q?"),
    # An enumeration loses its separators too.
    "Compare <image> with <image>.": ("Compare <image>.", "Compare <image>."),
    "Look at <image>, then at <image>.": ("Look at <image>.", "Look at <image>."),
    "Visible: <image>, infrared: <image>. Q?": ("Visible: <image>. Q?", "infrared: <image>. Q?"),
}  # fmt: skip

# What names no single image stays: headers of all images, and names that are words of a question.
UNLABELLED = {
    "<image>\n<image>\nQ?": "<image>\nQ?",
    "Images: <image><image>\nQ?": "Images: <image>\nQ?",
    "Here are two images.\n<image>\n<image>\nQ?": "Here are two images.\n<image>\nQ?",
    "What is visible\n<image>\n<image>": "What is visible\n<image>",
    "Is the person visible <image><image>?": "Is the person visible <image>?",
    "<image><image>\nIs it visible: yes or no?": "<image>\nIs it visible: yes or no?",
    "<image><image>\nWhat does the infrared image show?": "<image>\nWhat does the infrared image show?",
    "Visible and infrared: <image><image> Q?": "Visible and infrared: <image> Q?",
}


def test_labels_of_removed_images_go_with_them():
    for text, (visible, infrared) in LABELLED.items():
        prompt = prompt_of(text)
        assert (texts_of(prompt, "visible"), texts_of(prompt, "infrared")) == ([visible], [infrared]), text


def test_what_is_no_label_of_one_image_stays():
    for text, expected in UNLABELLED.items():
        assert texts_of(prompt_of(text), "visible") == texts_of(prompt_of(text), "infrared") == [expected], text


def test_three_images_and_views_of_two():
    names = ("view_1", "view_2", "view_3")
    prompt = prompt_of("View 1: <image>, view 2: <image> and view-3: <image>. Q?", names=names)
    assert texts_of(prompt, "view_2") == ["view 2: <image>. Q?"]
    assert texts_of(prompt, "view_3") == ["view-3: <image>. Q?"]
    assert texts_of(prompt, "view_1", "view_3") == ["View 1: <image> and view-3: <image>. Q?"]
    assert texts_of(prompt, "view_1", "view_2") == ["View 1: <image>, view 2: <image>. Q?"]
    assert texts_of(prompt, "view_2", "view_3") == ["view 2: <image> and view-3: <image>. Q?"]
    ten = tuple(f"view_{i}" for i in range(1, 11))
    listed = prompt_of("\n".join(f"View {i}: <image>" for i in range(1, 11)), names=ten)
    assert [texts_of(listed, name) for name in ten] == [[f"View {i}: <image>"] for i in range(1, 11)]


def test_messages_and_sources_are_those_of_the_view():
    prompt = prompt_of("Be brief.", "Visible: <image> here", "and infrared: <image> there")
    only = alone(prompt, ("infrared",))
    assert [message.text for message in only.messages] == ["Be brief.", "here", "and infrared: <image> there"]
    assert [source.name for source in only.sources] == ["infrared"]
    for view in (("depth",), (), ("visible", "visible")):
        with pytest.raises(ValueError, match="view"):
            alone(prompt, view)


label = st.sampled_from(
    ["", "Visible: ", "S0: ", "Image 2: ", "(s1) ", "the s1 image ", "### S2\n", "[", "<s1>", "a: "]
)
between = st.sampled_from(
    ["", "\n", " ", ", ", " and ", ". ", "] ", "</s1>", " (s0)", "\n\n", "; then at ", " words. "]
)


@examples(300)
@given(st.lists(st.tuples(label, between), min_size=2, max_size=5), st.text("ab :,.\n", max_size=8), st.data())
def test_every_view_and_layout_has_as_many_markers_as_images(items, question, data):
    """With any labels; in the wording of the view and in that of all images."""
    names = [f"s{i}" for i in range(len(items))]
    text = "".join(before + IMAGE_MARKER + behind for before, behind in items) + question
    cut = data.draw(st.integers(0, len(text)))
    pieces = (text[:cut], text[cut:]) if IMAGE_MARKER not in text[max(cut - 6, 0) : cut + 6] else (text,)
    prompt = prompt_of(*pieces, names=names)
    views = {*anchor_views(prompt, "mono"), *anchor_views(prompt, "all_but_one")}
    worded = replace(prompt, view_messages={view: alone(prompt, view).messages for view in views})
    for view in views:
        for shown in (prompt, worded):
            messages, images = render_view(shown, view, "single")
            assert sum(message.text.count(IMAGE_MARKER) for message in messages) == len(images) == len(view)
        if len(view) == 1:
            messages, images = render_view(worded, view, "repeated")
            assert (messages, len(images)) == (prompt.messages, len(names))
    assert render_view(worded, None, "single")[0] == prompt.messages


@examples(200)
@given(st.lists(st.text(alphabet="ab \n", max_size=6), min_size=3, max_size=5), st.data())
def test_without_labels_the_wording_of_a_view_is_that_of_all_images(pieces, data):
    names = [f"s{i}" for i in range(len(pieces) - 1)]
    prompt = prompt_of(IMAGE_MARKER.join(pieces), names=names)
    view = (data.draw(st.sampled_from(names)),)
    assert alone(prompt, view).messages == render_view(prompt, view, "single")[0]


def test_long_texts_take_no_long_time():
    for filler in (" ", "\n", "*", "(", "the ", "visible ", "a: ", ", ", " and ", "# "):
        text = f"Visible: <image>{filler * (20_000 // len(filler))}<image>"
        start = time.thread_time()
        without_labels(text, TWO, [False, True], 1)
        assert time.thread_time() - start < 0.5, repr(filler)


SPEAKING = {
    "Here are two images.\n<image>\n<image>\nQ?": "two images",
    "<image><image>\n这两张红外图像里有几个人？": "两张红外图",
    "<image><image>\nUse the 2 aligned pictures. Q?": "2 aligned pictures",
    "<image><image>\nDo both show a car?": "both",
    "<image><image>\nWhat is in the images?": "the images",
    "<image><image>\nDescribe each image.": "each image",
    "<image><image>\nWhat does image 2 show?": "image 2",
    "<image><image>\nWhat is in the infrared image?": "infrared image",
    "Visible and infrared: <image><image> Q?": "infrared:",
}


def test_words_about_images_that_a_view_does_not_show_are_found_in_any_wording():
    for text, words in SPEAKING.items():
        prompt = prompt_of(text)
        worded = replace(prompt, view_messages={(name,): alone(prompt, (name,)).messages for name in TWO})
        assert unshown_images(prompt) == unshown_images(worded) == ("visible", words), text


def test_labels_that_are_left_behind_are_found_and_are_gone_in_the_views_own_wording():
    for text in LABELLED:
        prompt = prompt_of(text)
        worded = replace(prompt, view_messages={(name,): alone(prompt, (name,)).messages for name in TWO})
        assert (unshown_images(prompt) is None, unshown_images(worded)) == (False, None), text


# What no rule gives to one image for certain, and so stays in both views -> the words that are reported.
UNCERTAIN = {
    "front camera <image>, back camera <image>. Q?": ", back camera",
    "The first is visible <image>. The second is infrared <image>. Q?": ". The second is",
    "<image>\nThe second is infrared <image>\nQ?": "The second is infrared",
    "<image> is visible, <image> is infrared. Q?": "is visible,",
    "thermal <image>, (b) <image>. Q?": "thermal",
    "<image> (visible) <image> heat. Q?": "heat. Q?",
    "day → <image> night → <image> Q?": "night →",
    "<image> ☀ <image> ☾ Q?": "☀",
    "|visible|infrared|\n|<image>|<image>|\nQ?": "infrared|",
    '[{"type": "visible", "image": <image>}, {"type": "infrared", "image": <image>}]\nQ?': '}, {"type":',
    "<image>\nQ?\n<image>": "Q?",
    "see [<image> and <image>) Q?": None,
}


@pytest.mark.parametrize("text", UNCERTAIN)
def test_words_that_may_belong_to_a_removed_image_are_reported(text):
    prompt = prompt_of(text)
    worded = replace(prompt, view_messages={(name,): alone(prompt, (name,)).messages for name in TWO})
    words = UNCERTAIN[text]
    assert unshown_images(worded) == (words and ("visible", words))


def test_words_between_images_of_several_messages_are_reported():
    for texts, words in (
        (("<image> This is day.", "<image> Q?"), "This is day."),
        (("<image>", "This is day.", "<image> Q?"), "This is day."),
        (("<image>", "<image>", "Q?"), None),
        (("Be brief.", "<image>", "<image> Q?"), None),
    ):
        prompt = prompt_of(*texts)
        worded = replace(prompt, view_messages={(name,): alone(prompt, (name,)).messages for name in TWO})
        assert unshown_images(worded) == (words and ("visible", words)), texts


@examples(300)
@given(
    st.lists(st.text("ab1 :,.\n()[]{}<>/|→图", max_size=10), min_size=1, max_size=3),
    st.sampled_from(["", "Look. ", "Visible: "]),
)
def test_a_word_that_stays_without_its_images_is_reported_or_a_label(middles, start):
    """A word between two images is in no view but those of the images beside it, unless the row is reported."""
    names = [f"s{i}" for i in range(len(middles) + 1)]
    prompt = prompt_of(
        start + IMAGE_MARKER + "".join(f"{middle}{IMAGE_MARKER}" for middle in middles) + "\nQ?", names=names
    )
    views = [alone(prompt, (name,)).messages[0].text for name in names]
    worded = replace(
        prompt, view_messages={(name,): (Message("user", text),) for name, text in zip(names, views, strict=True)}
    )
    if unshown_images(worded) is None:
        for i, middle in enumerate(middles):
            for word in "".join(char if char.isalnum() else " " for char in middle).split():
                far = [view for k, view in enumerate(views) if k not in (i, i + 1) and word in view.replace(start, "")]
                near = [m for k, m in enumerate(middles) if k != i and word in m]
                assert near or not far, (middle, views)


def test_a_question_that_speaks_of_one_image_is_not_reported():
    for question in (
        "Detect every person in the scene.", "Is the person visible?", "Who is she with?", "Two people walk. Where?",
        "Give boxes in pixel coordinates of the image.", "How many cars does the image show?",
    ):  # fmt: skip
        assert unshown_images(prompt_of(f"<image>\n<image>\n{question}")) is None, question
        assert unshown_images(prompt_of(f"<image>\nBoth? Here are two images. {question}", names=("visible",))) is None
