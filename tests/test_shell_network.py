"""A network that nobody here made says here what it says in its own package."""

from pathlib import Path

import numpy as np
import pytest

for name in ("shell", "macenko_pca", "monai"):
    pytest.importorskip(name, reason="pip install --no-deps lavlab-shell, ...")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of three packages that are no dependency
def test_our_map_is_that_of_the_networks_own_package(
    shared_data: Path, tmp_path: Path
) -> None:
    from tests.benchmarks.shell_network import compare, estimate_stains, write_member

    slide = shared_data / "wsi" / "CMU-1-Small-Region.svs"
    stains = estimate_stains(slide)
    mine, theirs = compare(slide, write_member(stains, tmp_path), stains)
    assert mine.size == 1108 * 1481
    np.testing.assert_allclose(mine, theirs, atol=1e-3)
    assert 0.02 < (mine > 0.5).mean() < 0.5
    assert ((mine > 0.5) == (theirs > 0.5)).mean() > 0.999
