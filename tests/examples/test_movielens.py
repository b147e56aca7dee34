"""The data module on a synthetic wheel: shapes, ranges, and that no row sees its own label."""

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from examples import movielens
from examples.movielens import Catalogue, Floats, Ids, Ratings, Split
from narsil_graph.model import weights

USERS, MOVIES, RATINGS = 12, 20, 200
DEMO = Path(weights.__file__).with_name("demo.safetensors")


def write_wheel(path: Path) -> Path:
    """A zip with the three files of the real wheel, drawn from a fixed seed."""
    draw = np.random.default_rng(5)
    users = [f"{u + 1}\t{20 + u}\t{'MF'[u % 2]}\tjob{u % 3}\t{u % 4}23{u}" for u in range(USERS)]
    movies = [f"{m + 1}\tTitle {m}\t{1950 + m}\t{movielens.GENRES[m % 18]} War" for m in range(MOVIES)]
    movies[0] = "1\tNo year\tV\tunknown"
    ratings = [
        f"{draw.integers(USERS) + 1}\t{draw.integers(MOVIES) + 1}\t{draw.integers(1, 6)}\t{874_724_710 + 3_000 * r}"
        for r in draw.permutation(RATINGS)
    ]
    with zipfile.ZipFile(path, "w") as archive:
        for kind, lines in (("user", users), ("item", movies), ("inter", ratings)):
            archive.writestr(f"{movielens.FILES}.{kind}", "\n".join(["header", *lines]) + "\n")
    return path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wheel(tmp_path_factory.mktemp("wheel") / "tiny.whl")


@pytest.fixture(scope="module")
def catalogue(wheel: Path) -> Catalogue:
    return movielens.read_wheel(wheel)[0]


@pytest.fixture(scope="module")
def ratings(wheel: Path) -> Ratings:
    return movielens.read_wheel(wheel)[1]


def flip(part: Ratings, row: int) -> Ratings:
    liked = part.liked.copy()
    liked[row] = not liked[row]
    return replace(part, liked=liked)


def encode_fit(catalogue: Catalogue, fit: Ratings) -> tuple[Floats, Ids]:
    statistics = movielens.measure(catalogue, fit)
    return movielens.encode(
        catalogue, statistics, user=fit.user, movie=fit.movie, time_s=fit.time_s, counted_likes=fit.liked
    )


def encode_test(catalogue: Catalogue, split: Split) -> tuple[Floats, Ids]:
    statistics = movielens.measure(catalogue, split.fit)
    test = split.test
    return movielens.encode(catalogue, statistics, user=test.user, movie=test.movie, time_s=test.time_s)


def test_rows_are_criteo_shaped(catalogue: Catalogue, ratings: Ratings) -> None:
    dense, ids = encode_fit(catalogue, ratings)
    assert dense.dtype == np.float32 and dense.shape == (RATINGS, 13)
    assert ids.dtype == np.int32 and ids.shape == (RATINGS, 26)
    assert (len(movielens.DENSE), len(movielens.SPARSE), len(catalogue.rows)) == (13, 26, 26)


def test_ids_fit_their_tables(catalogue: Catalogue, ratings: Ratings) -> None:
    _, ids = encode_fit(catalogue, ratings)
    assert ids.min() == 0
    assert (ids.max(axis=0) < catalogue.rows).all()


def test_each_id_column_holds_what_its_name_says(catalogue: Catalogue) -> None:
    user, movie = np.array([2], np.int32), np.array([1], np.int32)
    # 1997-09-20 03:05:10 UTC, a Saturday.
    time_s = np.array([874_724_710], np.int64)
    statistics = movielens.measure(catalogue, Ratings(user, movie, time_s, np.array([True])))
    _, ids = movielens.encode(catalogue, statistics, user=user, movie=movie, time_s=time_s)
    named = dict(zip(movielens.SPARSE, ids[0].tolist(), strict=True))
    expected = {"user": 2, "movie": 1, "gender": 1, "occupation": 2, "zip3": 2, "year": 0, "hour": 3, "weekday": 5}
    assert {name: named[name] for name in expected} == expected
    genres = {name for name, flag in named.items() if name.startswith("genre_") and flag}
    assert genres == {"genre_Adventure", "genre_War"}


def test_dense_values_are_finite_and_near_unit_scale(catalogue: Catalogue, ratings: Ratings) -> None:
    dense, _ = encode_fit(catalogue, ratings)
    assert np.isfinite(dense).all()
    assert np.abs(dense).max() < 10


def test_split_parts_are_disjoint_and_cover_everything(ratings: Ratings) -> None:
    split = movielens.split_randomly(ratings, seed=0)
    parts = (split.fit, split.validation, split.test)
    assert [len(part) for part in parts] == [144, 16, 40]
    assert sorted(np.concatenate([part.time_s for part in parts])) == sorted(ratings.time_s)


def test_random_split_is_a_function_of_its_seed(ratings: Ratings) -> None:
    first, again, other = (movielens.split_randomly(ratings, seed=seed).test.time_s for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_temporal_split_never_trains_on_the_future(ratings: Ratings) -> None:
    split = movielens.split_by_time(ratings)
    assert split.fit.time_s.max() < split.validation.time_s.min()
    assert split.validation.time_s.max() < split.test.time_s.min()


def test_no_label_outside_the_fit_part_reaches_a_feature(catalogue: Catalogue, ratings: Ratings) -> None:
    dense, ids = encode_test(catalogue, movielens.split_randomly(ratings, seed=0))
    order = np.random.default_rng(0).permutation(RATINGS)
    for row in order[RATINGS * 72 // 100 :]:
        flipped = encode_test(catalogue, movielens.split_randomly(flip(ratings, row), seed=0))
        assert np.array_equal(dense, flipped[0])
        assert np.array_equal(ids, flipped[1])


def test_train_row_never_sees_its_own_label(catalogue: Catalogue, ratings: Ratings) -> None:
    dense, ids = encode_fit(catalogue, ratings)
    for row in range(RATINGS):
        flipped_dense, flipped_ids = encode_fit(catalogue, flip(ratings, row))
        assert np.array_equal(dense[row], flipped_dense[row])
        assert np.array_equal(ids[row], flipped_ids[row])


def test_train_label_does_reach_other_rows_of_its_user(catalogue: Catalogue, ratings: Ratings) -> None:
    dense, _ = encode_fit(catalogue, ratings)
    flipped, _ = encode_fit(catalogue, flip(ratings, 0))
    others = np.flatnonzero(ratings.user == ratings.user[0])[1:]
    column = movielens.DENSE.index("like_rate_user")
    assert len(others) > 0
    assert (dense[others, column] != flipped[others, column]).all()


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.1, 0.2, 0.3, 0.4], 0.75),
        ([0.5, 0.5, 0.5, 0.5], 0.5),
        ([0.1, 0.9, 0.2, 0.9], 1.0),
        ([0.3, 0.3, 0.1, 0.9], 0.875),
    ],
)
def test_auc_counts_the_pairs_in_order(scores: list[float], expected: float) -> None:
    liked = np.array([False, True, False, True])
    assert movielens.auc(liked, np.array(scores, np.float32)) == expected


def test_demo_model_takes_the_features_that_are_encoded_here() -> None:
    spec = weights.load_model(DEMO).spec
    assert spec.dense_features == movielens.DENSE
    assert tuple(feature.name for feature in spec.sparse_features) == movielens.SPARSE


def test_demo_model_is_small() -> None:
    assert DEMO.stat().st_size < 400_000
