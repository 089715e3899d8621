"""What texts say about images: which places they name, and how many images there are."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.hooks.image_references import references_in

ELSE = 0  # a place that depends on the other images
LAST = None

PLACES = {
    # numbers
    "Image (1) shows": {1},
    "image: 1": {1},
    "image [1]": {1},
    "<image 2>": {2},
    "Image **2** and **Image** 1": {1, 2},
    "image nr. 2, image no. 3, image number one": {1, 2, 3},
    "Image №1": {1},
    "Fig. 3. Frame 1, view 2": {1, 2, 3},
    "input 1; input image 2": {1, 2},
    "img_2 and Image1": {1, 2},
    "image A shows it, image B does not": {1, 2},
    "image I and image II": {1, 2},
    "image 1001": {1001},
    "images 1-2": {1, 2},
    "images 1 to 3": {1, 3},
    "images 1, 2 and 4": {1, 2, 4},
    "image 1 and image 2": {1, 2},
    "visible image **1** and infrared image 2": {1, 2},
    "the first image and the second image": {1, 2},
    "Image one is dark.": {1},
    "In the image 2 there is a dog": {2},
    # orders
    "the first and second images": {1, 2},
    "the second and the first image": {1, 2},
    "the first of the two images": {1},
    "the last of these infrared images": {LAST},
    "the first thermal infrared image": {1},
    "the second near-infrared image": {2},
    "the second, infrared image": {2},
    "the second (infrared) image": {2},
    "the **second** image": {2},
    "the eleventh image": {11},
    "the 21st image": {21},
    "the final image": {LAST},
    "the former image and the latter image": {1, LAST},
    "the previous image": {ELSE},
    "the left image": {ELSE},
    "the second view": {2},
    # other languages
    "Bild 1 zeigt": {1},
    "Das erste Bild": {1},
    "im zweiten Bild": {2},
    "das 2. Bild": {2},
    "das dritte Infrarotbild": {3},
    "das letzte der Bilder": {LAST},
    "Abbildung 1": {1},
    "la première image": {1},
    "la deuxième des images": {2},
    "image n°1": {1},
    "la dernière photo": {LAST},
    "la primera imagen": {1},
    "la segunda de las imágenes": {2},
    "图1": {1},
    "图片（2）": {2},
    "图像 1": {1},
    "图一": {1},
    "第一张图": {1},
    "第二张红外图像": {2},
    "最后一张图片": {LAST},
    "画像２": {2},
    "2枚目の画像": {2},
    "1番目の赤外線画像": {1},
    "最後の画像": {LAST},
}
COUNTS = {
    "both images": {2},
    "both of the images": {2},
    "both views": {2},
    "all three modalities": {3},
    "the two photos": {2},
    "three different infrared images": {3},
    "There is one image": {1},
    "I see just one image.": {1},
    "the only available infrared image": {1},
    "only one near-infrared image": {1},
    "the lone image": {1},
    "the single-image input": {1},
    "the sole infrared picture": {1},
    "die beiden Bilder": {2},
    "das einzige Bild": {1},
    "les deux images": {2},
    "la seule image": {1},
    "las dos imágenes": {2},
    "la única imagen": {1},
    "两张图片": {2},
    "三幅红外图像": {3},
    "只有一张图": {1},
    "这张唯一的图": {1},
    "2枚の画像": {2},
    "両方の画像": {2},
    "唯一の画像": {1},
}
NOTHING = [
    "The infrared image shows a dog.",
    "This is an image of one person.",
    "In the image one person walks.",
    "In this image two dogs run.",
    "In the image 2 people are walking.",
    "In infrared image one person walks.",
    "In the image, one person stands.",
    "In the image I see a dog.",
    "In the image:\n1. A dog\n2. A cat",
    "The image 3 meters away",
    "We can picture two cars",
    "Image: a dog.",
    "First, the image shows a dog.",
    "First, infrared images show heat.",
    "First I look at the image. Second, I compare.",
    "There are two people in the image.",
    "The second half of the image is dark.",
    "the first person in the image",
    "The only person in the image",
    "the right image edge",
    "a single-channel image",
    "an 8-bit image of 640 x 480 pixels",
    "three figures walk; one figure stands",
    "the only light source",
    "imagine 1 dog and 2 figurines",
    "the other image",
    "Ein Bild zeigt zwei Personen",
    "Im Bild zwei Personen",
    "Dans l'image deux personnes",
    "En la imagen dos personas",
    "这是一张红外图像",
    "图中一个人",
    "图片一个人",
    "第一个人在图中",
    "1番目の人は画像にいる",
]


@pytest.mark.parametrize(("text", "places"), PLACES.items(), ids=PLACES)
def test_places_that_a_text_names(text, places):
    assert references_in(text).places == places


@pytest.mark.parametrize(("text", "counts"), COUNTS.items(), ids=COUNTS)
def test_how_many_images_there_are(text, counts):
    found = references_in(text)
    assert (found.counts, found.places) == (counts, frozenset())


@pytest.mark.parametrize("text", NOTHING)
def test_texts_that_name_no_image(text):
    found = references_in(text)
    assert (found.places, found.counts) == (frozenset(), frozenset())


PIECES = st.sampled_from(
    [
        "image",
        "images",
        "1",
        "first",
        "two",
        "of",
        "the",
        "and",
        ",",
        "(",
        ".",
        "-",
        "A",
        "I",
        "图",
        "第",
        "一",
        "张",
        "２",
    ]
)


@given(st.lists(PIECES | st.text(max_size=3), max_size=12), st.sampled_from(["", " "]))
def test_any_text_is_read(pieces, between):
    found = references_in(between.join(pieces))
    assert all(place is None or place >= 0 for place in found.places)
    assert all(count >= 0 for count in found.counts)


def test_long_texts_take_no_time():
    pieces = (
        "image ", "image 1 and ", "images 1, ", "first ", "both of the ", "image (", "the image and the ", "1", "图",
        "第一", "一张赤", "最後の赤", "2番目の赤", "1st", "of the images ",
    )  # fmt: skip
    started = time.thread_time()
    for piece in pieces:
        references_in((piece * 32_000)[:32_000])
    assert time.thread_time() - started < 5
