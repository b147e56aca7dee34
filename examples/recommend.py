"""Recommend ten movies: score every movie that a user has not rated, on a running server that serves the demo model.

Run ``narsil-graph serve`` in one shell and ``python -m examples.recommend 196`` in another, both from the repository's
root. This client needs no torch.
"""

import argparse
from pathlib import Path

import numpy as np

from examples import movielens
from examples.movielens import Catalogue, Floats, Ids, Ratings
from narsil_client import Client

# The demo model was trained on this split: the like rates that it was shown are recomputed from the same rows.
DEMO_SEED = 0


def gather_candidates(catalogue: Catalogue, ratings: Ratings, user: int) -> tuple[Ids, Floats, Ids]:
    """The movies [n] that `user` has not rated, and their dense [n, 13] and ids [n, 26] as of the user's last visit."""
    statistics = movielens.measure(catalogue, movielens.split_randomly(ratings, seed=DEMO_SEED).fit)
    own = ratings.user == user
    movies = np.setdiff1d(np.arange(len(catalogue.titles), dtype=np.int32), ratings.movie[own])
    dense, ids = movielens.encode(
        catalogue,
        statistics,
        user=np.full(len(movies), user, dtype=np.int32),
        movie=movies,
        time_s=np.full(len(movies), ratings.time_s[own].max(), dtype=np.int64),
    )
    return movies, dense, ids


def main() -> None:
    """Print the ten titles with the highest scores."""
    parser = argparse.ArgumentParser(description="Recommend ten movies to a MovieLens-100k user.")
    parser.add_argument("user", help="a user id of the data set, 1 to 943")
    parser.add_argument("--endpoint", default="tcp://127.0.0.1:5555", help="of the server (default: %(default)s)")
    parser.add_argument("--wheel", type=Path, help="a recbole 1.2.1 wheel; without it pip downloads one")
    options = parser.parse_args()
    catalogue, ratings = movielens.read_wheel(options.wheel or movielens.download_wheel())
    if options.user not in catalogue.users:
        parser.error(f"there is no user {options.user}")
    movies, dense, ids = gather_candidates(catalogue, ratings, catalogue.users[options.user])
    with Client(options.endpoint) as client:
        scores = client.predict(dense=dense, ids=ids).scores
    for place in np.argsort(-scores, kind="stable")[:10]:
        print(f"{scores[place]:.3f}  {catalogue.titles[movies[place]]}")


if __name__ == "__main__":
    main()
