"""Which tensors share an object."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_theta.core.manifest import Link, ObjectRange
from git_theta.core.objects import BUNDLED
from git_theta.store.local import LocalStore
from git_theta.workflows import bundles
from git_theta.workflows.bundles import GROUP, Bundle, Bundles, Spool, groups, to_store_anew


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "theta" / "objects")


@given(st.lists(st.sampled_from([0, 64, 65, 4096, 500_000, BUNDLED - 1, BUNDLED, 1 << 30])))
def test_groups(sizes: list[int]) -> None:
    found = groups(sizes)
    members = [number for group in found for number in group]
    assert members == [at for at, size in enumerate(sizes) if 64 < size < BUNDLED]
    totals = [sum(sizes[number] for number in group) for group in found]
    assert all(0 < total <= GROUP for total in totals)
    for group, total in zip(found[1:], totals, strict=False):
        assert total + sizes[group[0]] > GROUP, "a group is as full as it can be"


def test_a_group_depends_on_the_layout_alone() -> None:
    """What a tensor holds, and whether it is known, is not asked."""
    sizes = [400_000] * 100
    assert [len(group) for group in groups(sizes)] == [20] * 5


def test_payloads_stand_in_the_order_of_their_tensors_equal_ones_once(store: LocalStore) -> None:
    bundle = Bundle(store, Spool(store))
    late = bundle.add(7, b"last")
    first, same = bundle.add(2, b"first"), bundle.add(5, b"first")
    bundle.close()
    store.flush()
    (ref,) = list(store)
    assert store.read(ref) == b"firstlast"
    assert first.seal() == same.seal() == (ObjectRange(*ref, 0, 5),)
    assert late.seal() == (ObjectRange(*ref, 5, 4),)


def test_a_bundle_of_one_is_the_payload(store: LocalStore) -> None:
    bundle = Bundle(store, Spool(store))
    only = bundle.add(0, b"payload")
    bundle.close()
    (place,) = only.seal()
    assert (place.offset, place.length) == (0, place.size)


def test_a_payload_replaces_the_one_before(store: LocalStore) -> None:
    bundle = Bundle(store, Spool(store))
    bundle.add(0, b"delta")
    bundle.add(0, b"dense")
    bundle.close()
    store.flush()
    assert [store.read(ref) for ref in store] == [b"dense"]


def test_an_empty_bundle_stores_nothing(store: LocalStore) -> None:
    Bundle(store, Spool(store)).close()
    store.flush()
    assert list(store) == []


def test_many_payloads_wait_in_a_file(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles, "_SPOOLED", 100)
    spool = Spool(store)
    payloads = [random.Random(number).randbytes(30) for number in range(20)]
    places = [spool.put(payload) for payload in payloads]
    assert len(list((store.root.parent / "tmp").iterdir())) == 1
    order = random.Random(1).sample(range(20), 20)
    assert [spool.take(places[at]) for at in order] == [payloads[at] for at in order]
    spool.close()
    assert list((store.root.parent / "tmp").iterdir()) == []


def test_payloads_that_were_taken_make_room(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundles, "_SPOOLED", 100)
    spool = Spool(store)
    for number in range(20):
        assert spool.take(spool.put(bytes([number]) * 60)) == bytes([number]) * 60
    assert not (store.root.parent / "tmp").exists(), "one at a time, none is written to a file"


def test_bundles_close_when_all_their_tensors_are_done_in_any_order(store: LocalStore) -> None:
    sizes = [400_000, 2_000_000, 400_000, 30] + [400_000] * 30
    awaited = [0, 1, 2, 25, 30]
    texts = set()
    for seed in range(5):
        order = list(awaited)
        random.Random(seed).shuffle(order)
        found = Bundles(store, sizes, awaited)
        sealed = {}
        for number in order:
            bundle = found.get(number)
            assert (bundle is None) == (number == 1)
            if bundle is not None and number != 2:
                sealed[number] = bundle.add(number, b"%d" % number)
            found.done(number)
        texts.add(tuple(sealed[number].seal() for number in sorted(sealed)))
    assert len(texts) == 1
    ((first, *_),) = texts
    assert first[0].size == 1, "2 got nothing, and 25 is of another group"


# Storing anew


class History:
    """A group of tensors, each stored as a chain of ranges, over many versions."""

    def __init__(self, count: int, share: float, seed: int) -> None:
        self.random = random.Random(seed)
        self.lines: dict[int, list[tuple[int, int, int]]] = {}
        self.count, self.share = count, share
        self.sizes: dict[int, int] = {}
        self.number = 0
        self.commit(range(count))

    def chain(self, number: int) -> Sequence[Link]:
        return [
            Link("dense", (ObjectRange(f"{bundle:064x}", self.sizes[bundle], offset, length),))
            for bundle, offset, length in self.lines.get(number, ())
        ]

    def commit(self, changed: Sequence[int] | range) -> None:
        lines: dict[int, list[tuple[int, int, int]]] = {}
        needed = {number: self.chain(number) for number in range(self.count)}
        new: dict[int, int] = {}
        for number in changed:
            chain = self.lines.get(number, [])
            base = len(chain) in range(1, 8) and self.random.random() < 0.7
            needed[number] = needed[number] if base else ()
            new[number] = 300 if base else 800
            lines[number] = chain if base else []
        for number in to_store_anew(needed, new):
            lines[number], new[number] = [], 800
        self.number += 1
        end = 0
        for number in sorted(lines):
            self.lines[number] = [(self.number, end, new[number]), *lines[number]]
            end += new[number]
        self.sizes[self.number] = end

    def fetched(self) -> float:
        """What a clone fetches for the tensors, by what it needs."""
        used = {place for line in self.lines.values() for place in line}
        return sum(self.sizes[bundle] for bundle in {place[0] for place in used}) / sum(
            length for _, _, length in used
        )


@pytest.mark.parametrize("share", [0.01, 0.05, 0.2, 0.5, 1.0])
def test_a_clone_never_fetches_much_more_than_it_needs(share: float) -> None:
    history = History(200, share, 1)
    worst, stored = 0.0, 0
    for _ in range(100):
        count = max(1, round(share * history.count))
        history.commit(sorted(history.random.sample(range(history.count), count)))
        worst = max(worst, history.fetched())
        stored += count * 560  # seven of ten of them as 300 bytes, others as 800: without bundles
    assert worst <= 1.5
    assert sum(history.sizes.values()) <= 1.3 * (stored + 200 * 800)


def test_nothing_is_stored_anew_where_all_is_needed() -> None:
    link = Link("dense", (ObjectRange("0" * 64, 100, 0, 50),))
    other = Link("dense", (ObjectRange("0" * 64, 100, 50, 50),))
    assert to_store_anew({0: [link], 1: [other]}, {}) == set()
    assert to_store_anew({0: [link]}, {}) == {0}
    assert to_store_anew({0: [link]}, {5: 300}) == set(), "beside so much it hardly counts"
    assert to_store_anew({}, {}) == set()
