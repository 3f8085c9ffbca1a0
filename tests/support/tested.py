"""What a network takes test images for, made up."""

import base64
import io

from PIL import Image


def tested(classes):
    """The content of an evaluation's file of a seed, of eight worst images."""
    file = io.BytesIO()
    Image.new("L", (8, 8), 99).save(file, "PNG")
    picture = base64.b64encode(file.getvalue()).decode("ascii")
    names = [f"class {k}" for k in range(classes)]
    image = {"true": names[0], "predicted": names[-1], "probability": 0.97, "picture": picture}
    worst = [image | {"index": k, "loss": 9.5 - k} for k in range(8)]
    counts = [[20 if j == k else (j + k) % 3 for j in range(classes)] for k in range(classes)]
    return {"class_count": classes, "images": sum(map(sum, counts)), "classes": names, "counts": counts, "worst": worst}
