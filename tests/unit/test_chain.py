"""Facts about images and backing chains."""

from pathlib import PurePosixPath

import pytest

from fibackup.errors import ChainError, ModelError
from fibackup.model.chain import MAX_DEPTH, BackingChain, FileIdentity, Image

BASE = Image(PurePosixPath("/i/disk.qcow2"), "qcow2", 1 << 20, 4096)
MIDDLE = Image(PurePosixPath("/i/disk.bimg-20261123T040406Z"), "qcow2")
TOP = Image(PurePosixPath("/i/disk.bimg-20261124T040407Z"), "qcow2")
CHAIN = BackingChain("vda", (TOP, MIDDLE, BASE))


def test_a_chain_goes_from_the_active_layer_down_to_the_base() -> None:
    """The first image is the one the guest writes, the last one lies on nothing."""
    assert (CHAIN.active, CHAIN.base) == (TOP, BASE)
    assert (CHAIN.depth, len(CHAIN), tuple(CHAIN)) == (3, 3, (TOP, MIDDLE, BASE))


def test_what_lies_below_an_image_is_the_rest_of_the_chain() -> None:
    """`below` leaves the image itself out, and knows nothing of images that are elsewhere."""
    assert CHAIN.below(TOP.path) == (MIDDLE, BASE)
    assert CHAIN.below(BASE.path) == ()
    assert CHAIN.below(PurePosixPath("/elsewhere")) == ()


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ((), "no image"),
        ((TOP, BASE, TOP), "loops"),
        (
            tuple(Image(PurePosixPath(f"/i/{n}"), "qcow2") for n in range(MAX_DEPTH + 1)),
            "images deep",
        ),
    ],
)
def test_a_chain_that_cannot_be_is_refused(images: tuple[Image, ...], words: str) -> None:
    """Empty chains, loops and chains deeper than libvirt allows are no chains."""
    with pytest.raises(ChainError, match=words):
        BackingChain("vda", images)


@pytest.mark.parametrize("path", ["relative.qcow2", "/with\0nul"])
def test_an_image_has_an_absolute_path(path: str) -> None:
    """A relative path depends on who reads it, a NUL ends it early."""
    with pytest.raises(ModelError, match="absolute"):
        Image(PurePosixPath(path), "qcow2")


def test_an_identity_names_what_differs() -> None:
    """Inode, size and mtime are compared one by one, so that a reason can name them."""
    one = FileIdentity(1, 2, 3)
    assert one.differences(one) == ()
    assert one.differences(FileIdentity(1, 2, 4)) == ("mtime",)
    assert one.differences(FileIdentity(9, 9, 9)) == ("inode", "size", "mtime")


@pytest.mark.parametrize("number", [-1, True])
def test_an_identity_has_no_negative_numbers(number: int) -> None:
    """A negative inode is a misread value, and so is a bool."""
    with pytest.raises(ModelError, match="negative"):
        FileIdentity(number, 0, 0)


def test_the_name_of_an_overlay_of_ours_carries_its_point() -> None:
    """What follows the last `.bimg-` is the point; other names carry none."""
    assert TOP.point_in_name == "20261124T040407Z"
    assert BASE.point_in_name is None


def test_a_drawing_shows_the_active_layer_on_top() -> None:
    """One line for each image, deeper ones further right, with the sizes that are known."""
    first, *rest = str(CHAIN).splitlines()
    assert first == "vda"
    assert [line.split()[-1] for line in rest] == ["layer", "frozen", "base"]
    assert "4 KiB allocated, 1 MiB virtual" in rest[-1]
    assert str(BackingChain("vda", (TOP,))).endswith("active layer")
