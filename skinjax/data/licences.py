"""The licences of the data sets, which bind what is learnt from them, as their sites tell them."""

LICENCES = {
    "phantom": "drawn by skinjax: Apache-2.0",
    "ham10000": "CC BY-NC 4.0",
    "isic2016": "CC0 1.0",
    "isic2017": "CC0 1.0",
    "isic2018": "CC BY-NC 4.0",
    "isic2019": "CC BY-NC 4.0",
    "isic2020": "CC BY-NC 4.0",
    "ph2": "research and education only",
    "dermamnist": "CC BY-NC 4.0",
    "folder": "that of the pictures' owner",
}
