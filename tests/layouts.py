"""Each data set in miniature: the phantom's pictures under the official names, quirks included.

ISIC 2016, ISIC 2019 and PH2 have pictures of their own; the others share theirs with HAM10000.
"""

import csv
import functools
import io

import numpy as np
from PIL import Image

from skinjax.data.sources.example import CLASSES
from skinjax.data.sources.phantom import render

NUM_IMAGES = 60
ONE_HOT_2018 = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
ONE_HOT_2019 = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK")


@functools.cache
def picture(index, height=48, width=64):
    """A phantom and its mask, uint8 [H, W, 3] and bool [H, W]."""
    image, mask, _ = render(11, index, height, width)
    return image, mask.astype(bool)


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    format = {".jpg": "JPEG", ".png": "PNG", ".bmp": "BMP"}[path.suffix]
    Image.fromarray(array).save(buffer, format, **options)
    path.write_bytes(buffer.getvalue())


def table(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)


def divided(sizes, start=0):
    """The indices of each part: {'Training': 40, ...} -> {'Training': range(0, 40), ...}."""
    result = {}
    for name, size in sizes.items():
        result[name] = range(start, start + size)
        start += size
    return result


def isic_id(index):
    return f"ISIC_{index:07d}"


def isic2016(root):
    for part, indices in divided({"Training": 40, "Test": 20}, start=300).items():
        for i in indices:
            image, mask = picture(i)
            save(root / f"ISBI2016_ISIC_Part1_{part}_Data" / f"{isic_id(i)}.jpg", image)
            masks = root / f"ISBI2016_ISIC_Part1_{part}_GroundTruth"
            save(masks / f"{isic_id(i)}_Segmentation.png", mask)
        words = ("benign", "malignant") if part == "Training" else ("0.0", "1.0")
        rows = [(isic_id(i), words[i % 4 == 0]) for i in indices]
        table(root / f"ISBI2016_ISIC_Part3_{part}_GroundTruth.csv", *rows)


def isic2017(root):
    for part, indices in divided({"Training": 40, "Validation": 10, "Test_v2": 10}).items():
        for i in indices:
            image, mask = picture(i)
            data = root / f"ISIC-2017_{part}_Data" / f"ISIC-2017_{part}_Data"  # as unzip nests it
            save(data / f"{isic_id(i)}.jpg", image)
            save(data / f"{isic_id(i)}_superpixels.png", image)
            masks = root / f"ISIC-2017_{part}_Part1_GroundTruth"
            save(masks / f"{isic_id(i)}_segmentation.png", mask)
        rows = [(isic_id(i), f"{float(i % 3 == 0)}", f"{float(i % 3 == 1)}") for i in indices]
        header = ("image_id", "melanoma", "seborrheic_keratosis")
        table(root / f"ISIC-2017_{part}_Part3_GroundTruth.csv", header, *rows)


def one_hot(indices, columns, name=isic_id):
    width = len(CLASSES)
    return [(name(i), *(f"{float(k == i % width)}" for k in range(len(columns)))) for i in indices]


def isic2018(root):
    for part, indices in divided({"Training": 40, "Validation": 10, "Test": 10}).items():
        for i in indices:
            image, mask = picture(i)
            save(root / f"ISIC2018_Task1-2_{part}_Input" / f"{isic_id(i)}.jpg", image)
            masks = root / f"ISIC2018_Task1_{part}_GroundTruth"
            save(masks / f"{isic_id(i)}_segmentation.png", mask)
            attributes = root / f"ISIC2018_Task2_{part}_GroundTruth"
            save(attributes / f"{isic_id(i)}_attribute_globules.png", np.zeros((48, 64), bool))
            save(root / f"ISIC2018_Task3_{part}_Input" / f"{isic_id(i + 100)}.jpg", image)
        rows = one_hot(indices, ONE_HOT_2018, lambda i: isic_id(i + 100))
        truth = f"ISIC2018_Task3_{part}_GroundTruth"
        table(root / truth / f"{truth}.csv", ("image", *ONE_HOT_2018), *rows)
    groups = [(isic_id(i + 100), f"HAM_{i // 2:07d}", "histopathology") for i in range(40)]
    header = ("image", "lesion_id", "diagnosis_confirm_type")
    table(root / "ISIC2018_Task3_Training_LesionGroupings.csv", header, *groups)


def isic2019(root):
    indices = range(200, 200 + NUM_IMAGES)

    def name(i):
        return isic_id(i) + ("_downsampled" if i % 5 == 0 else "")

    for i in indices:
        folder = root / "ISIC_2019_Training_Input" / "ISIC_2019_Training_Input"
        save(folder / f"{name(i)}.jpg", picture(i)[0])
    rows = [(name(i), *(f"{float(k == i % 8)}" for k in range(len(ONE_HOT_2019)))) for i in indices]
    table(root / "ISIC_2019_Training_GroundTruth.csv", ("image", *ONE_HOT_2019), *rows)
    header = ("image", "age_approx", "anatom_site_general", "lesion_id", "sex")
    metadata = [
        (name(i), "55.0", "trunk", f"BCN_{i:07d}" if i % 3 else "", "male") for i in indices
    ]
    table(root / "ISIC_2019_Training_Metadata.csv", header, *metadata)


def isic2020(root):
    for i in range(NUM_IMAGES):
        save(root / "train" / f"{isic_id(i)}.jpg", picture(i)[0])
    header = ("image_name", "patient_id", "lesion_id", "sex", "age_approx")
    header += ("anatom_site_general_challenge", "diagnosis", "benign_malignant", "target")
    rows = [
        (isic_id(i), f"IP_{i:07d}", f"IL_{i:07d}", "female", "45", "torso", "unknown")
        + (("malignant", "1") if i % 4 == 0 else ("benign", "0"))
        for i in range(NUM_IMAGES)
    ]
    table(root / "ISIC_2020_Training_GroundTruth_v2.csv", header, *rows)
    pairs = [("image_name_1", "image_name_2"), (isic_id(1), isic_id(2))]
    table(root / "ISIC_2020_Training_Duplicates.csv", *pairs)


def ph2(root):
    lines = ["||   Name || Histological Diagnosis || Clinical Diagnosis || Asymmetry || Colors ||"]
    for i in range(NUM_IMAGES):
        image, mask = picture(i + 100, 48, 64 + i % 3)  # of several sizes
        name = f"IMD{i:03d}"
        folder = root / "PH2 Dataset images" / name
        save(folder / f"{name}_Dermoscopic_Image" / f"{name}.bmp", image)
        truth = np.repeat(mask[..., None] * np.uint8(255), 3, 2) if i == 7 else mask
        save(folder / f"{name}_lesion" / f"{name}_lesion.bmp", truth)
        lines.append(f"||  {name} ||    ||   {i % 3}  ||  0  ||   2  4 ||")
    lines += ["", "Clinical Diagnosis: 0 - Common Nevus; 1 - Atypical Nevus; 2 - Melanoma."]
    (root / "PH2_dataset.txt").write_text("\n".join(lines) + "\n")


def dermamnist(root):
    root.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for part, indices in divided({"train": 40, "val": 10, "test": 10}).items():
        small = [Image.fromarray(picture(i)[0]).resize((28, 28)) for i in indices]
        arrays[f"{part}_images"] = np.stack([np.asarray(image) for image in small])
        arrays[f"{part}_labels"] = np.array([[i % 7] for i in indices], np.uint8)
    np.savez_compressed(root / "dermamnist.npz", **arrays)


def ham10000(root):
    header = ("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization")
    rows = []
    for i in range(NUM_IMAGES):
        image, mask = picture(i)
        part = 1 + (i >= NUM_IMAGES // 2)
        save(root / f"HAM10000_images_part_{part}" / f"{isic_id(i)}.jpg", image)
        masks = root / "HAM10000_segmentations_lesion_tschandl"
        save(masks / f"{isic_id(i)}_segmentation.png", mask)
        rows.append((f"HAM_{i:07d}", isic_id(i), CLASSES[i % 7], "histo", "50.0", "male", "back"))
    table(root / "HAM10000_metadata.csv", header, *rows)


def folder(root):
    """A user's own: masks by stem, labels and patients in a table."""
    rows = []
    for i in range(NUM_IMAGES):
        image, mask = picture(i)
        save(root / "images" / f"Bild {i}.jpg", image)
        save(root / "masks" / f"Bild {i}.png", mask)
        rows.append((f"Bild {i}.jpg", ("naevus", "melanom")[i % 3 == 0], f"P{i}"))
    table(root / "table.csv", ("image", "label", "patient"), *rows)


# Which of the two tasks each can be used for.
LAYOUTS = {
    "ham10000": (ham10000, ("segmentation", "classification")),
    "isic2016": (isic2016, ("segmentation", "classification")),
    "isic2017": (isic2017, ("segmentation", "classification")),
    "isic2018": (isic2018, ("segmentation", "classification")),
    "isic2019": (isic2019, ("classification",)),
    "isic2020": (isic2020, ("classification",)),
    "ph2": (ph2, ("segmentation", "classification")),
    "dermamnist": (dermamnist, ("classification",)),
    "folder": (folder, ("segmentation", "classification")),
}
