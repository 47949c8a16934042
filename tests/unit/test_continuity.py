"""Facts about full or increment: when ledger, chain and store agree, and what is said if not."""

from attrs import evolve

from fibackup.host.executor import Executor
from fibackup.model.domain import Domain
from fibackup.model.point import DiskKind, History
from fibackup.model.tree import ImageTree
from fibackup.model.verification import CheckedContent, CheckedFile, VerificationRecord
from fibackup.plan.backup import plan_backup
from fibackup.plan.continuity import Parent, find_parent, parent_gone
from fibackup.plan.policy import BackupPolicy
from fibackup.plan.steps import Plan, PublishPoint
from fibackup.plan.verified import with_found_wrong
from fibackup.testing import CLUSTER_BYTES, FakeHost, FakeStore

OTHER = "5702e000-0000-4000-8000-000000000002"


class World:
    """A domain with one disk, and a store with its first point."""

    def __init__(self) -> None:
        """Take the first point."""
        self.host = FakeHost()
        self.uuid = self.host.add_domain("web1", {"vda": {0: 1}})
        self.base = self.domain().disk("vda").config_source or ""
        self.store = FakeStore(self.host)
        self.first = self.backup()
        self.host.write("web1", "vda", 1, 2)

    def domain(self) -> Domain:
        """Read the domain."""
        return self.host.read_domain("web1")

    def history(self) -> History:
        """Read the store."""
        return self.store.read_history(self.uuid)

    def plan(self, store: FakeStore | None = None, *, full: bool = False) -> Plan:
        """Plan the next point."""
        history = (store or self.store).read_history(self.uuid)
        policy = BackupPolicy(full=full)
        return plan_backup(self.domain(), history, now=self.host.now, policy=policy)

    def backup(self, store: FakeStore | None = None) -> Plan:
        """Take the next point."""
        plan = self.plan(store)
        Executor(self.host, store or self.store).run(plan)
        return plan

    def verdict(self, domain: Domain | None = None, history: History | None = None) -> Parent | str:
        """Ask for the parent."""
        domain = domain or self.domain()
        chain = domain.disk("vda").chain
        assert chain is not None
        return find_parent(chain, domain.ledger, history or self.history())


def test_an_untouched_chain_makes_an_increment() -> None:
    """Only the active layer is new."""
    world = World()
    parent = world.verdict()
    assert isinstance(parent, Parent)
    assert parent.point.id == world.first.point
    assert len(parent.new_layers) == 1


def test_the_first_point_is_a_full() -> None:
    """The reason says that it is the first one in this store."""
    world = World()
    empty = FakeStore(world.host, uuid=OTHER).read_history(world.uuid)
    assert world.verdict(history=empty) == "the first point of this disk in this store"


def test_a_restart_changes_nothing() -> None:
    """Device numbers and libvirt's indexes take no part."""
    world = World()
    world.host.restart("web1")
    assert isinstance(world.verdict(), Parent)


def test_a_foreign_overlay_is_one_more_new_layer() -> None:
    """It lies above the point's content, so it is copied too."""
    world = World()
    world.host.foreign_snapshot("web1", "vda")
    parent = world.verdict()
    assert isinstance(parent, Parent)
    assert len(parent.new_layers) == 2


def test_a_changed_base_makes_a_full_that_says_what_differs() -> None:
    """Whoever wrote it, the store's copy is no longer what lies under the overlay."""
    world = World()
    world.host.touch(world.base)
    reason = world.verdict()
    assert reason == f"{world.base} changed since point {world.first.point}: other mtime"


def test_a_foreign_commit_into_the_base_makes_a_full() -> None:
    """No overlay of ours is left in the chain."""
    world = World()
    world.host.foreign_commit("web1", "vda")
    assert "replaced or consolidated" in str(world.verdict())


def test_a_pull_makes_a_full() -> None:
    """The overlay is there, but what lay under it is not."""
    world = World()
    world.host.foreign_pull("web1", "vda")
    assert "is no longer under" in str(world.verdict())


def test_a_replaced_disk_makes_a_full() -> None:
    """Also when the new image has the path of the old one."""
    for same_path in (False, True):
        world = World()
        world.host.replace_disk("web1", "vda", {0: 9}, same_path=same_path)
        assert isinstance(world.verdict(), str)


def test_a_resized_disk_makes_a_full() -> None:
    """The reason names both sizes."""
    world = World()
    world.host.resize("web1", "vda", 20)
    reason = str(world.verdict())
    assert reason.startswith("resized")
    assert str(16 * CLUSTER_BYTES) in reason
    assert str(20 * CLUSTER_BYTES) in reason


def test_another_image_under_the_overlay_makes_a_full() -> None:
    """An inner commit by somebody else: the order of the chain is not the one in the ledger."""
    world = World()
    world.backup()
    domain = world.domain()
    chain = domain.disk("vda").chain
    assert chain is not None
    top, _, base = chain.images
    shorter = evolve(domain.disks[0], chain=evolve(chain, images=(top, base)))
    assert "lies where" in str(world.verdict(evolve(domain, disks=(shorter,))))


def test_an_image_under_what_was_a_base_makes_a_full() -> None:
    """Somebody has rebased the base."""
    world = World()
    domain = world.domain()
    chain = domain.disk("vda").chain
    assert chain is not None
    below = evolve(chain.base, path=chain.base.path.with_name("below.qcow2"))
    deeper = evolve(domain.disks[0], chain=evolve(chain, images=(*chain.images, below)))
    assert "nothing lay" in str(world.verdict(evolve(domain, disks=(deeper,))))


def test_an_image_that_cannot_be_compared_makes_a_full() -> None:
    """Without an identity there is no proof."""
    world = World()
    domain = world.domain()
    images = tuple(evolve(image, identity=None) for image in domain.ledger.images)
    ledger = evolve(domain.ledger, images=images)
    assert "cannot be compared" in str(world.verdict(evolve(domain, ledger=ledger)))


def test_another_format_makes_a_full() -> None:
    """What was read as qcow2 and is read as raw now has other content."""
    world = World()
    domain = world.domain()
    images = tuple(evolve(image, format="raw") for image in domain.ledger.images)
    ledger = evolve(domain.ledger, images=images)
    assert "was raw at point" in str(world.verdict(evolve(domain, ledger=ledger)))


def test_an_overlay_that_moved_to_another_disk_makes_a_full() -> None:
    """Its points are those of the other disk."""
    world = World()
    domain = world.domain()
    overlays = tuple(evolve(entry, target="vdb") for entry in domain.ledger.overlays)
    ledger = evolve(domain.ledger, overlays=overlays)
    assert "belonged to disk vdb" in str(world.verdict(evolve(domain, ledger=ledger)))


def test_a_point_that_the_store_has_lost_makes_a_full() -> None:
    """The reason names it."""
    world = World()
    world.store.forget(world.uuid, world.first.point)
    assert f"does not have point {world.first.point}" in str(world.verdict())


def test_when_the_newest_point_is_lost_the_one_before_it_is_the_parent() -> None:
    """Every layer above its content is copied, the one that was stored before as well."""
    world = World()
    second = world.backup()
    world.store.forget(world.uuid, second.point)
    parent = world.verdict()
    assert isinstance(parent, Parent)
    assert (parent.point.id, len(parent.new_layers)) == (world.first.point, 2)


def test_a_point_whose_images_are_lost_makes_a_full() -> None:
    """Missing itself, or lying on a point whose manifest is gone."""
    world = World()
    world.store.lose(world.uuid, "vda", f"{world.first.point}.qcow2")
    assert "is missing, has another size, or" in str(world.verdict())
    world = World()
    world.backup()
    world.store.forget(world.uuid, world.first.point)
    assert "reach no base" in str(world.verdict())
    assert world.backup().decisions[0].kind is DiskKind.FULL


def test_another_image_in_the_store_than_in_the_ledger_makes_a_full() -> None:
    """Two stores with one UUID, say: a copy that went its own way."""
    world = World()
    domain = world.domain()
    overlays = tuple(evolve(entry, sha256="0" * 64) for entry in domain.ledger.overlays)
    ledger = evolve(domain.ledger, overlays=overlays)
    assert "is not the one in the ledger" in str(world.verdict(evolve(domain, ledger=ledger)))


def test_a_run_that_ended_before_its_result_is_recognised_by_the_copied_image() -> None:
    """No sha256 in the ledger yet: then the identity of the source decides."""
    world = World()
    domain = world.domain()
    overlays = tuple(evolve(entry, sha256=None) for entry in domain.ledger.overlays)
    ledger = evolve(domain.ledger, overlays=overlays)
    assert isinstance(world.verdict(evolve(domain, ledger=ledger)), Parent)


def test_two_stores_in_turns_each_get_increments() -> None:
    """An overlay of the other store is one more new layer, no more."""
    world = World()
    other = FakeStore(world.host, uuid=OTHER)
    assert world.backup(other).decisions[0].kind is DiskKind.FULL
    second = world.backup()
    assert second.decisions[0].parent == world.first.point
    assert [copy.name for copy in second.copies] == [
        f"{second.point}-1.qcow2",
        f"{second.point}.qcow2",
    ]
    assert world.backup(other).decisions[0].kind is DiskKind.INCREMENT


def test_a_change_that_one_store_has_taken_in_is_still_a_change_for_the_other() -> None:
    """A base written down anew is no proof for the overlays above it, of any store."""
    world = World()
    other = FakeStore(world.host, uuid=OTHER)
    world.host.foreign_write(world.base, 5, 55)
    world.backup(other)
    plan = world.backup()
    assert plan.decisions[0].kind is DiskKind.FULL
    seen = world.host.moment(world.uuid, plan.point).disks["vda"]
    assert world.store.restore(world.uuid, plan.point, "vda") == seen


def test_a_full_on_request_is_a_full() -> None:
    """The reason says that it was asked for."""
    decision = World().plan(full=True).decisions[0]
    assert (decision.kind, decision.reason) == (DiskKind.FULL, "a full was asked for")


def test_nothing_new_is_laid_on_a_point_that_is_going() -> None:
    """A killed prune was taking it away: what writes next does that before it copies anything."""
    world = World()
    second = world.backup()
    history = evolve(world.history(), going=frozenset({second.point}))
    parent = world.verdict(history=history)
    assert isinstance(parent, Parent)
    assert (parent.point.id, len(parent.new_layers)) == (world.first.point, 2)
    assert parent.doubt == f"a prune takes point {second.point} away"
    both = evolve(history, going=frozenset({world.first.point, second.point}))
    assert world.verdict(history=both) == f"a prune takes point {second.point} away"


def test_a_plan_whose_parent_is_not_what_it_was_does_not_run() -> None:
    """Under the lock it is gone, going, or damaged, or has not the disk, or another image of it."""
    world = World()
    plan, history = world.plan(), world.history()
    (point,) = history.points
    (disk,) = point.disks
    file, name = f"vda/{disk.images[0].name}", f"{point.id}-9.qcow2"
    other = evolve(disk, images=(evolve(disk.images[0], name=name),))
    gone = f"the store does not have point {point.id} of disk vda any more"
    assert parent_gone(plan, history) is None
    assert parent_gone(world.plan(full=True), evolve(history, points=())) is None
    for found, reason in (
        (evolve(history, points=()), gone),
        (evolve(history, points=(evolve(point, disks=(evolve(disk, target="vdb"),)),)), gone),
        (evolve(history, going=frozenset({point.id})), f"a prune takes point {point.id} away"),
        (evolve(history, damaged=frozenset({file})), f"the store's image {file} is missing, has"),
        (evolve(history, wrong_files=frozenset({file})), f"the store's image {file} is missing"),
        (
            evolve(history, points=(evolve(point, disks=(other,)),)),
            f"point {point.id} has another image of disk vda than when it was planned",
        ),
    ):
        assert str(parent_gone(plan, found)).startswith(reason)
    wrong = evolve(history, wrong_files=frozenset({file}))
    assert parent_gone(evolve(plan, verb="recover"), wrong) is None, "it finishes what there is"


def test_an_image_that_an_earlier_run_has_stored_lies_on_the_parent_too() -> None:
    """What is taken over was laid on it, so nothing is copied that would tell."""
    world = World()
    left, stored = world.plan(), world.history()
    (copy,) = left.copies
    image = evolve(
        stored.points[0].disks[0].images[0], name=copy.name, backing=f"{world.first.point}-9.qcow2"
    )
    (publish,) = (step for step in left.steps if isinstance(step, PublishPoint))
    disk = evolve(publish.disks[0], adopted=(image,))
    plan = evolve(left, steps=(evolve(publish, disks=(disk,)),))
    assert "has another image" in str(parent_gone(plan, stored))


def test_nothing_new_is_laid_on_an_image_that_was_found_wrong() -> None:
    """An older point that does not need it is the parent; without one, a full begins anew."""
    world = World()
    world.backup()
    history = world.history()
    kinds: list[tuple[DiskKind | None, bool]] = []
    for number in (1, 0):
        image = history.points[number].disks[0].images[0]
        wrong = evolve(history, wrong_files=frozenset({f"vda/{image.name}"}))
        (decision,) = plan_backup(world.domain(), wrong, now=world.host.now).decisions
        kinds.append((decision.kind, "found wrong by a verification" in decision.reason))
    assert kinds == [(DiskKind.INCREMENT, True), (DiskKind.FULL, True)]


def test_what_a_record_finds_wrong_is_of_the_files_that_are_there() -> None:
    """Each file may be as it was, and the disk is not; of other files it says nothing."""
    world = World()
    history = world.history()
    (image,) = history.points[0].disks[0].images
    file, now = f"vda/{image.name}", world.host.now
    chain = ImageTree(history, "vda").fingerprints()[image.name]

    def found(*, sha256: str = image.sha256, chain: str = "", fault: str = "") -> frozenset[str]:
        read = CheckedFile(file, sha256, now, 1, "" if chain else fault)
        disk = CheckedContent(file, chain or "b" * 64, now, 1, "c" * 64, fault if chain else "")
        return with_found_wrong(history, VerificationRecord((read,), (disk,))).found_wrong

    assert found(fault="its sha256 is another") == found(fault="it", chain=chain) == {file}
    assert found(fault="it", chain="d" * 64) == {file}  # something was merged under it since
    assert found() == found(fault="x", sha256="a" * 64) == set()
