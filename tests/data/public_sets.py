"""Rows in the schemas of the public data sets, two of each, and pictures for them."""

import io

from PIL import Image

# By set: rows whose pictures are names, and what `read_triplets` should make of the second one:
# source, target, instruction, language, task, id (None: the row's name).
SETS = {
    "own": (
        [
            {"source": "0.png", "target": "1.png", "instruction": ""},
            {
                "source": "2.png", "target": "3.png", "instruction": "变红",
                "language": "zh", "task": "hue", "id": 7,
            },
        ],
        ("2.png", "3.png", "变红", "zh", "hue", "7"),
    ),
    "OmniEdit": (
        [
            {
                "omni_edit_id": f"task_swap_{i}", "task": "swap", "width": 64, "height": 48,
                "src_img": f"{2 * i}.png", "edited_img": f"{2 * i + 1}.png", "o_score": 9.0,
                "edited_prompt_list": [f"a cat {i}"],
            }
            for i in range(2)
        ],
        ("2.png", "3.png", "a cat 1", "", "swap", "task_swap_1"),
    ),
    "MagicBrush": (
        [
            {
                "img_id": "242679", "turn_index": i + 1, "source_img": f"{2 * i}.png",
                "mask_img": "0.png", "instruction": f"turn {i}", "target_img": f"{2 * i + 1}.png",
            }
            for i in range(2)
        ],
        ("2.png", "3.png", "turn 1", "", "", "242679-2"),
    ),
    "InstructPix2Pix": (
        [
            {
                "original_prompt": "a hill", "original_image": f"{2 * i}.png",
                "edit_prompt": f"snow {i}", "edited_prompt": "a white hill",
                "edited_image": f"{2 * i + 1}.png",
            }
            for i in range(2)
        ],
        ("2.png", "3.png", "snow 1", "", "", None),
    ),
    "AnyEdit": (
        [
            {
                "edit_instruction": f"turn it {i}", "edit_type": "rotation_change", "input": "x",
                "output": "y", "image_file": f"{2 * i}.png", "edited_file": f"{2 * i + 1}.png",
            }
            for i in range(2)
        ],
        ("2.png", "3.png", "turn it 1", "", "rotation_change", None),
    ),
    "ImgEdit": (
        [
            {
                "task_type": "edit", "prompt": f"add {i}", "input_images": [f"{2 * i}.png"],
                "output_images": [f"{2 * i + 1}.png"],
            }
            for i in range(2)
        ],
        ("2.png", "3.png", "add 1", "", "edit", None),
    ),
    "UltraEdit": (
        [
            {
                "source_image": f"{2 * i}.png", "edited_image": f"{2 * i + 1}.png",
                "mask_image": "0.png", "edit_prompt": f"ultra {i}", "source_caption": "a",
                "target_caption": "b",
            }
            for i in range(2)
        ],
        ("2.png", "3.png", "ultra 1", "", "", None),
    ),
}  # fmt: skip


def picture(number: int) -> bytes:
    """Return a small PNG file, distinct for every number."""
    file = io.BytesIO()
    Image.new("RGB", (10, 8), (number % 256, number // 256, 5)).save(file, "PNG")
    return file.getvalue()


def save_pictures(folder, names) -> None:
    """Save pictures 0, 1, ... under these names."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number))
