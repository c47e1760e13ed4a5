"""The individual typology angle: colours with known L*a*b*, and what is left out of a picture."""

import numpy as np
import pytest

from skinjax.data.sources.phantom import render
from skinjax.tasks.skin_tone import SKIN_TONES, individual_typology_angle, skin_tone, to_lab

LIGHT, LESION = (222, 184, 160), (90, 50, 40)


def picture(skin=LIGHT, size=(60, 80)):
    image = np.full((*size, 3), skin, np.uint8)
    mask = np.zeros(size, bool)
    mask[20:40, 30:50] = True
    image[mask] = LESION
    return image, mask


def angle_of(colour):
    lightness, _, yellowness = to_lab(np.array([colour], np.uint8))[0]
    return np.degrees(np.arctan2(lightness - 50, yellowness))


@pytest.mark.parametrize(
    "colour, expected",
    [
        # Lindbloom's calculator and the CSS Color 4 samples agree on these, for D65.
        ((255, 255, 255), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 255, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
        ((119, 119, 119), (50.03, 0, 0)),
    ],
)
def test_lab_of_known_colours(colour, expected):
    lab = to_lab(np.array([colour], np.uint8))
    np.testing.assert_allclose(lab, [expected], atol=0.05)


def test_the_angle_is_that_of_the_skin_alone():
    image, mask = picture()
    assert individual_typology_angle(image, mask) == pytest.approx(angle_of(LIGHT))
    # Neither a tinge beside the lesion, nor black corners, nor a lamp's reflection, nor hairs.
    image[18:42, 28:52][~mask[18:42, 28:52]] = (160, 110, 90)
    image[:8, :8] = image[-8:, -8:] = 5
    image[45:50, 5:15] = 255
    image[:, 60::9] = (40, 30, 25)
    assert individual_typology_angle(image, mask) == pytest.approx(angle_of(LIGHT))


def test_a_lesion_that_fills_the_picture_leaves_no_skin():
    image, mask = picture()
    mask[:] = True
    assert individual_typology_angle(image, mask) is None
    assert individual_typology_angle(np.zeros((60, 80, 3), np.uint8), ~mask) is None


def test_a_picture_without_a_lesion_is_all_skin():
    image = np.full((20, 30, 3), LIGHT, np.uint8)
    angle = individual_typology_angle(image, np.zeros((20, 30), bool))
    assert angle == pytest.approx(angle_of(LIGHT))


def test_a_mask_of_another_size_is_refused():
    image, mask = picture()
    with pytest.raises(ValueError, match="another size"):
        individual_typology_angle(image, mask[:-1])


def test_bands_meet_where_the_papers_say():
    angles = [55.1, 55, 41.1, 41, 28, 10, -30, -89, -120]
    names = ["very light", "light", "light", "intermediate", "tan", "brown", "dark", "dark", "dark"]
    assert [skin_tone(angle) for angle in angles] == names
    assert set(SKIN_TONES) == set(names)


def test_darker_skin_has_a_smaller_angle():
    skins = [(240, 215, 200), LIGHT, (190, 140, 110), (130, 90, 65), (80, 52, 38)]
    angles = [individual_typology_angle(*picture(skin)) for skin in skins]
    assert angles == sorted(angles, reverse=True)
    assert skin_tone(angles[0]) == "very light" and skin_tone(angles[-1]) == "dark"


def test_pictures_of_one_lesion_are_alike():
    image, mask, _ = render(3, 0, 60, 80)
    angle = individual_typology_angle(image, mask.astype(bool))
    flipped = individual_typology_angle(image[:, ::-1], mask[:, ::-1].astype(bool))
    assert angle is not None and angle == pytest.approx(flipped)
