"""MovieLens-100k as Criteo-shaped rows: 13 dense features and 26 ids per (user, movie, moment).

The data is read out of the recbole 1.2.1 wheel, which carries it as three tab-separated files; none of it is kept in
this repository. Training and the example client both encode through this module, so they cannot disagree.
"""

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int32]
Times = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

WHEEL = "recbole-1.2.1-py3-none-any.whl"
FILES = "recbole/dataset_example/ml-100k/ml-100k"
LIKED_STARS_MIN = 4.0
GENRES = (
    *("Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy"),
    *("Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
SPARSE = (
    *("user", "movie", "gender", "occupation", "zip3", "year", "hour", "weekday"),
    *(f"genre_{genre}" for genre in GENRES),
)
COUNTED = ("user", "movie")
RATED = ("user", "movie", "occupation", "zip3", "year")
DENSE = (
    *("age", "year", "genres", "title_length", "hour", "day"),
    *(f"log_count_{name}" for name in COUNTED),
    *(f"like_rate_{name}" for name in RATED),
)
# Every constant below is fixed, not fitted: a mean over the training rows would carry each row's own label.
DENSE_CENTRE = np.array([35, 1985, 2, 18, 12, 107, 4, 4, *[0.55] * 5], dtype=np.float32)
DENSE_SCALE = np.array([12, 15, 1, 10, 7, 60, 1, 1, *[0.2] * 5], dtype=np.float32)
# A group with no rating is a coin toss, and four ratings outweigh that belief.
PRIOR_RATE, PRIOR_RATINGS = np.float32(0.5), np.float32(4)
# The year of a movie that has none: the middle of the feature's range.
YEAR_UNKNOWN = 1985
# The first rating: days are counted from 1997-09-20.
FIRST_RATING_S = 874_724_710


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Who and what can be scored. All ids are dense indices from 0.

    `user_ids` is [users, 4] (user, gender, occupation, zip3); `movie_ids` is [movies, 2 + 18] (movie, year, genre
    flags); `user_dense` is [users, 1] and `movie_dense` [movies, 3], not yet scaled. `rows` has one table size per name
    in `SPARSE`.
    """

    users: dict[str, int]
    titles: tuple[str, ...]
    user_ids: Ids
    user_dense: Floats
    movie_ids: Ids
    movie_dense: Floats
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Ratings:
    """Who rated what, when (Unix seconds), and whether with four stars or more; four arrays of [n]."""

    user: Ids
    movie: Ids
    time_s: Times
    liked: Flags

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: npt.NDArray[np.int64]) -> "Ratings":
        """The given rows, in the given order."""
        return Ratings(self.user[rows], self.movie[rows], self.time_s[rows], self.liked[rows])


@dataclass(frozen=True, slots=True)
class Statistics:
    """How often each value of each feature in `RATED` was rated, and how often liked: float32 [table rows] each."""

    count: dict[str, Floats]
    likes: dict[str, Floats]


@dataclass(frozen=True, slots=True)
class Split:
    """Three disjoint parts: `fit` is learnt from, `validation` chooses the epoch, `test` is only reported."""

    fit: Ratings
    validation: Ratings
    test: Ratings


def download_wheel() -> Path:
    """The recbole 1.2.1 wheel (2.1 MB), which pip fetches once into the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "narsil-graph"
    if not (cache / WHEEL).exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        subprocess.run([*command, "--dest", str(cache), "recbole==1.2.1"], check=True)
    return cache / WHEEL


def read_wheel(wheel: Path) -> tuple[Catalogue, Ratings]:
    """The catalogue and all ratings, in the file's order."""
    with zipfile.ZipFile(wheel) as archive:
        users, movies, ratings = (_read_table(archive, kind) for kind in ("user", "item", "inter"))
    movie_index = {row[0]: index for index, row in enumerate(movies)}
    catalogue = _build_catalogue(users, movies)
    return catalogue, Ratings(
        user=np.array([catalogue.users[row[0]] for row in ratings], dtype=np.int32),
        movie=np.array([movie_index[row[1]] for row in ratings], dtype=np.int32),
        time_s=np.array([int(row[3]) for row in ratings], dtype=np.int64),
        liked=np.array([float(row[2]) >= LIKED_STARS_MIN for row in ratings], dtype=np.bool_),
    )


def split_randomly(ratings: Ratings, *, seed: int) -> Split:
    """80 % train, of which a tenth validates, and 20 % test, drawn by `seed`."""
    return _cut(ratings, np.random.default_rng(seed).permutation(len(ratings)))


def split_by_time(ratings: Ratings) -> Split:
    """The same shares in the order of time: many users of the test part were never seen before."""
    return _cut(ratings, np.argsort(ratings.time_s, kind="stable"))


def measure(catalogue: Catalogue, fit: Ratings) -> Statistics:
    """Counts and likes over the training rows, the only rows that may be looked at."""
    count: dict[str, Floats] = {}
    likes: dict[str, Floats] = {}
    ids = _encode_ids(catalogue, fit.user, fit.movie, fit.time_s)
    for name in RATED:
        column, size = ids[:, SPARSE.index(name)], catalogue.rows[SPARSE.index(name)]
        count[name] = np.bincount(column, minlength=size).astype(np.float32)
        likes[name] = np.bincount(column[fit.liked], minlength=size).astype(np.float32)
    return Statistics(count, likes)


def encode(
    catalogue: Catalogue,
    statistics: Statistics,
    *,
    user: Ids,
    movie: Ids,
    time_s: Times,
    counted_likes: Flags | None = None,
) -> tuple[Floats, Ids]:
    """Dense float32 [n, 13] and ids int32 [n, 26] of n (user, movie, Unix second) triples.

    `counted_likes` is given for rows that `statistics` has counted: each is taken out again (leave-one-out), so that no
    row sees its own label. Left out, nothing is taken out.
    """
    ids = _encode_ids(catalogue, user, movie, time_s)
    own_count = np.float32(counted_likes is not None)
    own_likes = np.zeros(len(user), np.float32) if counted_likes is None else counted_likes.astype(np.float32)
    counts: dict[str, Floats] = {}
    rates: dict[str, npt.NDArray[Any]] = {}
    for name in RATED:
        column = ids[:, SPARSE.index(name)]
        counts[name] = statistics.count[name][column] - own_count
        likes = statistics.likes[name][column] - own_likes
        rates[name] = (likes + PRIOR_RATE * PRIOR_RATINGS) / (counts[name] + PRIOR_RATINGS)
    columns: list[npt.NDArray[Any]] = [
        catalogue.user_dense[user],
        catalogue.movie_dense[movie],
        ids[:, [SPARSE.index("hour")]],
        ((time_s - FIRST_RATING_S) // 86_400)[:, None],
        *(np.log1p(counts[name])[:, None] for name in COUNTED),
        *(rates[name][:, None] for name in RATED),
    ]
    dense = np.concatenate(columns, axis=1).astype(np.float32)
    return (dense - DENSE_CENTRE) / DENSE_SCALE, ids


def auc(liked: Flags, scores: Floats) -> float:
    """The chance that a liked row is scored above another one, ties counting a half; both arrays are [n]."""
    _, place, ties = np.unique(scores, return_inverse=True, return_counts=True)
    rank = (np.cumsum(ties) - (ties - 1) / 2)[place]
    positives = int(liked.sum())
    above = rank[liked].sum() - positives * (positives + 1) / 2
    return float(above / (positives * (len(liked) - positives)))


def _read_table(archive: zipfile.ZipFile, kind: str) -> list[list[str]]:
    lines = archive.read(f"{FILES}.{kind}").decode().splitlines()
    return [line.split("\t") for line in lines[1:]]


def _build_catalogue(users: list[list[str]], movies: list[list[str]]) -> Catalogue:
    years = [int(row[2]) if row[2].isdigit() else YEAR_UNKNOWN for row in movies]
    genres = [row[3].split() for row in movies]
    genders, gender_count = _index(row[2] for row in users)
    occupations, occupation_count = _index(row[3] for row in users)
    zips, zip_count = _index(row[4][:3] for row in users)
    year_ids, year_count = _index(str(year) for year in years)
    flags = [[int(genre in names) for genre in GENRES] for names in genres]
    user_columns = [range(len(users)), genders, occupations, zips]
    return Catalogue(
        users={row[0]: index for index, row in enumerate(users)},
        titles=tuple(row[1] for row in movies),
        user_ids=np.array(user_columns, dtype=np.int32).T,
        user_dense=np.array([[float(row[1])] for row in users], dtype=np.float32),
        movie_ids=np.column_stack([np.arange(len(movies)), year_ids, flags]).astype(np.int32),
        movie_dense=np.array(
            [[year, len(names), len(row[1])] for year, names, row in zip(years, genres, movies, strict=True)],
            dtype=np.float32,
        ),
        rows=(
            *(len(users), len(movies), gender_count, occupation_count, zip_count, year_count, 24, 7),
            *[2] * len(GENRES),
        ),
    )


def _index(values: Iterable[str]) -> tuple[list[int], int]:
    """Each value's place among the sorted distinct values, and how many there are."""
    listed = list(values)
    places = {value: place for place, value in enumerate(sorted(set(listed)))}
    return [places[value] for value in listed], len(places)


def _encode_ids(catalogue: Catalogue, user: Ids, movie: Ids, time_s: Times) -> Ids:
    user_ids, movie_ids = catalogue.user_ids[user], catalogue.movie_ids[movie]
    # 1970-01-01 was a Thursday, the fourth day of a week that starts on Monday.
    clock = np.column_stack([time_s // 3_600 % 24, (time_s // 86_400 + 3) % 7])
    by_name: list[npt.NDArray[Any]] = [
        user_ids[:, :1],
        movie_ids[:, :1],
        user_ids[:, 1:],
        movie_ids[:, 1:2],
        clock,
        movie_ids[:, 2:],
    ]
    return np.ascontiguousarray(np.concatenate(by_name, axis=1).astype(np.int32))


def _cut(ratings: Ratings, order: npt.NDArray[np.int64]) -> Split:
    fit, train = len(order) * 72 // 100, len(order) * 80 // 100
    return Split(ratings.take(order[:fit]), ratings.take(order[fit:train]), ratings.take(order[train:]))
