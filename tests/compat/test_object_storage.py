"""Object storage as the place of a remote's objects: S3's protocol (moto), a plain web server, a
folder.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import serving
import sharing
from gitrepo import Repo
from serving import Bucket
from sharing import World, changed, model, needed_by

pytest.importorskip("moto", reason="moto serves S3's protocol")
pytest.importorskip("flask_cors", reason="moto's server needs it")

SECRET = "not-to-be-written-anywhere"


@pytest.fixture(scope="module")
def s3() -> Iterator[int]:
    with serving.s3() as port:
        yield port


@pytest.fixture
def bucket(s3: int, request: pytest.FixtureRequest) -> Bucket:
    """A new bucket."""
    made = Bucket(s3, f"models-{hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:20]}")
    made.request("PUT")
    return made


@pytest.fixture
def world(tmp_path: Path, environment: Mapping[str, str]) -> World:
    """A remote whose folder holds no objects, and an environment that has no git-lfs but
    credentials.
    """
    more = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    return World(
        tmp_path, {**sharing.with_program(environment, tmp_path / "bin"), **more}, server=False
    )


@pytest.fixture
def one(world: World) -> Repo:
    """A repository with a model and a remote."""
    repo = world.start()
    repo.commit("first", model__safetensors=model(1))
    return repo


def fetched_by(world: World, name: str, url: str, *options: str) -> Repo:
    return world.clone(name, "-c", f"remote.origin.thetaUrl={url}", *options)


def test_push_clone_and_pull_over_s3(world: World, one: Repo, bucket: Bucket) -> None:
    url = bucket.url("some/project")
    one.theta("remote", "set", "origin", url)
    one.git("push", "-q", "-u", "origin", "main")
    assert set(bucket.keys()) == needed_by(one, "HEAD") == one.object_ids()
    assert all(
        key == f"some/project/{oid[:2]}/{oid[2:4]}/{oid}" for oid, key in bucket.keys().items()
    )
    assert world.objects() == set()
    two = fetched_by(world, "two", url)
    assert two.read("model.safetensors") == model(1)
    two.assert_clean()
    two.commit("second", model__safetensors=changed(model(1), 2, 3))
    two.git("push", "-q", "origin", "main")
    one.git("pull", "-q", "--ff-only")
    assert one.read("model.safetensors") == changed(model(1), 2, 3)
    one.assert_clean()
    for repo in (one, two):
        repo.theta("fsck", "--remote")
        assert SECRET not in "".join(
            path.read_text("latin-1") for path in repo.common.rglob("*") if path.is_file()
        )


def test_nothing_that_is_there_is_sent_or_fetched_again(
    world: World, one: Repo, bucket: Bucket
) -> None:
    with serving.proxy(bucket.port) as between:
        one.theta("remote", "set", "origin", bucket.url("p", between.port))
        one.git("push", "-q", "origin", "main")
        assert between.count("PUT") == len(one.object_ids())
        one.theta("push", "--all")
        assert between.count("PUT") == len(one.object_ids())
        one.commit("second", model__safetensors=changed(model(1), 0, 4))
        new = needed_by(one, "HEAD") - needed_by(one, "HEAD~1")
        between.seen.clear()
        one.git("push", "-q", "origin", "main")
        assert between.count("PUT") == len(new)


def test_a_bucket_that_is_new_gets_whatever_the_pushed_commit_needs(
    world: World, one: Repo, bucket: Bucket
) -> None:
    one.git("push", "-q", "origin", "main")  # into the remote's own folder
    one.theta("remote", "set", "origin", bucket.url("p"))
    one.commit("second", model__safetensors=changed(model(1), 2, 3))
    one.git("push", "-q", "origin", "main")
    assert set(bucket.keys()) == needed_by(one, "HEAD")
    shutil.rmtree(world.remote / "theta")
    assert fetched_by(world, "two", bucket.url("p")).read("model.safetensors") == changed(
        model(1), 2, 3
    )


def in_three_objects(one: Repo) -> bytes:
    """Two commits more; the model then lies in an object of each."""
    data = model(1)
    for number in range(2):
        data = changed(data, number, 100 + number)
        one.commit(f"changed {number}", model__safetensors=data)
    assert len(needed_by(one, "HEAD")) == 3
    return data


def test_an_interrupted_push_goes_on_where_it_stopped(
    world: World, one: Repo, bucket: Bucket
) -> None:
    in_three_objects(one)
    with serving.proxy(bucket.port) as between:
        one.theta("remote", "set", "origin", bucket.url("p", between.port))
        between.fault = lambda method, path, number: (
            "403" if method == "PUT" and between.count("PUT") > 1 else ""
        )
        said = one.git_fails("push", "origin", "main")
        assert "could not be delivered" in said
        assert world.refs() == ""
        arrived = len(bucket.keys())
        assert arrived == 1
        between.fault = lambda method, path, number: ""
        between.seen.clear()
        one.git("push", "-q", "origin", "main")
        assert between.count("PUT") == len(one.object_ids()) - arrived
    assert set(bucket.keys()) == one.object_ids()


def test_an_interrupted_fetch_goes_on_where_it_stopped(
    world: World, one: Repo, bucket: Bucket
) -> None:
    data = in_three_objects(one)
    one.theta("remote", "set", "origin", bucket.url("p"))
    one.git("push", "-q", "origin", "main")
    with serving.proxy(bucket.port) as between:
        two = fetched_by(world, "two", bucket.url("p", between.port), "--no-checkout")
        between.fault = lambda method, path, number: "403" if number > 2 else ""
        two.git_fails("checkout", "-f", "main")
        assert len(two.objects()) == 2
        assert not (two.path / "model.safetensors").exists()
        between.fault = lambda method, path, number: ""
        between.seen.clear()
        two.git("checkout", "-q", "-f", "main")
        assert between.count("GET") == len(one.object_ids()) - 2
    assert two.read("model.safetensors") == data
    two.assert_clean()


@pytest.mark.parametrize("fault", ["503", "cut", "slow"])
def test_a_fault_that_passes_is_got_over(
    world: World, one: Repo, bucket: Bucket, fault: str
) -> None:
    data = in_three_objects(one)
    with serving.proxy(bucket.port) as between:
        url = bucket.url("p", between.port)
        one.theta("remote", "set", "origin", url)
        between.fault = lambda method, path, number: fault if number in (2, 9) else ""
        one.git("push", "-q", "origin", "main")
        assert set(bucket.keys()) == one.object_ids()
        between.seen.clear()
        assert fetched_by(world, "two", url).read("model.safetensors") == data
        assert len(between.seen) >= 2


def test_wrong_bytes_on_the_way_or_in_the_bucket_are_never_stored(
    world: World, one: Repo, bucket: Bucket
) -> None:
    one.theta("remote", "set", "origin", bucket.url("p"))
    one.git("push", "-q", "origin", "main")
    victim, key = sorted(bucket.keys().items())[0]
    good = bucket.request("GET", key)
    two = fetched_by(world, "two", bucket.url("p"), "--no-checkout")
    for bad in (good[:-1] + bytes([good[-1] ^ 1]), good[:-1], b""):
        bucket.request("PUT", key, bad)
        said = two.git_fails("checkout", "-f", "main")
        assert victim in said
        assert "model.safetensors" in said
        assert two.object_ids() == one.object_ids() - {victim}
        assert two.leftovers() == []
        report = one.theta_run("fsck", "--remote")
        assert report.returncode != 0
        assert victim.encode() in report.stdout + report.stderr
        assert b"damaged" in report.stdout + report.stderr
    bucket.request("PUT", key, good)
    two.git("checkout", "-q", "-f", "main")
    two.assert_clean()


def test_what_is_missing_is_named_and_can_be_sent_again(
    world: World, one: Repo, bucket: Bucket
) -> None:
    url = bucket.url("p")
    one.theta("remote", "set", "origin", url)
    one.git("push", "-q", "origin", "main")
    victim, key = sorted(bucket.keys().items())[0]
    bucket.request("DELETE", key)
    two = fetched_by(world, "two", url, "--no-checkout")
    said = two.git_fails("checkout", "-f", "main")
    assert victim in said
    assert "missing" in said
    report = one.theta_run("fsck", "--remote")
    assert report.returncode != 0
    assert b"missing" in report.stdout + report.stderr
    one.theta("push", "--all")
    two.git("checkout", "-q", "-f", "main")
    assert two.read("model.safetensors") == model(1)


def test_only_what_the_bucket_is_seen_to_have_is_pruned(
    world: World, one: Repo, bucket: Bucket
) -> None:
    one.theta("remote", "set", "origin", bucket.url("p"))
    one.commit("second", model__safetensors=model(103))
    one.git("push", "-q", "origin", "main")
    old = needed_by(one, "HEAD~1") - needed_by(one, "HEAD")
    bucket.request("DELETE", bucket.keys()[next(iter(old))])
    one.theta("prune", "--verify-remote", "--now")
    assert one.object_ids() == needed_by(one, "HEAD", "HEAD~1")
    one.theta("push", "--all")
    one.theta("prune", "--verify-remote", "--now")
    assert one.object_ids() == needed_by(one, "HEAD")
    one.git("checkout", "-q", "HEAD~1")
    assert one.read("model.safetensors") == model(1)


def test_a_bucket_that_is_not_there_gets_no_ref(world: World, one: Repo, bucket: Bucket) -> None:
    one.theta(
        "remote", "set", "origin", f"s3://no-such-bucket/p?endpoint=http://127.0.0.1:{bucket.port}"
    )
    said = one.git_fails("push", "origin", "main")
    assert "NoSuchBucket" in said
    assert world.refs() == ""


def test_a_folder_and_a_web_server_of_it(world: World, one: Repo) -> None:
    folder = world.folder / "a folder"
    said = one.theta_run("remote", "set", "origin", folder.as_uri())
    assert b"there is no folder" in said.stderr
    folder.mkdir()
    one.theta("remote", "set", "origin", folder.as_uri())
    one.git("push", "-q", "origin", "main")
    there = {path.name for path in folder.glob("??/??/*")}
    assert there == one.object_ids()
    assert not [path for path in (folder / ".git-theta").rglob("*") if path.is_file()]
    assert fetched_by(world, "two", folder.as_uri()).read("model.safetensors") == model(1)
    with serving.files(world.folder) as port:
        url = f"http://127.0.0.1:{port}/a%20folder/"
        three = fetched_by(world, "three", url)
        assert three.read("model.safetensors") == model(1)
        three.assert_clean()
        three.git("commit", "-q", "--allow-empty", "-m", "no new objects")
        three.git("push", "-q", "origin", "main")
        before = world.refs()
        three.commit("second", model__safetensors=changed(model(1), 1, 101))
        assert "read-only" in three.git_fails("push", "origin", "main")
        assert world.refs() == before
    folder.rename(world.folder / "unmounted")
    one.commit("third", model__safetensors=changed(model(1), 1, 102))
    assert "mount it" in one.git_fails("push", "-f", "origin", "main")
    assert not folder.exists()


def test_a_mirror_is_asked_first_and_pushes_go_past_it(
    world: World, one: Repo, bucket: Bucket
) -> None:
    one.git("push", "-q", "origin", "main")  # into the remote's own folder
    one.theta("remote", "set", "origin", bucket.url("mirror"))
    one.theta("push", "--all")
    kept = len(bucket.keys())
    with serving.proxy(bucket.port) as between:
        url = bucket.url("mirror", between.port)
        main = bucket.url("main")
        two = world.clone("two", "-c", f"remote.origin.thetaUrl={main}", "--no-checkout")
        shutil.rmtree(world.remote / "theta")
        two.theta("remote", "set", "origin", url, "--mirror")
        assert f"origin  {url}" in two.theta("remote").decode()
        two.git("checkout", "-q", "-f", "main")
        assert between.count("GET") == kept
        assert two.read("model.safetensors") == model(1)
        two.commit("second", model__safetensors=changed(model(1), 1, 101))
        two.git("push", "-q", "origin", "main")
        assert between.count("PUT") == 0
        assert len([key for key in bucket.keys().values() if key.startswith("main/")]) > 0
        # A mirror that is down or behind costs nothing but time.
        between.fault = lambda method, path, number: "403"
        one.theta("remote", "set", "origin", main)
        one.git("pull", "-q", "--ff-only", "origin", "main")
        assert one.read("model.safetensors") == changed(model(1), 1, 101)


def test_a_url_that_the_repository_brings_waits_for_consent(
    world: World, one: Repo, bucket: Bucket
) -> None:
    with serving.proxy(bucket.port) as between:
        url = bucket.url("p", between.port)
        one.theta("remote", "set", "origin", url, "--share")
        one.git("add", ".thetaconfig")
        one.git("commit", "-qm", "where the objects are")
        one.git("push", "-q", "origin", "main")
        between.seen.clear()
        assert "git theta remote confirm" in Repo(world.folder, world.environment).git_fails(
            "clone", "-q", world.url, "refused"
        )
        two = world.clone("two", GIT_THETA_SKIP_SMUDGE="1")
        said = two.theta_run("pull").stderr.decode()
        assert "git theta remote confirm" in said
        assert between.seen == []
        assert "not confirmed" in two.theta("remote", "list").decode()
        two.commit("own", other__safetensors=model(2))
        assert "git theta remote confirm" in two.git_fails("push", "origin", "HEAD:refs/heads/mine")
        assert between.seen == []
        assert b"Agreed" in two.theta("remote", "confirm", "--yes")
        assert b"Nothing to confirm" in two.theta("remote", "confirm")
        two.theta("pull")
        assert two.read("model.safetensors") == model(1)
        # Another URL is another question.
        two.write(
            ".thetaconfig", f"[theta]\n\turl = {bucket.url('elsewhere', between.port)}\n".encode()
        )
        between.seen.clear()
        two.commit("more", third__safetensors=model(3))
        assert "confirm" in two.git_fails("push", "origin", "HEAD:refs/heads/mine")
        assert between.seen == []


def test_list_set_and_remove(world: World, one: Repo) -> None:
    assert "its own folder" in one.theta("remote").decode()
    for bad, why in (
        ("ftp://x/y", "must start with"),
        ("s3://user:pw@bucket/p", "no user name or password"),
        ("s3://b/p", "no bucket"),
        ("s3://bucket/../p", "leads out"),
    ):
        done = one.theta_run("remote", "set", "origin", bad)
        assert done.returncode != 0
        assert why in done.stderr.decode()
        assert "pw" not in done.stderr.decode()
    assert b"there is no remote" in one.theta_run("remote", "set", "nobody", "s3://models/p").stderr
    one.theta("remote", "set", "origin", "s3://models/p")
    one.theta("remote", "set", "origin", "gs://models/p")
    one.theta("remote", "set", "origin", "https://mirror.example.com/p", "--mirror")
    listed = one.theta("remote", "list").decode()
    assert "gs://models/p" in listed
    assert "s3://models/p" not in listed
    assert listed.index("mirror.example.com") < listed.index("gs://")
    one.theta("remote", "remove", "origin", "https://mirror.example.com/p")
    assert "mirror" not in one.theta("remote").decode()
    one.theta("remote", "remove", "origin")
    assert "its own folder" in one.theta("remote").decode()
    assert one.theta_run("remote", "remove", "origin").returncode != 0
    assert "theta" not in one.git("config", "--local", "--list").decode()


@pytest.mark.skipif(shutil.which("git-lfs") is None, reason="git-lfs is not installed")
@pytest.mark.parametrize("kind", ["s3", "folder"])
def test_ordinary_lfs_files_beside_models(
    world: World, one: Repo, bucket: Bucket, kind: str
) -> None:
    (world.folder / "shared").mkdir()
    url = bucket.url("p") if kind == "s3" else (world.folder / "shared").as_uri()
    config = world.folder / "gitconfig"
    config.write_text(
        Path(world.environment["GIT_CONFIG_GLOBAL"]).read_text()
        + "[lfs]\n\tconcurrentTransfers = 2\n"
    )
    world.environment["GIT_CONFIG_GLOBAL"] = str(config)
    one = Repo(one.path, world.environment)
    one.git("lfs", "install", "--skip-repo")
    one.git("lfs", "track", "*.dat")
    one.git("add", ".gitattributes")
    one.commit("data", big__dat=bytes(range(256)) * 1000, empty__dat=b"", small__dat=b"small")
    one.theta("remote", "set", "origin", url, "--with-lfs")
    one.git("push", "-q", "origin", "main")
    there = (
        set(bucket.keys())
        if kind == "s3"
        else {path.name for path in (world.folder / "shared").glob("??/??/*")}
    )
    assert there == one.object_ids() | {
        hashlib.sha256(data).hexdigest() for data in (bytes(range(256)) * 1000, b"small")
    }
    two = world.clone("two", "-c", f"remote.origin.thetaUrl={url}", "--no-checkout")
    two.theta("remote", "set", "origin", url, "--with-lfs")
    two.git("checkout", "-q", "-f", "main")
    assert two.read("big.dat") == bytes(range(256)) * 1000
    assert two.read("model.safetensors") == model(1)
    assert two.status() == ""
    # What is damaged there does not get through, and is named.
    victim = hashlib.sha256(b"small").hexdigest()
    if kind == "s3":
        bucket.request("PUT", bucket.keys()[victim], b"smalL")
    else:
        path = world.folder / "shared" / victim[:2] / victim[2:4] / victim
        path.chmod(0o644)
        path.write_bytes(b"smalL")
    three = world.clone("three", "-c", f"remote.origin.thetaUrl={url}", "--no-checkout")
    three.theta("remote", "set", "origin", url, "--with-lfs")
    said = three.git_fails("checkout", "-f", "main")
    assert victim in said
    assert "damaged there" in said
    assert not list(three.common.glob(f"lfs/objects/*/*/{victim}"))
    assert not list(three.common.glob(f"lfs/tmp/{victim}*"))
    one.theta("remote", "remove", "origin")
    assert "transferagent" not in one.git("config", "--local", "--list").decode()
