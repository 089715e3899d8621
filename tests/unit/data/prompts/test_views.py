import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.data.prompts.views import anchor_views, render_view
from mars.types import IMAGE_MARKER, ImageRef, Message, Prompt, Source
from tests.examples import examples


def prompt_of(*texts, names):
    return Prompt(
        prompt_id="p",
        row="f:0",
        data_source="d",
        messages=tuple(Message("user", text) for text in texts),
        sources=tuple(Source(name, ImageRef(f"{name}.png", (28, 28))) for name in names),
        truth="t",
    )


def shown(prompt, view, layout="single"):
    messages, images = render_view(prompt, view, layout)
    return [message.text for message in messages], [image.path for image in images]


def test_anchor_views():
    three = prompt_of("<image><image><image>q", names=["a", "b", "c"])
    assert anchor_views(three, "none") == ()
    assert anchor_views(three, "mono") == (("a",), ("b",), ("c",))
    assert anchor_views(three, "all_but_one") == (("b", "c"), ("a", "c"), ("a", "b"))


@pytest.mark.parametrize("kind", ["none", "mono", "all_but_one"])
def test_fewer_than_two_sources_have_no_anchors(kind):
    assert anchor_views(prompt_of("<image>q", names=["a"]), kind) == ()
    assert anchor_views(prompt_of("q", names=[]), kind) == ()


def test_unknown_kinds_and_views_are_errors():
    two = prompt_of("<image><image>q", names=["a", "b"])
    with pytest.raises(ValueError, match="anchor_kind"):
        anchor_views(two, "each")
    for view in (("c",), (), ("a", "a"), ("a", "c")):
        with pytest.raises(ValueError, match="view"):
            render_view(two, view, "single")
    with pytest.raises(ValueError, match="image_layout"):
        render_view(two, ("a",), "tiled")


def test_the_multi_view_is_the_prompt_itself():
    two = prompt_of("  <image> \n<image>q  ", names=["a", "b"])
    for layout in ("single", "repeated"):
        assert shown(two, None, layout) == (["  <image> \n<image>q  "], ["a.png", "b.png"])


@pytest.mark.parametrize(
    ("text", "first", "second"),
    [
        ("<image><image>q", "<image>q", "<image>q"),
        ("<image>\n<image>\nHow many?", "<image>\nHow many?", "<image>\nHow many?"),
        ("<image> <image> q", "<image> q", "<image> q"),
        ("Left: <image> right: <image>. Which?", "Left: <image> right:. Which?", "Left: right: <image>. Which?"),
        ("Look at <image>, then at <image>.", "Look at <image>, then at.", "Look at, then at <image>."),
        ("Compare <image> and <image>", "Compare <image> and", "Compare and <image>"),
        ("A\n\n<image>\nB <image> C", "A\n\n<image>\nB C", "A\n\nB <image> C"),
        ("q <image>\n<image>\n", "q <image>", "q\n<image>\n"),
    ],
)
def test_mono_texts(text, first, second):
    two = prompt_of(text, names=["a", "b"])
    assert shown(two, ("a",)) == ([first], ["a.png"])
    assert shown(two, ("b",)) == ([second], ["b.png"])


def test_markers_count_through_all_messages():
    two = prompt_of("system text", "<image> here", "and <image> there", names=["a", "b"])
    assert shown(two, ("b",)) == (["system text", "here", "and <image> there"], ["b.png"])


def test_all_but_one_keeps_source_order():
    three = prompt_of("<image>1 <image>2 <image>3", names=["a", "b", "c"])
    assert shown(three, ("c", "a")) == (["<image>1 2 <image>3"], ["a.png", "c.png"])


def test_repeated_fills_every_slot_and_keeps_the_text():
    three = prompt_of("<image> <image>\n<image> q", names=["a", "b", "c"])
    assert shown(three, ("b",), "repeated") == (["<image> <image>\n<image> q"], ["b.png"] * 3)
    with pytest.raises(ValueError, match="repeated"):
        render_view(three, ("a", "b"), "repeated")


@examples(200)
@given(st.lists(st.text(alphabet="ab \n", max_size=6), min_size=3, max_size=5), st.data())
def test_a_view_keeps_every_word_and_one_marker_per_image(pieces, data):
    names = [f"s{i}" for i in range(len(pieces) - 1)]
    prompt = prompt_of(IMAGE_MARKER.join(pieces), names=names)
    view = tuple(data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=len(names), unique=True)))
    (text,), images = shown(prompt, view)
    assert text.count(IMAGE_MARKER) == len(images) == len(view)
    assert images == [f"{name}.png" for name in names if name in view]
    # Words stay, and never grow together where white space stood between them.
    assert text.replace(IMAGE_MARKER, "").split() == "".join(pieces).split()
