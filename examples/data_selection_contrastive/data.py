"""Digits and captions: a pool with wrong captions, off-target classes and noisy images.

The images are the 1,797 handwritten digits that come with scikit-learn. A caption names the digit,
how heavy its stroke is and which way it leans, in one of several templates: "a bold seven leaning
left", "handwritten 7, thin, leaning right". Stroke and slant are measured from the image: its ink,
and the shear of its second moments, each against the median of its digit.

The target is the digits 0 to 4. The clean set and the test set are clean pairs of the target; no
image is in two of the three parts.
"""

from typing import NamedTuple

import numpy as np

TARGET = (0, 1, 2, 3, 4)
CLEAN, TEST = 200, 300
"""Sizes of the clean set and the test set."""
WRONG_CAPTION, NOISY_IMAGE = 0.4, 0.1
"""The shares of the pool, of all classes, whose captions are wrong and whose images are noise."""

GOOD, WRONG, OFF_TARGET, NOISY = range(4)
KINDS = ("good", "wrong caption", "off target", "noisy image")

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
STROKES, SLANTS = ("thin", "bold"), ("left", "right")
TEMPLATES = (
    "a {stroke} {digit} leaning {slant}",
    "a handwritten {digit} , {stroke} , leaning {slant}",
    "the digit {digit} in {stroke} strokes , slant to the {slant}",
    "{slant} leaning {digit} , {stroke}",
    "this is a {digit} that leans {slant} , written {stroke}",
    "photo of a {stroke} {slant} {digit}",
)
WORDS = sorted(
    {word for text in TEMPLATES for word in text.split() if "{" not in word}
    | {*DIGITS, *"0123456789", *STROKES, *SLANTS}
)
CODES = {word: code for code, word in enumerate(["", *WORDS])}
LENGTH = max(len(text.split()) for text in TEMPLATES)


class Pairs(NamedTuple):
    image: np.ndarray  # float32 [n, 64], in [0, 1]
    caption: np.ndarray  # int32 [n, LENGTH], codes of words, 0 behind the end
    meaning: np.ndarray  # int32 [n], what the caption says: (digit, stroke, slant) as one number


class Problem(NamedTuple):
    pool: Pairs
    kind: np.ndarray  # int [n]: GOOD, WRONG, OFF_TARGET or NOISY; no method sees it
    clean: Pairs
    test: Pairs


def meanings_of(images, labels):
    """What a right caption says of each image: int [n], 4 digit + 2 stroke + slant."""
    ink = images.sum(1)
    rows, columns = np.mgrid[:8, :8].reshape(2, 64)
    row, column = ((images @ axis) / ink for axis in (rows, columns))
    away = rows - row[:, None], columns - column[:, None]
    shear = (images * away[0] * away[1]).sum(1) / (images * away[0] ** 2).sum(1)

    def above_median(values):
        medians = np.array([np.median(values[labels == digit]) for digit in range(10)])
        return (values > medians[labels]).astype(int)

    return 4 * labels + 2 * above_median(ink) + above_median(shear)


def describe(meanings, random):
    """A caption for each meaning, in a template at random: int32 [n, LENGTH]."""
    return np.stack([encode(sentence(meaning, random)) for meaning in meanings])


def sentence(meaning, random):
    digit, stroke, slant = meaning // 4, meaning // 2 % 2, meaning % 2
    return TEMPLATES[random.integers(len(TEMPLATES))].format(
        digit=(DIGITS[digit], str(digit))[random.integers(2)],
        stroke=STROKES[stroke],
        slant=SLANTS[slant],
    )


def encode(text):
    codes = [CODES[word] for word in text.split()]
    return np.array(codes + [0] * (LENGTH - len(codes)), np.int32)


def load(seed):
    """The Problem of a seed, which decides the parts, the templates, and what is wrong."""
    from sklearn.datasets import load_digits

    random = np.random.default_rng([seed, 0])
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    meanings = meanings_of(images, labels).astype(np.int32)
    target = random.permutation(np.flatnonzero(np.isin(labels, TARGET)))
    clean, test, rest = np.split(target, [CLEAN, CLEAN + TEST])
    rest = random.permutation(np.concatenate([rest, np.flatnonzero(~np.isin(labels, TARGET))]))

    def pairs(chosen):
        return Pairs(images[chosen], describe(meanings[chosen], random), meanings[chosen])

    pool, kind = spoil(pairs(rest), random)
    return Problem(pool, kind, pairs(clean), pairs(test))


def spoil(pairs, random):
    """(the pool with wrong captions and noisy images, the kind of each pair).

    Wrong captions are those of other images of the pool, so that they are as likely to name a
    target digit as right ones are.
    """
    count = len(pairs.image)
    wrong, noisy = np.split(random.permutation(count), [round(WRONG_CAPTION * count)])
    noisy = noisy[: round(NOISY_IMAGE * count)]
    caption, meaning, image = (
        np.array(part) for part in (pairs.caption, pairs.meaning, pairs.image)
    )
    caption[wrong], meaning[wrong] = (part[np.roll(wrong, 1)] for part in (caption, meaning))
    image[noisy] = np.clip(image[noisy] + random.normal(0, 0.8, image[noisy].shape), 0, 1)
    kind = np.where(np.isin(meaning // 4, TARGET), GOOD, OFF_TARGET)
    kind[noisy] = NOISY
    # A few of the wrong captions say by chance what the right one says.
    kind[meaning != pairs.meaning] = WRONG
    return Pairs(image, caption, meaning), kind
