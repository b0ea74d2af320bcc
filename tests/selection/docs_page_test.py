"""The lines of docs/selection.md do what they say."""

import re

import numpy as np
import pytest

from jaxrobust.loader import Pool
from jaxrobust.selection import Manifest, load_manifest, write_manifest
from tests.helpers import ROOT, image_set

PAGE = (ROOT / "docs" / "selection.md").read_text()
# A run that trained on parts of two files, as limits and validation splits leave it.
FILES = image_set(9), image_set(7, seed=1)
PARTS = FILES[0].take(np.array([1, 2, 5, 8])), FILES[1].take(np.array([0, 3, 6]))
INDEX = np.array([0, 2, 3, 4, 6])


@pytest.fixture
def manifest(tmp_path, monkeypatch):
    """What a run leaves behind, in the folder where the lines look for it."""
    pool = Pool(PARTS)
    columns = {
        "index": INDEX,
        "weight": np.ones(5, np.float32),
        "score": np.linspace(1, 0, 5, dtype=np.float32),
        "kept": np.array([True, False, True, True, True]),
        "label": pool.label[INDEX],
        "source_row": pool.source_rows[INDEX],
        "generated": INDEX >= pool.num_original,
    }
    facts = {"data_sha256": [part.fingerprint() for part in PARTS]}
    write_manifest(tmp_path / "selections", "seed0-round2", Manifest(columns, facts))
    monkeypatch.chdir(tmp_path)


@pytest.mark.torch
def test_five_lines_make_a_torch_subset_of_the_kept_images(manifest):
    torch = pytest.importorskip("torch")
    section = PAGE.split("## In PyTorch")[1].split("\n## ")[0]
    (block,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len([line for line in block.splitlines() if line]) == 5
    assert "jaxrobust" not in block
    datasets = [
        torch.utils.data.TensorDataset(*map(torch.from_numpy, (f.image, f.label)))
        for f in FILES
    ]
    names = dict(zip(("original", "generated"), datasets))
    exec(block, names)
    chosen = load_manifest("selections/seed0-round2", PARTS).subset.index
    found = [(image.numpy(), int(label)) for image, label in names["subset"]]
    assert [label for _, label in found] == Pool(PARTS).label[chosen].tolist()
    expected = Pool(PARTS).gather(chosen)
    np.testing.assert_array_equal([image for image, _ in found], expected)


def test_the_page_names_every_column_and_loads_without_torch(manifest):
    (call,) = re.findall(r"`(load_manifest\(.*?\))`", PAGE)
    names = dict(zip(("train", "pool"), PARTS), load_manifest=load_manifest)
    found = eval(call, names)
    table = PAGE.split("## In PyTorch")[0]
    assert all(f"`{name}`" in table for name in (*found.columns, *found.facts))
