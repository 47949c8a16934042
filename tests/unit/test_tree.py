"""The stored images of one disk, as a tree: nothing is looked at twice."""

from __future__ import annotations

from fibackup.model.tree import ImageTree, trees_of
from hypervisor.histories import chain, disk, history, image_name, point, point_id


def test_a_point_shows_the_image_that_it_brought() -> None:
    """And reads through those under it."""
    tree = ImageTree(chain(3), "vda")
    assert tree.tops == {point_id(n): image_name(n) for n in (1, 2, 3)}
    assert tree.owners == {image_name(n): point_id(n) for n in (1, 2, 3)}
    assert [image.name for image in tree.images_of(point_id(3))] == [
        image_name(3),
        image_name(2),
        image_name(1),
    ]
    assert tree.broken == tree.lost == {}


def test_a_disk_that_is_as_at_its_parent_shows_the_parents_image() -> None:
    """Also when that one is as at its own parent."""
    points = (
        point(1, disk(1)),
        point(2, disk(2, 1, images=0)),
        point(3, disk(3, 2, images=0)),
        point(4, disk(4, images=1)),
    )
    tree = ImageTree(history(*points), "vda")
    assert tree.tops[point_id(3)] == tree.tops[point_id(2)] == image_name(1)
    assert tree.users() == {image_name(1): 3, image_name(4): 1}


def test_a_disk_that_is_as_at_a_point_that_is_gone_shows_nothing() -> None:
    """Neither does one that is as at that one."""
    points = (
        point(1, disk(1, target="vdb")),
        point(3, disk(3, 2, images=0)),
        point(4, disk(4, 3, images=0)),
        point(5, disk(5, 1, images=0)),
    )
    tree = ImageTree(history(*points), "vda")
    assert tree.tops == {}
    assert set(tree.lost) == {point_id(3), point_id(4), point_id(5)}
    assert point_id(2) in tree.lost[point_id(4)]
    assert tree.images_of(point_id(3)) == ()


def test_a_circle_of_points_without_images_ends() -> None:
    """Each of them shows nothing."""
    points = (point(1, disk(1, 2, images=0)), point(2, disk(2, 1, images=0)))
    tree = ImageTree(history(*points), "vda")
    assert set(tree.lost) == {point_id(1), point_id(2)}


def test_a_backing_name_that_leads_nowhere_breaks_one_link() -> None:
    """What lies above reads through it, and is not broken itself."""
    points = (point(2, disk(2, 1)), point(3, disk(3, 2)), point(4, disk(4)))
    tree = ImageTree(history(*points), "vda")
    assert list(tree.broken) == [image_name(2)]
    assert image_name(1) in tree.broken[image_name(2)]
    assert tree.shown_through(image_name(2)) == {point_id(2), point_id(3)}
    assert tree.images_of(point_id(3)) == ()
    assert tree.fingerprints().keys() == {image_name(4)}


def test_images_that_lie_round_in_a_circle_are_broken() -> None:
    """And whoever lies on them reads no base; no walk is endless."""
    points = (
        point(1, disk(1, 2)),
        point(2, disk(2, 1)),
        point(3, disk(3, 2)),
    )
    tree = ImageTree(history(*points), "vda")
    assert set(tree.broken) == {image_name(1), image_name(2), image_name(3)}
    assert "circle" in tree.broken[image_name(1)]
    assert tree.shown_through(image_name(1)) == {point_id(1), point_id(2), point_id(3)}
    assert tree.images_of(point_id(3)) == ()


def test_points_that_lie_beside_each_other_share_what_is_under_them() -> None:
    """Each image has as many users as points read through it."""
    points = (point(1, disk(1)), point(2, disk(2, 1)), point(3, disk(3, 1, images=2)))
    tree = ImageTree(history(*points), "vda")
    assert tree.users() == {
        image_name(1): 3,
        image_name(2): 1,
        image_name(3): 1,
        image_name(3, 1): 1,
    }
    assert tree.shown_through(image_name(1)) == {point_id(1), point_id(2), point_id(3)}
    assert tree.shown_through(image_name(3, 1), "no such image") == {point_id(3)}


def test_a_fingerprint_is_of_all_that_is_read_through() -> None:
    """Another image anywhere under it makes it another one."""
    first, second = point(1, disk(1)), point(2, disk(2, 1))
    other = point(1, disk(1, images=2))
    prints = ImageTree(history(first, second), "vda").fingerprints()
    others = ImageTree(history(other, second), "vda").fingerprints()
    assert len(set(prints.values())) == 2
    assert prints[image_name(2)] != others[image_name(2)]


def test_a_value_is_worked_out_from_the_bases_up() -> None:
    """Such as the size of an image and of all those under it."""
    sizes = ImageTree(chain(3), "vda").climb(lambda image, under: image.size_bytes + (under or 0))
    assert sizes == {image_name(1): 1000, image_name(2): 2000, image_name(3): 3000}


def test_a_deep_chain_is_no_deep_recursion() -> None:
    """Thousands of increments are walked in a loop."""
    tree = ImageTree(chain(3000), "vda")
    assert len(tree.fingerprints()) == len(tree.images_of(point_id(3000))) == 3000


def test_each_disk_has_a_tree_of_its_own() -> None:
    """Images of two disks have the same names."""
    trees = trees_of(history(point(1, disk(1), disk(1, target="vdb")), point(2, disk(2, 1))))
    assert list(trees) == ["vda", "vdb"]
    assert trees["vdb"].tops == {point_id(1): image_name(1)}


def test_what_lies_over_an_image_is_what_its_point_laid_on_it() -> None:
    """Not what other points did."""
    tree = ImageTree(history(point(1, disk(1)), point(3, disk(3, 1, images=2))), "vda")
    top, under = (image.name for image in tree.images_of(point_id(3))[:2])
    assert [tree.over(name) for name in (under, top, image_name(1))] == [(top,), (), ()]
